/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_world.h - the simulation behind host/sim.h: the library's threads as rounds
 * that a seeded scheduler draws, a clock that moves when it says so, timers that
 * follow that clock, and wake-ups that get lost.
 *
 * All of it on the one thread that made the World. The same seed and the same
 * calls give the same rounds: hash() sums them up, KVH trace lines name them.
 */
#ifndef KVH_TESTS_SIM_WORLD_H
#define KVH_TESTS_SIM_WORLD_H

#include "host/thread.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <sys/eventfd.h>
#include <vector>

namespace sim
{

/* splitmix64 */
class Rng
{
      public:
	explicit Rng(uint64_t seed) : state_(seed)
	{
	}
	uint64_t next()
	{
		uint64_t z = state_ += UINT64_C(0x9e3779b97f4a7c15);

		z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
		z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
		return z ^ (z >> 31);
	}
	uint64_t below(uint64_t n)
	{
		return next() % n;
	}
	bool one_in(uint64_t n)
	{
		return below(n) == 0;
	}

      private:
	uint64_t state_;
};

class World : public kvh_sim
{
      public:
	explicit World(uint64_t seed, bool trace = false) : rng_(seed), trace_(trace)
	{
		now_ns = [](kvh_sim *sim) { return of(sim)->now_; };
		start = [](kvh_sim *sim, kvh_thread *thread) {
			return of(sim)->start_thread(thread);
		};
		step = [](kvh_sim *sim, uint64_t until_ns) { of(sim)->run_one(until_ns); };
		arm = [](kvh_sim *sim, int fd, uint64_t at_ns) {
			of(sim)->arm_timer(fd, at_ns);
		};
		lost = [](kvh_sim *sim, int fd) { return of(sim)->lose(fd); };
		::kvh_sim = this;
	}
	~World()
	{
		::kvh_sim = nullptr;
	}
	World(const World &) = delete;
	World &operator=(const World &) = delete;

	/* ---- for whoever plays the users ---- */

	/* Up to n rounds; less if all sleep. */
	void run(uint64_t n)
	{
		while (n-- > 0 && run_round()) {}
	}
	/* Until no thread has anything to do at this time. */
	void settle()
	{
		while (run_round()) {}
	}
	/* Until `done`; false: everybody sleeps for ever, or n rounds were too few. */
	template <typename Fn>
	bool until(Fn done, uint64_t n = 1000000)
	{
		while (!done()) {
			if (n-- == 0)
				return false;
			if (run_round())
				continue;
			if (next_alarm() == UINT64_MAX)
				return false;
			move_time(UINT64_MAX);
		}
		return true;
	}
	/* A user's thread is interrupted in the middle of a call, where it has no lock. */
	void yield()
	{
		if (inside_ > 0 || yield_one_in == 0 || !rng_.one_in(yield_one_in))
			return;
		inside_++;
		run(rng_.below(12));
		inside_--;
	}
	/* At the rounds to come, timers that fell due are seen. */
	void pass(uint64_t ns)
	{
		set_time(now_ + ns);
	}
	uint64_t now() const
	{
		return now_;
	}
	/* In a round of the library's, or in the middle of a user's call. */
	bool inside() const
	{
		return inside_ > 0;
	}
	uint64_t rounds() const
	{
		return rounds_;
	}
	size_t threads() const
	{
		return actors_.size();
	}
	uint64_t hash() const
	{
		return hash_;
	}
	Rng &rng()
	{
		return rng_;
	}
	bool traced() const
	{
		return trace_;
	}
	/* Into the hash, and where it is traced, a line. */
	void note(const char *format, ...) __attribute__((format(printf, 2, 3)))
	{
		char text[256];
		va_list args;

		va_start(args, format);
		const int n = vsnprintf(text, sizeof(text), format, args);
		va_end(args);
		for (int i = 0; i < n && i < static_cast<int>(sizeof(text)) - 1; i++)
			hash_ = (hash_ ^ static_cast<unsigned char>(text[i])) *
				UINT64_C(0x100000001b3);
		if (trace_)
			printf("%12.6f %s\n", static_cast<double>(now_) / 1e6, text);
	}

	/* Only where it is traced. */
	void say(const std::string &text) const
	{
		if (trace_)
			printf("             %s\n", text.c_str());
	}

	/* How wild it is; may be changed at any time. */
	uint64_t spurious_one_in = 64;   /* rounds of a thread that sleeps; 0: none */
	uint64_t lost_one_in = 0;        /* wake-ups of the loop by an adapter */
	uint64_t yield_one_in = 0;       /* places of yield() that are used; 0: none */
	uint64_t start_fails_one_in = 0; /* threads that cannot be had */
	/* Everybody sleeps for ever, and one of the library's waits goes on. */
	std::function<void()> stuck = [] {
		fprintf(stderr, "sim: everybody waits for somebody else\n");
		abort();
	};

      private:
	struct Actor {
		kvh_thread *thread;
		uint64_t id;
		uint32_t laziness; /* of 256: how often it is passed over */
		bool running;      /* waits inside its round */
	};
	struct Timer {
		int fd;
		uint64_t at_ns;
	};
	struct Loss {
		int fd;
		uint64_t until_ns;
	};

	static constexpr uint64_t WAIT_MAX = 10000000; /* in all of a World's life */

	static World *of(kvh_sim *sim)
	{
		return static_cast<World *>(sim);
	}

