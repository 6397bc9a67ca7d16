// What follows a Ghost module's primary convolution, as one operator.
//
//   x = act(BN(u))                       intrinsic maps
//   z = act(BN(depthwise(x)))            ghosts
//   y = [x, z] without the surplus       or, where act is none, relu([x, z] + shortcut)
//
// All of it is independent between intrinsic maps, and one map of a whole batch fits the cache:
// so u is read once and y written once. The backward pass computes x and the depthwise result anew.
#pragma once

#include <algorithm>

#include "planes.h"
#include "pool.h"

namespace ghost {

struct TailShape {
  int64_t images, intrinsic, ghosts, out_channels, height, width, kernel;
  bool relu;

  int64_t plane() const { return height * width; }
  int64_t values() const { return images * plane(); }       // of one channel
  int64_t ratio() const { return ghosts / intrinsic; }      // ghosts of an intrinsic map
  bool is_surplus(int64_t ghost) const { return intrinsic + ghost >= out_channels; }
  Padded padded() const { return {height, width, kernel}; }
  int64_t group() const { return images_at_once(plane(), images); }
};

// One batch normalisation; mean and variance are the moving ones.
struct Norm {
  const float *gamma, *beta, *mean, *variance;
  float epsilon, share;

  Affine of_batch(Statistics s, int64_t c) const { return affine(s, epsilon, gamma[c], beta[c]); }
  Affine of_moving(int64_t c) const {
    return affine({mean[c], variance[c]}, epsilon, gamma[c], beta[c]);
  }
};

// Where the forward pass puts a batch normalisation's statistics.
struct NormOutput {
  float *mean, *variance, *new_mean, *new_variance;

