// Convolutions (one group, odd square kernel, padding kernel / 2) as matrix products over tiles
// that fit the cache: several images where planes are small, some rows of one image where not.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "gemm.h"
#include "planes.h"
#include "pool.h"

namespace ghost {

constexpr int64_t kTurned = 40000;

struct ConvShape {
  int64_t images, in_channels, out_channels, height, width, kernel, stride;

  int64_t out_height() const { return (height - 1) / stride + 1; }
  int64_t out_width() const { return (width - 1) / stride + 1; }
  int64_t in_plane() const { return height * width; }
  int64_t out_plane() const { return out_height() * out_width(); }
  int64_t depth() const { return in_channels * kernel * kernel; }
  bool is_pointwise() const { return kernel == 1 && stride == 1; }
};

// Some images (all rows), or some rows of one image, of the output.
struct Tile {
  int64_t image, images, row, rows;
};

// `bytes`: what a tile's columns should take at most; `parts`: how many tiles there should be.
inline std::vector<Tile> tiles(const ConvShape& q, int64_t bytes, int64_t parts) {
  constexpr int64_t kValues = 256;  // narrower products run below full speed
  const int64_t plane = q.out_plane();
  int64_t images = 1, rows = q.out_height();
  while (images * plane < kValues && 2 * images * parts <= q.images) images *= 2;
  if (images == 1 && !q.is_pointwise()) {
    const auto too_large = [&] {
      return q.depth() * rows * q.out_width() * static_cast<int64_t>(sizeof(float)) > bytes;
    };
    while (rows > 1 && rows * q.out_width() >= kValues / 2 && too_large()) rows = (rows + 1) / 2;
  }
  if (q.images < parts) rows = std::min(rows, (q.out_height() + parts - 1) / parts);
  std::vector<Tile> all;
  for (int64_t n = 0; n < q.images; n += images) {
    for (int64_t h = 0; h < q.out_height(); h += rows) {
      all.push_back({n, std::min(images, q.images - n), h, std::min(rows, q.out_height() - h)});
    }
  }
  return all;
}

inline int64_t columns_of(const ConvShape& q, const Tile& t) {
  return t.images * t.rows * q.out_width();
}

// A channel of the tile's images with zeros around; what the tile's kernels see of them.
struct Window {
  int64_t height, width;

  Window(const ConvShape& q, const Tile& t)
      : height((t.rows - 1) * q.stride + q.kernel), width(q.width + 2 * (q.kernel / 2)) {}
  int64_t size() const { return height * width; }
};

inline void cut_window(const ConvShape& q, const float* plane, int64_t first_row,
                       const Window& window, float* to) {
  const int64_t border = q.kernel / 2;
  for (int64_t h = 0; h < window.height; ++h, to += window.width) {
    const int64_t row = first_row + h;
    if (row < 0 || row >= q.height) {
      std::memset(to, 0, window.width * sizeof(float));
      continue;
    }
    for (int64_t w = 0; w < border; ++w) to[w] = to[border + q.width + w] = 0;
    std::memcpy(to + border, plane + row * q.width, q.width * sizeof(float));
  }
}

// Every stride-th value of every stride-th row.
inline void copy_strided(const float* from, int64_t from_step, int64_t stride, float* to,
                         int64_t rows, int64_t width) {
  with_width(width, [&](auto columns) {
    for (int64_t h = 0; h < rows; ++h, from += stride * from_step, to += columns) {
      if (stride == 1) {
        std::memcpy(to, from, columns * sizeof(float));
      } else if (stride == 2) {
        for (int64_t w = 0; w < columns; ++w) to[w] = from[2 * w];
      } else {
        for (int64_t w = 0; w < columns; ++w) to[w] = from[stride * w];
      }
    }
  });
}

// columns (depth, columns_of(tile)): what the kernel's points see, for each output of the tile.
// `windows` is memory for a window of each image.
inline void unfold(const ConvShape& q, const float* x, const Tile& t, float* columns,
                   float* windows) {
  const Window window(q, t);
  const int64_t border = q.kernel / 2, values = t.rows * q.out_width();
  for (int64_t c = 0; c < q.in_channels; ++c) {
    for (int64_t n = 0; n < t.images; ++n) {
      cut_window(q, x + ((t.image + n) * q.in_channels + c) * q.in_plane(),
                 t.row * q.stride - border, window, windows + n * window.size());
    }
    for (int64_t i = 0; i < q.kernel; ++i) {
      for (int64_t j = 0; j < q.kernel; ++j) {
        for (int64_t n = 0; n < t.images; ++n, columns += values) {
          copy_strided(windows + n * window.size() + i * window.width + j, window.width, q.stride,
                       columns, t.rows, q.out_width());
        }
      }
    }
  }
}

// The reverse of unfold for whole images: adds what the columns hold to dx, which is set first.
inline void fold(const ConvShape& q, const float* columns, const Tile& t, float* dx) {
  const int64_t border = q.kernel / 2, out_width = q.out_width();
  std::memset(dx + t.image * q.in_channels * q.in_plane(), 0,
              t.images * q.in_channels * q.in_plane() * sizeof(float));
  for (int64_t c = 0; c < q.in_channels; ++c) {
    for (int64_t i = 0; i < q.kernel; ++i) {
      for (int64_t j = 0; j < q.kernel; ++j) {
        const int64_t shift = j - border;
        for (int64_t n = 0; n < t.images; ++n) {
          float* plane = dx + ((t.image + n) * q.in_channels + c) * q.in_plane();
          for (int64_t h = 0; h < q.out_height(); ++h, columns += out_width) {
            const int64_t row = h * q.stride + i - border;
            if (row < 0 || row >= q.height) continue;
            for (int64_t w = 0; w < out_width; ++w) {
              const int64_t column = w * q.stride + shift;
              if (column >= 0 && column < q.width) plane[row * q.width + column] += columns[w];
            }
          }
        }
      }
    }
  }
}

// Between (images, channels, plane) and (channels, images, plane), for the tile's images.
inline void images_to_columns(const float* x, const Tile& t, int64_t channels, int64_t plane,
                              float* columns) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t n = 0; n < t.images; ++n, columns += plane) {
      std::memcpy(columns, x + ((t.image + n) * channels + c) * plane, plane * sizeof(float));
    }
  }
}

