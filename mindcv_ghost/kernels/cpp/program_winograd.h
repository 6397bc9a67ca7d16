// Convolutions of 3x3 in a program by Winograd's algorithm (winograd.h), with tiles of 4x4 or 2x2
// outputs. Vectors are those of tiles here, not of channels: a map's rows are rearranged by
// shuffles, and products are those of 1x1 convolutions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "program_convolution.h"
#include "program_finish.h"
#include "program_shuffles.h"
#include "winograd.h"

namespace ghost {

// The transforms of one dimension: those of F(4, 3) are in winograd.h; the points of F(2, 3) are 0,
// 1, -1 and infinity.
template <int kTile>
struct Minimal;

template <>
struct Minimal<4> {
  static void inputs(const Vector* d, int64_t step, Vector* v, int64_t v_step) {
    inputs_to_points(d, step, v, v_step);
  }
  static void weights(const Vector* w, int64_t step, Vector* u, int64_t u_step) {
    weights_to_points(w, step, u, u_step);
  }
  static void outputs(const Vector* m, int64_t step, Vector* y, int64_t y_step) {
    from_points(m, step, y, y_step);
  }
};

template <>
struct Minimal<2> {
  static void inputs(const Vector* d, int64_t step, Vector* v, int64_t v_step) {
    v[0] = d[0] - d[2 * step];
    v[v_step] = d[step] + d[2 * step];
    v[2 * v_step] = d[2 * step] - d[step];
    v[3 * v_step] = d[step] - d[3 * step];
  }
  static void weights(const Vector* w, int64_t step, Vector* u, int64_t u_step) {
    const Vector even = 0.5f * (w[0] + w[2 * step]), odd = 0.5f * w[step];
    u[0] = w[0];
    u[u_step] = even + odd;
    u[2 * u_step] = even - odd;
    u[3 * u_step] = w[2 * step];
  }
  static void outputs(const Vector* m, int64_t step, Vector* y, int64_t y_step) {
    const Vector sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    y[0] = m[0] + sum;
    y[y_step] = difference - m[3 * step];
  }
};

// A convolution by tiles of kTile x kTile outputs.
template <int kTile>
class Winograd {
  static constexpr int kSide = kTile + 2;

 public:
  static constexpr int kPoints = kSide * kSide;

  Winograd(const Run& run, const PlannedStep& p)
      : run_(run),
        p_(p),
        in_(run.input(p)),
        inputs_(run.plan.map(p.gathered).data),
        tiles_(in_.line.images, p.tile_rows(), p.tile_columns(), 0),
        lines_(kPoints, in_.channels, tiles_.length()),
        masks_(tiles_, 1, 1) {}

  const PointLines& lines() const { return lines_; }
  int64_t depth() const { return in_.channels; }
  const float* weight(int64_t row) const {
    return run_.plan.weight(p_.step.weight).data + row * depth() * 9;
  }

  // The weights of one output channel: (points, in_channels).
  void transform_weights(int64_t row, float* to) const {
    const float* from = weight(row);
    Vector w[kLanes + 9], half[3 * kSide], u[kPoints];
    for (int64_t i = 0; i < depth(); i += kLanes) {
      const int64_t there = std::min<int64_t>(kLanes, depth() - i);
      load_columns<9>(from + 9 * i, 9, there, w);
      for (int column = 0; column < 3; ++column) {
        Minimal<kTile>::weights(w + column, 3, half + column, 3);
      }
      for (int r = 0; r < kSide; ++r) {
        Minimal<kTile>::weights(half + 3 * r, 1, u + kSide * r, 1);
      }
      for (int point = 0; point < kPoints; ++point) {
        store_first(to + point * depth() + i, u[point], there);
      }
    }
  }

