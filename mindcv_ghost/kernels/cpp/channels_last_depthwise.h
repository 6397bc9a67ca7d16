// Depthwise convolutions of channels-last maps, padded by half their odd kernels.
#pragma once

#include <cstring>

#include "channels_last.h"

namespace ghost {

constexpr int kOutputs = kManyRegisters ? 8 : 5;  // positions of a row at a time, at most

// The taps of some vectors of channels, times the scales of their norms: (taps, vectors * kLanes).
// A smaller kernel of a branch has the middle of the filter's.
inline void pack_depthwise(const Filter& filter, const Segments& channels, int64_t vector,
                           int64_t vectors, float* packed) {
  const int64_t step = vectors * kLanes;
  std::memset(packed, 0, filter.taps() * step * sizeof(float));
  for (int64_t v = 0; v < vectors; ++v) {
    const LaneSpan c = channels.span(vector + v);
    for (int64_t b = 0; b < filter.count; ++b) {
      const Branch& branch = filter.branches[b];
      const Vector scale = branch.norm.scale(c);
      const int64_t taps = branch.rows * branch.columns;
      const int64_t top = (filter.rows - branch.rows) / 2;
      const int64_t left = (filter.columns - branch.columns) / 2;
      for (int64_t k = 0; k < taps; k += kLanes) {
        const int64_t there = std::min<int64_t>(kLanes, taps - k);
        Vector block[kLanes];
        for (int64_t r = 0; r < kLanes; ++r) {
          block[r] = r >= c.count             ? Vector{}
                     : branch.weight != nullptr ? load_first(branch.weight + (c.first + r) * taps + k, there)
                                                : Vector{} + 1.0f;
        }
        transpose(block);
        for (int64_t i = 0; i < there; ++i) {
          const int64_t row = top + (k + i) / branch.columns, column = left + (k + i) % branch.columns;
          float* to = packed + (row * filter.columns + column) * step + v * kLanes;
          store(to, load(to) + block[i] * scale);
        }
      }
    }
  }
}

// Some rows of maps with zeros around them, in which a depthwise convolution needs no special cases.
// Rows can be appended while those that the next outputs need are kept.
class PaddedRows {
 public:
  static int64_t memory(int64_t rows, int64_t width, int64_t border, int64_t vectors) {
    return rows * (width + 2 * border) * vectors * kLanes;
  }

  PaddedRows(int64_t width, int64_t border, int64_t vectors, float* memory)
      : width_(width), border_(border), step_(vectors * kLanes), data_(memory) {}

  int64_t step() const { return step_; }
  int64_t row_size() const { return (width_ + 2 * border_) * step_; }
  // Row `number` since the beginning, from its left border on.
  float* row(int64_t number) const { return data_ + number * row_size(); }
  float* inside(int64_t number) const { return row(number) + border_ * step_; }

  void clear(int64_t number) const { std::memset(row(number), 0, row_size() * sizeof(float)); }
  void clear_borders(int64_t number) const {
    const size_t bytes = border_ * step_ * sizeof(float);
    std::memset(row(number), 0, bytes);
    std::memset(inside(number) + width_ * step_, 0, bytes);
  }
  // Moves `count` rows from `from` on to the beginning.
  void move_up(int64_t from, int64_t count) const {
    std::memmove(data_, row(from), count * row_size() * sizeof(float));
  }

