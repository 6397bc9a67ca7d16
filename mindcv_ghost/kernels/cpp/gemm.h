// Matrix products whose result stays in registers: C (rows, lanes) = A (rows, depth) * B (depth,
// lanes), or added to C. B's rows are kPanel values side by side; A's values are broadcast.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vectors.h"

namespace ghost {

constexpr int64_t kPanel = 2 * kLanes;                   // columns at a time
constexpr int64_t kPanelRows = kManyRegisters ? 12 : 6;  // rows at a time, at most

// How many panels hold so many columns; the last may be filled up.
inline int64_t panels_of(int64_t columns) { return (columns + kPanel - 1) / kPanel; }

// How many of the remaining rows the next product takes: even shares, because products of few rows
// are bound by the latency of their own sums.
inline int64_t rows_at_once(int64_t left) {
  const int64_t products = (left + kPanelRows - 1) / kPanelRows;
  return (left + products - 1) / products;
}

// Calls product(integral_constant<rows>) with the number of rows known to the compiler.
template <int kRows = kPanelRows, typename Product>
inline void with_rows(int64_t rows, const Product& product) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return with_rows<kRows - 1>(rows, product);
  }
  product(std::integral_constant<int, kRows>());
}

// Calls body(row, rows) for all of `count` rows, shared out as products take them.
template <typename Body>
inline void for_shares(int64_t count, const Body& body) {
  for (int64_t row = 0, rows; row < count; row += rows) {
    rows = rows_at_once(count - row);
    body(row, rows);
  }
}

// Calls product(row, integral_constant<rows>) for each share.
template <typename Product>
inline void for_rows(int64_t count, const Product& product) {
  for_shares(count, [&](int64_t row, int64_t rows) {
    with_rows(rows, [&](auto known) { product(row, known); });
  });
}

// What a product fetches into the L2 cache for later work while it computes: `rows` rows that are
// row_step apart, each of `pieces` pieces of kPanel values; one piece with each of its steps. Fetched
// all at once, they would fill the queue of cache misses, and the product would wait behind them.
struct Ahead {
  const float* at = nullptr;
  int64_t row_step = 0, rows = 0, pieces = 1, row = 0;

  int64_t left() const { return rows * pieces - row; }
  void fetch() {
#pragma GCC unroll 4
    for (int64_t i = 0; i < kPanel; i += 16) __builtin_prefetch(at + i, 0, 2);
    at += row_step;
    if (++row == rows) {
      at += kPanel - rows * row_step;
      row = 0, --pieces;
    }
  }
};

template <int kRows>
struct Accumulators {
  Vector sums[kRows][2];

  void clear() {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = Vector{};
  }

  // Adds the products of kRows values of A and a row of B.
  template <typename Value>
  __attribute__((always_inline)) void add(const float* b, const Value& a) {
    const Vector b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float v = a(r);
      sums[r][0] += v * b0;
      sums[r][1] += v * b1;
    }
  }

  // Adds `length` columns of A, whose rows are `step` apart and whose columns `stride`.
  __attribute__((always_inline)) void add_run(const float* a, int64_t step, int64_t stride,
                                              const float* b, int64_t length, Ahead& ahead) {
    // One pointer for three rows: the other two are addressed by an index register.
    constexpr int kPointers = (kRows + 2) / 3;
    const float* pointers[kPointers];
#pragma GCC unroll 4
    for (int i = 0; i < kPointers; ++i) pointers[i] = a + 3 * i * step;
    const auto add_column = [&]() {
      add(b, [&](int r) { return pointers[r / 3][(r % 3) * step]; });
#pragma GCC unroll 4
      for (int i = 0; i < kPointers; ++i) pointers[i] += stride;
      b += kPanel;
    };
    const int64_t fetching = std::min(length, ahead.left());
    for (int64_t k = 0; k < fetching; ++k) {
      ahead.fetch();
      add_column();
    }
    for (int64_t k = fetching; k < length; ++k) add_column();
  }

  __attribute__((always_inline)) void add_run(const float* a, int64_t step, int64_t stride,
                                              const float* b, int64_t length) {
    Ahead nothing;
    add_run(a, step, stride, b, length, nothing);
  }

  // Adds what lies at `other`.
  void add_rows(const float* other, int64_t step) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r, other += step) {
      sums[r][0] += load(other);
      sums[r][1] += load(other + kLanes);
    }
  }

  void put(float* c, int64_t c_step) const {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r, c += c_step) {
      store(c, sums[r][0]);
      store(c + kLanes, sums[r][1]);
    }
  }

  // As put, but bypassing the caches.
  void stream_rows(float* c, int64_t c_step) const {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r, c += c_step) {
      stream(c, sums[r][0]);
      stream(c + kLanes, sums[r][1]);
    }
  }
};

// Packs `rows` rows of a matrix for packed_product: all their values of a column side by side. The
// rows are row_step apart and the columns column_step.
inline void pack_rows(const float* from, int64_t row_step, int64_t column_step, int64_t rows,
                      int64_t columns, float* to) {
  if (row_step != 1 && column_step != 1) {
    for (int64_t k = 0; k < columns; ++k, from += column_step, to += rows) {
      for (int64_t r = 0; r < rows; ++r) to[r] = from[r * row_step];
    }
    return;
  }
  for (int64_t first = 0; first < rows; first += kLanes) {
    const int64_t there = std::min<int64_t>(kLanes, rows - first);
    const float* a = from + first * row_step;
    float* packed = to + first;
    if (row_step == 1) {
      for (int64_t k = 0; k < columns; ++k, a += column_step, packed += rows) {
        copy_few(packed, a, there);
      }
      continue;
    }
    for (int64_t k = 0, count; k < columns; k += count, a += count) {
      count = std::min<int64_t>(kLanes, columns - k);
      Vector block[kLanes] = {};
      for (int64_t r = 0; r < there; ++r) block[r] = load_first(a + r * row_step, count);
      transpose(block);
      for (int64_t i = 0; i < count; ++i, packed += rows) store_first(packed, block[i], there);
    }
  }
}

// C = A * B for kRows rows of A as packed by pack_rows, plus `other` unless it is null. begun: sums
// (kRows, kPanel) of products to continue, or null.
template <int kRows>
__attribute__((always_inline)) inline void packed_product(const float* a, const float* b,
                                                          int64_t depth, const float* other,
                                                          bool streamed, float* c, int64_t c_step,
                                                          Ahead ahead = {},
                                                          const float* begun = nullptr) {
  Accumulators<kRows> sums;
  sums.clear();
  if (begun != nullptr) sums.add_rows(begun, kPanel);
  const int64_t fetching = std::min(depth, ahead.left());
  for (int64_t k = 0; k < fetching; ++k, a += kRows, b += kPanel) {
    ahead.fetch();
    sums.add(b, [a](int r) { return a[r]; });
  }
  for (int64_t k = fetching; k < depth; ++k, a += kRows, b += kPanel) {
    sums.add(b, [a](int r) { return a[r]; });
  }
  if (other != nullptr) sums.add_rows(other, c_step);
  if (streamed) {
    sums.stream_rows(c, c_step);
  } else {
    sums.put(c, c_step);
  }
}

}  // namespace ghost