  void set(const Norm& norm, int64_t c, Statistics s, int64_t count) const {
    mean[c] = s.mean;
    variance[c] = s.variance;
    new_mean[c] = moved(norm.mean[c], s.mean, norm.share);
    new_variance[c] = moved(norm.variance[c], unbiased(s.variance, count), norm.share);
  }
};

// A channel of a tensor (images, channels, plane), image after image.
inline void gather(const float* from, int64_t images, int64_t channels, int64_t channel,
                   int64_t plane, float* to) {
  for (int64_t n = 0; n < images; ++n) {
    std::memcpy(to + n * plane, from + (n * channels + channel) * plane, plane * sizeof(float));
  }
}

// Writes a channel of y, images `first` to `first + count`, whose values are in x.
inline void write_channel(const TailShape& q, const float* x, Affine a, bool relu,
                          const float* shortcut, float* y, int64_t channel, int64_t first,
                          int64_t count) {
  for (int64_t n = 0; n < count; ++n) {
    const int64_t at = ((first + n) * q.out_channels + channel) * q.plane();
    if (shortcut != nullptr) {
      add_relu(x + n * q.plane(), a, shortcut + at, y + at, q.plane());
    } else {
      normalise(x + n * q.plane(), a, relu, y + at, q.plane());
    }
  }
}

constexpr Affine kIdentity = {1, 0};

// u (N, intrinsic, H, W), weight (ghosts, 1, d, d), shortcut and y (N, out_channels, H, W).
inline void tail_forward(const TailShape& q, const float* u, const Norm& first,
                         const float* weight, const Norm& second, const float* shortcut, float* y,
                         const NormOutput& first_out, const NormOutput& second_out) {
  const Padded p = q.padded();
  const int64_t values = q.values(), group = q.group();
  parallel(q.intrinsic, [&](int64_t c) {
    Scratch scratch(2 * values + p.size(group) + p.length(group), 4);
    float* x = scratch.take(values);
    float* ghost = scratch.take(values);
    float* padded = scratch.take(p.size(group));
    float* line = scratch.take(p.length(group));
    gather(u, q.images, q.intrinsic, c, q.plane(), x);
    const Statistics s = statistics(x, values);
    first_out.set(first, c, s, values);
    normalise(x, first.of_batch(s, c), q.relu, x, values);
    write_channel(q, x, kIdentity, false, shortcut, y, c, 0, q.images);
    p.clear(padded, group);
    for (int64_t k = c * q.ratio(); k < (c + 1) * q.ratio(); ++k) {
      for (int64_t n = 0; n < q.images; n += group) {
        const int64_t count = std::min(group, q.images - n);
        p.put(x + n * q.plane(), padded, count);
        convolve(p, padded, weight + k * q.kernel * q.kernel, line, count);
        p.get(line, ghost + n * q.plane(), count);
      }
      const Statistics t = statistics(ghost, values);
      second_out.set(second, k, t, values);
      if (q.is_surplus(k)) continue;
      write_channel(q, ghost, second.of_batch(t, k), q.relu, shortcut, y, q.intrinsic + k, 0,
                    q.images);
    }
  });
}

// As tail_forward, with the moving statistics.
inline void tail_evaluate(const TailShape& q, const float* u, const Norm& first,
                          const float* weight, const Norm& second, const float* shortcut,
                          float* y) {
  const Padded p = q.padded();
  const int64_t group = q.group(), groups = (q.images + group - 1) / group;
  parallel(q.intrinsic * groups, [&](int64_t part) {
    const int64_t c = part / groups, n = part % groups * group;
    const int64_t count = std::min(group, q.images - n);
    Scratch scratch(group * q.plane() + p.size(group) + p.length(group), 3);
    float* x = scratch.take(group * q.plane());
    float* padded = scratch.take(p.size(group));
    float* line = scratch.take(p.length(group));
    gather(u + n * q.intrinsic * q.plane(), count, q.intrinsic, c, q.plane(), x);
    normalise(x, first.of_moving(c), q.relu, x, count * q.plane());
    write_channel(q, x, kIdentity, false, shortcut, y, c, n, count);
    p.clear(padded, count);
    p.put(x, padded, count);
    for (int64_t k = c * q.ratio(); k < (c + 1) * q.ratio() && !q.is_surplus(k); ++k) {
      convolve(p, padded, weight + k * q.kernel * q.kernel, line, count);
      p.get(line, x, count);
      write_channel(q, x, second.of_moving(k), q.relu, shortcut, y, q.intrinsic + k, n, count);
    }
  });
}

// What the backward pass gets from the forward pass and from behind; null where there is none.
struct TailBack {
  const float *mean1, *variance1, *mean2, *variance2;  // of the batch
  const float *y;                                      // for the shortcut's ReLU
  const float *dy;
};

struct TailGradients {
  float *u, *gamma1, *beta1, *weight, *gamma2, *beta2, *shortcut;
};

// Gradient of a channel before the shortcut's ReLU, which is also the shortcut's.
inline void gather_gradient(const TailShape& q, const TailBack& back, float* shortcut,
                            int64_t channel, float* to) {
  if (shortcut == nullptr) return gather(back.dy, q.images, q.out_channels, channel, q.plane(), to);
  for (int64_t n = 0; n < q.images; ++n, to += q.plane()) {
    const int64_t at = (n * q.out_channels + channel) * q.plane();
    const float *y = back.y + at, *dy = back.dy + at;
    float* out = shortcut + at;
    for (int64_t i = 0; i < q.plane(); ++i) to[i] = out[i] = y[i] <= 0 ? 0 : dy[i];
  }
}

// Backward through act(BN(x)): d becomes the gradient of x. Returns those of gamma and beta.
struct NormGradient {
  float gamma, beta;
};

inline NormGradient normalise_backward(const float* x, Statistics s, const Norm& norm, int64_t c,
                                       bool relu, float* d, int64_t count) {
  const Affine a = norm.of_batch(s, c);
  const float inverse = 1 / std::sqrt(s.variance + norm.epsilon);
  constexpr int64_t kBlock = 4096;
  double with_x = 0, alone = 0;
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t end = std::min(i + kBlock, count);
    float block_with_x = 0, block_alone = 0;
    for (int64_t k = i; k < end; ++k) {
      const float v = relu && x[k] * a.scale + a.shift <= 0 ? 0 : d[k];
      d[k] = v;
      block_alone += v;
      block_with_x += v * (x[k] - s.mean);
    }
    with_x += block_with_x;
    alone += block_alone;
  }
  const float gamma = static_cast<float>(with_x) * inverse, beta = static_cast<float>(alone);
  const float mean_d = static_cast<float>(alone / count);
  const float slope = static_cast<float>(with_x / count) * inverse * inverse;
  for (int64_t i = 0; i < count; ++i) {
    d[i] = a.scale * (d[i] - mean_d - (x[i] - s.mean) * slope);
  }
  return {gamma, beta};
}

