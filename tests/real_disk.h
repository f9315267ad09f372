// SPDX-License-Identifier: Apache-2.0
//
// real_disk.h - disks of the system's own making, for tests as root: a loop device
// over nbdkit, whose filters fail or delay what it is asked, and a small file system.
// What was made is taken away again when the object goes, in reverse order.
#ifndef KVH_TESTS_REAL_DISK_H
#define KVH_TESTS_REAL_DISK_H

#include "tests/l2_harness.h"

#include <csignal>
#include <fstream>
#include <sys/wait.h>

namespace l2test
{

inline bool command(const std::string &line)
{
	return system((line + " >/dev/null 2>&1").c_str()) == 0;
}

// The first word of what it prints; "": it failed.
inline std::string output_of(const std::string &line)
{
	FILE *pipe = popen((line + " 2>/dev/null").c_str(), "re");
	char text[256] = "";

	if (pipe == nullptr)
		return "";
	if (fgets(text, sizeof(text), pipe) == nullptr)
		text[0] = '\0';
	if (pclose(pipe) != 0)
		return "";
	text[strcspn(text, "\n")] = '\0';
	return text;
}

// A ring that was closed holds what it had open a little longer.
inline bool in_the_end(const std::string &line)
{
	for (int i = 0; i < 200; i++) {
		if (command(line))
			return true;
		usleep(50000);
	}
	return false;
}

class RealDisk
{
      public:
	RealDisk() = default;
	~RealDisk()
	{
		while (!undo_.empty()) {
			(void)in_the_end(undo_.back());
			undo_.pop_back();
		}
		if (server_ > 0)
			waitpid(server_, nullptr, 0);
	}
	RealDisk(const RealDisk &) = delete;
	RealDisk &operator=(const RealDisk &) = delete;

	// Why none can be made here; "": made.
	const std::string &missing() const
	{
		return missing_;
	}
	// The block device, or where the file system is mounted.
	const std::string &path() const
	{
		return path_;
	}
	const std::string &dir() const
	{
		return dir_.path();
	}

	// 64 MiB of memory behind nbdkit; while the files dir()/no-reads or no-writes
	// exist, such requests end with EIO.
	void make_nbd(const std::string &filter)
	{
		const std::string file = dir() + "/disk";

		if (!needs({"nbdkit", "nbdfuse", "losetup", "fusermount3"}))
			return;
		std::ofstream(file).close();
		server_ = fork();
		if (server_ == 0) {
			const std::string line = "exec nbdfuse " + file +
						 " --command nbdkit -s " + filter +
						 " >/dev/null 2>&1";

			execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
			_exit(127);
		}
		while (std::filesystem::file_size(file) == 0) {
			if (waitpid(server_, nullptr, WNOHANG) != 0) {
				server_ = 0;
				missing_ = "nbdfuse does not run here";
				return;
			}
			usleep(10000);
		}
		undo_.push_back("fusermount3 -u " + file);
		path_ = output_of("losetup -f --show --direct-io=on " + file);
		if (path_.empty())
			missing_ = "no loop device with direct I/O here";
		else
			undo_.push_back("losetup -d " + path_);
	}
	void make_failing()
	{
		make_nbd("--filter=error memory size=64M error=EIO error-pread-rate=100% "
			 "error-pread-file=" +
			 dir() + "/no-reads error-pwrite-rate=100% error-pwrite-file=" + dir() +
			 "/no-writes");
	}
	void make_slow(unsigned ms)
	{
		const std::string delay = std::to_string(ms) + "ms";

		make_nbd("--filter=delay memory size=64M rdelay=" + delay + " wdelay=" + delay);
	}
	// ext4 of 64 MiB.
	void make_ext4()
	{
		const std::string image = dir() + "/image", at = dir() + "/mnt";

		if (!needs({"losetup", "mkfs.ext4", "mount"}))
			return;
		std::filesystem::create_directory(at);
		if (!command("truncate -s 64M " + image + " && mkfs.ext4 -q " + image) ||
		    !command("mount -o loop,errors=remount-ro " + image + " " + at)) {
			missing_ = "a loop file system cannot be mounted here";
			return;
		}
		undo_.push_back("umount " + at);
		path_ = at;
	}
	// The file system finds something wrong, and acts on it. False: it cannot be told.
	bool has_an_error() const
	{
		return command("(echo 1 > /sys/fs/ext4/$(basename $(findmnt -no SOURCE " +
			       path_ + "))/trigger_fs_error)");
	}
	// As an error on the medium leaves it: the file system refuses to be written.
	bool becomes_read_only() const
	{
		return command("mount -o remount,abort " + path_);
	}
	bool mounts_again() const
	{
		return in_the_end("umount " + path_) &&
		       command("mount -o loop " + dir() + "/image " + path_);
	}
	// Leaves so many bytes of room, and gives them back.
	void fill(uint64_t but) const
	{
		const auto room = std::filesystem::space(path_).available;

		command("fallocate -l " + std::to_string(room > but ? room - but : 0) + " " +
			path_ + "/filler");
	}
	void empty() const
	{
		std::filesystem::remove(path_ + "/filler");
	}
	// Sets or takes away one of make_failing's triggers.
	void fails(const char *what, bool does) const
	{
		const std::string trigger = dir() + "/no-" + what;

		if (does)
			std::ofstream(trigger).close();
		else
			std::filesystem::remove(trigger);
	}

      private:
	bool needs(const std::vector<std::string> &tools)
	{
		if (geteuid() != 0)
			missing_ = "needs root";
		for (const std::string &tool : tools) {
			if (missing_.empty() && !command("command -v " + tool))
				missing_ = "needs " + tool;
		}
		return missing_.empty();
	}

	Dir dir_;
	std::string path_, missing_;
	std::vector<std::string> undo_;
	pid_t server_ = 0;
};

} // namespace l2test

#endif
