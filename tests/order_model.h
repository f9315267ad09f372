// SPDX-License-Identifier: Apache-2.0
//
// order_model.h - the eviction policies once more, in the plainest way: lists of
// std::list, ghosts in std::list, everything searched.
#ifndef KVH_TESTS_ORDER_MODEL_H
#define KVH_TESTS_ORDER_MODEL_H

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

class OrderModel
{
      public:
	using List = std::list<uint32_t>; // newest first

	virtual ~OrderModel() = default;
	virtual void insert(uint32_t item, uint64_t id) = 0;
	virtual void note(uint32_t item) = 0;
	virtual void use(uint32_t item) = 0;
	virtual std::vector<uint32_t> victims(size_t n) = 0;
	virtual void evicted(uint32_t item, uint64_t id) = 0;

	virtual void restore(uint32_t item, bool newest)
	{
		List &list = lists_[list_[item]];

		list.insert(newest ? list.begin() : list.end(), item);
	}

	void remove(uint32_t item)
	{
		lists_[list_[item]].remove(item);
	}

	size_t count() const
	{
		return lists_[0].size() + lists_[1].size();
	}

      protected:
	static bool take(std::list<uint64_t> &ghosts, uint64_t id)
	{
		size_t before = ghosts.size();

		ghosts.remove(id);
		return ghosts.size() != before;
	}

	List lists_[2];
	std::map<uint32_t, int> list_; // of every item, away or not
};

class LruModel : public OrderModel
{
      public:
	void insert(uint32_t item, uint64_t) override
	{
		list_[item] = 0;
		lists_[0].push_front(item);
	}
	void note(uint32_t) override
	{
	}
	void use(uint32_t item) override
	{
		remove(item);
		lists_[0].push_front(item);
	}
	std::vector<uint32_t> victims(size_t n) override
	{
		std::vector<uint32_t> out(lists_[0].rbegin(), lists_[0].rend());

		out.resize(std::min(n, out.size()));
		return out;
	}
	void evicted(uint32_t, uint64_t) override
	{
	}
};

// Lists: 0 the small queue, 1 the main one.
class S3FifoModel : public OrderModel
{
      public:
	void insert(uint32_t item, uint64_t id) override
	{
		list_[item] = take(ghosts_, id) ? 1 : 0;
		uses_[item] = 0;
		lists_[list_[item]].push_front(item);
	}
	void note(uint32_t item) override
	{
		uses_[item] = std::min(uses_[item] + 1, 3);
	}
	void use(uint32_t item) override
	{
		note(item);
	}
	void restore(uint32_t item, bool newest) override
	{
		if (!newest)
			uses_[item] = 0;
		OrderModel::restore(item, newest);
	}
	// Really takes them out one after the other, then puts them back.
	std::vector<uint32_t> victims(size_t n) override
	{
		std::vector<uint32_t> out;

		while (out.size() < n && count() > 0) {
			bool small = lists_[1].empty() ||
				     (!lists_[0].empty() && lists_[0].size() * 10 >= count());
			List &from = lists_[small ? 0 : 1];
			uint32_t item = from.back();

			from.pop_back();
			if (uses_[item] >= (small ? 2 : 1)) {
				uses_[item] = small ? 0 : uses_[item] - 1;
				list_[item] = 1;
				lists_[1].push_front(item);
			} else {
				out.push_back(item);
			}
		}
		for (size_t i = out.size(); i-- > 0;)
			lists_[list_[out[i]]].push_back(out[i]);
		return out;
	}
	void evicted(uint32_t item, uint64_t id) override
	{
		if (list_[item] != 0)
			return;
		take(ghosts_, id);
		ghosts_.push_front(id);
		while (ghosts_.size() > std::max<size_t>(1, count()))
			ghosts_.pop_back();
	}

      private:
	std::list<uint64_t> ghosts_;
	std::map<uint32_t, int> uses_;
};

class ArcModel : public OrderModel
{
      public:
	void insert(uint32_t item, uint64_t id) override
	{
		size_t b1 = ghosts_[0].size(), b2 = ghosts_[1].size();

		list_[item] = 1;
		if (take(ghosts_[0], id))
			target_ = std::min(capacity_, target_ + std::max<size_t>(1, b2 / b1));
		else if (take(ghosts_[1], id))
			target_ -= std::min(target_, std::max<size_t>(1, b1 / b2));
		else
			list_[item] = 0;
		lists_[list_[item]].push_front(item);
	}
	void note(uint32_t item) override
	{
		list_[item] = 1;
	}
	void use(uint32_t item) override
	{
		remove(item);
		note(item);
		lists_[1].push_front(item);
	}
	std::vector<uint32_t> victims(size_t n) override
	{
		std::vector<uint32_t> out;

		capacity_ = count();
		target_ = std::min(target_, capacity_);
		while (out.size() < n && count() > 0) {
			bool first = !lists_[0].empty() &&
				     (lists_[0].size() > target_ || lists_[1].empty());
			List &from = lists_[first ? 0 : 1];

			out.push_back(from.back());
			from.pop_back();
		}
		for (size_t i = out.size(); i-- > 0;)
			lists_[list_[out[i]]].push_back(out[i]);
		return out;
	}
	void evicted(uint32_t item, uint64_t id) override
	{
		take(ghosts_[0], id);
		take(ghosts_[1], id);
		ghosts_[list_[item]].push_front(id);
		while (!ghosts_[0].empty() && lists_[0].size() + ghosts_[0].size() > capacity_)
			ghosts_[0].pop_back();
		while (ghosts_[0].size() + ghosts_[1].size() > capacity_)
			ghosts_[ghosts_[1].empty() ? 0 : 1].pop_back();
	}

      private:
	std::list<uint64_t> ghosts_[2];
	size_t capacity_ = 0, target_ = 0;
};

inline std::unique_ptr<OrderModel> order_model(const std::string &name)
{
	if (name == "lru")
		return std::make_unique<LruModel>();
	if (name == "s3-fifo")
		return std::make_unique<S3FifoModel>();
	return std::make_unique<ArcModel>();
}

#endif
