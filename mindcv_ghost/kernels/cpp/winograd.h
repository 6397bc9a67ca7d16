// Convolutions of 3x3 with stride 1 by Winograd's algorithm F(4x4, 3x3): 36 products for 16 outputs
// and a channel, instead of 144 (Lavin and Gray, arXiv 1509.09308).
//
// Points are 0, +-5/8, +-3/2 and infinity: their squares' sums and products are exact in float, and
// the error is 2 to 6 times smaller than with the usual 0, +-1, +-2.
#pragma once

#include <algorithm>

#include "gemm.h"
#include "thread_pool.h"

namespace ghost {

constexpr int64_t kOutputTile = 4, kPoints = 36;

constexpr float kA = 0.625f, kB = 1.5f;
constexpr float kA2 = kA * kA, kB2 = kB * kB, kSum2 = kA2 + kB2, kProduct2 = kA2 * kB2;
// Divisors of the interpolation at +-kA and at +-kB.
constexpr float kAtA = 1 / (2 * kA2 * (kA2 - kB2)), kAtB = 1 / (2 * kB2 * (kB2 - kA2));

struct WinogradShape {
  int64_t images, in_channels, out_channels, height, width;

  int64_t tile_rows() const { return (height + kOutputTile - 1) / kOutputTile; }
  int64_t tile_columns() const { return (width + kOutputTile - 1) / kOutputTile; }
  // Input channels of a tile are an odd number of cache lines, so that tiles don't evict each other.
  int64_t channel_step() const { return in_channels / 32 * 32 + 48; }
  int64_t tiles() const { return images * tile_rows() * tile_columns(); }

  // Whether this is faster than 9 products an output. Transforms cost about as much as half of the
  // products, and the weights' must pay off over the tiles.
  bool is_faster() const {
    const int64_t products = kPoints * tile_rows() * tile_columns();
    return in_channels >= kLanes && out_channels >= kLanes && tiles() >= 16 &&
           3 * products <= 2 * 9 * height * width;
  }

  // Whether winograd_1d.h is faster than 9 products an output: its lines of so few channels must fit
  // the caches, and few rows of the last tiles may lie outside.
  bool is_faster_1d() const {
    return std::max(in_channels, out_channels) <= 64 && 3 * tile_rows() <= height;
  }
};

// Six inputs of a row or column to the six points.
template <typename Value>
inline void inputs_to_points(const Value* d, int64_t step, Value* v, int64_t v_step) {
  const Value d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step],
              d5 = d[5 * step];
  const Value even_a = d4 - kB2 * d2, odd_a = kA * (d3 - kB2 * d1);
  const Value even_b = d4 - kA2 * d2, odd_b = kB * (d3 - kA2 * d1);
  v[0] = kProduct2 * d0 - kSum2 * d2 + d4;
  v[v_step] = even_a + odd_a;
  v[2 * v_step] = even_a - odd_a;
  v[3 * v_step] = even_b + odd_b;
  v[4 * v_step] = even_b - odd_b;
  v[5 * v_step] = kProduct2 * d1 - kSum2 * d3 + d5;
}

// Six points to four outputs.
template <typename Value>
inline void from_points(const Value* m, int64_t step, Value* y, int64_t y_step) {
  const Value sum_a = m[step] + m[2 * step], difference_a = m[step] - m[2 * step];
  const Value sum_b = m[3 * step] + m[4 * step], difference_b = m[3 * step] - m[4 * step];
  y[0] = m[0] + sum_a + sum_b;
  y[y_step] = kA * difference_a + kB * difference_b;
  y[2 * y_step] = kA2 * sum_a + kB2 * sum_b;
  y[3 * y_step] = kA * kA2 * difference_a + kB * kB2 * difference_b + m[5 * step];
}

// Three weights to the six points.
template <typename Value>
inline void weights_to_points(const Value* w, int64_t step, Value* u, int64_t u_step) {
  const Value w0 = w[0], w1 = w[step], w2 = w[2 * step];
  const Value even_a = kAtA * w0 + kAtA * kA2 * w2, odd_a = kAtA * kA * w1;
  const Value even_b = kAtB * w0 + kAtB * kB2 * w2, odd_b = kAtB * kB * w1;
  u[0] = w0 * (1 / kProduct2);
  u[u_step] = even_a + odd_a;
  u[2 * u_step] = even_a - odd_a;
  u[3 * u_step] = even_b + odd_b;
  u[4 * u_step] = even_b - odd_b;
  u[5 * u_step] = w2;
}

// A weight whose value for (output, input, tap) is data[output * out_step + input * in_step + tap],
// or that at 8 - tap if the kernel is rotated.
struct Kernels {
  const float* data;
  int64_t out_step, in_step;
  bool turned;
};