 private:
  int64_t width_, border_, step_;
  float* data_;
};

// A row of outputs of one vector of channels. x: its first tap's row; its positions are x_step apart
// and its rows x_row. kColumns: of the kernel, or 0 for any number.
template <int kColumns, int kStride>
inline void depthwise_row(const float* x, int64_t x_row, int64_t x_step, const float* taps,
                          int64_t tap_step, int64_t rows, int64_t columns, Vector shift,
                          int64_t count, const Finish& finish, float* y, int64_t y_step) {
  if constexpr (kColumns > 0) columns = kColumns;
  for_even_shares(count, kOutputs, [&](int64_t first, int64_t share) {
    with_number<kOutputs>(share, [&](auto number) {
      constexpr int kNumber = decltype(number)::value;
      Vector sums[kNumber];
#pragma GCC unroll 8
      for (int i = 0; i < kNumber; ++i) sums[i] = shift;
      const float *from = x + first * kStride * x_step, *tap = taps;
      for (int64_t r = 0; r < rows; ++r, from += x_row) {
#pragma GCC unroll 5
        for (int64_t k = 0; k < columns; ++k, tap += tap_step) {
          const Vector w = load(tap);
#pragma GCC unroll 8
          for (int i = 0; i < kNumber; ++i) sums[i] += w * load(from + (i * kStride + k) * x_step);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kNumber; ++i) {
        const int64_t at = (first + i) * y_step;
        store(y + at, finish(sums[i], at));
      }
    });
  });
}

// The taps of some vectors of channels, packed for one part of the work.
class PackedDepthwise {
 public:
  static int64_t memory(const Filter& filter, int64_t vectors) {
    return (filter.taps() + 1) * vectors * kLanes;
  }

  PackedDepthwise(const Filter& filter, const Segments& channels, int64_t vector, int64_t vectors,
                  int64_t stride, float* memory)
      : rows_(filter.rows),
        columns_(filter.columns),
        stride_(stride),
        step_(vectors * kLanes),
        shift_(memory),
        taps_(memory + vectors * kLanes) {
    for (int64_t v = 0; v < vectors; ++v) {
      store(shift_ + v * kLanes, filter.shift(channels.span(vector + v)));
    }
    pack_depthwise(filter, channels, vector, vectors, taps_);
  }

  // A row of `count` outputs of vector v. x is the first tap's row of all packed vectors.
  void run(int64_t v, const float* x, int64_t x_row, int64_t x_step, int64_t count,
           const Finish& finish, float* y, int64_t y_step) const {
    const auto row = [&](auto columns, auto stride) {
      depthwise_row<columns, stride>(x + v * kLanes, x_row, x_step, taps_ + v * kLanes, step_,
                                     rows_, columns_, load(shift_ + v * kLanes), count, finish, y,
                                     y_step);
    };
    const auto with_columns = [&](auto stride) {
      switch (columns_) {
        case 1: return row(std::integral_constant<int, 1>(), stride);
        case 3: return row(std::integral_constant<int, 3>(), stride);
        case 5: return row(std::integral_constant<int, 5>(), stride);
        default: return row(std::integral_constant<int, 0>(), stride);
      }
    };
    if (stride_ == 1) return with_columns(std::integral_constant<int, 1>());
    with_columns(std::integral_constant<int, 2>());
  }

 private:
  int64_t rows_, columns_, stride_, step_;
  float *shift_, *taps_;
};

// How many rows of outputs to compute at a time: what they are computed from stays in the L1 cache.
inline int64_t rows_in_cache(int64_t row_size, int64_t rows) {
  constexpr int64_t kFloats = 6 << 10;
  return std::clamp<int64_t>(kFloats / row_size, 1, rows);
}

// y = norm(conv(x)), with a ReLU. x and y have the same channels; strides are 1 or 2.
inline void depthwise_conv(Member* team, const LastMaps& x, const Filter& filter, int64_t stride,
                           bool relu, const LastMaps& y) {
  const int64_t top = filter.rows / 2, border = filter.columns / 2;
  for_pieces(team, y.images, y.channels.vectors(), y.height, [&](const Piece& piece) {
    const int64_t padded = (x.width + 2 * border) * kLanes;
    const int64_t some = rows_in_cache(padded * stride, piece.row_end - piece.row);
    const int64_t rows = (some - 1) * stride + filter.rows;
    const int64_t memory = PaddedRows::memory(rows, x.width, border, 1);
    Scratch scratch(memory + PackedDepthwise::memory(filter, 1), 2);
    const PaddedRows lines(x.width, border, 1, scratch.take(memory));
    float* packed = scratch.take(PackedDepthwise::memory(filter, 1));
    for (int64_t v = piece.vector; v < piece.vector_end; ++v) {
      const PackedDepthwise conv(filter, x.channels, v, 1, stride, packed);
      for (int64_t first = piece.row; first < piece.row_end; first += some) {
        const int64_t end = std::min(first + some, piece.row_end);
        const int64_t from = first * stride - top, needed = (end - first - 1) * stride + filter.rows;
        for (int64_t r = 0; r < needed; ++r) {
          if (from + r < 0 || from + r >= x.height) {
            lines.clear(r);
            continue;
          }
          lines.clear_borders(r);
          const float* in = x.row(piece.image, from + r) + v * kLanes;
          float* to = lines.inside(r);
          for (int64_t i = 0; i < x.width; ++i) store(to + i * kLanes, load(in + i * x.step()));
        }
        for (int64_t row = first; row < end; ++row) {
          conv.run(0, lines.row((row - first) * stride), lines.row_size(), kLanes, y.width, {relu},
                   y.row(piece.image, row) + v * kLanes, y.step());
        }
      }
    }
  });
}

}  // namespace ghost
