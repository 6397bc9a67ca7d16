// A kernel's taps over long lines of values: the loops of depthwise convolutions.
//
// If all values of a map lie in one line, with zeros between its rows, tap t of a kernel is at the
// same distance at[t] for all outputs. Both loops advance kLanes values at a time: lines need memory
// for as many values after their end, which must be zero where `correlate` reads them.
#pragma once

#include <cstdint>

#include "vectors.h"

namespace ghost {
namespace lines {

// Accumulators at a time: enough to hide the latency of additions, few enough for the registers.
constexpr int kOpen = 8;

template <int kVectors, bool kAdd>
inline void apply_block(const float* x, const int64_t* at, const float* weight, int64_t count,
                        float* y) {
  Vector sums[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sums[v] = kAdd ? load(y + v * kLanes) : Vector{};
  for (int64_t t = 0; t < count; ++t) {
    const float* from = x + at[t];
    const float w = weight[t];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] += w * load(from + v * kLanes);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store(y + v * kLanes, sums[v]);
}

template <bool kAdd>
inline void apply_all(const float* x, const int64_t* at, const float* weight, int64_t count,
                      float* y, int64_t length) {
  int64_t i = 0;
  for (; i + kOpen * kLanes <= length; i += kOpen * kLanes) {
    apply_block<kOpen, kAdd>(x + i, at, weight, count, y + i);
  }
  for (; i + 2 * kLanes < length; i += 3 * kLanes) {
    apply_block<3, kAdd>(x + i, at, weight, count, y + i);
  }
  for (; i < length; i += kLanes) apply_block<1, kAdd>(x + i, at, weight, count, y + i);
}

// y[i] = sum over `count` taps of weight[t] * x[i + at[t]]; with `add`, y[i] += that sum.
inline void apply(const float* x, const int64_t* at, const float* weight, int64_t count, bool add,
                  float* y, int64_t length) {
  if (add) return apply_all<true>(x, at, weight, count, y, length);
  apply_all<false>(x, at, weight, count, y, length);
}

template <int kTaps>
inline void correlate_some(const float* d, const float* x, const int64_t* at, double* sums,
                           int64_t length) {
  Vector parts[kTaps] = {};
  for (int64_t i = 0; i < length; i += kLanes) {
    const Vector values = load(d + i);
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) parts[t] += values * load(x + at[t] + i);
  }
  for (int t = 0; t < kTaps; ++t) {
    double sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += parts[t][lane];
    sums[t] += sum;
  }
}

// sums[t] += sum over i of d[i] * x[i + at[t]]; lines must be short, as they are summed in float.
inline void correlate(const float* d, const float* x, const int64_t* at, int64_t count,
                      double* sums, int64_t length) {
  while (count > 0) {
    // Nine taps are taken as five and four, 25 as six, six, six and seven: never as many and one.
    const int64_t rounds = (count + 6) / 7, some = count / rounds;
    switch (some) {
      case 1: correlate_some<1>(d, x, at, sums, length); break;
      case 2: correlate_some<2>(d, x, at, sums, length); break;
      case 3: correlate_some<3>(d, x, at, sums, length); break;
      case 4: correlate_some<4>(d, x, at, sums, length); break;
      case 5: correlate_some<5>(d, x, at, sums, length); break;
      case 6: correlate_some<6>(d, x, at, sums, length); break;
      default: correlate_some<7>(d, x, at, sums, length); break;
    }
    const int64_t done = some > 7 ? 7 : some;
    at += done;
    sums += done;
    count -= done;
  }
}

}  // namespace lines
}  // namespace ghost
