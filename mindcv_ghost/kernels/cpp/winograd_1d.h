// Convolutions of 3x3 with stride 1 by Winograd's algorithm F(4, 3) along the height, and directly
// along the width: 18 products for 4 outputs and a channel, instead of 36.
//
// winograd.h needs 9 for the same, but its transforms take vectors of channels and transposes, which
// cost more than the products where channels are few. Here vectors lie along the width, as the maps
// do: there is nothing to transpose, and only rows to add up.
#pragma once

#include <algorithm>
#include <vector>

#include "line_product.h"
#include "thread_pool.h"
#include "winograd.h"

namespace ghost {

constexpr int64_t kRowPoints = 6;

// Bands of four rows of outputs, counted through all images, in a line: a zero lies between them,
// which is the padding of both.
struct BandLine {
  const WinogradShape& q;
  int64_t bands;

  static int64_t pitch(const WinogradShape& q) { return q.width + 1; }
  int64_t length() const { return bands * pitch(q); }
  int64_t vectors() const { return (length() + kLanes - 1) / kLanes; }
  // From a line to the next: zeros before and after, and an odd number of cache lines, so that lines
  // don't evict each other.
  int64_t step() const { return (vectors() * kLanes + 3 * kLanes + 15) / 16 / 2 * 32 + 16; }
  // Where a line's values begin.
  static constexpr int64_t begin() { return kLanes; }
};

// One band of a plane at the points: to[point * point_step + w]. kSide rows, from `row` on; those
// outside of the plane are zeros.
template <int kSide, typename ToPoints>
inline void band_to_points(const float* plane, int64_t height, int64_t width, int64_t row,
                           float* to, int64_t point_step, const ToPoints& to_points) {
  const int64_t above = std::clamp<int64_t>(-row, 0, kSide);
  const int64_t below = std::clamp<int64_t>(height - row, 0, kSide);
  const float* from = plane + row * width;
  for (int64_t w = 0; w < width; w += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, width - w);
    Vector d[kSide], v[kRowPoints];
    if (above == 0 && below == kSide) {
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) d[i] = load_first(from + i * width + w, count);
    } else {
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) {
        d[i] = i >= above && i < below ? load_first(from + i * width + w, count) : Vector{};
      }
    }
    to_points(d, v);
#pragma GCC unroll 6
    for (int p = 0; p < kRowPoints; ++p) store(to + p * point_step + w, v[p]);
  }
  for (int p = 0; p < kRowPoints; ++p) to[p * point_step + width] = 0;
}

// Bands from `first` on of channel c of x (images, channels, height, width) to their lines at the
// points, which are point_step apart.
template <int kSide, typename ToPoints>
inline void bands_to_points(const BandLine& line, const float* x, int64_t channels, int64_t c,
                            int64_t first, float* to, int64_t point_step,
                            const ToPoints& to_points) {
  constexpr int64_t kBorder = (kSide - kOutputTile) / 2;
  constexpr int64_t kAhead = 2;  // channels; the processor's own prefetching ends with a plane
  const WinogradShape& q = line.q;
  const int64_t plane = q.height * q.width;
  for (int64_t p = 0; p < kRowPoints; ++p) {
    float* begin = to + p * point_step;
    store(begin, Vector{});
    std::memset(begin + line.begin() + line.length(), 0,
                ((line.vectors() + 1) * kLanes - line.length()) * sizeof(float));
  }
  for (int64_t band = 0; band < line.bands; ++band) {
    const int64_t image = (first + band) / q.tile_rows();
    const int64_t row = (first + band) % q.tile_rows() * kOutputTile;
    const float* from = x + (image * channels + c) * plane;
    for (int64_t i = 0; i < kOutputTile * q.width; i += 16) {
      __builtin_prefetch(from + kAhead * plane + row * q.width + i);
    }
    band_to_points<kSide>(from, q.height, q.width, row - kBorder,
                          to + line.begin() + band * line.pitch(q), point_step, to_points);
  }
}

// Weights at the points, for line_product: (kRowPoints, rows of outputs, in_channels, 3, rows).
inline void weights_to_row_points(const WinogradShape& q, const Kernels& kernels, float* points) {
  const int64_t depth = 3 * q.in_channels, point_step = q.out_channels * depth;
  parallel((q.out_channels + kLanes - 1) / kLanes, [&](int64_t part) {
    const int64_t first = part * kLanes, there = std::min<int64_t>(kLanes, q.out_channels - first);
    Vector w[kLanes + 9], u[kRowPoints];
    for (int64_t i = 0; i < q.in_channels; ++i) {
      const float* from = kernels.data + first * kernels.out_step + i * kernels.in_step;
      load_columns<9>(from, kernels.out_step, there, w);
      if (kernels.turned) std::reverse(w, w + 9);
      for (int column = 0; column < 3; ++column) {
        weights_to_points(w + column, 3, u, 1);
        for (int p = 0; p < kRowPoints; ++p) {
          for (int64_t l = 0; l < there; ++l) {
            const int64_t at = line_weight(first + l, 3 * i + column, q.out_channels, depth);
            points[p * point_step + at] = u[p][l];
          }
        }
      }
    }
  });
}

