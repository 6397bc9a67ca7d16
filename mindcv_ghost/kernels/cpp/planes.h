// Loops over the values of one channel: statistics, scaling, writing.
//
// Written for the compiler's vectoriser. ReLU is written `v < 0 ? 0 : v`, so that a NaN stays a NaN.
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

// Mean and variance of values that are added run by run: computed in two passes within a block that
// fits the L1 cache, and combined in double by Chan's formula.
class StatisticsAccumulator {
 public:
  void add(const float* x, int64_t count) {
    constexpr int64_t kBlock = 2048;
    for (int64_t i = 0; i < count; i += kBlock) add_block(x + i, std::min(kBlock, count - i));
  }
  // Adds `count` values, given their mean and the sum of squared deviations from it.
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
  void add_block(const float* x, int64_t count) {
    Sums<1> all;
    all.add(count, [x](int64_t i, int64_t n, Vector* sums) { sums[0] += load_first(x + i, n); });
    const float middle = all.get(0) / count;
    Sums<2> around;  // the sum of distances is the rounding error of the mean
    around.add(count, [=](int64_t i, int64_t n, Vector* sums) {
      const Vector distance = first_lanes(load_first(x + i, n) - middle, n);
      sums[0] += distance;
      sums[1] += distance * distance;
    });
    const double rest = around.get(0), correction = rest / count;
    merge(middle + correction, around.get(1) - correction * rest, count);
  }

  double mean_ = 0, squares_ = 0;
  int64_t count_ = 0;
};

inline Statistics statistics_of(const float* x, int64_t count) {
  StatisticsAccumulator all;
  all.add(x, count);
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

// A running statistic after an update, in which the batch's value has the weight `share`.
inline float updated(float running, float batch, float share) {
  return running + share * (batch - running);
}

inline float unbiased(float variance, int64_t count) {
  return count > 1 ? variance * (static_cast<float>(count) / (count - 1)) : variance;
}

template <typename Value>
inline Value relu_of(Value v) {
  return v < Value{} ? Value{} : v;
}

// Calls body(flag) with the flag as a compile-time constant.
template <typename Body>
inline void with_flag(bool flag, const Body& body) {
  flag ? body(std::true_type()) : body(std::false_type());
}

// Writes a map whose values before the activation are at(i, n): unchanged, after a ReLU, or as
// relu(values + other). `streamed`: bypass the caches.
template <typename At>
__attribute__((always_inline)) inline void write_activated(bool relu, const float* other, float* y,
                                                           int64_t count, bool streamed,
                                                           const At& at) {
  if (other != nullptr) {
    write_all(y, count, streamed, [=](int64_t i, int64_t n) {
      return relu_of(opaque(at(i, n)) + load_first(other + i, n));
    });
  } else if (relu) {
    write_all(y, count, streamed, [=](int64_t i, int64_t n) { return relu_of(at(i, n)); });
  } else {
    write_all(y, count, streamed, at);
  }
}

// As write_activated, for affine(x).
inline void write_map(const float* x, Affine a, bool relu, const float* other, float* y,
                      int64_t count, bool streamed) {
  write_activated(relu, other, y, count, streamed, [=](int64_t i, int64_t n) {
    return load_first(x + i, n) * a.scale + a.shift;
  });
}

// Calls rows(width) with common widths as compile-time constants, which helps short rows most.
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

// How many images of `size` values to process at a time: the L1 cache should hold them and their
// results, and loops should be long.
inline int64_t images_at_once(int64_t size, int64_t images) {
  constexpr int64_t kValues = 2048;
  return std::clamp<int64_t>(kValues / std::max<int64_t>(size, 1), 1, images);
}

}  // namespace ghost
