// Gradient of the input of a 3x3 convolution of stride 2. A position (row, column) of the outputs'
// gradients and its neighbours below and to the right make the gradients of four inputs, those at
// (2 row + a, 2 column + b): the phases (a, b). Each is a product of its own, whose factors are some of
// the same four columns; they are unfolded once, and two phases are written together.
#pragma once

#include "conv_shape.h"

namespace ghost {

class StridedGradient {
 public:
  StridedGradient(const ConvShape& q, const float* dy, const float* weights, const float* other,
                  float* dx)
      : q_(q), reach_(reach_of(q)), dy_(dy), weights_(weights), other_(other), dx_(dx) {}

  // The positions that each phase reads, with a neighbour below and to the right.
  static Reach reach_of(const ConvShape& q) {
    return {q.out_height(), q.out_width(), q.out_height(), q.out_width(), 1, 0, 0, 2, 2};
  }

  // weight (out, in, 3, 3) as the products take it: (phases, in_channels in shares, taps, out).
  static void pack(const ConvShape& q, const float* weight, float* packed) {
    parallel(q.out_channels, [&](int64_t o) {
      Vector taps[kLanes + 9];
      for_shares(q.in_channels, [&](int64_t i, int64_t rows) {
        for (int64_t first = 0; first < rows; first += kLanes) {
          const int64_t there = std::min<int64_t>(kLanes, rows - first);
          load_columns<9>(weight + o * q.depth() + (i + first) * 9, 9, there, taps);
          for (int phase = 0; phase < kPhases; ++phase) {
            const Part& part = kParts[phase];
            float* to = packed + part.before * q.in_channels * q.out_channels +
                        i * part.count * q.out_channels + o * rows + first;
            for (int t = 0; t < part.count; ++t, to += q.out_channels * rows) {
              store_first(to, taps[part.taps[t]], there);
            }
          }
        }
      });
    });
  }

  // The inputs of a range of positions, or every shares-th product of them; `next` follows.
  void compute(const ColumnRange& range, const ColumnRange& next, int64_t turn,
               int64_t shares) const {
    const int64_t depth = 4 * q_.out_channels;
    const Panels panels = {depth, range.columns};
    Scratch scratch(panels.size() + unfold_memory(reach_, range) + kPhases * kBlock, 3);
    float* columns = scratch.take(panels.size());
    constexpr int kPlaces[] = {1, 2, 0, 3};  // of (0, 0), (0, 1), (1, 0), (1, 1)
    unfold(
        reach_, dy_, q_.out_channels, q_.out_channels * reach_.in_plane(), range,
        [&](int64_t c, int64_t tap) { return kPlaces[tap] * q_.out_channels + c; }, panels, columns,
        scratch.take(unfold_memory(reach_, range)));
    float* blocks = scratch.take(kPhases * kBlock);
    InputsAhead inputs(reach_, dy_, q_.out_channels, q_.out_channels * reach_.in_plane(), next);
    for (int64_t first = 0; first < range.columns; first += kPanel) {
      const ColumnRange part = {range.first + first, std::min(kPanel, range.columns - first)};
      int64_t index = 0;
      for_rows(q_.in_channels, [&](int64_t row, auto rows) {
        if (index++ % shares != turn) return;
        multiply<rows>(row, columns + first / kPanel * panels.step(), inputs, blocks);
        write(part, row, rows, blocks);
      });
    }
  }

 private:
  static constexpr int kPhases = 4;
  static constexpr int64_t kBlock = kPanelRows * kPanel;
  // A phase's factors: `count` neighbours from `first` on, in the order below, right below; here;
  // right; right below. taps: the kernel's, for each of them. before: counts of the phases before.
  struct Part {
    int first, count, before, taps[4];
  };
  static constexpr Part kParts[kPhases] = {
      {1, 1, 0, {4}}, {1, 2, 1, {5, 3}}, {0, 2, 3, {1, 7}}, {0, 4, 5, {2, 8, 6, 0}}};

  template <int kRows>
  void multiply(int64_t row, const float* columns, InputsAhead& inputs, float* blocks) const {
#pragma GCC unroll 1
    for (int phase = 0; phase < kPhases; ++phase) {
      const Part& part = kParts[phase];
      const int64_t depth = part.count * q_.out_channels;
      packed_product<kRows>(
          weights_ + part.before * q_.in_channels * q_.out_channels + row * depth,
          columns + part.first * q_.out_channels * kPanel, depth, nullptr, false,
          blocks + phase * kBlock, kPanel, inputs.next());
    }
  }

  // `rows` channels from `row` on, at the positions of one panel.
  void write(const ColumnRange& part, int64_t row, int64_t rows, const float* blocks) const {
    const int64_t width = reach_.columns;
    for_images(reach_, part, [&](const Piece& piece) {
      for (int64_t first = piece.first, length; first < piece.first + piece.count; first += length) {
        const int64_t h = 2 * (first / width), w = 2 * (first % width);
        length = std::min(piece.first + piece.count - first, width - first % width);
        const int64_t count = std::min(2 * length, q_.width - w);
        const float* from = blocks + piece.at + first - piece.first;
        int64_t at = (piece.image * q_.in_channels + row) * q_.in_plane() + h * q_.width + w;
        for (int64_t r = 0; r < rows; ++r, from += kPanel, at += q_.in_plane()) {
          write_line(from, count, at);
          if (h + 1 < q_.height) write_line(from + 2 * kBlock, count, at + q_.width);
        }
      }
    });
  }

  // `count` inputs of a row from place `at` on, of the phases at `from` and kBlock after it.
  void write_line(const float* from, int64_t count, int64_t at) const {
    interleave(dx_ + at, from, from + kBlock, count / 2);
    if (count % 2 != 0) dx_[at + count - 1] = from[count / 2];
    if (other_ == nullptr) return;
    for (int64_t i = 0; i < count; ++i) dx_[at + i] += other_[at + i];
  }

  const ConvShape& q_;
  const Reach reach_;
  const float *dy_, *weights_, *other_;
  float* dx_;
};

// dx (N, I, H, W) of dy (N, O, ceil(H / 2), ceil(W / 2)) and weight (O, I, 3, 3), plus `other` unless it
// is null.
inline void strided_gradient(const ConvShape& q, const float* dy, const float* weight,
                             const float* other, float* dx) {
  WholeScratch scratch(q.out_channels * q.depth(), 1);
  float* packed = scratch.take(q.out_channels * q.depth());
  StridedGradient::pack(q, weight, packed);
  const StridedGradient gradient(q, dy, packed, other, dx);
  for_ranges(StridedGradient::reach_of(q), q.images, 4 * q.out_channels, 0,
             [&](const ColumnRange& range, const ColumnRange& next, int64_t turn, int64_t shares) {
               gradient.compute(range, next, turn, shares);
             });
}

}  // namespace ghost
