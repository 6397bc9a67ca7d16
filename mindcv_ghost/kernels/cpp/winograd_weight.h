// Gradient of a 3x3 weight by Winograd's algorithm, the transpose of winograd.h: the inputs are
// transformed as in the forward pass, and so are the gradients of the outputs; for each point the
// gradient is then a product over the tiles.
#pragma once

#include "winograd.h"

namespace ghost {

// Four outputs' gradients to the six points.
template <typename Value>
inline void gradients_to_points(const Value* y, int64_t step, Value* m, int64_t m_step) {
  const Value y0 = y[0], y1 = y[step], y2 = y[2 * step], y3 = y[3 * step];
  const Value even_a = y0 + kA2 * y2, odd_a = kA * y1 + kA * kA2 * y3;
  const Value even_b = y0 + kB2 * y2, odd_b = kB * y1 + kB * kB2 * y3;
  m[0] = y0;
  m[m_step] = even_a + odd_a;
  m[2 * m_step] = even_a - odd_a;
  m[3 * m_step] = even_b + odd_b;
  m[4 * m_step] = even_b - odd_b;
  m[5 * m_step] = y3;
}

// Six points to three weights' gradients.
template <typename Value>
inline void weights_from_points(const Value* u, int64_t step, Value* w, int64_t w_step) {
  const Value sum_a = kAtA * (u[step] + u[2 * step]), odd_a = kAtA * (u[step] - u[2 * step]);
  const Value sum_b = kAtB * (u[3 * step] + u[4 * step]);
  const Value odd_b = kAtB * (u[3 * step] - u[4 * step]);
  w[0] = u[0] * (1 / kProduct2) + sum_a + sum_b;
  w[w_step] = kA * odd_a + kB * odd_b;
  w[2 * w_step] = kA2 * sum_a + kB2 * sum_b + u[5 * step];
}

// kLanes channels of dy from c on: points (kPoints, panels, tiles of the rows, kPanel).
inline void transform_gradients(const WinogradShape& q, const float* dy, const TileRows& rows,
                                int64_t c, float* memory, float* points) {
  const int64_t tiles = rows.count * q.tile_columns();
  float* first = points + c / kPanel * tiles * kPanel + c % kPanel;
  const int64_t point_step = round_up(q.out_channels, kPanel) * tiles;
  planes_to_points<4>(q, dy, q.out_channels, c, rows, memory, {first, kPanel, point_step},
                      [](const Vector* d, int64_t d_step, Vector* v, int64_t v_step) {
                        gradients_to_points(d, d_step, v, v_step);
                      });
}

// sums (kPoints, panels, in_channels, kPanel) to dweight (out_channels, in_channels, 3, 3).
inline void transform_sums(const WinogradShape& q, const float* sums, float* dweight) {
  const int64_t panels = panels_of(q.out_channels);
  const int64_t point_step = panels * q.in_channels * kPanel;
  parallel(panels * q.in_channels, [&](int64_t part) {
    const int64_t i = part % q.in_channels;
    for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
      const int64_t c = part / q.in_channels * kPanel + lane;
      Vector half[18], w[kLanes + 9];
      for (int column = 0; column < 6; ++column) {
        Vector u[6];
        for (int row = 0; row < 6; ++row) {
          u[row] = load(sums + (6 * row + column) * point_step + part * kPanel + lane);
        }
        weights_from_points(u, 1, half + column, 6);
      }
      for (int row = 0; row < 3; ++row) weights_from_points(half + 6 * row, 1, w + 3 * row, 1);
      store_columns<9>(w, 9 * q.in_channels, std::min<int64_t>(kLanes, q.out_channels - c),
                       dweight + (c * q.in_channels + i) * 9);
    }
  });
}

// x (N, in_channels, H, W), dy (N, out_channels, H, W). The same on any number of threads, which
// work on one block of tiles at a time: first at its values, then at its points.
inline void winograd_weight(const WinogradShape& q, const float* x, const float* dy,
                            float* dweight) {
  const int64_t step = q.channel_step(), out = round_up(q.out_channels, kPanel);
  const int64_t all = q.images * q.tile_rows(), columns = q.tile_columns();
  // A block's values at the points should fit the L2 cache, unless the sums, which are read and
  // written for each block, don't fit either.
  const bool is_small = kPoints * q.in_channels * out * 4 <= 1 << 20;
  const int64_t bytes = is_small ? 1 << 20 : 4 << 20;
  const int64_t fitting = bytes / (kPoints * 4 * (step + out) * columns);
  const int64_t at_once = std::clamp<int64_t>(fitting, 1, all);
  const int64_t blocks = (all + at_once - 1) / at_once, most = (all + blocks - 1) / blocks;
  const int64_t panels = out / kPanel, sum_size = panels * q.in_channels * kPanel;
  WholeScratch whole(kPoints * (most * columns * (step + out) + sum_size), 3);
  float* inputs = whole.take(kPoints * most * columns * step);
  float* gradients = whole.take(kPoints * most * columns * out);
  float* sums = whole.take(kPoints * sum_size);
  const int64_t in_parts = (q.in_channels + kLanes - 1) / kLanes, out_parts = out / kLanes;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = all * block / blocks, end = all * (block + 1) / blocks;
    const TileRows rows = {begin, end - begin};
    const int64_t tiles = rows.count * columns;
    parallel(in_parts + out_parts, [&](int64_t part) {
      Scratch scratch(window_size(q, rows), 1);
      float* memory = scratch.take(window_size(q, rows));
      if (part < in_parts) {
        transform_inputs(q, x, rows, part * kLanes, step, memory, inputs);
      } else {
        transform_gradients(q, dy, rows, (part - in_parts) * kLanes, memory, gradients);
      }
    });
    parallel(kPoints, [&](int64_t point) {
      for (int64_t panel = 0; panel < panels; ++panel) {
        const float* b = gradients + (point * panels + panel) * tiles * kPanel;
        for_rows(q.in_channels, [&](int64_t c, auto many) {
          Accumulators<many> products;
          products.clear();
          products.add_run(inputs + point * tiles * step + c, 1, step, b, tiles);
          float* to = sums + point * sum_size + (panel * q.in_channels + c) * kPanel;
          if (block > 0) products.add_rows(to, kPanel);
          products.put(to, kPanel);
        });
      }
    });
  }
  transform_sums(q, sums, dweight);
}

}  // namespace ghost
