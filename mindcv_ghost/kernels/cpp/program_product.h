// Matrix products of a program: weights as they lie in memory, times lines of maps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gemm.h"
#include "program_lines.h"

namespace ghost {

// A tap of a convolution's kernel: where its input lies relative to the output's position, and which
// positions have one; null if all have.
struct Tap {
  int64_t offset;
  const uint16_t* inside;
};

// One factor: `channels` lines of maps, `stride` apart, each read at the distances of all taps.
struct Lines {
  const float* data;
  int64_t channels, stride;
  const std::vector<Tap>* taps;

  int64_t depth() const { return channels * static_cast<int64_t>(taps->size()); }
};

// Rows at a time for so many vectors of positions: as many sums as registers hold.
constexpr int tile_rows(int vectors) {
  return kManyRegisters ? (vectors == 4 ? 6 : 8) : (vectors == 4 ? 3 : vectors == 3 ? 4 : 6);
}

// The sums of kRows weights' rows, `row_step` apart, with kVectors vectors of positions from vector
// `first` on.
template <int kRows, int kVectors, bool kPointwise>
inline void multiply_tile(const float* weight, int64_t row_step, const Lines& x, int64_t first,
                          float* to, int64_t to_step) {
  Vector sums[kRows][kVectors] = {};
  const float* line = x.data + first * kLanes;
  const auto add = [&](const Vector* values) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const float w = weight[r * row_step];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] += w * values[v];
    }
    ++weight;
  };
  for (int64_t c = 0; c < x.channels; ++c, line += x.stride) {
    if constexpr (kPointwise) {
      Vector values[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) values[v] = load(line + v * kLanes);
      add(values);
      continue;
    }
    for (const Tap& tap : *x.taps) {
      Vector values[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        values[v] = masked(load(line + tap.offset + v * kLanes), tap.inside[first + v]);
      }
      add(values);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(to + r * to_step + v * kLanes, sums[r][v]);
  }
}

// Calls body(first, integral_constant<vectors>) for panels of 3 vectors, and of 4, 2 or 1 at the end.
template <typename Body>
inline void for_panels(int64_t first, int64_t end, const Body& body) {
  while (first < end) {
    switch (end - first) {
      case 1: body(first, std::integral_constant<int, 1>()); return;
      case 2: body(first, std::integral_constant<int, 2>()); return;
      case 4: body(first, std::integral_constant<int, 4>()); return;
      default: body(first, std::integral_constant<int, 3>()); first += 3;
    }
  }
}

// to (rows, positions of the vectors first ... end - 1) = weight (rows, depth) * x.
inline void multiply(const float* weight, int64_t rows, const Lines& x, bool pointwise,
                     int64_t first, int64_t end, float* to, int64_t to_step) {
  const int64_t depth = x.depth();
  for_panels(first, end, [&](int64_t at, auto vectors) {
    constexpr int kMost = tile_rows(vectors);
    for (int64_t row = 0, some; row < rows; row += some) {
      const int64_t left = rows - row, tiles = (left + kMost - 1) / kMost;
      some = (left + tiles - 1) / tiles;
      float* c = to + row * to_step + (at - first) * kLanes;
      with_rows<kMost>(some, [&](auto known) {
        if (pointwise) {
          multiply_tile<known, vectors, true>(weight + row * depth, depth, x, at, c, to_step);
        } else {
          multiply_tile<known, vectors, false>(weight + row * depth, depth, x, at, c, to_step);
        }
      });
    }
  });
}

}  // namespace ghost
