// Zero-padded maps of one channel in one line of memory: the loops of a Ghost module's depthwise
// convolution, whose kernel is square and odd.
//
// With r = kernel / 2, a row is followed by r zeros, which are also the left padding of the next row,
// and a map by r rows of zeros, which are also the top padding of the next map. A tap of the kernel is
// then at the same distance for all values of all maps, and all loops take the same steps of kLanes
// positions. Dense maps (without zeros between them) are read and written in the same steps: the
// values of a step are neighbours there.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "taps.h"
#include "vectors.h"

namespace ghost {

class PaddedLine {
 public:
  PaddedLine(int64_t height, int64_t width, int64_t kernel, int64_t maps)
      : kernel_(kernel), row_(width + kernel / 2) {
    const int64_t map = (height + kernel / 2) * row_, values = maps * height * width;
    steps_.resize((maps * map + kLanes - 1) / kLanes);
    for (int64_t i = 0, place = 0; i < size(); ++i) {
      Step& step = steps_[i / kLanes];
      if (i % kLanes == 0) step = {static_cast<int32_t>(place), 0};
      if (place == values || i % map / row_ >= height || i % row_ >= width) continue;
      step.bits |= 1u << i % kLanes;
      ++place;
    }
  }

  int64_t kernel() const { return kernel_; }
  int64_t row() const { return row_; }
  int64_t taps() const { return kernel_ * kernel_; }
  // Places of a line: a multiple of kLanes.
  int64_t size() const { return static_cast<int64_t>(steps_.size()) * kLanes; }
  // Zeros before and after a line that taps are applied to: as far as they reach, in whole vectors.
  int64_t margin() const { return round_up(kernel_ / 2 * (row_ + 1), kLanes); }
  int64_t size_with_margins() const { return size() + 2 * margin(); }
  // Fills the margins of such memory with zeros and returns where the line begins.
  float* between_margins(float* memory) const {
    std::memset(memory, 0, margin() * sizeof(float));
    std::memset(memory + margin() + size(), 0, margin() * sizeof(float));
    return memory + margin();
  }
  // Distances of a kernel's taps from the value in its middle, row by row.
  std::vector<int64_t> distances() const {
    std::vector<int64_t> at;
    for (int64_t i = -(kernel_ / 2); i <= kernel_ / 2; ++i) {
      for (int64_t j = -(kernel_ / 2); j <= kernel_ / 2; ++j) at.push_back(i * row_ + j);
    }
    return at;
  }

  // Calls body(i, place, bits) for every kLanes-th position i of a line: `bits` selects the lanes that
  // are values, not padding; the first of them is at `place` of the dense maps. Loads and stores of
  // whole vectors there need kLanes values of memory after the last map.
  template <typename Body>
  __attribute__((always_inline)) void each_step(const Body& body) const {
    const Step* step = steps_.data();
    for (int64_t i = 0, end = size(); i < end; i += kLanes, ++step) {
      body(i, int64_t{step->place}, step->bits);
    }
  }

 private:
  struct Step {
    int32_t place;
    uint32_t bits;
  };

  int64_t kernel_, row_;
  std::vector<Step> steps_;
};

// The loops are inlined, so that sums in `each` stay in registers.

// Calls each(i, place, bits, values) for all steps of a depthwise convolution's result: sum over
// the taps t of weight[t] * x[i + distance of t]. `memory` holds a line.
template <typename Each>
__attribute__((always_inline)) inline void convolve(const PaddedLine& p, const float* x,
                                                    const float* weight, float* memory,
                                                    const Each& each) {
  if (p.kernel() == 3) {
    const float* rows[3] = {x - p.row() - 1, x - 1, x + p.row() - 1};
    float w[9];  // a local copy, which `each` can't overwrite
    std::copy_n(weight, 9, w);
    p.each_step([&](int64_t i, int64_t place, uint32_t bits) {
      Vector sum = {};
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) sum += w[t] * load(rows[t / 3] + i + t % 3);
      each(i, place, bits, sum);
    });
    return;
  }
  const std::vector<int64_t> at = p.distances();
  lines::apply(x, at.data(), weight, p.taps(), false, memory, p.size());
  p.each_step([&](int64_t i, int64_t place, uint32_t bits) {
    each(i, place, bits, load(memory + i));
  });
}

// The two gradients of convolve, which read the same values of e, the result's gradient: calls
// each(i, place, bits, values) with the input's, and adds the weight's to `sums`. Both lines hold
// zeros between the maps.
template <typename Each>
__attribute__((always_inline)) inline void convolve_backward(const PaddedLine& p, const float* e,
                                                             const float* x, const float* weight,
                                                             float* memory, double* sums,
                                                             const Each& each) {
  if (p.kernel() == 3) {
    const float* rows[3] = {e + p.row() - 1, e - 1, e - p.row() - 1};
    float w[9];
    std::copy_n(weight, 9, w);
    Vector parts[9] = {};
    p.each_step([&](int64_t i, int64_t place, uint32_t bits) {
      const Vector values = load(x + i);
      Vector sum = {};
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) {
        const Vector d = opaque(load(rows[t / 3] + i + 2 - t % 3));
        sum += w[t] * d;
        parts[t] += values * d;
      }
      each(i, place, bits, sum);
    });
    for (int t = 0; t < 9; ++t) sums[t] += sum_of(parts[t]);
    return;
  }
  std::vector<int64_t> at = p.distances();
  std::reverse(at.begin(), at.end());
  lines::apply(e, at.data(), weight, p.taps(), false, memory, p.size());
  lines::correlate(x, e, at.data(), p.taps(), sums, p.size());
  p.each_step([&](int64_t i, int64_t place, uint32_t bits) {
    each(i, place, bits, load(memory + i));
  });
}

}  // namespace ghost
