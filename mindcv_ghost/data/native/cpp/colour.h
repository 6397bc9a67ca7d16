// Colour jitter and normalisation of images whose pixels have four bytes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "rng.h"

namespace loader {

inline uint8_t rounded(float value) {
  return static_cast<uint8_t>(static_cast<int>(std::min(std::max(value, 0.0f), 255.0f) + 0.5f));
}

inline int grey(const uint8_t* p) {  // OpenCV's weights, of 14 bits
  return (4899 * p[0] + 9617 * p[1] + 1868 * p[2] + 8192) >> 14;
}

// Changes brightness, contrast and saturation by random factors in [1 - strength, 1 + strength] and
// in random order, as MindSpore's RandomColorAdjust does.
inline void jitter_colours(uint8_t* pixels, int64_t count, const double strength[3], Rng* rng) {
  const auto scale = [=](float factor, float add) {
    for (int64_t k = 0; k < 4 * count; ++k) pixels[k] = rounded(pixels[k] * factor + add);
  };
  int order[3] = {0, 1, 2};
  for (int k = 2; k > 0; --k) std::swap(order[k], order[rng->below(k + 1)]);
  for (int which : order) {
    const double most = strength[which];
    const float factor = static_cast<float>(rng->uniform(std::max(0.0, 1 - most), 1 + most));
    if (most <= 0) continue;
    if (which == 0) {
      scale(factor, 0);
    } else if (which == 1) {
      int64_t sum = 0;
      for (int64_t k = 0; k < count; ++k) sum += grey(pixels + 4 * k);
      const float mean = std::floor(static_cast<double>(sum) / count + 0.5);
      scale(factor, mean * (1 - factor));
    } else {
      for (int64_t k = 0; k < count; ++k) {
        uint8_t* p = pixels + 4 * k;
        const float rest = grey(p) * (1 - factor);
        for (int c = 0; c < 4; ++c) p[c] = rounded(p[c] * factor + rest);
      }
    }
  }
}

// (value - mean) / std of `count` pixels into floats (3, count).
inline void normalize(const uint8_t* pixels, int64_t count, const float mean[3],
                      const float std[3], float* planes) {
  for (int c = 0; c < 3; ++c) {
    const float m = mean[c], d = std[c];
    float* plane = planes + c * count;
    for (int64_t k = 0; k < count; ++k) plane[k] = (pixels[4 * k + c] - m) / d;
  }
}

}  // namespace loader
