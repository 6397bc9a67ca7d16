// Loops over the values of one channel: statistics, scaling, padding, depthwise convolution.
//
// Written for the compiler's vectoriser. ReLU is spelled `v < 0 ? 0 : v`, so that a NaN stays one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vectors.h"

namespace ghost {

struct Statistics {
  float mean;
  float variance;  // biased
};

// Mean and variance of values that come block by block: in two passes within a block, which the
// nearest cache should hold, and by Chan's formula between blocks, in double.
class RunningStatistics {
 public:
  void add(const float* x, int64_t count) {
    float sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += x[i];
    const float mean = sum / count;
    float squares = 0;
    for (int64_t i = 0; i < count; ++i) {
      const float distance = x[i] - mean;
      squares += distance * distance;
    }
    merge(mean, squares, count);
  }
  // Takes in `count` values by their mean and the sum of their squared distances from it.
  void merge(double mean, double squares, int64_t count) {
    const double apart = mean - mean_;
    const int64_t all = count_ + count;
    mean_ += apart * count / all;
    squares_ += squares + apart * apart * (static_cast<double>(count_) * count / all);
    count_ = all;
  }
  Statistics get() const {
    const double variance = squares_ / count_;
    return {static_cast<float>(mean_), static_cast<float>(variance < 0 ? 0 : variance)};
  }

 private:
  double mean_ = 0, squares_ = 0;
  int64_t count_ = 0;
};

inline Statistics statistics(const float* x, int64_t count) {
  constexpr int64_t kBlock = 2048;
  RunningStatistics all;
  for (int64_t i = 0; i < count; i += kBlock) all.add(x + i, std::min(kBlock, count - i));
  return all.get();
}

// Batch normalisation of a channel as one multiplication and one addition.
struct Affine {
  float scale;
  float shift;
};

inline Affine affine(Statistics s, float epsilon, float gamma, float beta) {
  const float scale = gamma / std::sqrt(s.variance + epsilon);
  return {scale, beta - s.mean * scale};
}

// What a moving statistic becomes: `share` of the batch's value; variances are made unbiased.
inline float moved(float moving, float batch, float share) {
  return moving + share * (batch - moving);
}

inline float unbiased(float variance, int64_t count) {
  return count > 1 ? variance * (static_cast<float>(count) / (count - 1)) : variance;
}

template <typename Value>
inline Value relu_of(Value v) {
  return v < Value{} ? Value{} : v;
}

inline void normalise(const float* x, Affine a, bool relu, float* y, int64_t count) {
  if (relu) {
    for (int64_t i = 0; i < count; ++i) y[i] = relu_of(x[i] * a.scale + a.shift);
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i] * a.scale + a.shift;
  }
}

// y = relu(affine(x) + other).
inline void add_relu(const float* x, Affine a, const float* other, float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = relu_of(x[i] * a.scale + a.shift + other[i]);
}

// As normalise, or add_relu where there is another; past the caches.
inline void stream_normalised(const float* x, Affine a, bool relu, const float* other, float* y,
                              int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Vector v = load(x + i) * a.scale + a.shift;
    if (other != nullptr) v += load(other + i);
    stream(y + i, relu || other != nullptr ? relu_of(v) : v);
  }
}

// Writes one map: past the caches if that is wanted and the map lies so that it can be.
inline void write_map(const float* x, Affine a, bool relu, const float* other, float* y,
                      int64_t count, bool streamed) {
  if (streamed && can_stream(y, count)) {
    stream_normalised(x, a, relu, other, y, count);
  } else if (other != nullptr) {
    add_relu(x, a, other, y, count);
  } else {
    normalise(x, a, relu, y, count);
  }
}

