// Global average pooling.
#pragma once

#include <algorithm>

#include "thread_pool.h"

namespace ghost {

// x (maps, size) -> y (maps).
inline void mean_forward(int64_t maps, int64_t size, const float* x, float* y) {
  for_maps(maps, size, [&](int64_t map) {
    constexpr int64_t kBlock = 4096;
    double sum = 0;
    for (int64_t i = 0; i < size; i += kBlock) {
      float part = 0;
      for (int64_t k = i; k < std::min(size, i + kBlock); ++k) part += x[map * size + k];
      sum += part;
    }
    y[map] = static_cast<float>(sum / size);
  });
}

inline void mean_backward(int64_t maps, int64_t size, const float* dy, float* dx) {
  for_maps(maps, size, [&](int64_t map) {
    const float share = dy[map] / static_cast<float>(size);
    std::fill(dx + map * size, dx + (map + 1) * size, share);
  });
}

}  // namespace ghost