// Distance of the weights' points. Were it a power of two, all points of a weight would meet in one
// set of the caches.
inline int64_t weight_step(const WinogradShape& q) {
  return panels_of(q.out_channels) * q.in_channels * kPanel + 16;
}

// Weights of one panel of output channels and some input channels at the points, which are point_step
// apart: (input channels, kPanel).
inline void transform_panel(const WinogradShape& q, const Kernels& kernels, int64_t panel,
                            int64_t in_begin, int64_t in_end, int64_t point_step, float* points) {
  Vector w[kLanes + 9], half[18], u[kPoints];
  for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
    const int64_t first = panel * kPanel + lane;
    const int64_t there = std::clamp<int64_t>(q.out_channels - first, 0, kLanes);
    float* to = points + lane;
    for (int64_t i = in_begin; i < in_end; ++i, to += kPanel) {
      const float* from = kernels.data + first * kernels.out_step + i * kernels.in_step;
      load_columns<9>(from, kernels.out_step, there, w);
      if (kernels.turned) std::reverse(w, w + 9);
      for (int column = 0; column < 3; ++column) {
        weights_to_points(w + column, 3, half + column, 3);
      }
      for (int row = 0; row < 6; ++row) weights_to_points(half + 3 * row, 1, u + 6 * row, 1);
      for (int point = 0; point < kPoints; ++point) store(to + point * point_step, u[point]);
    }
  }
}

// Weights at the points: (kPoints, out_channels / kPanel, in_channels, kPanel).
inline void transform_weights(const WinogradShape& q, const Kernels& kernels, float* points) {
  const int64_t parts = std::min<int64_t>(4, q.in_channels);
  parallel(panels_of(q.out_channels) * parts, [&](int64_t index) {
    const int64_t panel = index / parts, part = index % parts;
    const int64_t begin = q.in_channels * part / parts, end = q.in_channels * (part + 1) / parts;
    transform_panel(q, kernels, panel, begin, end, weight_step(q),
                    points + (panel * q.in_channels + begin) * kPanel);
  });
}

// Rows of tiles from `first` on, counted through all images.
struct TileRows {
  int64_t first, count;
};

// Planes of kLanes channels of one image, the tiles of some rows with a border around: (rows,
// columns, kLanes). Values outside of the image are zero.
struct ChannelWindow {
  int64_t height, width, border;

  ChannelWindow(const WinogradShape& q, int64_t tile_rows, int64_t around)
      : height(kOutputTile * tile_rows + 2 * around),
        width(kOutputTile * q.tile_columns() + 2 * around),
        border(around) {}
  int64_t size() const { return height * width * kLanes; }
  const float* tile(const float* window, int64_t row, int64_t column) const {
    return window + kOutputTile * (row * width + column) * kLanes;
  }
};

// from: a plane for each of the channels, the first `there` of which exist.
inline void cut_channels(const WinogradShape& q, const float* from, int64_t there, int64_t tile_row,
                         const ChannelWindow& window, float* to) {
  const int64_t first = tile_row * kOutputTile - window.border, plane = q.height * q.width;
  const int64_t begin = std::max<int64_t>(0, first);
  const int64_t end = std::min(q.height, first + window.height);
  const int64_t right = window.width - window.border - q.width;
  std::memset(to, 0, (begin - first) * window.width * kLanes * sizeof(float));
  std::memset(to + (end - first) * window.width * kLanes, 0,
              (first + window.height - end) * window.width * kLanes * sizeof(float));
  int64_t w = 0;
  float* at = to + (begin - first) * window.width * kLanes;
  // Position of the next pixel; zeros before and after each row.
  const auto next = [&]() {
    if (w == 0) {
      for (int64_t i = 0; i < window.border; ++i, at += kLanes) store(at, Vector{});
    }
    float* place = at;
    at += kLanes;
    if (++w == q.width) {
      for (int64_t i = 0; i < right; ++i, at += kLanes) store(at, Vector{});
      w = 0;
    }
    return place;
  };
  Vector block[kLanes];
  int64_t i = begin * q.width;
  for (; i + kLanes <= end * q.width; i += kLanes) {
    for (int64_t c = 0; c < kLanes; ++c) block[c] = c < there ? load(from + c * plane + i) : Vector{};
    transpose(block);
    for (int64_t c = 0; c < kLanes; ++c) store(next(), block[c]);
  }
  for (; i < end * q.width; ++i) {
    Vector values = {};
    for (int64_t c = 0; c < there; ++c) values[c] = from[c * plane + i];
    store(next(), values);
  }
}

// Calls body(image, first tile row in it, rows, those before) for each image that the rows touch.
template <typename Body>
inline void each_image(const WinogradShape& q, const TileRows& rows, const Body& body) {
  for (int64_t done = 0; done < rows.count;) {
    const int64_t row = rows.first + done, in_image = row % q.tile_rows();
    const int64_t here = std::min(q.tile_rows() - in_image, rows.count - done);
    body(row / q.tile_rows(), in_image, here, done);
    done += here;
  }
}

