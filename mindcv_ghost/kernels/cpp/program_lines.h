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

// How many positions beyond whole vectors are better columns by themselves: few of them.
inline int64_t columns_of(int64_t positions) {
  constexpr int64_t kMost = 4;
  return positions % kLanes <= kMost ? positions % kLanes : 0;
}

// Where a convolution's inputs at the points of Winograd's algorithm lie: a line of tiles for each
// point and channel, and behind them what are columns by themselves.
class PointLines {
 public:
  PointLines(int64_t points, int64_t channels, int64_t tiles)
      : points_(points),
        channels_(channels),
        columns_(columns_of(tiles)),
        width_(round_up(tiles - columns_, kLanes)) {
    // Points are an odd number of cache lines apart, so that they don't evict each other.
    constexpr int64_t kCacheLine = 16;
    step_ = round_up(channels * width_, kCacheLine);
    step_ += (step_ / kCacheLine + 1) % 2 * kCacheLine;
  }

  int64_t columns() const { return columns_; }
  int64_t width() const { return width_; }  // of a line
  int64_t step() const { return step_; }  // from one point to the next
  int64_t column_step() const { return round_up(channels_, kLanes); }
  int64_t line(int64_t point, int64_t channel) const {
    return point * step_ + channel * width_;
  }
  int64_t column(int64_t point, int64_t i) const {
    return line(points_, 0) + (point * columns_ + i) * column_step();
  }
  int64_t size() const { return column(points_, 0); }

 private:
  int64_t points_, channels_, columns_, width_;
  int64_t step_;
};

// Which positions of a line have a neighbour so many rows and columns away in their map: a word of
// kLanes bits for each vector of the line.
class NeighbourMasks {
 public:
  NeighbourMasks() = default;
  // Neighbours up to so many rows and columns away. With rows = 0 those above and below aren't
  // asked for, because zeros lie there.
  NeighbourMasks(const Line& line, int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns), vectors_(line.vectors() + 4) {
    bits_.assign((2 * rows + 1) * (2 * columns + 1) * vectors_,
                 static_cast<uint16_t>((1u << kLanes) - 1));
    for (int64_t row = -rows; row <= rows; ++row) {
      for (int64_t column = -columns; column <= columns; ++column) clear(line, row, column);
    }
  }

  // Of the whole line.
  const uint16_t* at(int64_t row, int64_t column) const {
    return bits_.data() + place(rows_ == 0 ? 0 : row, column);
  }

 private:
  int64_t place(int64_t row, int64_t column) const {
    return ((row + rows_) * (2 * columns_ + 1) + column + columns_) * vectors_;
  }
  void clear(const Line& line, int64_t row, int64_t column) {
    uint16_t* bits = bits_.data() + place(row, column);
    const int64_t high = std::min(line.height, std::abs(row));
    const int64_t wide = std::min(line.width, std::abs(column));
    for (int64_t n = 0; n < line.images; ++n) {
      for (int64_t h = 0; h < line.height; ++h) {
        const int64_t at = n * line.step + h * line.width;
        const bool outside = row < 0 ? h < high : h >= line.height - high;
        const int64_t first = outside || column < 0 ? 0 : line.width - wide;
        const int64_t count = outside ? line.width : wide;
        for (int64_t i = at + first; i < at + first + count; ++i) {
          bits[i / kLanes] = static_cast<uint16_t>(bits[i / kLanes] & ~(1u << i % kLanes));
        }
      }
    }
  }

  int64_t rows_ = 0, columns_ = 0, vectors_ = 0;
  std::vector<uint16_t> bits_;
};

}  // namespace ghost