// Products (kRowPoints, ..., step) of one output channel to its bands of y, plus `other` of y's shape
// unless it is null.
inline void row_points_to_outputs(const BandLine& line, const float* products, int64_t point_step,
                                  int64_t first, int64_t channel, const float* other, float* y) {
  const WinogradShape& q = line.q;
  for (int64_t band = 0; band < line.bands; ++band) {
    const int64_t image = (first + band) / q.tile_rows(), row = (first + band) % q.tile_rows();
    const int64_t high = std::min(kOutputTile, q.height - row * kOutputTile);
    const float* from = products + band * line.pitch(q);
    const int64_t at =
        ((image * q.out_channels + channel) * q.height + row * kOutputTile) * q.width;
    for (int64_t w = 0; w < q.width; w += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, q.width - w);
      Vector m[kRowPoints], out[kOutputTile];
#pragma GCC unroll 6
      for (int p = 0; p < kRowPoints; ++p) m[p] = load(from + p * point_step + w);
      from_points(m, 1, out, 1);
      for (int64_t i = 0; i < high; ++i) {
        const int64_t to = at + i * q.width + w;
        const Vector v = out[i];
        store_first(y + to, other == nullptr ? v : v + load_first(other + to, count), count);
      }
    }
  }
}

// Fetches a channel's bands of y for row_points_to_outputs, while the products are computed.
inline void prefetch_outputs(const BandLine& line, int64_t first, int64_t channel, float* y) {
  const WinogradShape& q = line.q;
  for (int64_t band = first; band < first + line.bands; ++band) {
    const int64_t image = band / q.tile_rows(), row = band % q.tile_rows() * kOutputTile;
    float* to = y + ((image * q.out_channels + channel) * q.height + row) * q.width;
    const int64_t count = std::min(kOutputTile, q.height - row) * q.width;
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(to + i, 1, 2);
  }
}

// x (N, in_channels, H, W) to y (N, out_channels, H, W), plus `other` where there is one.
inline void winograd_1d_convolve(const WinogradShape& q, const float* x, const Kernels& kernels,
                                 const float* other, float* y) {
  constexpr int64_t kPositions = 272;  // of a block: its inputs at a point should fit the L1 cache
  const int64_t depth = 3 * q.in_channels, weight_step = q.out_channels * depth;
  WholeScratch whole(kRowPoints * weight_step, 1);
  float* weights = whole.take(kRowPoints * weight_step);
  weights_to_row_points(q, kernels, weights);

  const int64_t all = q.images * q.tile_rows();
  const int64_t wanted = std::max<int64_t>(1, kPositions / BandLine::pitch(q));
  const int64_t blocks =
      std::min(all, round_up((all + wanted - 1) / wanted, SharedPool::get()->threads()));
  const BandLine longest = {q, (all + blocks - 1) / blocks};
  std::vector<int64_t> at(depth);
  for (int64_t k = 0; k < depth; ++k) at[k] = k / 3 * longest.step() + k % 3 - 1;
  parallel(blocks, [&](int64_t block) {
    const int64_t begin = all * block / blocks, end = all * (block + 1) / blocks;
    const BandLine line = {q, end - begin};
    const int64_t step = longest.step(), point_step = q.in_channels * step;
    const int64_t product_step = kLineRows * step;
    Scratch scratch(kRowPoints * (point_step + product_step), 2);
    float* inputs = scratch.take(kRowPoints * point_step);
    float* products = scratch.take(kRowPoints * product_step);
    for (int64_t c = 0; c < q.in_channels; ++c) {
      bands_to_points<6>(line, x, q.in_channels, c, begin, inputs + c * step, point_step,
                         [](const Vector* d, Vector* v) { inputs_to_points(d, 1, v, 1); });
    }
    for_line_rows(q.out_channels, [&](int64_t row, int64_t rows) {
      for (int64_t r = 0; r < rows; ++r) prefetch_outputs(line, begin, row + r, y);
      for (int64_t p = 0; p < kRowPoints; ++p) {
        line_product(weights + p * weight_step + row * depth, rows,
                     inputs + p * point_step + line.begin(), at.data(), depth, line.vectors(),
                     products + p * product_step, step);
      }
      for (int64_t r = 0; r < rows; ++r) {
        row_points_to_outputs(line, products + r * step, product_step, begin, row + r, other, y);
      }
    });
  });
}

}  // namespace ghost
