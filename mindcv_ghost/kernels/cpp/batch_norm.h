// Batch normalisation, alone or with the ReLU after it, or with the sum with a residual block's
// shortcut and the ReLU after that.
#pragma once

#include <vector>

#include "channel_maps.h"

namespace ghost {

struct NormShape {
  int64_t images, channels, plane;
  bool relu;  // without a shortcut; the sum with one is always followed by a ReLU

  int64_t values() const { return images * plane; }  // of a channel
  // Distance of channels in memory that holds a channel's maps one after the other.
  int64_t step() const { return round_up(values(), kLanes) + kLanes; }
  bool is_streamed() const { return ghost::is_streamed(channels * values()); }
};

// x (N, C, plane) -> y and the batch statistics. `shortcut`, of the same shape, may be null.
inline void norm_forward(const NormShape& q, const float* x, const Norm& norm,
                         const float* shortcut, float* y, const NormOutput& out) {
  parallel_blocks(q.images, q.channels, q.plane, [&](const Channels& c) {
    Scratch scratch(c.count * q.step(), 1);
    float* xs = scratch.take(c.count * q.step());
    gather(x, c, q.plane, q.step(), xs);
    std::vector<Affine> affines;
    for (int64_t i = 0; i < c.count; ++i) {
      const Statistics s = statistics_of(xs + i * q.step(), q.values());
      out.set(c.first + i, s);
      affines.push_back(norm.of_batch(s, c.first + i));
    }
    write_channels(c, q.plane, xs, q.step(), 1, affines, q.relu, shortcut, y);
  });
}

// As norm_forward, with the running statistics.
inline void norm_evaluate(const NormShape& q, const float* x, const Norm& norm,
                          const float* shortcut, float* y) {
  parallel_runs(q.images * q.channels, q.plane, [&](int64_t first, int64_t end) {
    for (int64_t map = first; map < end; ++map) {
      const float* other = shortcut == nullptr ? nullptr : shortcut + map * q.plane;
      write_map(x + map * q.plane, norm.of_running(map % q.channels), q.relu, other,
                y + map * q.plane, q.plane, q.is_streamed());
    }
    if (q.is_streamed()) end_streams();
  });
}

// Updates running statistics in place by a batch's, which are of `count` values a channel.
inline void update_running_statistics(int64_t channels, int64_t count, float share,
                                      const float* batch_mean, const float* batch_variance,
                                      float* mean, float* variance) {
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = updated(mean[c], batch_mean[c], share);
    variance[c] = updated(variance[c], opaque(unbiased(batch_variance[c], count)), share);
  }
}

// Inputs of the backward pass: the batch's statistics, the gradient of y, and, with a shortcut, y.
struct NormBack {
  const float *mean, *variance, *dy, *y;
};

// `shortcut` is null where there is none.
struct NormGradients {
  float *x, *gamma, *beta, *shortcut;
};

// Adds a channel's values to its backward pass. A ReLU after the BN first stops d where it has to.
inline void add_line(const float* x, bool relu, int64_t values, float* d, NormBackward* back) {
  constexpr int64_t kBlock = 2048;
  const Affine a = back->affine();
  for (int64_t begin = 0; begin < values; begin += kBlock) {
    const int64_t count = std::min(kBlock, values - begin);
    const float* from = x + begin;
    float* to = d + begin;
    if (relu) {
      write_all(to, count, false, [=](int64_t i, int64_t n) {
        return where_positive(load_first(from + i, n) * a.scale + a.shift, load_first(to + i, n));
      });
    }
    back->add(from, to, count);
  }
}

inline void norm_backward(const NormShape& q, const float* x, const Norm& norm,
                          const NormBack& back, const NormGradients& out) {
  parallel_blocks(q.images, q.channels, q.plane, [&](const Channels& c) {
    Scratch scratch(2 * c.count * q.step(), 2);
    float* xs = scratch.take(c.count * q.step());
    float* ds = scratch.take(c.count * q.step());
    gather(x, c, q.plane, q.step(), xs);
    if (out.shortcut == nullptr) {
      gather(back.dy, c, q.plane, q.step(), ds);
    } else {
      gather_gradient(back.dy, back.y, c, q.plane, q.step(), ds, out.shortcut);
    }
    std::vector<NormBackward::Line> lines;
    for (int64_t i = 0; i < c.count; ++i) {
      const int64_t channel = c.first + i;
      NormBackward of(norm, channel, {back.mean[channel], back.variance[channel]});
      add_line(xs + i * q.step(), q.relu, q.values(), ds + i * q.step(), &of);
      out.gamma[channel] = of.gamma();
      out.beta[channel] = of.beta();
      lines.push_back(of.line());
    }
    write_input_gradient(c, q.plane, xs, ds, q.step(), lines, q.is_streamed(), out.x);
  });
}

}  // namespace ghost
