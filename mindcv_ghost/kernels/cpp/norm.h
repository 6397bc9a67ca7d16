// One batch normalisation: its inputs, the statistics that it saves, its backward pass.
#pragma once

#include <cmath>
#include <cstdint>

#include "planes.h"

namespace ghost {

// The parameters of a BN; mean and variance are the running ones, which only evaluation reads.
struct Norm {
  const float *gamma, *beta, *mean, *variance;
  float epsilon;

  Affine of_batch(Statistics s, int64_t c) const { return affine(s, epsilon, gamma[c], beta[c]); }
  Affine of_running(int64_t c) const {
    return affine({mean[c], variance[c]}, epsilon, gamma[c], beta[c]);
  }
};

// Where the forward pass puts the batch's statistics.
struct NormOutput {
  float *mean, *variance;

  void set(int64_t c, Statistics s) const {
    mean[c] = s.mean;
    variance[c] = s.variance;
  }
};

// Backward pass of BN(x): add() takes the incoming gradient d, in which values that a ReLU after the
// BN blocks are zero already; line() then gives the gradient of x.
class NormBackward {
 public:
  NormBackward(const Norm& norm, int64_t c, Statistics s)
      : a_(norm.of_batch(s, c)),
        mean_(s.mean),
        inverse_(1 / std::sqrt(s.variance + norm.epsilon)) {}

  void add(const float* x, const float* d, int64_t count) {
    Sums<2> of;
    const float mean = mean_;
    of.add(count, [=](int64_t i, int64_t n, Vector* sums) {
      const Vector values = load_first(d + i, n);
      sums[0] += values;
      sums[1] += values * (load_first(x + i, n) - mean);
    });
    add_sums(of.get(1), of.get(0), count);
  }
  // Adds `count` values, given their sums of d * (x - mean) and of d.
  void add_sums(float with_x, float alone, int64_t count) {
    with_x_ += with_x;
    alone_ += alone;
    count_ += count;
  }

  Affine affine() const { return a_; }
  float mean() const { return mean_; }
  float gamma() const { return static_cast<float>(with_x_) * inverse_; }
  float beta() const { return static_cast<float>(alone_); }

  // dx = scale * (d - x * slope - shift)
  struct Line {
    float scale, slope, shift;

    template <typename Value>
    Value at(Value x, Value d) const {
      return scale * (d - x * slope - shift);
    }
    void write(const float* x, const float* d, float* dx, int64_t count, bool streamed) const {
      write_all(dx, count, streamed, [=, *this](int64_t i, int64_t n) {
        return at(load_first(x + i, n), load_first(d + i, n));
      });
    }
  };
  Line line() const {
    const float slope = static_cast<float>(with_x_ / count_) * inverse_ * inverse_;
    return {a_.scale, slope, static_cast<float>(alone_ / count_) - mean_ * slope};
  }

 private:
  Affine a_;
  float mean_, inverse_;
  double with_x_ = 0, alone_ = 0;
  int64_t count_ = 0;
};

}  // namespace ghost
