// Matrix products whose columns are positions of a line of memory: a row of B is the line from some
// distance on, so that the taps of a convolution read the same values. For few rows of A, for which
// unfolding and packing (conv_tiles.h) take longer than the products.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gemm.h"
#include "vectors.h"

namespace ghost {

constexpr int kLineRows = kManyRegisters ? 8 : 4;  // rows at a time, at most
constexpr int kLineVectors = 3;                    // vectors of columns at a time, at most

// Calls body(row, rows) for all of `count` rows, kLineRows at a time.
template <typename Body>
inline void for_line_rows(int64_t count, const Body& body) {
  for (int64_t row = 0; row < count; row += kLineRows) {
    body(row, std::min<int64_t>(kLineRows, count - row));
  }
}

// Where the value for row `row` and column k of A (rows, depth) is packed: kLineRows values of a
// column side by side, fewer for the last rows.
inline int64_t line_weight(int64_t row, int64_t k, int64_t rows, int64_t depth) {
  const int64_t first = row / kLineRows * kLineRows;
  return first * depth + k * std::min<int64_t>(kLineRows, rows - first) + (row - first);
}

template <int kRows, int kVectors>
inline void line_block(const float* weight, const float* line, const int64_t* at, int64_t depth,
                       float* to, int64_t step) {
  Vector sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k, weight += kRows) {
    const float* from = line + at[k];
    Vector b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b[v] = load(from + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      // One load for all vectors: each multiplication would otherwise load the value again.
      const Vector a = opaque(Vector{} + weight[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] += a * b[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r, to += step) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(to + v * kLanes, sums[r][v]);
  }
}

// to[r * step + i] = sum over k of A(r, k) * line[i + at[k]] for `rows` rows packed by line_weight,
// at most kLineRows, and `vectors` * kLanes positions i.
inline void line_product(const float* weight, int64_t rows, const float* line, const int64_t* at,
                         int64_t depth, int64_t vectors, float* to, int64_t step) {
  with_rows<kLineRows>(rows, [&](auto known) {
    constexpr int kRows = known;
    // Even shares: two and two instead of three and one.
    for (int64_t blocks = (vectors + kLineVectors - 1) / kLineVectors; blocks > 0; --blocks) {
      const int64_t some = (vectors + blocks - 1) / blocks;
      switch (some) {
        case 1: line_block<kRows, 1>(weight, line, at, depth, to, step); break;
        case 2: line_block<kRows, 2>(weight, line, at, depth, to, step); break;
        default: line_block<kRows, 3>(weight, line, at, depth, to, step); break;
      }
      vectors -= some;
      line += some * kLanes;
      to += some * kLanes;
    }
  });
}

}  // namespace ghost
