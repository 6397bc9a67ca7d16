// Everything after the 7x7 convolution of a ResNet's stem, as one operator: BN, ReLU, and max
// pooling of 3x3 with stride 2 and a border of one. After a ReLU, a border of zeros never exceeds the
// values inside.
#pragma once

#include "norm.h"
#include "thread_pool.h"

namespace ghost {

struct StemShape {
  int64_t images, channels, height, width;

  int64_t plane() const { return height * width; }
  int64_t out_height() const { return (height + 1) / 2; }
  int64_t out_width() const { return (width + 1) / 2; }
  int64_t out_plane() const { return out_height() * out_width(); }

  // A padded image (zeros: one row above, two below, one column left, at least one right). Each row
  // has its even columns first and then its odd ones, so that a window of stride 2 reads neighbours:
  // even[w], odd[w] and even[w + 1]. Column i of the image is column i + 1 here.
  int64_t half() const { return out_width() + 1; }
  int64_t step() const { return 2 * half(); }
  int64_t padded() const { return (height + 3) * step(); }
};

// The greater of two; a NaN wins.
inline float greater(float a, float b) { return b > a || b != b ? b : a; }

// Writes a normalised image into `padded`. `line` is memory for a row.
inline void pad_normalised(const StemShape& q, const float* u, Affine a, float* line,
                           float* padded) {
  for (int64_t h = 0; h < q.height; ++h) {
    write_map(u + h * q.width, a, true, nullptr, line, q.width, false);
    float* even = padded + (h + 1) * q.step();
    float* odd = even + q.half();
    for (int64_t i = 0; i < q.out_width(); ++i) odd[i] = line[2 * i];
    for (int64_t i = 1; i <= q.width / 2; ++i) even[i] = line[2 * i - 1];
  }
}

// Copies an image out of `padded`.
inline void unpad(const StemShape& q, const float* padded, float* image) {
  for (int64_t h = 0; h < q.height; ++h, image += q.width) {
    const float* even = padded + (h + 1) * q.step();
    const float* odd = even + q.half();
    for (int64_t i = 0; i < q.out_width(); ++i) image[2 * i] = odd[i];
    for (int64_t i = 1; i <= q.width / 2; ++i) image[2 * i - 1] = even[i];
  }
}

// Pools the windows whose first row is `row`. `columns`, memory for step() values, becomes the
// maximum of each column.
inline void max_pool_row(const StemShape& q, const float* row, float* columns, float* y) {
  for (int64_t i = 0; i < q.step(); ++i) {
    columns[i] = greater(greater(row[i], row[i + q.step()]), row[i + 2 * q.step()]);
  }
  const float *even = columns, *odd = columns + q.half();
  for (int64_t w = 0; w < q.out_width(); ++w) {
    y[w] = greater(greater(even[w], odd[w]), even[w + 1]);
  }
}

inline void max_pool(const StemShape& q, const float* padded, float* columns, float* y) {
  for (int64_t h = 0; h < q.out_height(); ++h) {
    max_pool_row(q, padded + 2 * h * q.step(), columns, y + h * q.out_width());
  }
}

// One position in the windows of a row: if it holds the maximum, it takes the gradient that is left.
inline void give(const float* __restrict x, const float* __restrict highest,
                 float* __restrict left, float* __restrict dx, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float taken = x[i] == highest[i] ? left[i] : 0;
    dx[i] += taken;
    left[i] -= taken;
  }
}

// Adds each pooled value's gradient at the position of the maximum, the first of equal ones. If no
// value is positive, the ReLU blocks the gradient. `highest` and `left` are memory for step() values.
inline void max_pool_backward(const StemShape& q, const float* padded, const float* dy,
                              float* highest, float* left, float* dpadded) {
  const int64_t width = q.out_width();
  const int64_t columns[3] = {0, q.half(), 1};
  for (int64_t h = 0; h < q.out_height(); ++h, dy += width) {
    const int64_t top = 2 * h * q.step();
    max_pool_row(q, padded + top, left, highest);
    for (int64_t w = 0; w < width; ++w) left[w] = highest[w] <= 0 ? 0 : dy[w];
    for (int i = 0; i < 9; ++i) {
      const int64_t at = top + i / 3 * q.step() + columns[i % 3];
      give(padded + at, highest, left, dpadded + at, width);
    }
  }
}