// Calls rows(width) with the common widths known to the compiler: short rows gain most.
template <typename Rows>
inline void with_width(int64_t width, const Rows& rows) {
  switch (width) {
    case 2: return rows(std::integral_constant<int64_t, 2>());
    case 3: return rows(std::integral_constant<int64_t, 3>());
    case 4: return rows(std::integral_constant<int64_t, 4>());
    case 7: return rows(std::integral_constant<int64_t, 7>());
    case 8: return rows(std::integral_constant<int64_t, 8>());
    case 14: return rows(std::integral_constant<int64_t, 14>());
    case 16: return rows(std::integral_constant<int64_t, 16>());
    case 28: return rows(std::integral_constant<int64_t, 28>());
    case 32: return rows(std::integral_constant<int64_t, 32>());
    case 56: return rows(std::integral_constant<int64_t, 56>());
    case 112: return rows(std::integral_constant<int64_t, 112>());
    default: return rows(width);
  }
}

// Images of one channel with zeros around them, all in one line.
//
// With r = kernel / 2, a row is followed by r zeros, which are also the left border of the next
// row, and an image by r rows of zeros, which are also the upper border of the next image. Value
// (n, h, w) of `images` lies at origin + n * image_step + h * row_step + w. A kernel's tap (i, j)
// is then one constant distance for all values of all images: a convolution is one long loop.
struct Padded {
  int64_t height, width, kernel;

  int64_t border() const { return kernel / 2; }
  int64_t row_step() const { return width + border(); }
  int64_t image_step() const { return (height + border()) * row_step(); }
  int64_t origin() const { return border() * row_step() + border(); }
  int64_t tap(int64_t i, int64_t j) const { return i * row_step() + j; }
  // Values that a loop over so many images goes through, borders included.
  int64_t length(int64_t images) const { return images * image_step(); }
  // Values that memory for so many images holds.
  int64_t size(int64_t images) const {
    return length(images) + 2 * border() * row_step() + 2 * border();
  }

  void clear(float* padded, int64_t images) const {
    std::memset(padded, 0, size(images) * sizeof(float));
  }
  // Writes images between the zeros, which must be there already.
  void put(const float* images, float* padded, int64_t count) const {
    each_row(padded + origin(), count, [&](auto columns, int64_t at, float* row) {
      std::memcpy(row, images + at, columns * sizeof(float));
    });
  }
  // Takes images out of a convolution's result, whose value (n, h, w) lies without the origin.
  void get(const float* line, float* images, int64_t count) const {
    each_row(line, count, [&](auto columns, int64_t at, const float* row) {
      std::memcpy(images + at, row, columns * sizeof(float));
    });
  }
  // As get, but adds to the images.
  void add(const float* line, float* images, int64_t count) const {
    each_row(line, count, [&](auto columns, int64_t at, const float* row) {
      for (int64_t w = 0; w < columns; ++w) images[at + w] += row[w];
    });
  }

 private:
  // Calls body(width, the row's place in the images, the row in `line`).
  template <typename Line, typename Body>
  void each_row(Line* line, int64_t count, const Body& body) const {
    const int64_t rows = height, step = row_step(), image = image_step();
    with_width(width, [&](auto columns) {
      int64_t at = 0;
      for (int64_t n = 0; n < count; ++n, line += image) {
        Line* row = line;
        for (int64_t h = 0; h < rows; ++h, row += step, at += columns) body(columns, at, row);
      }
    });
  }
};

// One row of a kernel over a line of values; kFirst: sets the output rather than adding to it.
template <int kTaps, bool kFirst>
inline void convolve_row(const float* __restrict x, const float* weight, float* __restrict y,
                         int64_t length) {
  float w[kTaps];
  for (int j = 0; j < kTaps; ++j) w[j] = weight[j];
  for (int64_t i = 0; i < length; ++i) {
    float sum = kFirst ? 0 : y[i];
#pragma GCC unroll 8
    for (int j = 0; j < kTaps; ++j) sum += w[j] * x[i + j];
    y[i] = sum;
  }
}

template <int kTaps>
inline void convolve_rows(const Padded& p, const float* x, const float* weight, float* y,
                          int64_t length) {
  convolve_row<kTaps, true>(x, weight, y, length);
  for (int i = 1; i < kTaps; ++i) {
    convolve_row<kTaps, false>(x + p.tap(i, 0), weight + i * kTaps, y, length);
  }
}

