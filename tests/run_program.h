/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_program.h - runs kvhoist-bench, or another program, as a user does, for tests of its
 * arguments, output, exit status and of what signals do to it.
 */
#ifndef KVH_TESTS_RUN_PROGRAM_H
#define KVH_TESTS_RUN_PROGRAM_H

#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <jansson.h>
#include <poll.h>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

/* A directory that goes with the test. */
class TempDir
{
      public:
	TempDir()
	{
		std::string path = (std::filesystem::temp_directory_path() /
				    "kvhoist-test-XXXXXX");

		EXPECT_NE(mkdtemp(path.data()), nullptr) << path;
		path_ = path;
	}
	~TempDir()
	{
		std::error_code ignored;

		std::filesystem::remove_all(path_, ignored);
	}
	TempDir(const TempDir &) = delete;
	TempDir &operator=(const TempDir &) = delete;

	std::string path(const std::string &name = "") const
	{
		return name.empty() ? path_ : path_ + "/" + name;
	}
	bool empty() const
	{
		return std::filesystem::is_empty(path_);
	}

      private:
	std::string path_;
};

/* Started by the constructor; the destructor kills what still runs. */
class Program
{
      public:
	/* stdout: `out` below, or what is given. */
	explicit Program(const std::vector<std::string> &args, int stdout_fd = -1,
			 const std::string &name = "kvhoist-bench")
	    : name_(name)
	{
		int out[2];

		err_fd_ = memfd_create("stderr", MFD_CLOEXEC);
		EXPECT_GE(err_fd_, 0);
		EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
		out_fd_ = out[0];
		pid_ = fork();
		if (pid_ == 0)
			exec(args, stdout_fd >= 0 ? stdout_fd : out[1]);
		EXPECT_GT(pid_, 0);
		close(out[1]);
	}
	~Program()
	{
		if (pid_ > 0) {
			kill(SIGKILL);
			wait();
		}
		close(out_fd_);
		close(err_fd_);
	}
	Program(const Program &) = delete;
	Program &operator=(const Program &) = delete;

	/* Until stdout has had the text; false: it ended before. */
	bool wait_for(const std::string &text)
	{
		while (out.find(text) == std::string::npos) {
			if (!read_some())
				return false;
		}
		return true;
	}
	/* False: stdout was open all the time. */
	bool ends_within_us(int64_t us)
	{
		struct timespec ts = {us / 1000000, us % 1000000 * 1000};
		struct pollfd fd = {out_fd_, POLLIN, 0};

		/* Output comes at the end, so that one poll is enough. */
		return ppoll(&fd, 1, &ts, nullptr) > 0;
	}
	void kill(int number)
	{
		EXPECT_EQ(::kill(pid_, number), 0);
	}
	/* The exit status, or 1000 and the signal. */
	int wait()
	{
		int status = 0;

		while (read_some())
			;
		EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
		pid_ = -1;
		read_err();
		return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
	}

	std::string out, err;

      private:
	[[noreturn]] void exec(const std::vector<std::string> &args, int out)
	{
		std::string self =
			std::filesystem::read_symlink("/proc/self/exe").parent_path();
		const char *env = name_ == "kvhoist-bench" ? getenv("KVH_BENCH") : nullptr;
		std::string path = env != nullptr ? env : self + "/../" + name_;
		std::vector<char *> argv;

		argv.push_back(path.data());
		for (const std::string &arg : args)
			argv.push_back(const_cast<char *>(arg.c_str()));
		argv.push_back(nullptr);
		dup2(out, STDOUT_FILENO);
		dup2(err_fd_, STDERR_FILENO);
		execv(path.c_str(), argv.data());
		perror(path.c_str());
		_exit(127);
	}
	bool read_some()
	{
		char buffer[4096];
		ssize_t n;

		do {
			n = read(out_fd_, buffer, sizeof(buffer));
		} while (n < 0 && errno == EINTR);
		if (n > 0)
			out.append(buffer, static_cast<size_t>(n));
		return n > 0;
	}
	void read_err()
	{
		char buffer[4096];
		ssize_t n;
		off_t at = 0;

		while ((n = pread(err_fd_, buffer, sizeof(buffer), at)) > 0) {
			err.append(buffer, static_cast<size_t>(n));
			at += n;
		}
	}

	std::string name_;
	int out_fd_ = -1, err_fd_ = -1;
	pid_t pid_ = -1;
};

struct Outcome {
	int status;
	std::string out, err;
};

inline Outcome run(const std::vector<std::string> &args,
		   const std::string &name = "kvhoist-bench")
{
	Program program(args, -1, name);
	int status = program.wait();

	return {status, program.out, program.err};
}

/* The JSON of a program; every number that is asked for has to be there. */
class Json
{
      public:
	explicit Json(const std::string &text)
	{
		json_error_t error;

		root_ = json_loads(text.c_str(), 0, &error);
		EXPECT_NE(root_, nullptr) << error.text << " in: " << text;
	}
	~Json()
	{
		json_decref(root_);
	}
	Json(const Json &) = delete;
	Json &operator=(const Json &) = delete;

	int64_t operator[](const char *name) const
	{
		const json_t *value = json_object_get(root_, name);

		EXPECT_TRUE(json_is_integer(value)) << name;
		return json_integer_value(value);
	}
	const json_t *root() const
	{
		return root_;
	}

      private:
	json_t *root_;
};

#endif
