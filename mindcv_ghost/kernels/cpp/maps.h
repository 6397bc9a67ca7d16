// Operators on whole maps: their means, and maps weighted by others of the same or a smaller size.
#pragma once

#include <algorithm>
#include <vector>

#include "planes.h"
#include "pool.h"

namespace ghost {

// Calls body(map) for all of `count` maps of `size` values.
template <typename Body>
inline void for_maps(int64_t count, int64_t size, const Body& body) {
  parallel_runs(count, size, [&](int64_t first, int64_t end) {
    for (int64_t map = first; map < end; ++map) body(map);
  });
}

// x (maps, size) -> y (maps).
inline void mean_forward(int64_t maps, int64_t size, const float* x, float* y) {
  for_maps(maps, size, [&](int64_t map) {
    constexpr int64_t kBlock = 4096;
    double sum = 0;
    for (int64_t i = 0; i < size; i += kBlock) {
      float part = 0;
      for (int64_t k = i; k < std::min(size, i + kBlock); ++k) part += x[map * size + k];
      sum += part;
    }
    y[map] = static_cast<float>(sum / size);
  });
}

inline void mean_backward(int64_t maps, int64_t size, const float* dy, float* dx) {
  for_maps(maps, size, [&](int64_t map) {
    const float share = dy[map] / static_cast<float>(size);
    std::fill(dx + map * size, dx + (map + 1) * size, share);
  });
}

// Maps and their weights, which are enlarged to the maps' size by repetition.
struct WeightShape {
  int64_t maps, height, width, rows, columns;

  int64_t plane() const { return height * width; }
  int64_t weights() const { return rows * columns; }
  // The place that each of `wide` places repeats: MindSpore's and PyTorch's "nearest". None is left
  // out, and the places that repeat one follow each other.
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
inline void weight_forward(const WeightShape& q, const float* x, const float* weight, float* y) {
  const std::vector<int64_t> row = WeightShape::sources(q.height, q.rows);
  const std::vector<int64_t> column = WeightShape::sources(q.width, q.columns);
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
inline void weight_backward(const WeightShape& q, const float* x, const float* weight,
                            const float* dy, float* dx, float* dweight) {
  const std::vector<int64_t> row = WeightShape::sources(q.height, q.rows);
  const std::vector<int64_t> column = WeightShape::sources(q.width, q.columns);
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