inline void columns_to_images(const float* columns, const Tile& t, int64_t channels, int64_t plane,
                              float* x) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t n = 0; n < t.images; ++n, columns += plane) {
      std::memcpy(x + ((t.image + n) * channels + c) * plane, columns, plane * sizeof(float));
    }
  }
}

// Memory that input_of needs.
inline int64_t input_size(const ConvShape& q, const Tile& t) {
  return q.depth() * columns_of(q, t) + t.images * Window(q, t).size();
}

// The input of a tile as a matrix (depth, columns_of(tile)); `memory` holds it unless x itself does.
inline Matrix input_of(const ConvShape& q, const float* x, const Tile& t, float* memory) {
  if (q.is_pointwise() && t.images == 1) {
    return {x + t.image * q.in_channels * q.in_plane() + t.row * q.width, q.in_plane(), false};
  }
  if (q.is_pointwise()) {
    images_to_columns(x, t, q.in_channels, q.in_plane(), memory);
  } else {
    unfold(q, x, t, memory, memory + q.depth() * columns_of(q, t));
  }
  return {memory, columns_of(q, t), false};
}

// weight: (out_channels, depth). x (N, I, H, W) to y (N, O, ceil(H / stride), ceil(W / stride)).
inline void conv_forward(const ConvShape& q, const float* x, Matrix weight, float* y) {
  const int64_t threads = SharedPool::get().threads();
  const std::vector<Tile> all = tiles(q, 512 << 10, threads);
  parallel(all.size(), [&](int64_t part) {
    const Tile& t = all[part];
    const int64_t columns = columns_of(q, t);
    Scratch scratch(input_size(q, t) + q.out_channels * columns, 2);
    const Matrix input = input_of(q, x, t, scratch.take(input_size(q, t)));
    if (t.images == 1) {
      float* out = y + t.image * q.out_channels * q.out_plane() + t.row * q.out_width();
      gemm(weight, input, out, q.out_plane(), q.out_channels, columns, q.depth(), false);
    } else {
      float* out = scratch.take(q.out_channels * columns);
      gemm(weight, input, out, columns, q.out_channels, columns, q.depth(), false);
      columns_to_images(out, t, q.out_channels, q.out_plane(), y);
    }
  });
}