inline void convolve_3x3(const Padded& p, const float* __restrict x, const float* weight,
                         float* __restrict y, int64_t length) {
  const float a = weight[0], b = weight[1], c = weight[2], d = weight[3], e = weight[4],
              f = weight[5], g = weight[6], h = weight[7], k = weight[8];
  const float* middle = x + p.tap(1, 0);
  const float* lower = x + p.tap(2, 0);
  for (int64_t i = 0; i < length; ++i) {
    y[i] = a * x[i] + b * x[i + 1] + c * x[i + 2] + d * middle[i] + e * middle[i + 1] +
           f * middle[i + 2] + g * lower[i] + h * lower[i + 1] + k * lower[i + 2];
  }
}

// Convolves `images` padded images with one kernel. Result (n, h, w) lies at n * image_step +
// h * row_step + w of `line`, with values of no meaning between the rows and the images.
inline void convolve(const Padded& p, const float* padded, const float* weight, float* line,
                     int64_t images) {
  const int64_t length = p.length(images);
  switch (p.kernel) {
    case 1: return convolve_rows<1>(p, padded, weight, line, length);
    case 3: return convolve_3x3(p, padded, weight, line, length);
    case 5: return convolve_rows<5>(p, padded, weight, line, length);
    case 7: return convolve_rows<7>(p, padded, weight, line, length);
    default:
      std::memset(line, 0, length * sizeof(float));
      for (int64_t i = 0; i < p.kernel; ++i) {
        for (int64_t j = 0; j < p.kernel; ++j) {
          convolve_row<1, false>(padded + p.tap(i, j), weight + i * p.kernel + j, line, length);
        }
      }
  }
}

template <int kTaps>
inline void correlate_row(const float* gradient, const float* x, double* sums, int64_t length) {
  float part[kTaps] = {};
  for (int64_t i = 0; i < length; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kTaps; ++j) part[j] += gradient[i] * x[i + j];
  }
  for (int j = 0; j < kTaps; ++j) sums[j] += part[j];
}

inline void correlate_3x3(const Padded& p, const float* gradient, const float* x, double* sums,
                          int64_t length) {
  float a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0, k = 0;
  const float* middle = x + p.tap(1, 0);
  const float* lower = x + p.tap(2, 0);
  for (int64_t i = 0; i < length; ++i) {
    const float v = gradient[i];
    a += v * x[i];
    b += v * x[i + 1];
    c += v * x[i + 2];
    d += v * middle[i];
    e += v * middle[i + 1];
    f += v * middle[i + 2];
    g += v * lower[i];
    h += v * lower[i + 1];
    k += v * lower[i + 2];
  }
  const float parts[9] = {a, b, c, d, e, f, g, h, k};
  for (int i = 0; i < 9; ++i) sums[i] += parts[i];
}

// Adds to `sums` (kernel x kernel) what `images` images give for the gradient of the kernel:
// sum over (n, h, w) of gradient(n, h, w) * x(n, h + i - r, w + j - r). Both are padded, with
// zeros between the gradient's rows.
inline void correlate(const Padded& p, const float* gradient, const float* padded, double* sums,
                      int64_t images) {
  const float* centre = gradient + p.origin();
  // The last row's border would reach past the memory's end, and holds nought.
  const int64_t length = p.length(images) - p.border() * p.row_step() - p.border();
  if (p.kernel == 3) return correlate_3x3(p, centre, padded, sums, length);
  for (int64_t i = 0; i < p.kernel; ++i) {
    const float* x = padded + p.tap(i, 0);
    double* row = sums + i * p.kernel;
    switch (p.kernel) {
      case 5: correlate_row<5>(centre, x, row, length); break;
      case 7: correlate_row<7>(centre, x, row, length); break;
      default:
        for (int64_t j = 0; j < p.kernel; ++j) correlate_row<1>(centre, x + j, row + j, length);
    }
  }
}

// How many images of `size` values are worked on at a time: the nearest cache should hold them and
// what is made of them, and loops should be long.
inline int64_t images_at_once(int64_t size, int64_t images) {
  constexpr int64_t kValues = 2048;
  return std::clamp<int64_t>(kValues / std::max<int64_t>(size, 1), 1, images);
}

}  // namespace ghost
