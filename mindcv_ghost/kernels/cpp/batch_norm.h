// Batch normalisation by itself.
#pragma once

#include "ghost_tail.h"

namespace ghost {

struct NormShape {
  int64_t images, channels, plane;

  int64_t at(int64_t image, int64_t channel) const { return (image * channels + channel) * plane; }
};

// Goes through a channel of all images block by block: body(image, images, from, count) stands for
// values from ... from + count of so many images' maps. A block fits the nearest cache.
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

// Mean and variance of a channel, which is read once: each block's own, put together in double.
inline Statistics channel_statistics(const NormShape& q, const float* x, int64_t c) {
  double mean = 0, squares = 0, seen = 0;
  for_blocks(q, [&](int64_t first, int64_t images, int64_t from, int64_t count) {
    float sum = 0;
    for (int64_t n = first; n < first + images; ++n) {
      const float* map = x + q.at(n, c) + from;
      for (int64_t i = 0; i < count; ++i) sum += map[i];
    }
    const double values = static_cast<double>(images * count);
    const float middle = static_cast<float>(sum / values);
    float around = 0, rest = 0;  // rest: what rounding has left in the mean
    for (int64_t n = first; n < first + images; ++n) {
      const float* map = x + q.at(n, c) + from;
      for (int64_t i = 0; i < count; ++i) {
        const float distance = map[i] - middle;
        rest += distance;
        around += distance * distance;
      }
    }
    const double correction = rest / values;
    const double step = middle + correction - mean, all = seen + values;
    mean += step * (values / all);
    squares += around - correction * rest + step * step * (seen * values / all);
    seen = all;
  });
  const double variance = squares / seen;
  return {static_cast<float>(mean), static_cast<float>(variance < 0 ? 0 : variance)};
}

// x (N, C, plane) -> y, the batch's statistics and the new moving ones.
inline void norm_forward(const NormShape& q, const float* x, const Norm& norm, float* y,
                         const NormOutput& out) {
  parallel(q.channels, [&](int64_t c) {
    const Statistics s = channel_statistics(q, x, c);
    out.set(norm, c, s, q.images * q.plane);
    const Affine a = norm.of_batch(s, c);
    for (int64_t n = 0; n < q.images; ++n) {
      normalise(x + q.at(n, c), a, false, y + q.at(n, c), q.plane);
    }
  });
}

// As norm_forward, with the moving statistics.
inline void norm_evaluate(const NormShape& q, const float* x, const Norm& norm, float* y) {
  parallel(q.channels, [&](int64_t c) {
    const Affine a = norm.of_moving(c);
    for (int64_t n = 0; n < q.images; ++n) {
      normalise(x + q.at(n, c), a, false, y + q.at(n, c), q.plane);
    }
  });
}

struct NormGradients {
  float *x, *gamma, *beta;
};

// mean and variance are the batch's.
inline void norm_backward(const NormShape& q, const float* x, const Norm& norm, const float* mean,
                          const float* variance, const float* dy, const NormGradients& out) {
  parallel(q.channels, [&](int64_t c) {
    const Statistics s = {mean[c], variance[c]};
    const Affine a = norm.of_batch(s, c);
    const float inverse = 1 / std::sqrt(s.variance + norm.epsilon);
    double with_x = 0, alone = 0;
    for_blocks(q, [&](int64_t first, int64_t images, int64_t from, int64_t count) {
      float block_with_x = 0, block_alone = 0;
      for (int64_t n = first; n < first + images; ++n) {
        const float *u = x + q.at(n, c) + from, *d = dy + q.at(n, c) + from;
        for (int64_t i = 0; i < count; ++i) {
          block_alone += d[i];
          block_with_x += d[i] * (u[i] - s.mean);
        }
      }
      with_x += block_with_x;
      alone += block_alone;
    });
    const double values = static_cast<double>(q.images * q.plane);
    out.gamma[c] = static_cast<float>(with_x) * inverse;
    out.beta[c] = static_cast<float>(alone);
    const float slope = static_cast<float>(with_x / values) * inverse * inverse;
    const float mean_d = static_cast<float>(alone / values);
    for (int64_t n = 0; n < q.images; ++n) {
      const float *u = x + q.at(n, c), *d = dy + q.at(n, c);
      float* to = out.x + q.at(n, c);
      for (int64_t i = 0; i < q.plane; ++i) {
        to[i] = a.scale * (d[i] - mean_d - (u[i] - s.mean) * slope);
      }
    }
  });
}

}  // namespace ghost
