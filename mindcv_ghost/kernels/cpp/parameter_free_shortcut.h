// The shortcut without weights of residual blocks for small images (option A of He et al.): positions
// at a stride, and maps of zeros for the channels that the input doesn't have.
#pragma once

#include <algorithm>

#include "planes.h"
#include "thread_pool.h"

namespace ghost {

struct ShortcutShape {
  int64_t images, channels, height, width;
  int64_t stride, out_channels;
  int64_t before;  // maps of zeros before the input's

  int64_t plane() const { return height * width; }
  int64_t out_height() const { return (height - 1) / stride + 1; }
  int64_t out_width() const { return (width - 1) / stride + 1; }
  int64_t out_plane() const { return out_height() * out_width(); }
};

// x (N, C, H, W) -> y (N, out_channels, ceil(H / stride), ceil(W / stride)).
inline void shortcut_forward(const ShortcutShape& q, const float* x, float* y) {
  for_maps(q.images * q.out_channels, q.out_plane(), [&](int64_t map) {
    const int64_t n = map / q.out_channels, c = map % q.out_channels - q.before;
    float* to = y + map * q.out_plane();
    if (c < 0 || c >= q.channels) return std::fill_n(to, q.out_plane(), 0.0f), void();
    const float* from = x + (n * q.channels + c) * q.plane();
    for (int64_t h = 0; h < q.out_height(); ++h, from += q.stride * q.width, to += q.out_width()) {
      with_width(q.out_width(), [&](auto width) {
        for (int64_t w = 0; w < width; ++w) to[w] = from[w * q.stride];
      });
    }
  });
}

inline void shortcut_backward(const ShortcutShape& q, const float* dy, float* dx) {
  for_maps(q.images * q.channels, q.plane(), [&](int64_t map) {
    const int64_t n = map / q.channels, c = map % q.channels + q.before;
    const float* from = dy + (n * q.out_channels + c) * q.out_plane();
    float* to = dx + map * q.plane();
    std::fill_n(to, q.plane(), 0.0f);
    for (int64_t h = 0; h < q.out_height(); ++h, from += q.out_width(), to += q.stride * q.width) {
      with_width(q.out_width(), [&](auto width) {
        for (int64_t w = 0; w < width; ++w) to[w * q.stride] = from[w];
      });
    }
  });
}

}  // namespace ghost
