// Depthwise convolution of one dense map, whose rows follow each other in memory: a tap of the kernel
// is at a constant distance, and is masked where it would reach into the neighbouring row. Zeros lie
// above and below the map.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace ghost {

class MaskedPlane {
 public:
  MaskedPlane(int64_t height, int64_t width, int64_t kernel)
      : height_(height), width_(width), kernel_(kernel), inside_(kernel) {
    for (int64_t j = 0; j < kernel; ++j) {
      inside_[j].resize(plane() / 8 + sizeof(uint32_t), 0xff);
      // The neighbour of the first or last columns of a row lies in another row.
      const int64_t shift = j - kernel / 2, outside = std::min(width, std::abs(shift));
      const int64_t first = shift < 0 ? 0 : width - outside;
      for (int64_t row = 0; row < plane(); row += width) {
        for (int64_t i = row + first; i < row + first + outside; ++i) {
          inside_[j][i / 8] &= ~(1u << i % 8);
        }
      }
    }
  }

  int64_t plane() const { return height_ * width_; }
  int64_t taps() const { return kernel_ * kernel_; }
  // Memory for a map with zeros above and below: as far as taps reach, plus a vector after any value.
  int64_t size() const { return 2 * margin() + plane() + kLanes; }
  // Fills such memory with zeros and returns where the map begins.
  float* within(float* memory) const {
    std::memset(memory, 0, size() * sizeof(float));
    return memory + margin();
  }

  // The outputs from i on, plus `sum`; x: a map with its zeros. Values of the vector after the last
  // output are undefined.
  __attribute__((always_inline)) Vector at(const float* x, const float* weight, int64_t i,
                                           Vector sum) const {
    if (kernel_ == 3) return at_taps<3>(x, weight, i, sum);
    return at_taps<0>(x, weight, i, sum);
  }

 private:
  int64_t margin() const { return round_up(kernel_ / 2 * (width_ + 1), kLanes); }

  // kKernel: the kernel's rows as a compile-time constant, or 0.
  template <int kKernel>
  __attribute__((always_inline)) Vector at_taps(const float* x, const float* weight, int64_t i,
                                                Vector sum) const {
    const int64_t kernel = kKernel > 0 ? kKernel : kernel_, half = kernel / 2;
#pragma GCC unroll 3
    for (int64_t j = 0; j < kernel; ++j) {
      const float* from = x + i + (j - half);
      const uint32_t bits = j == half ? ~0u : inside(j, i);
#pragma GCC unroll 3
      for (int64_t h = 0; h < kernel; ++h) {
        const Vector v = load(from + (h - half) * width_);
        const float w = weight[h * kernel + j];
        // The same order of summation for all positions, wherever a vector begins.
        sum = opaque(j == half ? sum + w * v : add_masked(sum, w, v, bits));
      }
    }
    return sum;
  }

  // Which of the kLanes values from i on have a neighbour in the row for the kernel's column j.
  uint32_t inside(int64_t j, int64_t i) const {
    uint32_t bits;
    std::memcpy(&bits, inside_[j].data() + i / 8, sizeof(bits));
    return bits >> i % 8 & ((1u << kLanes) - 1);
  }

  int64_t height_, width_, kernel_;
  std::vector<std::vector<uint8_t>> inside_;
};

}  // namespace ghost