  // An input channel at all points.
  void transform_input(int64_t c) const {
    const int64_t width = tiles_.stride + kLanes, margin = tiles_.width + 1;
    Scratch scratch(kTile * kTile * width + 2 * margin, 1);
    float* values = scratch.take(kTile * kTile * width + 2 * margin) + margin;
    spread(in_.channel(c), values, width);
    // Copies, because a store might change what `this` points to, for all that the compiler knows.
    const int64_t length = tiles_.length(), columns = tiles_.width;
    const uint16_t* inside[3][3];
    for (int row = -1; row <= 1; ++row) {
      for (int column = -1; column <= 1; ++column) {
        inside[row + 1][column + 1] = masks_.at(row, column);
      }
    }
    const PointLines lines = lines_;
    float* inputs = inputs_;
    for (int64_t i = 0; i < length; i += kLanes) {
      Vector half[kPoints], d[kSide], v[kPoints];
#pragma GCC unroll 6
      for (int a = 0; a < kSide; ++a) {
        const int row = a == 0 ? -1 : a == kSide - 1 ? 1 : 0;
#pragma GCC unroll 6
        for (int b = 0; b < kSide; ++b) {
          const int column = b == 0 ? -1 : b == kSide - 1 ? 1 : 0;
          constexpr int kBefore = kTile - 1;  // a tile's first input is one before its outputs
          const int part = (a + kBefore) % kTile * kTile + (b + kBefore) % kTile;
          d[b] = load(values + part * width + i + row * columns + column);
          if (row != 0 || column != 0) d[b] = masked(d[b], inside[row + 1][column + 1][i / kLanes]);
        }
        Minimal<kTile>::inputs(d, 1, half + kSide * a, 1);
      }
#pragma GCC unroll 6
      for (int b = 0; b < kSide; ++b) Minimal<kTile>::inputs(half + b, kSide, v + b, kSide);
      if (i < lines.width()) {
        float* to = inputs + lines.line(0, c) + i;
#pragma GCC unroll 36
        for (int point = 0; point < kPoints; ++point) store(to + point * lines.step(), v[point]);
      } else {
        for (int64_t k = 0; k < lines.columns(); ++k) {
          for (int point = 0; point < kPoints; ++point) {
            float* column = inputs + lines.column(point, k);
            column[c] = v[point][k];
            // The last vector of a column is read whole, and its weights are 0 there: without these
            // zeros, a NaN that memory holds from before would get into the products.
            if (c == 0) std::fill(column + depth(), column + lines.column_step(), 0.0f);
          }
        }
      }
    }
  }

  // Products of some rows of weights at a point, which are row_step apart. `next` is as multiply
  // takes it.
  void multiply_point(int64_t point, const float* weight, int64_t row_step, int64_t rows,
                      const float* next, float* sums, int64_t sums_step) const {
    const Lines x = {inputs_ + lines_.line(point, 0), depth(), lines_.width(), {Tap{}},
                     Lines::kPointwise};
    const int64_t vectors = lines_.width() / kLanes;
    multiply(weight, row_step, rows, x, 0, vectors, next, sums, sums_step);
    multiply_columns(weight, row_step, rows, depth(), inputs_ + lines_.column(point, 0),
                     lines_.column_step(), lines_.columns(), weight, sums + lines_.width(),
                     sums_step);
  }

  // The outputs of a channel as a dense line; its sums at the points are `step` apart. `values` is
  // memory for values_size().
  void transform_output(const float* sums, int64_t step, float* values, float* u) const {
    const int64_t width = tiles_.stride;
    for (int64_t i = 0; i < tiles_.length(); i += kLanes) {
      Vector half[kSide * kTile], m[kSide], out[kTile * kTile];
      for (int b = 0; b < kSide; ++b) {
        for (int a = 0; a < kSide; ++a) m[a] = load(sums + (kSide * a + b) * step + i);
        Minimal<kTile>::outputs(m, 1, half + b, kSide);
      }
      for (int a = 0; a < kTile; ++a) {
        Minimal<kTile>::outputs(half + kSide * a, 1, out + kTile * a, 1);
      }
      for (int k = 0; k < kTile * kTile; ++k) store(values + k * width + i, out[k]);
    }
    const int64_t height = in_.line.height, wide = in_.line.width;
    for (int64_t n = 0; n < tiles_.images; ++n) {
      for (int64_t h = 0; h < height; ++h, u += wide) {
        const float* from = values + h % kTile * kTile * width + n * tiles_.step +
                            h / kTile * tiles_.width;
        // What is written beyond the row is overwritten by the next one.
        for (int64_t w = 0; w < wide; w += kTile * kLanes) {
          Vector block[kTile];
          for (int k = 0; k < kTile; ++k) block[k] = load(from + k * width + w / kTile);
          kTile == 4 ? interleave(block) : join_pairs(block, block + 1);
          for (int k = 0; k < kTile && w + k * kLanes < wide; ++k) {
            store(u + w + k * kLanes, block[k]);
          }
        }
      }
    }
  }
  int64_t values_size() const { return (kTile * kTile + 1) * tiles_.stride; }

 private:
  // Every kTile-th value of every kTile-th row, as lines of tiles.
  void spread(const float* x, float* values, int64_t width) const {
    const Line line = in_.line, tiles = tiles_;
    for (int64_t n = 0; n < line.images; ++n) {
      for (int64_t row = 0; row < tiles.height; ++row) {
        float* to = values + n * tiles.step + row * tiles.width;
#pragma GCC unroll 4
        for (int part = 0; part < kTile; ++part, to += kTile * width) {
          const int64_t h = row * kTile + part;
          spread_row(x + n * line.step + h * line.width, h < line.height ? line.width : 0,
                     tiles.width, to, width);
        }
      }
    }
  }