	int start_thread(kvh_thread *thread)
	{
		if (start_fails_one_in != 0 && rng_.one_in(start_fails_one_in)) {
			note("no thread %s", thread->name);
			return -EAGAIN;
		}
		actors_.push_back({thread, ++n_threads_, 0, false});
		note("thread %s is %llu", thread->name,
		     static_cast<unsigned long long>(n_threads_));
		return 0;
	}

	/* ---- rounds ---- */

	bool call(size_t i, kvh_wake wake)
	{
		kvh_thread *thread = actors_[i].thread;
		const uint64_t id = actors_[i].id;

		actors_[i].running = true;
		inside_++;
		const kvh_round round = thread->round(thread->arg, wake);
		inside_--;
		/* It may have started threads, or been waiting while others ended. */
		const auto it = std::find_if(actors_.begin(), actors_.end(),
					     [id](const Actor &a) { return a.id == id; });

		it->running = false;
		if (round == KVH_ROUND_ASLEEP)
			return false;
		rounds_++;
		note("%s %llu%s%s", thread->name, static_cast<unsigned long long>(id),
		     wake == KVH_WAKE_SPURIOUS ? " for nothing" : "",
		     round == KVH_ROUND_END ? " ends" : "");
		if (round == KVH_ROUND_END) {
			thread->ended = true;
			actors_.erase(it);
		}
		return true;
	}
	/* From a random one on, the first that has something to do. */
	bool scan(bool lazy)
	{
		const size_t n = actors_.size();
		const size_t from = n != 0 ? rng_.below(n) : 0;
		const size_t stride = n > 1 && rng_.one_in(2) ? n - 1 : 1;

		for (size_t k = 0, i = from; k < n; k++, i = (i + stride) % n) {
			if (actors_[i].running ||
			    (lazy && (rng_.next() & 255) < actors_[i].laziness))
				continue;
			if (call(i, KVH_WAKE_IF_READY))
				return true;
		}
		return false;
	}
	bool run_round()
	{
		const uint64_t r = rng_.next();

		if ((r & 63) == 0 && !actors_.empty()) {
			static const uint32_t grades[] = {0, 0, 0, 128, 230, 252};

			actors_[rng_.below(actors_.size())].laziness = grades[rng_.below(6)];
		}
		if ((r >> 6 & 3) == 0)
			set_time(now_ + (r >> 8) % 20000);
		if (spurious_one_in != 0 && !actors_.empty() && rng_.one_in(spurious_one_in)) {
			const size_t i = rng_.below(actors_.size());

			if (!actors_[i].running && call(i, KVH_WAKE_SPURIOUS))
				return true;
		}
		return scan(true) || scan(false);
	}

	/* ---- time ---- */

	uint64_t next_alarm() const
	{
		uint64_t at = UINT64_MAX;

		for (const Timer &timer : timers_)
			at = std::min(at, timer.at_ns);
		for (const Actor &actor : actors_)
			if (!actor.running)
				at = std::min(at, actor.thread->alarm_ns);
		/* Not the end of a loss: a wake-up that is lost is not only late. */
		return at;
	}
	void set_time(uint64_t ns)
	{
		now_ = std::max(now_, ns);
		for (size_t i = 0; i < timers_.size();) {
			if (timers_[i].at_ns <= now_) {
				(void)eventfd_write(timers_[i].fd, 1);
				timers_.erase(timers_.begin() + static_cast<ptrdiff_t>(i));
			} else {
				i++;
			}
		}
		losses_.erase(
			std::remove_if(losses_.begin(), losses_.end(),
				       [this](const Loss &l) { return l.until_ns <= now_; }),
			losses_.end());
	}
	/* To the next time that something happens at, or a little later. */
	void move_time(uint64_t until_ns)
	{
		const uint64_t at = std::min(next_alarm(), until_ns);

		if (at == UINT64_MAX)
			return stuck();
		set_time(at + (rng_.one_in(4) ? rng_.below(3000000) : 0));
		note("time");
	}
	/* Of a wait: somebody else's round, or time. */
	void run_one(uint64_t until_ns)
	{
		if (++waited_ > WAIT_MAX)
			return stuck();
		if (!run_round())
			move_time(until_ns);
	}

	/* ---- fds ---- */

	void arm_timer(int fd, uint64_t at_ns)
	{
		eventfd_t ignored;

		timers_.erase(std::remove_if(timers_.begin(), timers_.end(),
					     [fd](const Timer &t) { return t.fd == fd; }),
			      timers_.end());
		(void)eventfd_read(fd, &ignored); /* as timerfd_settime does */
		if (at_ns <= now_)
			(void)eventfd_write(fd, 1);
		else if (at_ns != UINT64_MAX)
			timers_.push_back({fd, at_ns});
	}
	bool lose(int fd)
	{
		for (const Loss &loss : losses_)
			if (loss.fd == fd)
				return true;
		if (lost_one_in == 0 || !rng_.one_in(lost_one_in))
			return false;
		losses_.push_back({fd, now_ + rng_.below(UINT64_C(400000000))});
		note("a wake-up is lost");
		return true;
	}

	Rng rng_;
	const bool trace_;
	uint64_t now_ = UINT64_C(1000000000);
	uint64_t hash_ = UINT64_C(0xcbf29ce484222325);
	uint64_t rounds_ = 0, n_threads_ = 0;
	uint64_t inside_ = 0; /* rounds, and yields */
	uint64_t waited_ = 0; /* rounds that waits let go on */
	std::vector<Actor> actors_;
	std::vector<Timer> timers_;
	std::vector<Loss> losses_;
};

} // namespace sim

#endif