// Shapes as in tail_forward; every gradient has the shape of what it belongs to.
inline void tail_backward(const TailShape& q, const float* u, const Norm& first,
                          const float* weight, const Norm& second, const TailBack& back,
                          const TailGradients& out) {
  const Padded p = q.padded();
  const int64_t values = q.values(), plane = q.plane(), group = q.group();
  const int64_t taps = q.kernel * q.kernel;
  parallel(q.intrinsic, [&](int64_t c) {
    Scratch scratch(4 * values + p.size(q.images) + p.size(group) + p.length(group) + 3 * taps, 9);
    float* uc = scratch.take(values);
    float* dx = scratch.take(values);
    float* ghost = scratch.take(values);
    float* dghost = scratch.take(values);
    float* x = scratch.take(p.size(q.images));
    float* padded = scratch.take(p.size(group));
    float* line = scratch.take(p.length(group));
    float* flipped = scratch.take(taps);
    double* sums = reinterpret_cast<double*>(scratch.take(2 * taps));

    gather(u, q.images, q.intrinsic, c, plane, uc);
    const Statistics s = {back.mean1[c], back.variance1[c]};
    normalise(uc, first.of_batch(s, c), q.relu, ghost, values);
    p.clear(x, q.images);
    p.put(ghost, x, q.images);
    p.clear(padded, group);
    gather_gradient(q, back, out.shortcut, c, dx);
    for (int64_t k = c * q.ratio(); k < (c + 1) * q.ratio(); ++k) {
      std::memset(sums, 0, taps * sizeof(double));
      out.gamma2[k] = out.beta2[k] = 0;
      if (!q.is_surplus(k)) {
        const float* w = weight + k * taps;
        for (int64_t i = 0; i < taps; ++i) flipped[i] = w[taps - 1 - i];
        for (int64_t n = 0; n < q.images; n += group) {
          const int64_t count = std::min(group, q.images - n);
          convolve(p, x + n * p.image_step(), w, line, count);
          p.get(line, ghost + n * plane, count);
        }
        gather_gradient(q, back, out.shortcut, q.intrinsic + k, dghost);
        const Statistics t = {back.mean2[k], back.variance2[k]};
        const NormGradient g = normalise_backward(ghost, t, second, k, q.relu, dghost, values);
        out.gamma2[k] = g.gamma;
        out.beta2[k] = g.beta;
        for (int64_t n = 0; n < q.images; n += group) {
          const int64_t count = std::min(group, q.images - n);
          // A smaller last group leaves the one before it behind itself, where nobody looks.
          p.put(dghost + n * plane, padded, count);
          convolve(p, padded, flipped, line, count);
          p.add(line, dx + n * plane, count);
          correlate(p, padded, x + n * p.image_step(), sums, count);
        }
      }
      for (int64_t i = 0; i < taps; ++i) out.weight[k * taps + i] = static_cast<float>(sums[i]);
    }
    const NormGradient g = normalise_backward(uc, s, first, c, q.relu, dx, values);
    out.gamma1[c] = g.gamma;
    out.beta1[c] = g.beta;
    for (int64_t n = 0; n < q.images; ++n) {
      std::memcpy(out.u + (n * q.intrinsic + c) * plane, dx + n * plane, plane * sizeof(float));
    }
  });
}

}  // namespace ghost
