// Matrix products of a program: weights as they lie in memory, times lines of maps. Packing weights
// would read and write all of them at each call, which takes longer than the products of one image
// gain.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gemm.h"
#include "program_lines.h"

namespace ghost {

// A tap of a convolution's kernel: where its input lies relative to the output's position, and
// which positions have one.
struct Tap {
  int64_t offset;
  const uint16_t* inside;
};

// A product's second factor: `channels` lines of maps, `stride` apart, each read by all taps.
struct Lines {
  const float* data;
  int64_t channels, stride;
  std::vector<Tap> taps;
  enum { kPointwise, kThree, kGeneral } reads;  // 1x1; 3x3 of neighbouring values; any other

  int64_t depth() const { return channels * static_cast<int64_t>(taps.size()); }
};

// Rows at a time for so many vectors of positions: as many sums as registers hold.
constexpr int tile_rows(int vectors) {
  if (!kManyRegisters) return vectors == 4 ? 3 : vectors == 3 ? 4 : vectors == 2 ? 6 : 8;
  return vectors == 4 ? 6 : vectors == 1 ? 16 : 8;
}

// The sums of kRows weights' rows, `row_step` apart, with kVectors vectors of positions from vector
// `first` on. `next`: weights that are read later, which are fetched meanwhile.
template <int kRows, int kVectors, int kReads>
inline void multiply_tile(const float* weight, int64_t row_step, const Lines& x, int64_t first,
                          const float* next, float* to, int64_t to_step) {
  Vector sums[kRows][kVectors] = {};
  const float* line = x.data + first * kLanes;
  // One pointer for three rows: the other two are addressed by an index register.
  constexpr int kPointers = (kRows + 2) / 3;
  const float* rows[kPointers];
#pragma GCC unroll 8
  for (int i = 0; i < kPointers; ++i) rows[i] = weight + 3 * i * row_step;
  const auto add = [&](const Vector* values) __attribute__((always_inline)) {
    __builtin_prefetch(next, 0, 2);
    next += kRows;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float w = rows[r / 3][(r % 3) * row_step];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] += w * values[v];
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) ++rows[i];
  };
  Vector values[kVectors];
  const auto read = [&](const float* from, const uint32_t* inside) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      values[v] = load(from + v * kLanes);
      if (inside != nullptr) values[v] = masked(values[v], inside[v]);
    }
    add(values);
  };
  uint32_t left[kVectors], right[kVectors];
  if constexpr (kReads == Lines::kThree) {
    for (int v = 0; v < kVectors; ++v) {
      left[v] = x.taps[0].inside[first + v], right[v] = x.taps[2].inside[first + v];
    }
  }
  const int64_t width = kReads == Lines::kThree ? -x.taps[1].offset : 0;
  for (int64_t c = 0; c < x.channels; ++c, line += x.stride) {
    if constexpr (kReads == Lines::kPointwise) {
      read(line, nullptr);
    } else if constexpr (kReads == Lines::kThree) {
      const float* row = line - width;
      for (int i = 0; i < 3; ++i, row += width) {
        read(row - 1, left);
        read(row, nullptr);
        read(row + 1, right);
      }
    } else {
      for (const Tap& tap : x.taps) {
        for (int v = 0; v < kVectors; ++v) left[v] = tap.inside[first + v];
        read(line + tap.offset, left);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(to + r * to_step + v * kLanes, sums[r][v]);
  }
}

// Calls body(first, integral_constant<vectors>) for panels of 3 vectors, and of 4, 2 or 1 at the
// end.
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

// to (rows, positions of the vectors first ... end - 1) = weight (rows, depth) * x. Rows of weights
// are `row_step` apart.
inline void multiply(const float* weight, int64_t row_step, int64_t rows, const Lines& x,
                     int64_t first, int64_t end, const float* next, float* to, int64_t to_step) {
  for_panels(first, end, [&](int64_t at, auto vectors) {
    constexpr int kMost = tile_rows(vectors);
    for (int64_t row = 0, some; row < rows; row += some) {
      const int64_t left = rows - row, tiles = (left + kMost - 1) / kMost;
      some = (left + tiles - 1) / tiles;
      const float* a = weight + row * row_step;
      const float* later = at == first ? next + row * row_step : a;
      float* c = to + row * to_step + (at - first) * kLanes;
      with_rows<kMost>(some, [&](auto known) {
        constexpr auto kOne = Lines::kPointwise, kThree = Lines::kThree, kAny = Lines::kGeneral;
        const auto multiply = x.reads == kOne     ? multiply_tile<known, vectors, kOne>
                              : x.reads == kThree ? multiply_tile<known, vectors, kThree>
                                                  : multiply_tile<known, vectors, kAny>;
        multiply(a, row_step, x, at, later, c, to_step);
      });
    }
  });
}

// Products with few columns, each of which lies in memory as weights' rows do. A map of 7x7 fills
// three vectors of 16 and one value: that column costs a fiftieth of what a fourth vector costs.
template <int kRows, int kColumns>
inline void multiply_columns(const float* weight, int64_t row_step, int64_t depth,
                             const float* columns, int64_t column_step, const float* next,
                             float* to, int64_t to_step) {
  Vector sums[kRows][kColumns] = {};
  const auto add = [&](int64_t k, const auto& read) __attribute__((always_inline)) {
    Vector x[kColumns];
#pragma GCC unroll 4
    for (int i = 0; i < kColumns; ++i) x[i] = load(columns + i * column_step + k);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vector a = read(weight + r * row_step + k);
#pragma GCC unroll 4
      for (int i = 0; i < kColumns; ++i) sums[r][i] += a * x[i];
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) __builtin_prefetch(next + r * row_step + k, 0, 2);
    add(k, load);
  }
  if (k < depth) add(k, [&](const float* from) { return load_first(from, depth - k); });
  constexpr int kSums = kRows * kColumns;
  constexpr int kPowerOfTwo = kSums > 8 ? 16 : kSums > 4 ? 8 : kSums > 2 ? 4 : kSums;
  constexpr int kPart = std::min<int>(kLanes, kPowerOfTwo);
  for (int first = 0; first < kSums; first += kPart) {
    Vector part[kPart] = {};
    for (int i = 0; i < kPart; ++i) {
      const int at = first + i;
      if (at < kSums) part[i] = sums[at / kColumns][at % kColumns];
    }
    const Vector found = sums_of<kPart>(part);
    for (int i = 0; i < std::min(kPart, kSums - first); ++i) {
      to[(first + i) / kColumns * to_step + (first + i) % kColumns] = found[i];
    }
  }
}

