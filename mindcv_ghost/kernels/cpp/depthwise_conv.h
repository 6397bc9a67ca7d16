// Depthwise convolutions: every map has its own kernels. Any odd height and width of the kernel,
// stride 1 or 2, padded by half the kernel.
#pragma once

#include <algorithm>
#include <vector>

#include "planes.h"
#include "thread_pool.h"
#include "taps.h"

namespace ghost {

struct DepthwiseShape {
  int64_t images, channels, ratio;  // outputs of a channel
  int64_t height, width, kernel_height, kernel_width, stride;

  int64_t plane() const { return height * width; }
  int64_t out_height() const { return (height - 1) / stride + 1; }
  int64_t out_width() const { return (width - 1) / stride + 1; }
  int64_t out_plane() const { return out_height() * out_width(); }
  int64_t taps() const { return kernel_height * kernel_width; }
  int64_t top() const { return kernel_height / 2; }
  int64_t left() const { return kernel_width / 2; }

  // A padded map is split into stride * stride phases, by its row and column modulo the stride: a
  // tap then reads neighbouring values. All phases, and the outputs, have rows of `row` values and
  // images of `image` values. The zeros after a row are also the zeros before the next row.
  int64_t row() const { return out_width() + left(); }
  int64_t image() const {
    return (out_height() + top()) * row();
  }
  // Greatest distance between taps of a kernel: the number of values before and after a line.
  int64_t reach() const {
    return (kernel_height - 1) / stride * row() + (kernel_width - 1) / stride;
  }
  int64_t line(int64_t images) const { return images * image() + kLanes; }
  int64_t phase(int64_t images) const { return line(images) + 2 * reach(); }
  int64_t phases() const { return stride * stride; }
  int64_t group() const {
    return images_at_once((phases() + 1) * image(), images);
  }
};

// Offset of each tap of a kernel in the phases, which follow each other in memory.
inline std::vector<int64_t> tap_distances(const DepthwiseShape& q, int64_t phase) {
  std::vector<int64_t> at;
  for (int64_t i = 0; i < q.kernel_height; ++i) {
    for (int64_t j = 0; j < q.kernel_width; ++j) {
      const int64_t number = i % q.stride * q.stride + j % q.stride;
      at.push_back(number * phase + i / q.stride * q.row() + j / q.stride);
    }
  }
  return at;
}

// The taps that contribute to a phase's gradient, as offsets in the output's gradient.
struct PhaseTaps {
  std::vector<int64_t> at, index;
};

inline std::vector<PhaseTaps> gradient_taps(const DepthwiseShape& q) {
  std::vector<PhaseTaps> all(q.phases());
  for (int64_t i = 0; i < q.kernel_height; ++i) {
    for (int64_t j = 0; j < q.kernel_width; ++j) {
      PhaseTaps& some = all[i % q.stride * q.stride + j % q.stride];
      some.at.push_back(-(i / q.stride * q.row() + j / q.stride));
      some.index.push_back(i * q.kernel_width + j);
    }
  }
  return all;
}

// Where a row of an image begins in the phases: its even columns, and its odd ones. Column w of the
// image is column w + left of the padded one.
struct RowPlace {
  int64_t even, odd;
};

inline RowPlace row_place(const DepthwiseShape& q, int64_t h, int64_t phase) {
  const int64_t r = h + q.top();
  if (q.stride == 1) return {r * q.row() + q.left(), 0};
  const int64_t row = r % 2 * 2 * phase + r / 2 * q.row();
  return {row + q.left() % 2 * phase + q.left() / 2,
          row + (q.left() + 1) % 2 * phase + (q.left() + 1) / 2};
}

// Copies rows of `width` values between steps of different length.
inline void copy_rows(const float* from, int64_t from_step, float* to, int64_t to_step,
                      int64_t rows, int64_t width) {
  with_width(width, [&](auto columns) {
    for (int64_t h = 0; h < rows; ++h) {
      std::memcpy(to + h * to_step, from + h * from_step, columns * sizeof(float));
    }
  });
}

inline void split_pairs(const float* __restrict x, float* __restrict even, float* __restrict odd,
                        int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    even[i] = x[2 * i];
    odd[i] = x[2 * i + 1];
  }
}

inline void join_pairs(const float* __restrict even, const float* __restrict odd,
                       float* __restrict x, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    x[2 * i] = even[i];
    x[2 * i + 1] = odd[i];
  }
}

// Writes an image into its place in the phases, `phase` values from each to the next. `memory`
// holds a plane.
inline void put_phases(const DepthwiseShape& q, const float* x, float* to, int64_t phase,
                       float* memory) {
  if (q.stride == 1) {
    copy_rows(x, q.width, to + row_place(q, 0, phase).even, q.row(), q.height, q.width);
    return;
  }
  // If rows have an even number of values, the whole image is split in one long loop.
  const int64_t half = q.width / 2;
  const bool together = q.width % 2 == 0;
  float *even = memory, *odd = memory + q.plane() / 2;
  if (together) split_pairs(x, even, odd, q.plane() / 2);
  with_width(half, [&](auto columns) {
    for (int64_t h = 0; h < q.height; ++h) {
      const RowPlace place = row_place(q, h, phase);
      if (together) {
        std::memcpy(to + place.even, even + h * columns, columns * sizeof(float));
        std::memcpy(to + place.odd, odd + h * columns, columns * sizeof(float));
      } else {
        split_pairs(x + h * q.width, to + place.even, to + place.odd, columns);
        to[place.even + columns] = x[(h + 1) * q.width - 1];
      }
    }
  });
}

