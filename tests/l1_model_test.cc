// SPDX-License-Identifier: Apache-2.0
//
// l1_model_test.cc - random operations, one thread, against a std::map of what
// must be there. Eviction is taken from L1's word, and checked for what it may
// not do: take a frame that is held, or that is being filled.
#include "tests/l1_rig.h"

#include <cerrno>
#include <cstdlib>
#include <map>
#include <random>

namespace
{

struct Model {
	kvh_frame frame;
	uint64_t payload;
	bool ready;
	uint32_t holds;
	uint32_t leases;
	bool gone; // erased: lives on for its writer and holders
};

class L1Model : public L1Rig
{
      protected:
	uint64_t draw(uint64_t n)
	{
		return random() % n;
	}

	kvh_key draw_key()
	{
		return make_key(draw(150), 1 + draw(2), static_cast<uint32_t>(draw(2)));
	}

	static std::string name(const kvh_key &key)
	{
		return std::string(reinterpret_cast<const char *>(&key), sizeof(key));
	}

	// What is in the index, as far as the model knows; forgets what was evicted.
	Model *lookup(const kvh_key &key)
	{
		auto it = present.find(name(key));

		if (it == present.end())
			return nullptr;
		Model &m = models[it->second];
		if (find(key) == 0) {
			EXPECT_TRUE(m.ready) << "a frame was evicted while it was filled";
			EXPECT_EQ(m.holds + m.leases, 0u) << "a held frame was evicted";
			models.erase(it->second);
			present.erase(it);
			return nullptr;
		}
		return &m;
	}

	void paint(const Model &m)
	{
		memset(kvh_l1_data(l1, m.frame), static_cast<int>(m.frame * 31 % 251),
		       kvh_frame_bytes(m.payload));
	}

	void expect_painted(const Model &m)
	{
		auto *at = static_cast<unsigned char *>(kvh_l1_data(l1, m.frame));
		uint64_t bytes = kvh_frame_bytes(m.payload);

		ASSERT_EQ(kvh_l1_frame_bytes(l1, m.frame), bytes);
		for (uint64_t i = 0; i < bytes; i += 509)
			ASSERT_EQ(at[i], m.frame * 31 % 251);
		ASSERT_EQ(at[bytes - 1], m.frame * 31 % 251);
	}

	void end_if_unheld(uint64_t id)
	{
		Model &m = models[id];

		if (m.gone && m.ready && m.holds + m.leases == 0)
			models.erase(id);
	}

	void do_reserve();
	void do_finish();
	void do_lease();
	void do_release();
	void do_hold();
	void do_unhold();
	void do_erase();
	void compare();

