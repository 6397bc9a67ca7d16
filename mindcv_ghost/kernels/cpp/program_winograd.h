// Convolutions of 3x3 in a program by Winograd's algorithm (winograd.h). Vectors are those of tiles
// here, not of channels: a map's rows are rearranged by shuffles, and products are those of 1x1
// convolutions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "program_finish.h"
#include "program_shuffles.h"
#include "winograd.h"

namespace ghost {

// A convolution, and its maps: the weights, the inputs and the sums at each of the points.
class Winograd {
 public:
  Winograd(const Run& run, const PlannedStep& p)
      : run_(run),
        p_(p),
        in_(run.input(p)),
        weights_(run.plan.map(p.points)),
        inputs_(run.plan.map(p.gathered)),
        sums_(run.plan.map(p.product)),
        tiles_(inputs_.line),
        masks_(tiles_, 1, 1) {}

  // The weights of one output channel: (points, in_channels).
  void transform_weights(int64_t row) const {
    const int64_t depth = in_.channels;
    const float* from = run_.plan.weight(p_.step.weight).data + row * depth * 9;
    float* to = weights_.channel(row);
    Vector w[kLanes + 9], half[18], u[kPoints];
    for (int64_t i = 0; i < depth; i += kLanes) {
      const int64_t there = std::min<int64_t>(kLanes, depth - i);
      load_columns<9>(from + 9 * i, 9, there, w);
      for (int column = 0; column < 3; ++column) {
        weights_to_points(w + column, 3, half + column, 3);
      }
      for (int r = 0; r < 6; ++r) weights_to_points(half + 3 * r, 1, u + 6 * r, 1);
      for (int point = 0; point < kPoints; ++point) {
        store_first(to + point * depth + i, u[point], there);
      }
    }
  }

  // An input channel at all points.
  void transform_input(int64_t c) const {
    const int64_t width = tiles_.stride + kLanes, margin = tiles_.width + 1;
    Scratch scratch(16 * width + 2 * margin, 1);
    float* values = scratch.take(16 * width + 2 * margin) + margin;
    spread(in_.channel(c), values, width);
    for (int64_t i = 0; i < tiles_.length(); i += kLanes) {
      Vector half[36], d[6], v[kPoints];
      for (int a = 0; a < 6; ++a) {
        const int row = a == 0 ? -1 : a == 5 ? 1 : 0;
        for (int b = 0; b < 6; ++b) {
          const int column = b == 0 ? -1 : b == 5 ? 1 : 0;
          const float* from = values + ((a + 3) % 4 * 4 + (b + 3) % 4) * width;
          d[b] = load(from + i + row * tiles_.width + column);
          if (row != 0 || column != 0) d[b] = masked(d[b], masks_.at(row, column)[i / kLanes]);
        }
        inputs_to_points(d, 1, half + 6 * a, 1);
      }
      for (int b = 0; b < 6; ++b) inputs_to_points(half + b, 6, v + b, 6);
      for (int64_t point = 0; point < kPoints; ++point) {
        store(inputs_.channel(c * kPoints + point) + i, v[point]);
      }
    }
  }

  void multiply_point(int64_t point) const {
    const Lines x = {inputs_.channel(point), in_.channels, kPoints * tiles_.stride, {Tap{}},
                     Lines::kPointwise};
    const float* weight = weights_.data + point * in_.channels;
    multiply(weight, weights_.line.stride, p_.rows, x, 0, tiles_.vectors(), weight,
             sums_.channel(point), kPoints * tiles_.stride);
  }

  // The outputs of a channel as a dense line.
  void transform_output(int64_t row, float* u, float* values) const {
    const int64_t width = tiles_.stride;
    for (int64_t i = 0; i < tiles_.length(); i += kLanes) {
      Vector half[24], m[6], out[16];
      for (int b = 0; b < 6; ++b) {
        for (int a = 0; a < 6; ++a) m[a] = load(sums_.channel(row * kPoints + 6 * a + b) + i);
        from_points(m, 1, half + b, 6);
      }
      for (int a = 0; a < 4; ++a) from_points(half + 6 * a, 1, out + 4 * a, 1);
      for (int k = 0; k < 16; ++k) store(values + k * width + i, out[k]);
    }
    const int64_t height = in_.line.height, wide = in_.line.width;
    for (int64_t n = 0; n < tiles_.images; ++n) {
      for (int64_t h = 0; h < height; ++h, u += wide) {
        const float* from = values + h % 4 * 4 * width + n * tiles_.step + h / 4 * tiles_.width;
        // What is written beyond the row is overwritten by the next one.
        for (int64_t w = 0; w < wide; w += 4 * kLanes) {
          Vector block[4];
          for (int k = 0; k < 4; ++k) block[k] = load(from + k * width + w / 4);
          interleave(block);
          for (int k = 0; k < 4 && w + k * kLanes < wide; ++k) store(u + w + k * kLanes, block[k]);
        }
      }
    }
  }

 private:
  // Every fourth value of every fourth row, as 16 lines of tiles.
  void spread(const float* x, float* values, int64_t width) const {
    const Line& line = in_.line;
    for (int64_t n = 0; n < line.images; ++n) {
      for (int64_t h = 0; h < 4 * tiles_.height; ++h) {
        const float* row = x + n * line.step + h * line.width;
        float* to = values + h % 4 * 4 * width + n * tiles_.step + h / 4 * tiles_.width;
        const int64_t wide = h < line.height ? line.width : 0;
        // What is written beyond the row of tiles is overwritten by the next one.
        for (int64_t w = 0; w < 4 * tiles_.width; w += 4 * kLanes) {
          Vector block[4];
          for (int k = 0; k < 4; ++k) {
            const int64_t there = std::clamp<int64_t>(wide - w - k * kLanes, 0, kLanes);
            block[k] = there == kLanes ? load(row + w + k * kLanes)
                       : there == 0    ? Vector{}
                                       : masked(load(row + w + k * kLanes), (1u << there) - 1);
          }
          deinterleave(block);
          for (int k = 0; k < 4; ++k) store(to + k * width + w / 4, block[k]);
        }
      }
    }
  }

  const Run& run_;
  const PlannedStep& p_;
  const Map &in_, &weights_, &inputs_, &sums_;
  const Line& tiles_;
  NeighbourMasks masks_;
};

inline void convolve_winograd(const Run& run, const PlannedStep& p, Member* team) {
  const Winograd winograd(run, p);
  const int64_t channels = run.input(p).channels;
  const int64_t weights = run.is_first ? p.rows : 0;
  team->each(weights + channels, [&](int64_t part) {
    part < weights ? winograd.transform_weights(part) : winograd.transform_input(part - weights);
  });
  team->each(kPoints, [&](int64_t point) { winograd.multiply_point(point); });
  const Line line(run.input(p).line.images, p.out_height, p.out_width, 0);
  const Finish finish(run, p);
  const int64_t tiles = run.plan.map(p.product).line.stride;
  team->each(p.rows, [&](int64_t row) {
    const int64_t length = line.length() + 4 * kLanes, memory = finish.memory(line.plane());
    Scratch scratch(length + 17 * tiles + memory, 3);
    float* u = scratch.take(length);
    winograd.transform_output(row, u, scratch.take(17 * tiles));
    finish.write_line(row, u, line.step, scratch.take(memory));
  });
}

}  // namespace ghost
