// Convolutions of one group with an odd, square kernel, padded by half of it: forward, gradient of
// the input, gradient of the weight.
#pragma once

#include "strided_gradient.h"
#include "winograd_1d.h"

namespace ghost {

// Calls body(row, rows) for all rows of a product's result, on all threads.
template <typename Body>
inline void parallel_rows(int64_t count, const Body& body) {
  parallel((count + kPanelRows - 1) / kPanelRows, [&](int64_t product) {
    int64_t row = 0, rows = rows_at_once(count);
    for (int64_t i = 0; i < product; ++i) row += rows, rows = rows_at_once(count - row);
    body(row, rows);
  });
}

// x (N, I, H, W), weight (O, I, k, k) to y (N, O, ceil(H / stride), ceil(W / stride)).
inline void conv_forward(const ConvShape& q, const float* x, const float* weight, float* y) {
  if (q.is_strided_lines()) return strided_forward(q.strided(), x, weight, y);
  if (q.is_winograd_1d(kFewProducts)) {
    return winograd_1d_convolve(q.winograd(), x, {weight, q.depth(), q.taps(), false}, nullptr, y);
  }
  if (q.is_winograd()) {
    return winograd_convolve(q.winograd(), x, {weight, q.depth(), q.taps(), false}, nullptr, y);
  }
  WholeScratch scratch(q.out_channels * q.depth(), 1);
  float* packed = scratch.take(q.out_channels * q.depth());
  parallel_rows(q.out_channels, [&](int64_t o, int64_t rows) {
    pack_rows(weight + o * q.depth(), q.depth(), 1, rows, q.depth(), packed + o * q.depth());
  });
  convolve_tiles(q.reach(), q.images, q.in_channels, q.out_channels, x, packed,
                 {q.out_height(), q.out_width(), 1, 0, 0}, nullptr, y);
}

// The taps of one dimension that reach the inputs stride * i + phase, and the outputs they join:
// outputs i + first ... i + first + count - 1 by taps last, last - stride, ...
struct Phase {
  int64_t count, first, last;

  Phase(int64_t kernel, int64_t stride, int64_t phase) {
    const int64_t least = (phase + kernel / 2) % stride;
    count = least < kernel ? (kernel - 1 - least) / stride + 1 : 0;
    first = (phase + kernel / 2) / stride - (count - 1);
    last = least + (count - 1) * stride;
  }
};

// Gradient of the input. For inputs of one phase (row and column modulo the stride) it is a
// convolution of dy with the taps that reach them: there are no multiplications by zeros between
// dy's values. `other`, a gradient of the input from another branch, is added unless it is null.
inline void conv_backward_input(const ConvShape& q, const float* dy, const float* weight,
                                const float* other, float* dx) {
  if (q.is_strided_lines()) return strided_backward_input(q.strided(), dy, weight, other, dx);
  if (q.is_winograd_1d(kFewProducts)) {
    const WinogradShape turned = {q.images, q.out_channels, q.in_channels, q.height, q.width};
    return winograd_1d_convolve(turned, dy, {weight, q.taps(), q.depth(), true}, other, dx);
  }
  if (q.is_winograd()) {
    const WinogradShape turned = {q.images, q.out_channels, q.in_channels, q.height, q.width};
    return winograd_convolve(turned, dy, {weight, q.taps(), q.depth(), true}, other, dx);
  }
  if (q.kernel == 3 && q.stride == 2) return strided_gradient(q, dy, weight, other, dx);
  // Some inputs reach no output. If all that do belong to one phase, it fills the others.
  const bool fills = q.kernel == 1 && q.stride > 1;
  if (q.stride > q.kernel && !fills) {
    parallel(q.images * q.in_channels, [&](int64_t plane) {
      const int64_t at = plane * q.in_plane();
      if (other != nullptr) {
        copy(dx + at, other + at, q.in_plane());
      } else {
        std::memset(dx + at, 0, q.in_plane() * sizeof(float));
      }
    });
  }
  WholeScratch scratch(q.out_channels * q.depth(), 1);
  float* packed = scratch.take(q.out_channels * q.depth());
  for (int64_t a = 0; a < std::min(q.stride, q.height); ++a) {
    for (int64_t b = 0; b < std::min(q.stride, q.width); ++b) {
      const Phase rows(q.kernel, q.stride, a), columns(q.kernel, q.stride, b);
      const int64_t taps = rows.count * columns.count;
      if (taps == 0) continue;
      const int64_t depth = q.out_channels * taps;
      const int64_t tap = rows.last * q.kernel + columns.last;
      // A thread takes some filters, which follow each other in memory.
      parallel((q.out_channels + kLanes - 1) / kLanes, [&](int64_t part) {
        const int64_t first = part * kLanes, end = std::min(first + kLanes, q.out_channels);
        for_shares(q.in_channels, [&](int64_t i, int64_t many) {
          const float* from = weight + first * q.depth() + i * q.taps() + tap;
          float* to = packed + i * depth + first * taps * many;
          if (taps == 1) return pack_rows(from, q.taps(), q.depth(), many, end - first, to);
          for (int64_t o = first; o < end; ++o, from += q.depth()) {
            for (int64_t row = 0; row < rows.count; ++row, to += many * columns.count) {
              pack_rows(from - row * q.stride * q.kernel, q.taps(), -q.stride, many, columns.count,
                        to);
            }
          }
        });
      });
      const Reach reach = {q.out_height(),
                           q.out_width(),
                           (q.height - a + q.stride - 1) / q.stride,
                           (q.width - b + q.stride - 1) / q.stride,
                           1,
                           rows.first,
                           columns.first,
                           rows.count,
                           columns.count};
      convolve_tiles(reach, q.images, q.out_channels, q.in_channels, dy, packed,
                     {q.height, q.width, q.stride, a, b, fills}, other, dx);
    }
  }
}

}  // namespace ghost
