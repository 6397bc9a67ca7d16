// Maps times weights of the same or a smaller size.
#pragma once

#include <algorithm>
#include <vector>

#include "planes.h"
#include "thread_pool.h"

namespace ghost {

// Maps and their weights, which are enlarged to the maps' size by repetition.
struct RescaleShape {
  int64_t maps, height, width, rows, columns;

  int64_t plane() const { return height * width; }
  int64_t weights() const { return rows * columns; }
  // The index among `narrow` values that each of `wide` positions repeats: "nearest" interpolation of
  // MindSpore and PyTorch. Every value is used, and its repetitions are neighbours.
  static std::vector<int64_t> sources(int64_t wide, int64_t narrow) {
    std::vector<int64_t> of;
    const float scale = static_cast<float>(narrow) / static_cast<float>(wide);
    for (int64_t i = 0; i < wide; ++i) {
      of.push_back(std::min(static_cast<int64_t>(static_cast<float>(i) * scale), narrow - 1));
    }
    return of;
  }
};

// y = x * enlarged(weight).
inline void rescale_forward(const RescaleShape& q, const float* x, const float* weight, float* y) {
  const std::vector<int64_t> row = RescaleShape::sources(q.height, q.rows);
  const std::vector<int64_t> column = RescaleShape::sources(q.width, q.columns);
  for_maps(q.maps, q.plane(), [&](int64_t map) {
    const float *from = x + map * q.plane(), *w = weight + map * q.weights();
    float* to = y + map * q.plane();
    if (q.weights() == 1) {
      const float factor = w[0];
      for (int64_t i = 0; i < q.plane(); ++i) to[i] = from[i] * factor;
      return;
    }
    Scratch scratch(q.width, 1);
    float* enlarged = scratch.take(q.width);
    for (int64_t h = 0; h < q.height; ++h, from += q.width, to += q.width) {
      if (h == 0 || row[h] != row[h - 1]) {
        for (int64_t i = 0; i < q.width; ++i) enlarged[i] = w[row[h] * q.columns + column[i]];
      }
      with_width(q.width, [&](auto width) {
        for (int64_t i = 0; i < width; ++i) to[i] = from[i] * enlarged[i];
      });
    }
  });
}

// x, weight, dy -> dx, dweight.
inline void rescale_backward(const RescaleShape& q, const float* x, const float* weight,
                            const float* dy, float* dx, float* dweight) {
  const std::vector<int64_t> row = RescaleShape::sources(q.height, q.rows);
  const std::vector<int64_t> column = RescaleShape::sources(q.width, q.columns);
  for_maps(q.maps, q.plane(), [&](int64_t map) {
    const float *from = x + map * q.plane(), *d = dy + map * q.plane();
    const float* w = weight + map * q.weights();
    float *to = dx + map * q.plane(), *dw = dweight + map * q.weights();
    if (q.weights() == 1) {
      const float factor = w[0];
      float sum = 0;
      for (int64_t i = 0; i < q.plane(); ++i) {
        to[i] = d[i] * factor;
        sum += d[i] * from[i];
      }
      dw[0] = sum;
      return;
    }
    Scratch scratch(2 * q.width, 2);
    float *enlarged = scratch.take(q.width), *sums = scratch.take(q.width);
    for (int64_t h = 0; h < q.height; ++h, from += q.width, to += q.width, d += q.width) {
      if (h == 0 || row[h] != row[h - 1]) {
        for (int64_t i = 0; i < q.width; ++i) {
          enlarged[i] = w[row[h] * q.columns + column[i]];
          sums[i] = 0;
        }
      }
      with_width(q.width, [&](auto width) {
        for (int64_t i = 0; i < width; ++i) {
          to[i] = d[i] * enlarged[i];
          sums[i] += d[i] * from[i];
        }
      });
      if (h + 1 == q.height || row[h + 1] != row[h]) {
        float* out = dw + row[h] * q.columns;
        int64_t i = 0;
        for (int64_t k = 0; k < q.columns; ++k) {
          float sum = 0;
          for (; i < q.width && column[i] == k; ++i) sum += sums[i];
          out[k] = sum;
        }
      }
    }
  });
}

}  // namespace ghost
