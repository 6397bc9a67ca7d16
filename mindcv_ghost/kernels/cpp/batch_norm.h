// Batch normalisation.
#pragma once

#include "norm.h"
#include "thread_pool.h"

namespace ghost {

struct NormShape {
  int64_t images, channels, plane;

  int64_t at(int64_t image, int64_t channel) const { return (image * channels + channel) * plane; }
  bool is_streamed() const { return ghost::is_streamed(images * channels * plane); }
};

// Calls body(image, images, from, count) for blocks of one channel that fit the L1 cache: `count`
// values from `from` on, in each of the maps of `images` images.
template <typename Body>
inline void for_blocks(const NormShape& q, const Body& body) {
  constexpr int64_t kBlock = 4096;
  if (q.plane > kBlock) {
    for (int64_t n = 0; n < q.images; ++n) {
      for (int64_t i = 0; i < q.plane; i += kBlock) {
        body(n, int64_t{1}, i, std::min(kBlock, q.plane - i));
      }
    }
    return;
  }
  const int64_t group = images_at_once(q.plane, q.images);
  for (int64_t n = 0; n < q.images; n += group) {
    body(n, std::min(group, q.images - n), int64_t{0}, q.plane);
  }
}

// Mean and variance of a channel, which is read once: those of its blocks, combined in double.
inline Statistics channel_statistics(const NormShape& q, const float* x, int64_t c) {
  StatisticsAccumulator all;
  for_blocks(q, [&](int64_t first, int64_t images, int64_t from, int64_t count) {
    float sum = 0;
    for (int64_t n = first; n < first + images; ++n) {
      const float* map = x + q.at(n, c) + from;
      for (int64_t i = 0; i < count; ++i) sum += map[i];
    }
    const double values = static_cast<double>(images * count);
    const float middle = static_cast<float>(sum / values);
    float around = 0, rest = 0;  // rest: the rounding error of the mean
    for (int64_t n = first; n < first + images; ++n) {
      const float* map = x + q.at(n, c) + from;
      for (int64_t i = 0; i < count; ++i) {
        const float distance = map[i] - middle;
        rest += distance;
        around += distance * distance;
      }
    }
    const double correction = rest / values;
    all.merge(middle + correction, around - correction * rest, images * count);
  });
  return all.get();
}

// x (N, C, plane) -> y and the batch statistics.
inline void norm_forward(const NormShape& q, const float* x, const Norm& norm, float* y,
                         const NormOutput& out) {
  parallel(q.channels, [&](int64_t c) {
    const Statistics s = channel_statistics(q, x, c);
    out.set(c, s);
    const Affine a = norm.of_batch(s, c);
    for (int64_t n = 0; n < q.images; ++n) {
      write_map(x + q.at(n, c), a, false, nullptr, y + q.at(n, c), q.plane, q.is_streamed());
    }
    if (q.is_streamed()) end_streams();
  });
}

// As norm_forward, with the running statistics.
inline void norm_evaluate(const NormShape& q, const float* x, const Norm& norm, float* y) {
  parallel_runs(q.images * q.channels, q.plane, [&](int64_t first, int64_t end) {
    for (int64_t map = first; map < end; ++map) {
      const Affine a = norm.of_running(map % q.channels);
      write_map(x + map * q.plane, a, false, nullptr, y + map * q.plane, q.plane, q.is_streamed());
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

struct NormGradients {
  float *x, *gamma, *beta;
};

// mean and variance are those of the batch.
inline void norm_backward(const NormShape& q, const float* x, const Norm& norm, const float* mean,
                          const float* variance, const float* dy, const NormGradients& out) {
  parallel(q.channels, [&](int64_t c) {
    const Statistics s = {mean[c], variance[c]};
    NormBackward back(norm, c, s);
    for_blocks(q, [&](int64_t first, int64_t images, int64_t from, int64_t count) {
      float block_with_x = 0, block_alone = 0;
      for (int64_t n = first; n < first + images; ++n) {
        const float *u = x + q.at(n, c) + from, *d = dy + q.at(n, c) + from;
        for (int64_t i = 0; i < count; ++i) {
          block_alone += d[i];
          block_with_x += d[i] * (u[i] - s.mean);
        }
      }
      back.add_sums(block_with_x, block_alone, images * count);
    });
    out.gamma[c] = back.gamma();
    out.beta[c] = back.beta();
    const NormBackward::Line line = back.line();
    for (int64_t n = 0; n < q.images; ++n) {
      const int64_t at = q.at(n, c);
      line.write(x + at, dy + at, out.x + at, q.plane, q.is_streamed());
    }
    if (q.is_streamed()) end_streams();
  });
}

}  // namespace ghost
