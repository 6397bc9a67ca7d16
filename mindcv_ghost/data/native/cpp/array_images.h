// Small images of one size in memory: padded random crop, flip, and a table of each byte's value.
#pragma once

#include <cstdint>

#include "rng.h"

namespace loader {

// array_images.py has the same structure.
struct ArraySettings {
  int32_t channels, height, width;
  int32_t padding;     // zeros on each side, of which a crop of the image's size is taken
  int64_t strides[3];  // bytes from a channel, row or column to the next
  double hflip;        // probability
};

// Makes floats (channels, height, width) of an image. `table` has the values of the 256 bytes, a row
// for each channel. The image alone and its seed decide the result.
inline void array_image(const ArraySettings& s, const uint8_t* image, uint64_t seed,
                        const float* table, float* out) {
  Rng rng(seed);
  int top = 0, left = 0;
  if (s.padding > 0) {
    top = rng.below(2 * s.padding + 1) - s.padding;
    left = rng.below(2 * s.padding + 1) - s.padding;
  }
  const bool flip = rng.uniform(0, 1) < s.hflip;
  for (int c = 0; c < s.channels; ++c, table += 256) {
    for (int y = 0; y < s.height; ++y, out += s.width) {
      const int row = top + y;
      for (int x = 0; x < s.width; ++x) {
        const int column = left + (flip ? s.width - 1 - x : x);
        const bool inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
        const int64_t at = c * s.strides[0] + row * s.strides[1] + column * s.strides[2];
        out[x] = table[inside ? image[at] : 0];
      }
    }
  }
}

}  // namespace loader