	std::mt19937_64 random;
	uint64_t next_id = 1;
	std::map<uint64_t, Model> models;
	std::map<std::string, uint64_t> present;
	std::vector<uint64_t> writers;
	std::vector<std::pair<kvh_lease_t, uint64_t>> leases;
	std::vector<kvh_lease_t> ended;
	std::vector<uint64_t> holds;
};

void L1Model::do_reserve()
{
	static const uint64_t payloads[] = {0, 100, 60000, 300000, 900000};
	const kvh_key key = draw_key();
	const uint64_t payload = payloads[draw(5)];
	const Model *m = lookup(key);
	int status = 0;
	kvh_frame frame = reserve(key, payload, &status);

	if (m != nullptr) {
		// Its own eviction may have taken it before it looked: not in this order.
		ASSERT_EQ(status, m->ready ? -EEXIST : -EINPROGRESS);
		return;
	}
	ASSERT_TRUE(status == 0 || status == -ENOMEM) << status;
	if (status != 0)
		return;
	models[next_id] = Model{frame, payload, false, 0, 0, false};
	present[name(key)] = next_id;
	writers.push_back(next_id);
	paint(models[next_id]);
	next_id++;
}

template <class T>
T take(std::vector<T> &from, uint64_t i)
{
	T value = from[i];

	from[i] = from.back();
	from.pop_back();
	return value;
}

void L1Model::do_finish()
{
	if (writers.empty())
		return;
	uint64_t id = take(writers, draw(writers.size()));
	Model &m = models[id];

	expect_painted(m);
	if (draw(4) == 0) {
		kvh_key key;

		kvh_l1_key(l1, m.frame, &key);
		kvh_l1_abort(l1, m.frame);
		if (!m.gone)
			present.erase(name(key));
		models.erase(id);
		return;
	}
	uint32_t n = static_cast<uint32_t>(draw(3));
	ASSERT_EQ(kvh_l1_publish(l1, m.frame, n), m.gone ? -ECANCELED : 0);
	m.ready = true;
	if (m.gone) {
		models.erase(id);
		return;
	}
	m.holds = n;
	holds.insert(holds.end(), n, id);
}

void L1Model::do_lease()
{
	const kvh_key key = draw_key();
	Model *m = lookup(key);
	kvh_lease_t value = lease(key, m == nullptr ? -ENOENT : m->ready ? 0 : -EINPROGRESS);

	if (m == nullptr || !m->ready)
		return;
	m->leases++;
	leases.emplace_back(value, present[name(key)]);
}

void L1Model::do_release()
{
	if (!ended.empty() && draw(3) == 0) { // late
		ASSERT_EQ(kvh_l1_release(l1, ended[draw(ended.size())]), -ESTALE);
		return;
	}
	if (leases.empty())
		return;
	auto [value, id] = take(leases, draw(leases.size()));
	expect_painted(models[id]);
	ASSERT_EQ(kvh_l1_release(l1, value), 0);
	ended.push_back(value);
	models[id].leases--;
	end_if_unheld(id);
}

void L1Model::do_hold()
{
	kvh_frame frame = 0;

	if (!leases.empty() && draw(2) == 0) {
		auto [value, id] = leases[draw(leases.size())];

		ASSERT_EQ(kvh_l1_hold_lease(l1, value, &frame), 0);
		ASSERT_EQ(frame, models[id].frame);
		models[id].holds++;
		holds.push_back(id);
		return;
	}
	const kvh_key key = draw_key();
	Model *m = lookup(key);
	bool there = m != nullptr && m->ready;

	ASSERT_EQ(kvh_l1_hold_key(l1, &key, &frame), there ? 0 : -ENOENT);
	if (!there)
		return;
	ASSERT_EQ(frame, m->frame);
	m->holds++;
	holds.push_back(present[name(key)]);
}

void L1Model::do_unhold()
{
	if (holds.empty())
		return;
	uint64_t id = take(holds, draw(holds.size()));
	Model &m = models[id];

	expect_painted(m);
	if (draw(8) == 0) {
		kvh_key key;

		kvh_l1_key(l1, m.frame, &key);
		kvh_l1_doom(l1, m.frame);
		if (!m.gone)
			present.erase(name(key));
		m.gone = true;
	}
	if (draw(8) == 0) { // becomes a lease
		kvh_lease_t value;

		ASSERT_EQ(kvh_l1_lease_held(l1, client, m.frame, &value), 0);
		m.leases++;
		leases.emplace_back(value, id);
	}
	kvh_l1_unhold(l1, m.frame);
	m.holds--;
	end_if_unheld(id);
}

void L1Model::do_erase()
{
	const kvh_key key = draw_key();
	Model *m = lookup(key);

	ASSERT_EQ(kvh_l1_erase(l1, &key), m != nullptr ? 0 : -ENOENT);
	ASSERT_EQ(find(key), 0);
	if (m == nullptr)
		return;
	uint64_t id = present[name(key)];
	m->gone = true;
	present.erase(name(key));
	end_if_unheld(id);
}

void L1Model::compare()
{
	uint64_t frames = 0, doomed = 0, bytes = 0;
	struct kvh_l1_stats s;

	for (auto it = present.begin(); it != present.end();) { // forget what was evicted
		kvh_key key;

		memcpy(&key, (it++)->first.data(), sizeof(key));
		lookup(key);
	}
	for (auto &[id, m] : models) {
		(m.gone ? doomed : frames)++;
		bytes += kvh_frame_bytes(m.payload);
	}
	s = stats();
	ASSERT_EQ(s.frames, frames);
	ASSERT_EQ(s.doomed, doomed);
	ASSERT_EQ(s.used_bytes, bytes);
	ASSERT_EQ(s.leases, leases.size());
	ASSERT_EQ(s.holds, holds.size());
	ASSERT_TRUE(kvh_l1_check(l1));
}

TEST_F(L1Model, RandomOperations)
{
	const char *given = getenv("KVH_TEST_SEED");
	const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 0) : 20260417;

	SCOPED_TRACE("KVH_TEST_SEED=" + std::to_string(seed));
	random.seed(seed);
	open(8 * kMiB, 8, 4 * kMiB);
	for (int step = 0; step < 150000 && !HasFatalFailure(); step++) {
		switch (draw(16)) {
		case 0:
		case 1:
		case 2:
		case 3: do_reserve(); break;
		case 4:
		case 5:
		case 6:
		case 7: do_finish(); break;
		case 8: do_lease(); break;
		case 9:
		case 10: do_release(); break;
		case 11: do_hold(); break;
		case 12:
		case 13:
		case 14: do_unhold(); break;
		case 15:
			if (draw(3) == 0)
				do_erase();
			else if (draw(20) == 0)
				kvh_l1_evict(l1, draw(8 * kMiB));
			else if (draw(20) == 0) { // the client dies
				kvh_l1_client_close(l1, client);
				for (auto &[value, id] : leases) {
					ended.push_back(value);
					models[id].leases--;
					end_if_unheld(id);
				}
				leases.clear();
				ASSERT_EQ(kvh_l1_client_open(l1, &client), 0);
			}
			break;
		}
		if (step % 250 == 0)
			compare();
	}
	EXPECT_GT(stats().evicted_alloc, 1000u); // it did happen
	while (!holds.empty() && !HasFatalFailure())
		do_unhold();
	while (!writers.empty() && !HasFatalFailure())
		do_finish();
	while (!holds.empty() && !HasFatalFailure())
		do_unhold();
}

} // namespace