// Memory that transforms of these rows need.
inline int64_t window_size(const WinogradShape& q, const TileRows& rows) {
  return ChannelWindow(q, std::min(rows.count, q.tile_rows()), 1).size();
}

// Where values at the points go: those of a channel's tiles are tile_step apart, its points point_step.
struct PointsOf {
  float* data;
  int64_t tile_step, point_step;
};

// kLanes channels from c on of x (images, channels, height, width), at the points. Each tile has
// kSide * kSide values, which to_points(from, step, to, to_step) takes there line by line.
template <int kSide, typename ToPoints>
inline void planes_to_points(const WinogradShape& q, const float* x, int64_t channels, int64_t c,
                             const TileRows& rows, float* memory, const PointsOf& points,
                             const ToPoints& to_points) {
  constexpr int64_t kBorder = (kSide - kOutputTile) / 2;
  const int64_t columns = q.tile_columns();
  const int64_t there = std::clamp<int64_t>(channels - c, 0, kLanes);
  each_image(q, rows, [&](int64_t image, int64_t row, int64_t here, int64_t before) {
    const ChannelWindow window(q, here, kBorder);
    cut_channels(q, x + (image * channels + c) * q.height * q.width, there, row, window, memory);
    float* to = points.data + before * columns * points.tile_step;
    for (int64_t tile = 0; tile < here * columns; ++tile, to += points.tile_step) {
      const float* corner = window.tile(memory, tile / columns, tile % columns);
      Vector half[6 * kSide], v[6];
#pragma GCC unroll 6
      for (int column = 0; column < kSide; ++column) {
        Vector d[kSide];
        for (int i = 0; i < kSide; ++i) d[i] = load(corner + (i * window.width + column) * kLanes);
        to_points(d, 1, half + column, kSide);
      }
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) {
        to_points(half + kSide * i, 1, v, 1);
        for (int j = 0; j < 6; ++j) store(to + (6 * i + j) * points.point_step, v[j]);
      }
    }
  });
}

// kLanes channels of x from c on: points (kPoints, tiles of the rows, step), channels side by side.
inline void transform_inputs(const WinogradShape& q, const float* x, const TileRows& rows,
                             int64_t c, int64_t step, float* memory, float* points) {
  const int64_t tiles = rows.count * q.tile_columns();
  planes_to_points<6>(q, x, q.in_channels, c, rows, memory, {points + c, step, tiles * step},
                      [](const Vector* d, int64_t d_step, Vector* v, int64_t v_step) {
                        inputs_to_points(d, d_step, v, v_step);
                      });
}

// products (kPoints, tiles, kPanel) of one panel to its channels of y, from channel `first` on;
// `other`, of y's shape, is added where there is one.
inline void transform_outputs(const WinogradShape& q, const TileRows& rows, const float* products,
                              int64_t first, const float* other, float* y) {
  const int64_t columns = q.tile_columns(), tiles = rows.count * columns;
  const int64_t plane = q.height * q.width;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t row = rows.first + tile / columns;
    const int64_t h = row % q.tile_rows() * kOutputTile, w = tile % columns * kOutputTile;
    const int64_t high = std::min(kOutputTile, q.height - h);
    const int64_t wide = std::min(kOutputTile, q.width - w);
    for (int64_t c = first; c < std::min(first + kPanel, q.out_channels); c += kLanes) {
      const float* from = products + tile * kPanel + (c - first);
      Vector half[24];
      Vector out[16];
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) {
        Vector m[6];
        for (int i = 0; i < 6; ++i) m[i] = load(from + (6 * i + j) * tiles * kPanel);
        from_points(m, 1, half + j, 6);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) from_points(half + 6 * i, 1, out + 4 * i, 1);
      alignas(64) float block[kLanes * 16];  // (channels, 16 outputs)
      for (int i = 0; i < 16; i += kLanes) {
        transpose(out + i);
        for (int l = 0; l < kLanes; ++l) store(block + l * 16 + i, out[i + l]);
      }
      const int64_t there = std::min<int64_t>(kLanes, q.out_channels - c);
      const int64_t at = (row / q.tile_rows() * q.out_channels + c) * plane + h * q.width + w;
      float* to = y + at;
      for (int64_t l = 0; l < there; ++l, to += plane) {
        if (other != nullptr) {
          const float* add = other + at + l * plane;
          for (int64_t i = 0; i < high; ++i) {
            for (int64_t j = 0; j < wide; ++j) block[l * 16 + 4 * i + j] += add[i * q.width + j];
          }
        }
        if (high == 4 && wide == 4) {
          for (int i = 0; i < 4; ++i) {
            std::memcpy(to + i * q.width, block + l * 16 + 4 * i, 4 * sizeof(float));
          }
        } else {
          for (int64_t i = 0; i < high; ++i) {
            for (int64_t j = 0; j < wide; ++j) to[i * q.width + j] = block[l * 16 + 4 * i + j];
          }
        }
      }
    }
  }
}

