// Many tensors of different sizes, divided among threads.
#pragma once

#include <algorithm>
#include <vector>

#include "thread_pool.h"

namespace ghost {

// Tensors cut into parts of at most kPart values.
class TensorParts {
 public:
  explicit TensorParts(const std::vector<int64_t>& sizes) {
    for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {
      for (int64_t i = 0; i < sizes[tensor]; i += kPart) {
        parts_.push_back({tensor, i, std::min(kPart, sizes[tensor] - i)});
      }
    }
  }

  int64_t count() const { return static_cast<int64_t>(parts_.size()); }

  // Calls body(part, tensor, first, count) for each part: `count` values of a tensor from `first` on.
  template <typename Body>
  void each(const Body& body) const {
    const int64_t some = 8;
    parallel((count() + some - 1) / some, [&](int64_t first) {
      for (int64_t p = first * some; p < std::min(count(), (first + 1) * some); ++p) {
        body(p, parts_[p].tensor, parts_[p].first, parts_[p].count);
      }
    });
  }

 private:
  static constexpr int64_t kPart = 1 << 15;
  struct Part {
    size_t tensor;
    int64_t first, count;
  };
  std::vector<Part> parts_;
};

}  // namespace ghost
