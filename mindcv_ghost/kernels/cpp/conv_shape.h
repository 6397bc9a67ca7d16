// Shapes of dense convolutions: one group, an odd, square kernel, padded by half of it.
#pragma once

#include "conv_tiles.h"
#include "winograd.h"

namespace ghost {

struct ConvShape {
  int64_t images, in_channels, out_channels, height, width, kernel, stride;

  int64_t out_height() const { return (height - 1) / stride + 1; }
  int64_t out_width() const { return (width - 1) / stride + 1; }
  int64_t in_plane() const { return height * width; }
  int64_t out_plane() const { return out_height() * out_width(); }
  int64_t taps() const { return kernel * kernel; }
  int64_t depth() const { return in_channels * taps(); }

  WinogradShape winograd() const { return {images, in_channels, out_channels, height, width}; }
  // For all three operators alike: channels in and out count the same there.
  bool is_winograd() const { return kernel == 3 && stride == 1 && winograd().is_faster(); }

  Reach reach() const {
    const int64_t border = kernel / 2;
    return {height, width, out_height(), out_width(), stride, -border, -border, kernel, kernel};
  }
};

}  // namespace ghost