// u (N, C, H, W) to y (N, C, ceil(H / 2), ceil(W / 2)).
inline void stem_forward(const StemShape& q, const float* u, const Norm& norm, float* y,
                         const NormOutput& out) {
  parallel(q.channels, [&](int64_t c) {
    Scratch scratch(q.padded() + 2 * q.step(), 3);
    float* padded = scratch.take(q.padded());
    float* columns = scratch.take(q.step());
    float* line = scratch.take(q.step());
    StatisticsAccumulator running;
    for (int64_t n = 0; n < q.images; ++n) {
      running.add(u + (n * q.channels + c) * q.plane(), q.plane());
    }
    const Statistics s = running.get();
    out.set(c, s);
    std::memset(padded, 0, q.padded() * sizeof(float));
    for (int64_t n = 0; n < q.images; ++n) {
      const float* uc = u + (n * q.channels + c) * q.plane();
      pad_normalised(q, uc, norm.of_batch(s, c), line, padded);
      max_pool(q, padded, columns, y + (n * q.channels + c) * q.out_plane());
    }
  });
}

// As stem_forward, with the running statistics.
inline void stem_evaluate(const StemShape& q, const float* u, const Norm& norm, float* y) {
  parallel(q.images * q.channels, [&](int64_t part) {
    Scratch scratch(q.padded() + 2 * q.step(), 3);
    float* padded = scratch.take(q.padded());
    float* columns = scratch.take(q.step());
    float* line = scratch.take(q.step());
    std::memset(padded, 0, q.padded() * sizeof(float));
    pad_normalised(q, u + part * q.plane(), norm.of_running(part % q.channels), line, padded);
    max_pool(q, padded, columns, y + part * q.out_plane());
  });
}

struct StemGradients {
  float *u, *gamma, *beta;
};

// mean and variance are those of the batch.
inline void stem_backward(const StemShape& q, const float* u, const Norm& norm, const float* mean,
                          const float* variance, const float* dy, const StemGradients& out) {
  const int64_t values = q.images * q.plane();
  parallel(q.channels, [&](int64_t c) {
    Scratch scratch(values + 2 * q.padded() + 3 * q.step(), 6);
    float* d = scratch.take(values);
    float* padded = scratch.take(q.padded());
    float* dpadded = scratch.take(q.padded());
    float* line = scratch.take(q.step());
    float* highest = scratch.take(q.step());
    float* left = scratch.take(q.step());
    const Statistics s = {mean[c], variance[c]};
    NormBackward back(norm, c, s);
    std::memset(padded, 0, q.padded() * sizeof(float));
    for (int64_t n = 0; n < q.images; ++n) {
      const float* uc = u + (n * q.channels + c) * q.plane();
      pad_normalised(q, uc, norm.of_batch(s, c), line, padded);
      std::memset(dpadded, 0, q.padded() * sizeof(float));
      max_pool_backward(q, padded, dy + (n * q.channels + c) * q.out_plane(), highest, left,
                        dpadded);
      unpad(q, dpadded, d + n * q.plane());
      back.add(uc, d + n * q.plane(), q.plane());
    }
    out.gamma[c] = back.gamma();
    out.beta[c] = back.beta();
    const NormBackward::Line line_back = back.line();
    const bool streamed = is_streamed(q.channels * values);
    for (int64_t n = 0; n < q.images; ++n) {
      const int64_t at = (n * q.channels + c) * q.plane();
      line_back.write(u + at, d + n * q.plane(), out.u + at, q.plane(), streamed);
    }
    if (streamed) end_streams();
  });
}

}  // namespace ghost
