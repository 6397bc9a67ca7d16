// What follows means of channels-last maps: linear layers, and squeeze-and-excitation.
#pragma once

#include "channels_last.h"

namespace ghost {

// The mean of each map; y has one position.
inline void channel_means(Member* team, const LastMaps& x, const LastMaps& y) {
  const int64_t positions = x.height * x.width;
  for_pieces(team, x.images, x.channels.vectors(), 1, [&](const Piece& piece) {
    for (int64_t v = piece.vector; v < piece.vector_end; ++v) {
      const float* from = x.row(piece.image, 0) + v * kLanes;
      Vector sum = {};
      for (int64_t row = 0; row < x.height; ++row) {
        Vector part[4] = {};  // several sums: one would wait for itself
        int64_t i = 0;
        for (; i + 4 <= x.width; i += 4) {
          for (int k = 0; k < 4; ++k) part[k] += load(from + k * x.step());
          from += 4 * x.step();
        }
        for (; i < x.width; ++i, from += x.step()) part[0] += load(from);
        sum += (part[0] + part[1]) + (part[2] + part[3]);
      }
      store(y.row(piece.image, 0) + v * kLanes, sum / static_cast<float>(positions));
    }
  });
}

// What a linear layer's outputs pass through: nothing, a ReLU, or a hard sigmoid.
enum class Gate { kNone, kRelu, kHardSigmoid };

inline Vector gated(Gate gate, Vector v) {
  if (gate == Gate::kNone) return v;
  if (gate == Gate::kRelu) return relu_of(v);
  const Vector raised = relu_of(v + 3.0f), six = Vector{} + 6.0f;
  return (raised > six ? six : raised) / 6.0f;
}

// Adds the products of x with kLanes rows of a matrix. sums[r]: lanes are parts of a row's sum.
inline void add_dots(const float* const* rows, int64_t first, const float* x, int64_t count,
                     Vector* sums) {
  for (int64_t k = 0; k < count; k += kLanes) {
    const int64_t there = std::min<int64_t>(kLanes, count - k);
    const Vector v = load_first(x + k, there);
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) sums[r] += load_first(rows[r] + first + k, there) * v;
  }
}

// weight (out, in) * x + bias for a vector of outputs; x has one position.
inline Vector linear_outputs(const float* weight, const float* bias, LaneSpan out, const float* x,
                             const Segments& in) {
  const float* rows[kLanes];
  for (int64_t r = 0; r < kLanes; ++r) {
    // Unused lanes repeat the last row.
    rows[r] = weight + (out.first + std::min(r, out.count - 1)) * in.channels();
  }
  Vector sums[kLanes] = {};
  add_dots(rows, 0, x, in.first, sums);
  add_dots(rows, in.first, x + in.second_at(), in.second, sums);
  transpose(sums);
  Vector sum = sums[0];
  for (int r = 1; r < kLanes; ++r) sum += sums[r];
  return bias == nullptr ? sum : sum + load_first(bias + out.first, out.count);
}

// y (images, out) = gate(weight (out, in) * x + bias), for maps x of one position. y's positions are
// y_step apart.
inline void linear(Member* team, const LastMaps& x, const float* weight, const float* bias,
                   int64_t out, Gate gate, float* y, int64_t y_step) {
  for_pieces(team, 1, vectors_of(out), 1, [&](const Piece& piece) {
    for (int64_t v = piece.vector; v < piece.vector_end; ++v) {
      const LaneSpan c = Segments{out, 0}.span(v);
      for (int64_t n = 0; n < x.images; ++n) {
        const Vector values = linear_outputs(weight, bias, c, x.row(n, 0), x.channels);
        store_first(y + n * y_step + c.first, gated(gate, values), c.count);
      }
    }
  });
}

// y *= hard_sigmoid(expand * squeezed + bias), a factor for each channel. expand: (channels,
// reduced); squeezed: maps of one position.
inline void excite(Member* team, const LastMaps& squeezed, const float* expand, const float* bias,
                   const LastMaps& y) {
  for_pieces(team, y.images, y.channels.vectors(), 1, [&](const Piece& piece) {
    for (int64_t v = piece.vector; v < piece.vector_end; ++v) {
      const LaneSpan c = y.channels.span(v);
      const float* x = squeezed.row(piece.image, 0);
      const Vector factors =
          gated(Gate::kHardSigmoid, linear_outputs(expand, bias, c, x, squeezed.channels));
      float* at = y.row(piece.image, 0) + v * kLanes;
      for (int64_t i = 0; i < y.height * y.width; ++i, at += y.step()) {
        store(at, load(at) * factors);
      }
    }
  });
}

}  // namespace ghost
