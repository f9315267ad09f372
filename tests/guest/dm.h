// SPDX-License-Identifier: Apache-2.0
//
// dm.h - one device-mapper device, by the kernel's own ioctls: for the tests in the
// guest, where a tool for each message would take most of the time. As root.
#ifndef KVH_TESTS_GUEST_DM_H
#define KVH_TESTS_GUEST_DM_H

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <sched.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <vector>

namespace l2test
{

class Dm
{
      public:
	explicit Dm(const std::string &name)
	    : name_(name), control_(::open("/dev/mapper/control", O_RDWR | O_CLOEXEC))
	{
		std::vector<char> memory = request();

		error_ = control_ < 0 ? -errno : call(DM_DEV_CREATE, &memory);
		minor_ = minor(head(memory)->dev);
	}
	~Dm()
	{
		std::vector<char> memory = request();

		head(memory)->flags = DM_DEFERRED_REMOVE;
		(void)call(DM_DEV_REMOVE, &memory);
		if (control_ >= 0)
			::close(control_);
	}
	Dm(const Dm &) = delete;
	Dm &operator=(const Dm &) = delete;

	int error() const
	{
		return error_;
	}
	std::string path() const
	{
		return "/dev/dm-" + std::to_string(minor_);
	}
	// From now on the device is `sectors` of this; what runs ends before.
	int become(uint64_t sectors, const std::string &target, const std::string &params)
	{
		std::vector<char> memory = request(sizeof(struct dm_target_spec) +
						   params.size() + 1);
		struct dm_target_spec spec = {};
		int ret;

		spec.length = sectors;
		strncpy(spec.target_type, target.c_str(), sizeof(spec.target_type) - 1);
		head(memory)->target_count = 1;
		memcpy(data(&memory), &spec, sizeof(spec));
		memcpy(data(&memory) + sizeof(spec), params.c_str(), params.size() + 1);
		ret = call(DM_TABLE_LOAD, &memory);
		memory = request();
		head(memory)->flags = DM_SUSPEND_FLAG;
		if (ret == 0)
			ret = call(DM_DEV_SUSPEND, &memory);
		memory = request();
		if (ret == 0)
			ret = call(DM_DEV_SUSPEND, &memory); /* without the flag: resume */
		return ret;
	}
	int message(const std::string &text)
	{
		std::vector<char> memory = request(sizeof(struct dm_target_msg) + text.size() +
						   1);

		memcpy(data(&memory) + sizeof(struct dm_target_msg), text.c_str(),
		       text.size() + 1);
		return call(DM_TARGET_MSG, &memory);
	}
	// What it did has ended when this returns. A ring that was closed may hold the
	// device open for a little longer.
	int remove()
	{
		int ret;

		do {
			std::vector<char> memory = request();

			ret = call(DM_DEV_REMOVE, &memory);
			sched_yield();
		} while (ret == -EBUSY);
		return ret;
	}

      private:
	std::vector<char> request(size_t more = 0) const
	{
		std::vector<char> memory(sizeof(struct dm_ioctl) + more);
		struct dm_ioctl *io = head(memory);

		io->version[0] = DM_VERSION_MAJOR;
		io->data_size = static_cast<uint32_t>(memory.size());
		io->data_start = sizeof(*io);
		strncpy(io->name, name_.c_str(), sizeof(io->name) - 1);
		return memory;
	}
	static struct dm_ioctl *head(std::vector<char> &memory)
	{
		return reinterpret_cast<struct dm_ioctl *>(memory.data());
	}
	static char *data(std::vector<char> *memory)
	{
		return memory->data() + sizeof(struct dm_ioctl);
	}
	int call(unsigned long what, std::vector<char> *memory) const
	{
		return ioctl(control_, what, memory->data()) < 0 ? -errno : 0;
	}

	std::string name_;
	int control_, error_;
	unsigned minor_ = 0;
};

} // namespace l2test

#endif