// Copies an image out of the phases.
inline void get_phases(const DepthwiseShape& q, const float* from, int64_t phase, float* x,
                       float* memory) {
  if (q.stride == 1) {
    copy_rows(from + row_place(q, 0, phase).even, q.row(), x, q.width, q.height, q.width);
    return;
  }
  const int64_t half = q.width / 2;
  const bool together = q.width % 2 == 0;
  float *even = memory, *odd = memory + q.plane() / 2;
  with_width(half, [&](auto columns) {
    for (int64_t h = 0; h < q.height; ++h) {
      const RowPlace place = row_place(q, h, phase);
      if (together) {
        std::memcpy(even + h * columns, from + place.even, columns * sizeof(float));
        std::memcpy(odd + h * columns, from + place.odd, columns * sizeof(float));
      } else {
        join_pairs(from + place.even, from + place.odd, x + h * q.width, columns);
        x[(h + 1) * q.width - 1] = from[place.even + columns];
      }
    }
  });
  if (together) join_pairs(even, odd, x, q.plane() / 2);
}

// x (N, C, H, W), weight (C * ratio, 1, kh, kw) -> y (N, C * ratio, OH, OW).
inline void depthwise_forward(const DepthwiseShape& q, const float* x, const float* weight,
                              float* y) {
  const int64_t group = q.group(), phase = q.phase(group), outputs = q.channels * q.ratio;
  const std::vector<int64_t> at = tap_distances(q, phase);
  parallel(q.channels, [&](int64_t c) {
    Scratch scratch(q.phases() * phase + q.line(group) + q.plane(), 3);
    float* padded = scratch.take(q.phases() * phase);
    float* line = scratch.take(q.line(group));
    float* memory = scratch.take(q.plane());
    std::memset(padded, 0, q.phases() * phase * sizeof(float));
    for (int64_t first = 0; first < q.images; first += group) {
      const int64_t count = std::min(group, q.images - first);
      for (int64_t n = 0; n < count; ++n) {
        put_phases(q, x + ((first + n) * q.channels + c) * q.plane(), padded + n * q.image(),
                   phase, memory);
      }
      for (int64_t k = c * q.ratio; k < (c + 1) * q.ratio; ++k) {
        lines::apply(padded, at.data(), weight + k * q.taps(), q.taps(), false, line,
                     count * q.image());
        for (int64_t n = 0; n < count; ++n) {
          copy_rows(line + n * q.image(), q.row(),
                    y + ((first + n) * outputs + k) * q.out_plane(), q.out_width(),
                    q.out_height(), q.out_width());
        }
      }
    }
  });
}

// x, weight, dy -> dx, dweight.
inline void depthwise_backward(const DepthwiseShape& q, const float* x, const float* weight,
                               const float* dy, float* dx, float* dweight) {
  const int64_t group = q.group(), phase = q.phase(group), taps = q.taps();
  const int64_t outputs = q.channels * q.ratio;
  const std::vector<int64_t> at = tap_distances(q, phase);
  const std::vector<PhaseTaps> back = gradient_taps(q);
  parallel(q.channels, [&](int64_t c) {
    const int64_t line = q.line(group);
    Scratch scratch(
        q.phases() * (phase + line) + phase + taps + 2 * q.ratio * taps + q.plane(), 6);
    float* padded = scratch.take(q.phases() * phase);
    float* gradient = scratch.take(q.phases() * line);
    float* d = scratch.take(phase);
    float* chosen = scratch.take(taps);
    float* memory = scratch.take(q.plane());
    double* sums = reinterpret_cast<double*>(scratch.take(2 * q.ratio * taps));
    std::memset(padded, 0, q.phases() * phase * sizeof(float));
    std::memset(d, 0, phase * sizeof(float));
    std::memset(sums, 0, q.ratio * taps * sizeof(double));
    float* centre = d + q.reach();
    for (int64_t first = 0; first < q.images; first += group) {
      const int64_t count = std::min(group, q.images - first), length = count * q.image();
      // After a smaller last group lie values of the group before, not zeros; d has zeros there.
      if (count < group) std::memset(centre + length, 0, (group - count) * q.image() * sizeof(float));
      for (int64_t n = 0; n < count; ++n) {
        put_phases(q, x + ((first + n) * q.channels + c) * q.plane(), padded + n * q.image(),
                   phase, memory);
      }
      for (int64_t r = 0; r < q.ratio; ++r) {
        const int64_t k = c * q.ratio + r;
        for (int64_t n = 0; n < count; ++n) {
          copy_rows(dy + ((first + n) * outputs + k) * q.out_plane(), q.out_width(),
                    centre + n * q.image(), q.row(), q.out_height(), q.out_width());
        }
        lines::correlate(centre, padded, at.data(), taps, sums + r * taps, length);
        for (int64_t p = 0; p < q.phases(); ++p) {
          const int64_t some = back[p].at.size();
          for (int64_t t = 0; t < some; ++t) chosen[t] = weight[k * taps + back[p].index[t]];
          lines::apply(centre, back[p].at.data(), chosen, some, r > 0, gradient + p * line, length);
        }
      }
      for (int64_t n = 0; n < count; ++n) {
        get_phases(q, gradient + n * q.image(), line,
                   dx + ((first + n) * q.channels + c) * q.plane(), memory);
      }
    }
    for (int64_t t = 0; t < q.ratio * taps; ++t) {
      dweight[c * q.ratio * taps + t] = static_cast<float>(sums[t]);
    }
  });
}

}  // namespace ghost