// As winograd_convolve, for few tiles: their inputs are transformed once, and the weights panel by
// panel into the cache. All at the points, they would be four times as large and go through memory.
inline void winograd_by_panels(const WinogradShape& q, const float* x, const Kernels& kernels,
                               const float* other, float* y) {
  constexpr int64_t kAtOnce = 64;  // input channels
  const int64_t tiles = q.tiles(), step = q.channel_step();
  const TileRows rows = {0, q.images * q.tile_rows()};
  WholeScratch whole(kPoints * tiles * step, 1);
  float* inputs = whole.take(kPoints * tiles * step);
  parallel((q.in_channels + kLanes - 1) / kLanes, [&](int64_t part) {
    Scratch scratch(window_size(q, rows), 1);
    transform_inputs(q, x, rows, part * kLanes, step, scratch.take(window_size(q, rows)), inputs);
  });
  const int64_t point_step = std::min(kAtOnce, q.in_channels) * kPanel + 16;
  parallel(panels_of(q.out_channels), [&](int64_t panel) {
    Scratch scratch(kPoints * (point_step + tiles * kPanel), 2);
    float* weights = scratch.take(kPoints * point_step);
    float* products = scratch.take(kPoints * tiles * kPanel);
    for (int64_t c = 0; c < q.in_channels; c += kAtOnce) {
      const int64_t count = std::min(kAtOnce, q.in_channels - c);
      transform_panel(q, kernels, panel, c, c + count, point_step, weights);
      for (int64_t point = 0; point < kPoints; ++point) {
        for_rows(tiles, [&](int64_t tile, auto many) {
          float* to = products + (point * tiles + tile) * kPanel;
          Accumulators<many> sums;
          sums.clear();
          if (c > 0) sums.add_rows(to, kPanel);
          sums.add_run(inputs + (point * tiles + tile) * step + c, step, 1,
                       weights + point * point_step, count);
          sums.put(to, kPanel);
        });
      }
    }
    transform_outputs(q, rows, products, panel * kPanel, other, y);
  });
}

// x (N, in_channels, H, W) to y (N, out_channels, H, W), plus `other` where there is one.
inline void winograd_convolve(const WinogradShape& q, const float* x, const Kernels& kernels,
                              const float* other, float* y) {
  if (q.tiles() < q.out_channels && panels_of(q.out_channels) >= 2 * SharedPool::get()->threads()) {
    return winograd_by_panels(q, x, kernels, other, y);
  }
  constexpr int64_t kBytes = 1 << 20;  // of a block's inputs at the points
  const int64_t threads = SharedPool::get()->threads();
  const int64_t panels = panels_of(q.out_channels);
  const int64_t panel_size = q.in_channels * kPanel;
  WholeScratch whole(kPoints * weight_step(q), 1);
  float* weights = whole.take(kPoints * weight_step(q));
  transform_weights(q, kernels, weights);

  const int64_t all = q.images * q.tile_rows(), columns = q.tile_columns();
  const int64_t fitting = kBytes / (kPoints * 4 * q.in_channels);
  const int64_t wanted = std::max<int64_t>(1, std::clamp<int64_t>(fitting, 24, 120) / columns);
  const int64_t blocks = std::min(all, round_up((all + wanted - 1) / wanted, threads));
  const int64_t step = q.channel_step();
  parallel(blocks, [&](int64_t block) {
    const int64_t begin = all * block / blocks, end = all * (block + 1) / blocks;
    const TileRows rows = {begin, end - begin};
    const int64_t tiles = rows.count * columns;
    Scratch scratch(window_size(q, rows) + kPoints * tiles * (step + kPanel), 3);
    float* memory = scratch.take(window_size(q, rows));
    float* inputs = scratch.take(kPoints * tiles * step);
    float* products = scratch.take(kPoints * tiles * kPanel);
    for (int64_t c = 0; c < q.in_channels; c += kLanes) {
      transform_inputs(q, x, rows, c, step, memory, inputs);
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int64_t point = 0; point < kPoints; ++point) {
        const float* b = weights + point * weight_step(q) + panel * panel_size;
        for_rows(tiles, [&](int64_t tile, auto many) {
          Accumulators<many> sums;
          sums.clear();
          sums.add_run(inputs + (point * tiles + tile) * step, step, 1, b, q.in_channels);
          sums.put(products + (point * tiles + tile) * kPanel, kPanel);
        });
      }
      transform_outputs(q, rows, products, panel * kPanel, other, y);
    }
  });
}

}  // namespace ghost
