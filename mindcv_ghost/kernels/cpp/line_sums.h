// Sums of products of lines for every pair of channels, for the gradient of a convolution's weight:
// both factors are loaded as they lie along the width, and the lanes are added up at the end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "thread_pool.h"
#include "vectors.h"

namespace ghost {

// Sums that stay in registers: of kOutputs channels of gradients with kInputs of inputs at three taps.
struct LineSums {
  static constexpr int kOutputs = 4, kInputs = kManyRegisters ? 2 : 1;
  static constexpr int kTaps = 3 * kInputs, kSums = kOutputs * kTaps;  // vectors: (kOutputs, kTaps)

  // Adds the products of `vectors` vectors to sums; lines are `step` apart.
  static void add(const float* inputs, const float* gradients, int64_t step, int64_t vectors,
                  float* sums) {
    Vector all[kOutputs][kTaps];
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) all[i / kTaps][i % kTaps] = load(sums + i * kLanes);
    for (int64_t v = 0; v < vectors; ++v, inputs += kLanes, gradients += kLanes) {
      Vector x[kTaps];
#pragma GCC unroll 6
      for (int i = 0; i < kTaps; ++i) x[i] = opaque(load(inputs + i / 3 * step + i % 3 - 1));
#pragma GCC unroll 4
      for (int o = 0; o < kOutputs; ++o) {
        const Vector d = opaque(load(gradients + o * step));
#pragma GCC unroll 6
        for (int i = 0; i < kTaps; ++i) all[o][i] += d * x[i];
      }
    }
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) store(sums + i * kLanes, all[i / kTaps][i % kTaps]);
  }
};

// Where the sums of a 3x3 weight lie: (groups of input channels, Winograd's points, groups of output
// channels, LineSums).
struct LineSumsLayout {
  int64_t in_channels, out_channels, points;

  int64_t in_groups() const { return (in_channels + LineSums::kInputs - 1) / LineSums::kInputs; }
  int64_t out_groups() const {
    return (out_channels + LineSums::kOutputs - 1) / LineSums::kOutputs;
  }
  int64_t count() const { return in_groups() * points * out_groups() * LineSums::kSums; }
  int64_t group(int64_t in, int64_t point, int64_t out) const {
    return ((in * points + point) * out_groups() + out) * LineSums::kSums;
  }
  int64_t place(int64_t o, int64_t c, int64_t point, int64_t column) const {
    return group(c / LineSums::kInputs, point, o / LineSums::kOutputs) +
           o % LineSums::kOutputs * LineSums::kTaps + c % LineSums::kInputs * 3 + column;
  }
};

// to[i] = sum of the lanes of vector i of `from`, for `count` vectors.
inline void sum_lanes(const float* from, int64_t count, float* to) {
  Vector block[kLanes];
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t there = std::min<int64_t>(kLanes, count - i);
    for (int64_t l = 0; l < kLanes; ++l) {
      block[l] = l < there ? load(from + (i + l) * kLanes) : Vector{};
    }
    transpose(block);
    Vector sum = block[0];
    for (int l = 1; l < kLanes; ++l) sum += block[l];
    store_first(to + i, sum, there);
  }
}

// Each thread calls add(begin, end, scratch, sums) for a fixed share of `units`; `scratch` has room
// for `floats` in `arrays`. The shares' sums are then added in order: they only depend on the number
// of threads. finish(o, c, column, points) gets them for each pair of channels.
template <typename Add, typename Finish>
inline void sum_in_shares(const LineSumsLayout& at, int64_t units, int64_t floats, int arrays,
                          const Add& add, const Finish& finish) {
  const int64_t shares = std::min<int64_t>(SharedPool::get()->threads(), units);
  const int64_t count = at.count();
  WholeScratch whole(shares * count, 1);
  float* totals = whole.take(shares * count);
  parallel(shares, [&](int64_t share) {
    Scratch scratch(floats + count * kLanes, arrays + 1);
    float* sums = scratch.take(count * kLanes);
    std::memset(sums, 0, count * kLanes * sizeof(float));
    add(units * share / shares, units * (share + 1) / shares, scratch, sums);
    sum_lanes(sums, count, totals + share * count);
  });
  for_maps(at.out_channels * at.in_channels, 9 * at.points, [&](int64_t pair) {
    const int64_t o = pair / at.in_channels, c = pair % at.in_channels;
    for (int64_t column = 0; column < 3; ++column) {
      float points[6];
      for (int64_t p = 0; p < at.points; ++p) {
        const float* from = totals + at.place(o, c, p, column);
        points[p] = from[0];
        for (int64_t share = 1; share < shares; ++share) points[p] += from[share * count];
      }
      finish(o, c, column, points);
    }
  });
}

}  // namespace ghost