// Gradient of the input: a convolution with the kernel turned round where the stride is 1.
inline void conv_backward_input(const ConvShape& q, const float* dy, const float* weight,
                                float* dx) {
  const int64_t taps = q.kernel * q.kernel;
  if (q.stride == 1) {
    const ConvShape turned = {q.images, q.out_channels, q.in_channels, q.height,
                              q.width,  q.kernel,       1};
    if (taps == 1) return conv_forward(turned, dy, {weight, q.in_channels, true}, dx);
    const std::unique_ptr<float[]> turned_weight(new float[q.out_channels * q.depth()]);
    parallel(q.in_channels, [&](int64_t i) {
      for (int64_t o = 0; o < q.out_channels; ++o) {
        for (int64_t z = 0; z < taps; ++z) {
          turned_weight[(i * q.out_channels + o) * taps + z] =
              weight[(o * q.in_channels + i) * taps + taps - 1 - z];
        }
      }
    });
    return conv_forward(turned, dy, {turned_weight.get(), q.out_channels * taps, false}, dx);
  }
  std::vector<Tile> all;
  for (const Tile& t : tiles(q, INT64_MAX, 1)) {
    if (t.row == 0) all.push_back({t.image, t.images, 0, q.out_height()});
  }
  parallel(all.size(), [&](int64_t part) {
    const Tile& t = all[part];
    const int64_t columns = columns_of(q, t);
    Scratch scratch((q.depth() + q.out_channels) * columns, 2);
    float* folded = scratch.take(q.depth() * columns);
    Matrix gradient = {dy + t.image * q.out_channels * q.out_plane(), columns, false};
    if (t.images > 1) {
      float* memory = scratch.take(q.out_channels * columns);
      images_to_columns(dy, t, q.out_channels, q.out_plane(), memory);
      gradient.data = memory;
    }
    gemm({weight, q.depth(), true}, gradient, folded, columns, q.depth(), columns, q.out_channels,
         false);
    fold(q, folded, t, dx);
  });
}

// Gradient of the weight. Each thread sums up a fixed share of the batch, and the shares are added
// in order: for one number of threads the result is always the same.
inline void conv_backward_weight(const ConvShape& q, const float* x, const float* dy,
                                 float* dweight) {
  const int64_t threads = SharedPool::get().threads();
  const std::vector<Tile> all = tiles(q, 1 << 20, threads);
  const int64_t count = all.size(), shares = std::min(threads, count);
  const int64_t size = q.out_channels * q.depth();
  // oneDNN takes small products up to twice as fast this way round (32 x 64 x 1024: 22 against
  // 45 billion operations a second). Turning large ones back would cost more than that.
  const bool turned = size <= kTurned;
  const std::unique_ptr<float[]> sums(new float[shares * size]);
  parallel(shares, [&](int64_t share) {
    float* sum = sums.get() + share * size;
    const int64_t begin = count * share / shares, end = count * (share + 1) / shares;
    for (int64_t i = begin; i < end; ++i) {
      const Tile& t = all[i];
      const int64_t columns = columns_of(q, t);
      Scratch scratch(input_size(q, t) + q.out_channels * columns, 2);
      Matrix input = input_of(q, x, t, scratch.take(input_size(q, t)));
      Matrix gradient = {
          dy + t.image * q.out_channels * q.out_plane() + t.row * q.out_width(), q.out_plane(),
          false};
      if (t.images > 1) {
        float* memory = scratch.take(q.out_channels * columns);
        images_to_columns(dy, t, q.out_channels, q.out_plane(), memory);
        gradient = {memory, columns, false};
      }
      if (turned) {
        gradient.transposed = true;
        gemm(input, gradient, sum, q.out_channels, q.depth(), q.out_channels, columns, i > begin);
      } else {
        input.transposed = true;
        gemm(gradient, input, sum, q.depth(), q.out_channels, q.depth(), columns, i > begin);
      }
    }
  });
  parallel(q.out_channels, [&](int64_t o) {
    float* to = dweight + o * q.depth();
    const float* from = turned ? sums.get() + o : sums.get() + o * q.depth();
    const int64_t step = turned ? q.out_channels : 1;
    for (int64_t k = 0; k < q.depth(); ++k) to[k] = from[k * step];
    for (int64_t share = 1; share < shares; ++share) {
      from += size;
      for (int64_t k = 0; k < q.depth(); ++k) to[k] += from[k * step];
    }
  });
}

}  // namespace ghost
