// Shapes of dense convolutions: one group, an odd, square kernel, padded by half of it.
#pragma once

#include "conv_tiles.h"
#include "strided_lines.h"
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
  // most: products of channels in and out above which another algorithm is faster.
  bool is_winograd_1d(int64_t most) const {
    return kernel == 3 && stride == 1 && in_channels * out_channels <= most &&
           winograd().is_faster_1d();
  }
  StridedShape strided() const { return {images, in_channels, out_channels, height, width}; }
  bool is_strided_lines() const { return kernel == 3 && stride == 2 && strided().is_faster(); }

  Reach reach() const {
    const int64_t border = kernel / 2;
    return {height, width, out_height(), out_width(), stride, -border, -border, kernel, kernel};
  }
};

// Up to so many products of channels in and out, winograd_1d.h is faster than winograd.h. At 32 to 16
// channels both take as long with 32 registers; with 16, winograd.h takes 0.8 of the time.
constexpr int64_t kFewProducts = kManyRegisters ? 512 : 128;
// The same for the gradient of the weight: at 32 to 32 channels, one dimension takes half as long.
constexpr int64_t kFewWeightProducts = 1024;

}  // namespace ghost
