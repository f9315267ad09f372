/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wrap.h - allocations, mappings and threads that fail when a test says so. For
 * programs named *_wrap_test: the linker puts these in front of what the library
 * calls (--wrap in tests/CMakeLists.txt). What C++ and shared libraries allocate is
 * not touched, but for jansson, which is told. Locks are counted.
 */
#ifndef KVH_TESTS_WRAP_H
#define KVH_TESTS_WRAP_H

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstring>
#include <jansson.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unordered_set>

namespace wrap
{

/* The nth call from arming on fails, and with `for_ever` all after it. */
class Plan
{
      public:
	void arm(uint64_t nth, bool for_ever)
	{
		calls_ = 0;
		nth_ = nth;
		for_ever_ = for_ever;
		armed_ = true;
	}
	/* Whether the nth call came. */
	bool disarm()
	{
		armed_ = false;
		return calls_.load() >= nth_;
	}
	bool fails()
	{
		if (!armed_.load())
			return false;
		const uint64_t n = ++calls_;

		return for_ever_ ? n >= nth_ : n == nth_;
	}

      private:
	std::atomic<bool> armed_{false};
	std::atomic<uint64_t> calls_{0};
	uint64_t nth_ = 0;
	bool for_ever_ = false;
};

/* What was allocated and is not freed. Never destroyed: frees come to the end. */
class Live
{
      public:
	void *add(void *p)
	{
		const Spin guard(lock_);

		if (p != nullptr)
			all_.insert(p);
		return p;
	}
	void remove(void *p)
	{
		const Spin guard(lock_);

		all_.erase(p);
	}
	size_t count()
	{
		const Spin guard(lock_);

		return all_.size();
	}

      private:
	/* No mutex: those are counted. */
	struct Spin {
		explicit Spin(std::atomic_flag &flag) : flag(flag)
		{
			while (flag.test_and_set(std::memory_order_acquire))
				;
		}
		~Spin()
		{
			flag.clear(std::memory_order_release);
		}
		std::atomic_flag &flag;
	};

	std::atomic_flag lock_ = ATOMIC_FLAG_INIT;
	std::unordered_set<void *> all_;
};

inline Plan memory, threads;
/* How many mutexes this thread has locked, while it counts. */
inline thread_local bool count_locks = false;
inline thread_local uint64_t locks = 0;
inline Live &live()
{
	static Live *live = new Live;

	return *live;
}

} /* namespace wrap */

extern "C" {
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
int __real_posix_memalign(void **p, size_t align, size_t size);
void __real_free(void *p);
void *__real_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
int __real_pthread_mutex_lock(pthread_mutex_t *lock);
int __real_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg);

inline void *wrap_no_memory()
{
	errno = ENOMEM;
	return nullptr;
}
void *__wrap_malloc(size_t size)
{
	return wrap::memory.fails() ? wrap_no_memory() : wrap::live().add(__real_malloc(size));
}
void *__wrap_calloc(size_t n, size_t size)
{
	return wrap::memory.fails() ? wrap_no_memory()
				    : wrap::live().add(__real_calloc(n, size));
}
void *__wrap_realloc(void *p, size_t size)
{
	if (wrap::memory.fails())
		return wrap_no_memory();
	wrap::live().remove(p);
	void *moved = __real_realloc(p, size);

	return wrap::live().add(moved != nullptr || size == 0 ? moved : p) == nullptr ? nullptr
										      : moved;
}
void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return wrap::memory.fails() ? wrap_no_memory()
				    : wrap::live().add(__real_aligned_alloc(align, size));
}
int __wrap_posix_memalign(void **p, size_t align, size_t size)
{
	if (wrap::memory.fails())
		return ENOMEM;
	const int err = __real_posix_memalign(p, align, size);

	if (err == 0)
		wrap::live().add(*p);
	return err;
}
char *__wrap_strdup(const char *text)
{
	const size_t size = strlen(text) + 1;
	void *copy = __wrap_malloc(size);

	return static_cast<char *>(copy != nullptr ? memcpy(copy, text, size) : nullptr);
}
void __wrap_free(void *p)
{
	wrap::live().remove(p);
	__real_free(p);
}
void *__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
	if (wrap::memory.fails()) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return __real_mmap(at, size, prot, flags, fd, offset);
}
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock)
{
	wrap::locks += wrap::count_locks;
	return __real_pthread_mutex_lock(lock);
}
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg)
{
	return wrap::threads.fails() ? EAGAIN : __real_pthread_create(id, attr, run, arg);
}
} /* extern "C" */

#endif
