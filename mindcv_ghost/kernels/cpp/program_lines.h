// How a program's maps lie in memory: a channel's maps of all images form one line, image after
// image, with zeros between them where a convolution reaches beyond a map.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace ghost {

// A tap is at a constant distance in a line. Taps that would reach into the neighbouring row are
// masked; those above or below a map read zeros.
class Line {
 public:
  Line() = default;
  // reach: rows and columns that convolutions reach beyond a map.
  Line(int64_t images, int64_t height, int64_t width, int64_t reach)
      : images(images), height(height), width(width), reach(reach), step(plane() + reach * width) {
    constexpr int64_t kCacheLine = 16;
    stride = round_up(length() + reach * width + kLanes, kCacheLine);
    // Channels of large maps are an odd number of cache lines apart, so that they don't evict each
    // other.
    if (stride > 8 * kCacheLine) stride += (stride / kCacheLine + 1) % 2 * kCacheLine;
  }

  int64_t images = 0, height = 0, width = 0, reach = 0;
  int64_t step = 0;    // from one image to the next
  int64_t stride = 0;  // from one channel to the next

  int64_t plane() const { return height * width; }
  int64_t length() const { return (images - 1) * step + plane(); }
  int64_t vectors() const { return (length() + kLanes - 1) / kLanes; }
  // Zeros before the first channel; the other channels have those after the channel before.
  int64_t margin() const { return reach == 0 ? 0 : round_up(reach * (width + 1), kLanes); }
  // Memory of so many channels, including what vectors read beyond.
  int64_t size(int64_t channels) const { return 2 * margin() + channels * stride + kLanes; }

};

// Which positions of a line have a neighbour in the same row, for each distance of columns: a word of
// kLanes bits for each vector of the line.
class ColumnMasks {
 public:
  ColumnMasks() = default;
  ColumnMasks(const Line& line, int64_t reach) : reach_(reach), vectors_(line.vectors() + 4) {
    bits_.resize((2 * reach + 1) * vectors_);
    for (int64_t shift = -reach; shift <= reach; ++shift) {
      const int64_t first = std::max<int64_t>(0, -shift);
      const int64_t end = std::min(line.width, line.width - shift);
      uint16_t* row = bits_.data() + (shift + reach) * vectors_;
      for (int64_t n = 0; n < line.images; ++n) {
        for (int64_t h = 0; h < line.height; ++h) {
          for (int64_t w = first; w < end; ++w) {
            const int64_t at = n * line.step + h * line.width + w;
            row[at / kLanes] = static_cast<uint16_t>(row[at / kLanes] | 1u << at % kLanes);
          }
        }
      }
    }
  }

  // Of the whole line, for neighbours `shift` columns to the right.
  const uint16_t* at(int64_t shift) const { return bits_.data() + (shift + reach_) * vectors_; }

 private:
  int64_t reach_ = 0, vectors_ = 0;
  std::vector<uint16_t> bits_;
};

}  // namespace ghost
