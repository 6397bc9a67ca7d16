// Gradient of a 3x3 weight by Winograd's algorithm along the height, the transpose of winograd_1d.h:
// for each point and tap along the width, a product of two lines for every pair of channels.
#pragma once

#include <algorithm>

#include "winograd_1d.h"
#include "winograd_weight.h"

namespace ghost {

// Sums of products of lines that stay in registers: kCorrelated output channels with kInputs input
// channels at three taps, each a vector that is added up at the end.
struct LineSums {
  static constexpr int kOutputs = 4, kInputs = kManyRegisters ? 2 : 1;
  static constexpr int kSums = kOutputs * kInputs * 3;  // vectors: (kOutputs, kInputs, 3)

  // Adds the products of `vectors` vectors to sums; lines are `step` apart.
  static void add(const float* inputs, const float* gradients, int64_t step, int64_t vectors,
                  float* sums) {
    Vector all[kOutputs][kInputs * 3];
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) all[i / (kInputs * 3)][i % (kInputs * 3)] = load(sums + i * kLanes);
    for (int64_t v = 0; v < vectors; ++v, inputs += kLanes, gradients += kLanes) {
      Vector x[kInputs * 3];
#pragma GCC unroll 6
      for (int i = 0; i < kInputs * 3; ++i) x[i] = opaque(load(inputs + i / 3 * step + i % 3 - 1));
#pragma GCC unroll 4
      for (int o = 0; o < kOutputs; ++o) {
        const Vector d = opaque(load(gradients + o * step));
#pragma GCC unroll 6
        for (int i = 0; i < kInputs * 3; ++i) all[o][i] += d * x[i];
      }
    }
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) store(sums + i * kLanes, all[i / (kInputs * 3)][i % (kInputs * 3)]);
  }
};

// to[i] = sum of the lanes of vector i of `from`, for `count` vectors, a multiple of 4.
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

// Where the sums of a weight's gradient lie: (groups of input channels, kRowPoints, groups of output
// channels, LineSums).
struct RowPointSums {
  int64_t in_groups, out_groups;

  explicit RowPointSums(const WinogradShape& q)
      : in_groups((q.in_channels + LineSums::kInputs - 1) / LineSums::kInputs),
        out_groups((q.out_channels + LineSums::kOutputs - 1) / LineSums::kOutputs) {}
  int64_t count() const { return in_groups * kRowPoints * out_groups * LineSums::kSums; }
  int64_t group(int64_t in, int64_t point, int64_t out) const {
    return ((in * kRowPoints + point) * out_groups + out) * LineSums::kSums;
  }
  int64_t place(int64_t o, int64_t c, int64_t point, int64_t column) const {
    return group(c / LineSums::kInputs, point, o / LineSums::kOutputs) +
           (o % LineSums::kOutputs * LineSums::kInputs + c % LineSums::kInputs) * 3 + column;
  }
};

// Adds the products of one block of bands to `sums`. Lines of missing channels must be zero.
inline void add_band_products(const BandLine& line, int64_t step, const float* x, const float* dy,
                              int64_t first, float* inputs, float* gradients, float* sums) {
  const WinogradShape& q = line.q;
  const RowPointSums at(q);
  const int64_t in_step = LineSums::kInputs * step;
  const int64_t out_step = at.out_groups * LineSums::kOutputs * step;
  for (int64_t o = 0; o < q.out_channels; ++o) {
    bands_to_points<kOutputTile>(line, dy, q.out_channels, o, first, gradients + o * step, out_step,
                                 [](const Vector* d, Vector* v) { gradients_to_points(d, 1, v, 1); });
  }
  for (int64_t in = 0; in < at.in_groups; ++in) {
    for (int64_t i = 0; i < LineSums::kInputs; ++i) {
      // A missing last channel repeats another one, whose products nobody reads.
      const int64_t c = std::min(in * LineSums::kInputs + i, q.in_channels - 1);
      bands_to_points<6>(line, x, q.in_channels, c, first, inputs + i * step, in_step,
                         input_rows_to_points);
    }
    for (int64_t p = 0; p < kRowPoints; ++p) {
      for (int64_t out = 0; out < at.out_groups; ++out) {
        LineSums::add(inputs + p * in_step + line.begin(),
                      gradients + p * out_step + out * LineSums::kOutputs * step + line.begin(), step,
                      line.vectors(), sums + at.group(in, p, out) * kLanes);
      }
    }
  }
}

// x (N, in_channels, H, W), dy (N, out_channels, H, W). Each thread sums over a fixed share of the
// batch, and the sums are added in order: the result only depends on the number of threads.
inline void winograd_1d_weight(const WinogradShape& q, const float* x, const float* dy,
                               float* dweight) {
  constexpr int64_t kPositions = 1056;  // of a block: long, as its sums are loaded and stored
  const RowPointSums at(q);
  const int64_t all = q.images * q.tile_rows(), count = at.count();
  const int64_t shares = std::min<int64_t>(SharedPool::get().threads(), all);
  const int64_t wanted = std::max<int64_t>(1, kPositions / BandLine::pitch(q));
  WholeScratch whole(shares * count, 1);
  float* totals = whole.take(shares * count);
  parallel(shares, [&](int64_t share) {
    const int64_t begin = all * share / shares, end = all * (share + 1) / shares;
    const int64_t blocks = (end - begin + wanted - 1) / wanted;
    const int64_t step = BandLine{q, (end - begin + blocks - 1) / blocks}.step();
    const int64_t lines = at.out_groups * LineSums::kOutputs;
    Scratch scratch(kRowPoints * (LineSums::kInputs + lines) * step + count * kLanes, 3);
    float* inputs = scratch.take(kRowPoints * LineSums::kInputs * step);
    float* gradients = scratch.take(kRowPoints * lines * step);
    float* sums = scratch.take(count * kLanes);
    std::memset(gradients, 0, kRowPoints * lines * step * sizeof(float));
    std::memset(sums, 0, count * kLanes * sizeof(float));
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = begin + (end - begin) * block / blocks;
      const int64_t last = begin + (end - begin) * (block + 1) / blocks;
      add_band_products({q, last - first}, step, x, dy, first, inputs, gradients, sums);
    }
    sum_lanes(sums, count, totals + share * count);
  });
  for_maps(q.out_channels * q.in_channels, 9 * kRowPoints, [&](int64_t pair) {
    const int64_t o = pair / q.in_channels, c = pair % q.in_channels;
    for (int64_t column = 0; column < 3; ++column) {
      float u[kRowPoints];
      for (int64_t p = 0; p < kRowPoints; ++p) {
        const float* from = totals + at.place(o, c, p, column);
        u[p] = from[0];
        for (int64_t share = 1; share < shares; ++share) u[p] += from[share * count];
      }
      weights_from_points(u, 1, dweight + pair * 9 + column, 3);
    }
  });
}

}  // namespace ghost
