// Sums of tensors over the ranks of a machine, in the order in which MindSpore's all-reduce adds.
#pragma once

#include <algorithm>
#include <vector>

#include "rank_group.h"
#include "vectors.h"

namespace ghost {

// MindSpore 2.8 sums each tensor in a ring: the tensor is cut into a chunk for each rank, and the sum
// of chunk c begins with rank c's values, to which rank c + 1 adds its own, and so on. A tensor with
// fewer values than ranks is summed from rank 0 on. (Compared bit for bit for 2 to 5 ranks.)
struct RingChunks {
  int64_t size;
  int ranks;

  int64_t begin(int64_t chunk) const {
    return chunk * (size / ranks) + std::min(chunk, size % ranks);
  }
  int64_t containing(int64_t i) const {
    const int64_t each = size / ranks, longer = size % ranks;
    return i < longer * (each + 1) ? i / (each + 1) : (i - longer) / each;
  }
  // The rank whose value comes first in the sum of value i, and the end of the values like it.
  int first_rank(int64_t i) const { return size < ranks ? 0 : static_cast<int>(containing(i)); }
  int64_t end_of_alike(int64_t i) const { return size < ranks ? size : begin(containing(i) + 1); }
};

// Tensors laid end to end.
class TensorLine {
 public:
  explicit TensorLine(const std::vector<int64_t>& sizes) : ends_(sizes) {
    for (size_t i = 1; i < ends_.size(); ++i) ends_[i] += ends_[i - 1];
  }

  int64_t size() const { return ends_.empty() ? 0 : ends_.back(); }

  // Calls body(tensor, first, count, at) for the parts of tensors in the line from `begin` to `end`:
  // `count` values of a tensor from `first` on, which are at `at` in the line. The line is divided
  // among the threads.
  template <typename Body>
  void each(int64_t begin, int64_t end, const Body& body) const {
    const int64_t threads = SharedPool::get()->threads(), count = end - begin;
    parallel(threads, [&](int64_t thread) {
      each_of_one(begin + count * thread / threads, begin + count * (thread + 1) / threads, body);
    });
  }

 private:
  template <typename Body>
  void each_of_one(int64_t begin, int64_t end, const Body& body) const {
    size_t tensor = std::upper_bound(ends_.begin(), ends_.end(), begin) - ends_.begin();
    for (int64_t at = begin; at < end; ++tensor) {
      const int64_t start = tensor == 0 ? 0 : ends_[tensor - 1];
      const int64_t stop = std::min(end, ends_[tensor]);
      if (stop > at) body(tensor, at - start, stop - at, at);
      at = stop;
    }
  }

  std::vector<int64_t> ends_;
};

// to = other_to = scale * (from[0] + from[1] + ...), added in this order.
inline void add_in_order(const float* const* from, int ranks, int64_t count, float scale, float* to,
                         float* other_to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Vector sum = load(from[0] + i);
    for (int j = 1; j < ranks; ++j) sum = opaque(sum + load(from[j] + i));
    sum *= scale;
    store(to + i, sum);
    store(other_to + i, sum);
  }
  for (; i < count; ++i) {
    float sum = from[0][i];
    for (int j = 1; j < ranks; ++j) sum = opaque(sum + from[j][i]);
    to[i] = other_to[i] = sum * scale;
  }
}

// Sums tensors over the ranks and multiplies the sums by `scale`. All ranks call it with the same
// sizes. All tensors are laid end to end, and block after block of them is summed: a rank shows its
// values to the others, sums a slice of the block, and fetches the other slices from the ranks that
// have summed those.
class AllReduce {
 public:
  AllReduce(RankGroup* group, const std::vector<int64_t>& sizes,
            const std::vector<const float*>& in, const std::vector<float*>& out, float scale)
      : group_(*group), sizes_(sizes), line_(sizes), in_(in), out_(out), scale_(scale) {}

  void run() {
    for (begin_ = 0; begin_ < line_.size(); begin_ += RankGroup::kBlock) {
      count_ = std::min(RankGroup::kBlock, line_.size() - begin_);
      show();
      group_.wait();
      sum();
      group_.wait();
      fetch();
      // Nobody reads the other block any more: all had fetched from it before the barriers above.
      group_.change_blocks();
    }
  }

 private:
  // The slice of the block that a rank sums.
  int64_t slice(int rank) const { return begin_ + count_ * rank / group_.ranks(); }

  // Where a rank's value at a place of the line is shown.
  float* shown(int rank, int64_t at) const { return group_.block(rank) + (at - begin_); }

  void show() const {
    each_of_others([&](int, size_t tensor, int64_t first, int64_t count, int64_t at) {
      std::copy_n(in_[tensor] + first, count, shown(group_.rank(), at));
    });
  }

  void fetch() const {
    each_of_others([&](int other, size_t tensor, int64_t first, int64_t count, int64_t at) {
      std::copy_n(shown(other, at), count, out_[tensor] + first);
    });
  }

  // Calls body(rank, tensor, first, count, at) for the parts of the block that another rank sums.
  template <typename Body>
  void each_of_others(const Body& body) const {
    line_.each(begin_, begin_ + count_, [&](size_t tensor, int64_t first, int64_t count, int64_t at) {
      for (int other = 0; other < group_.ranks(); ++other) {
        const int64_t begin = std::max(at, slice(other));
        const int64_t end = std::min(at + count, slice(other + 1));
        if (other == group_.rank() || end <= begin) continue;
        body(other, tensor, first + begin - at, end - begin, begin);
      }
    });
  }

  void sum() const {
    const int rank = group_.rank(), ranks = group_.ranks();
    line_.each(slice(rank), slice(rank + 1),
               [&](size_t tensor, int64_t first, int64_t count, int64_t at) {
                 const RingChunks chunks = {sizes_[tensor], ranks};
                 const float* from[RankGroup::kMostRanks];
                 for (int64_t i = first, end = 0; i < first + count; i = end) {
                   end = std::min(first + count, chunks.end_of_alike(i));
                   const int64_t place = at + (i - first);
                   for (int j = 0; j < ranks; ++j) {
                     const int of = (chunks.first_rank(i) + j) % ranks;
                     from[j] = of == rank ? in_[tensor] + i : shown(of, place);
                   }
                   add_in_order(from, ranks, end - i, scale_, out_[tensor] + i, shown(rank, place));
                 }
               });
  }

  RankGroup& group_;
  const std::vector<int64_t>& sizes_;
  const TensorLine line_;
  const std::vector<const float*>& in_;
  const std::vector<float*>& out_;
  const float scale_;
  int64_t begin_ = 0, count_ = 0;
};

}  // namespace ghost
