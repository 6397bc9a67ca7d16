// Softmax cross entropy of logits with class indices, computed in double: exp and its sums then round
// the loss to the same float32 however the work is split.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "thread_pool.h"

namespace ghost {

struct CrossEntropyShape {
  int64_t rows, classes;
  double smoothing;  // share of the target that is spread over all classes
  bool mean;         // or the sum
};

// A row whose label is this one counts for nothing, as in MindSpore's cross_entropy.
constexpr float kIgnoredLabel = -100;

// How many rows count.
inline int64_t counted_rows(const CrossEntropyShape& q, const float* labels) {
  return q.rows - std::count(labels, labels + q.rows, kIgnoredLabel);
}

// The logarithm of the sum of all exponentials; NaN if there is no such class.
inline double log_of_sum(const CrossEntropyShape& q, const float* logits, float label) {
  if (!(label >= 0 && label < static_cast<float>(q.classes))) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const double most = *std::max_element(logits, logits + q.classes);
  double sum = 0;
  for (int64_t i = 0; i < q.classes; ++i) sum += std::exp(logits[i] - most);
  return most + std::log(sum);
}

// logits (rows, classes), labels (rows), integers -> the loss.
inline float cross_entropy_forward(const CrossEntropyShape& q, const float* logits,
                                   const float* labels) {
  std::vector<double> losses(q.rows, 0);
  for_maps(q.rows, q.classes, [&](int64_t row) {
    if (labels[row] == kIgnoredLabel) return;
    const float* x = logits + row * q.classes;
    const double all = log_of_sum(q, x, labels[row]);
    if (std::isnan(all)) return losses[row] = all, void();
    double sum = 0;
    if (q.smoothing > 0) {
      for (int64_t i = 0; i < q.classes; ++i) sum += x[i];
    }
    const double of_label = all - x[static_cast<int64_t>(labels[row])];
    losses[row] = (1 - q.smoothing) * of_label + q.smoothing * (all - sum / q.classes);
  });
  double loss = 0;
  for (double each : losses) loss += each;
  return static_cast<float>(q.mean ? loss / counted_rows(q, labels) : loss);
}

// The logits' gradient, given the loss's.
inline void cross_entropy_backward(const CrossEntropyShape& q, const float* logits,
                                   const float* labels, float dloss, float* dlogits) {
  const double factor = q.mean ? dloss / static_cast<double>(counted_rows(q, labels)) : dloss;
  for_maps(q.rows, q.classes, [&](int64_t row) {
    const float* x = logits + row * q.classes;
    float* dx = dlogits + row * q.classes;
    if (labels[row] == kIgnoredLabel) return std::fill_n(dx, q.classes, 0.0f), void();
    const double all = log_of_sum(q, x, labels[row]);
    const int64_t label = std::isnan(all) ? -1 : static_cast<int64_t>(labels[row]);
    for (int64_t i = 0; i < q.classes; ++i) {
      const double target = q.smoothing / q.classes + (i == label ? 1 - q.smoothing : 0);
      dx[i] = static_cast<float>(factor * (std::exp(x[i] - all) - target));
    }
  });
}

}  // namespace ghost