  // Every kTile-th value of a row to one of kTile lines. What is written beyond the row of tiles is
  // overwritten by the next one.
  static void spread_row(const float* row, int64_t wide, int64_t columns, float* to,
                         int64_t width) {
    for (int64_t w = 0; w < kTile * columns; w += kTile * kLanes) {
      Vector block[kTile];
#pragma GCC unroll 4
      for (int k = 0; k < kTile; ++k) {
        const int64_t there = std::clamp<int64_t>(wide - w - k * kLanes, 0, kLanes);
        block[k] = there > 0 ? masked(load(row + w + k * kLanes), (1u << there) - 1) : Vector{};
      }
      kTile == 4 ? deinterleave(block) : split_pairs(block, block + 1);
#pragma GCC unroll 4
      for (int k = 0; k < kTile; ++k) store(to + k * width + w / kTile, block[k]);
    }
  }

  const Run& run_;
  const PlannedStep& p_;
  const Map& in_;
  float* inputs_;
  const Line tiles_;
  PointLines lines_;
  NeighbourMasks masks_;
};

// With tiles of 4x4: each part computes the products at one point.
inline void convolve_winograd(const Run& run, const PlannedStep& p, Member* team) {
  const Winograd<4> winograd(run, p);
  constexpr int64_t kPoints = Winograd<4>::kPoints;
  const int64_t channels = winograd.depth();
  const int64_t weights = run.is_first ? p.rows : 0;
  const Map &at_points = run.plan.map(p.points), &sums = run.plan.map(p.product);
  team->each(weights + channels, [&](int64_t part) {
    part < weights ? winograd.transform_weights(part, at_points.channel(part))
                   : winograd.transform_input(part - weights);
  });
  team->each(kPoints, [&](int64_t point) {
    const float* weight = at_points.data + point * channels;
    winograd.multiply_point(point, weight, at_points.line.stride, p.rows, weight,
                            sums.channel(point), kPoints * sums.line.stride);
  });
  const Line line(run.input(p).line.images, p.out_height, p.out_width, 0);
  const Finish finish(run, p);
  team->each(p.rows, [&](int64_t row) {
    const int64_t length = line.length() + 4 * kLanes, memory = finish.memory(line.plane());
    Scratch scratch(length + winograd.values_size() + memory, 3);
    float* u = scratch.take(length);
    winograd.transform_output(sums.channel(row * kPoints), sums.line.stride,
                              scratch.take(winograd.values_size()), u);
    finish.write_line(row, u, line.step, scratch.take(memory));
  });
}

// With tiles of 2x2: each part computes some rows of the product at all points, from weights which
// it transforms itself, and what follows.
inline void convolve_winograd_rows(const Run& run, const PlannedStep& p, Member* team) {
  constexpr int64_t kRows = 8, kPoints = Winograd<2>::kPoints;
  const Winograd<2> winograd(run, p);
  const int64_t channels = winograd.depth(), blocks = (p.rows + kRows - 1) / kRows;
  team->each(channels, [&](int64_t c) { winograd.transform_input(c); });
  const Line line(run.input(p).line.images, p.out_height, p.out_width, 0);
  const Finish finish(run, p);
  const int64_t length = line.length() + 2 * kLanes, memory = finish.memory(line.plane());
  const int64_t step = winograd.lines().width() + kLanes, threads = SharedPool::get()->threads();
  const int64_t row_step = kPoints * channels + 16;
  team->each(blocks, [&](int64_t block) {
    const int64_t first = block * kRows, rows = std::min(kRows, p.rows - first);
    Scratch scratch(kRows * (row_step + kPoints * step) + winograd.values_size() + length + memory,
                    5);
    float* weights = scratch.take(kRows * row_step);
    float* sums = scratch.take(kRows * kPoints * step);
    float* values = scratch.take(winograd.values_size());
    float* u = scratch.take(length);
    float* x = scratch.take(memory);
    for (int64_t r = 0; r < rows; ++r) {
      winograd.transform_weights(first + r, weights + r * row_step);
    }
    // The next block's weights are fetched meanwhile, some at each of the points.
    const bool is_last = block + threads >= blocks;
    for (int64_t point = 0; point < kPoints; ++point) {
      const float* weight = weights + point * channels;
      const float* next = is_last ? weight
                                  : winograd.weight((block + threads) * kRows) +
                                        point * 9 * rows * channels / kPoints;
      winograd.multiply_point(point, weight, row_step, rows, next, sums + point * step,
                              kPoints * step);
    }
    for (int64_t r = 0; r < rows; ++r) {
      winograd.transform_output(sums + r * kPoints * step, step, values, u);
      finish.write_line(first + r, u, line.step, x);
    }
  });
}

}  // namespace ghost