// to (rows, columns) = weight (rows, depth) * `count` such columns. Rows of weights are `row_step`
// apart.
inline void multiply_columns(const float* weight, int64_t row_step, int64_t rows, int64_t depth,
                             const float* columns, int64_t column_step, int64_t count,
                             const float* next, float* to, int64_t to_step) {
  const auto with_columns = [&](int64_t first, auto many, auto most) {
    for (int64_t row = 0; row < rows; row += most) {
      with_rows<most>(std::min<int64_t>(most, rows - row), [&](auto some) {
        multiply_columns<some, many>(weight + row * row_step, row_step, depth,
                                     columns + first * column_step, column_step,
                                     next + row * row_step, to + row * to_step + first, to_step);
      });
    }
  };
  constexpr int kColumns = 4, kRows = kManyRegisters ? 4 : 2;
  for (int64_t i = 0; i < count; i += kColumns) {
    with_rows<kColumns>(std::min<int64_t>(kColumns, count - i), [&](auto many) {
      with_columns(i, many, std::integral_constant<int, many == 1 ? 8 : kRows>());
    });
  }
}

// Columns of a product's second factor, copied so that their values follow each other.
class Columns {
 public:
  // `count` columns from position `first` on, a multiple of kLanes.
  Columns(const Lines& x, int64_t first, int64_t count)
      : count_(count), step_(round_up(x.depth(), kLanes)), depth_(x.depth()) {
    values_.resize(count * step_);
    const int64_t taps = static_cast<int64_t>(x.taps.size());
    std::vector<uint32_t> inside(taps, (1u << count) - 1);
    for (int64_t t = 0; t < taps && x.reads != Lines::kPointwise; ++t) {
      inside[t] &= x.taps[t].inside[first / kLanes];
    }
    const float* line = x.data + first;
    for (int64_t k = 0, t = 0; k < depth_; k += kLanes) {
      Vector block[kLanes] = {};
      for (int64_t i = 0; i < std::min<int64_t>(kLanes, depth_ - k); ++i) {
        block[i] = masked(load(line + x.taps[t].offset), inside[t]);
        if (++t == taps) t = 0, line += x.stride;
      }
      transpose(block);
      for (int64_t i = 0; i < count; ++i) store(values_.data() + i * step_ + k, block[i]);
    }
  }

  // to (rows, columns) = weight (rows, depth) * these.
  void multiply(const float* weight, int64_t rows, const float* next, float* to,
                int64_t to_step) const {
    ghost::multiply_columns(weight, depth_, rows, depth_, values_.data(), step_, count_, next, to,
                            to_step);
  }

 private:
  int64_t count_, step_, depth_;
  std::vector<float> values_;
};

}  // namespace ghost
