// What follows a ResNet's 7x7 convolution, as one operator: BN, ReLU, max pool of 3x3, stride 2,
// one cell of border. Behind a ReLU a border of zeros never wins over what lies inside.
#pragma once

#include "ghost_tail.h"

namespace ghost {

struct StemShape {
  int64_t images, channels, height, width;

  int64_t plane() const { return height * width; }
  int64_t out_height() const { return (height + 1) / 2; }
  int64_t out_width() const { return (width + 1) / 2; }
  int64_t out_plane() const { return out_height() * out_width(); }
  int64_t step() const { return width + 3; }  // a border left, and two right for odd widths
  int64_t padded() const { return (height + 3) * step(); }
};

// The greater of two; a NaN wins.
inline float greater(float a, float b) { return b > a || b != b ? b : a; }

// Normalises an image and puts it between the zeros of `padded`.
inline void pad_normalised(const StemShape& q, const float* u, Affine a, float* padded) {
  for (int64_t h = 0; h < q.height; ++h) {
    normalise(u + h * q.width, a, true, padded + (h + 1) * q.step() + 1, q.width);
  }
}

// `highest` is memory for a row of step() values.
inline void max_pool(const StemShape& q, const float* padded, float* highest, float* y) {
  for (int64_t h = 0; h < q.out_height(); ++h, y += q.out_width()) {
    const float* row = padded + 2 * h * q.step();
    for (int64_t i = 0; i < q.step(); ++i) {
      highest[i] = greater(greater(row[i], row[i + q.step()]), row[i + 2 * q.step()]);
    }
    for (int64_t w = 0; w < q.out_width(); ++w) {
      y[w] = greater(greater(highest[2 * w], highest[2 * w + 1]), highest[2 * w + 2]);
    }
  }
}

// Gives each pooled value's gradient to the place the value came from: of equals, the first.
inline void max_pool_backward(const StemShape& q, const float* padded, const float* dy,
                              float* dpadded) {
  const int64_t step = q.step();
  const int64_t places[9] = {0,        1,        2,        step,        step + 1,
                             step + 2, 2 * step, 2 * step + 1, 2 * step + 2};
  for (int64_t h = 0; h < q.out_height(); ++h) {
    for (int64_t w = 0; w < q.out_width(); ++w) {
      const float* window = padded + 2 * h * step + 2 * w;
      float highest = window[0];
      for (int i = 1; i < 9; ++i) highest = greater(highest, window[places[i]]);
      // The middle always lies inside. Where nothing is above nought the ReLU stops the gradient.
      int64_t place = step + 1;
      for (int i = 8; i >= 0; --i) place = window[places[i]] == highest ? places[i] : place;
      dpadded[2 * h * step + 2 * w + place] += highest <= 0 ? 0 : dy[h * q.out_width() + w];
    }
  }
}

// u (N, C, H, W) to y (N, C, ceil(H / 2), ceil(W / 2)).
inline void stem_forward(const StemShape& q, const float* u, const Norm& norm, float* y,
                         const NormOutput& out) {
  const int64_t values = q.images * q.plane();
  parallel(q.channels, [&](int64_t c) {
    Scratch scratch(values + q.padded() + q.step(), 3);
    float* uc = scratch.take(values);
    float* padded = scratch.take(q.padded());
    float* highest = scratch.take(q.step());
    gather(u, q.images, q.channels, c, q.plane(), uc);
    const Statistics s = statistics(uc, values);
    out.set(norm, c, s, values);
    std::memset(padded, 0, q.padded() * sizeof(float));
    for (int64_t n = 0; n < q.images; ++n) {
      pad_normalised(q, uc + n * q.plane(), norm.of_batch(s, c), padded);
      max_pool(q, padded, highest, y + (n * q.channels + c) * q.out_plane());
    }
  });
}

// As stem_forward, with the moving statistics.
inline void stem_evaluate(const StemShape& q, const float* u, const Norm& norm, float* y) {
  parallel(q.images * q.channels, [&](int64_t part) {
    Scratch scratch(q.padded() + q.step(), 2);
    float* padded = scratch.take(q.padded());
    float* highest = scratch.take(q.step());
    std::memset(padded, 0, q.padded() * sizeof(float));
    pad_normalised(q, u + part * q.plane(), norm.of_moving(part % q.channels), padded);
    max_pool(q, padded, highest, y + part * q.out_plane());
  });
}

struct StemGradients {
  float *u, *gamma, *beta;
};

// mean and variance are the batch's.
inline void stem_backward(const StemShape& q, const float* u, const Norm& norm, const float* mean,
                          const float* variance, const float* dy, const StemGradients& out) {
  const int64_t values = q.images * q.plane();
  parallel(q.channels, [&](int64_t c) {
    Scratch scratch(2 * values + 2 * q.padded(), 4);
    float* uc = scratch.take(values);
    float* d = scratch.take(values);
    float* padded = scratch.take(q.padded());
    float* dpadded = scratch.take(q.padded());
    const Statistics s = {mean[c], variance[c]};
    gather(u, q.images, q.channels, c, q.plane(), uc);
    std::memset(padded, 0, q.padded() * sizeof(float));
    for (int64_t n = 0; n < q.images; ++n) {
      pad_normalised(q, uc + n * q.plane(), norm.of_batch(s, c), padded);
      std::memset(dpadded, 0, q.padded() * sizeof(float));
      max_pool_backward(q, padded, dy + (n * q.channels + c) * q.out_plane(), dpadded);
      for (int64_t h = 0; h < q.height; ++h) {
        std::memcpy(d + n * q.plane() + h * q.width, dpadded + (h + 1) * q.step() + 1,
                    q.width * sizeof(float));
      }
    }
    const NormGradient g = normalise_backward(uc, s, norm, c, false, d, values);
    out.gamma[c] = g.gamma;
    out.beta[c] = g.beta;
    for (int64_t n = 0; n < q.images; ++n) {
      std::memcpy(out.u + (n * q.channels + c) * q.plane(), d + n * q.plane(),
                  q.plane() * sizeof(float));
    }
  });
}

}  // namespace ghost
