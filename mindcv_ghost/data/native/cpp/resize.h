// Bilinear scaling of a stream of RGB rows, digit for digit as OpenCV does it for MindSpore.
//
// OpenCV interpolates columns first, with weights of 11 bits, and then rows; at exactly half the
// size it takes the mean of four pixels. Nothing is smoothed before. Pixels come out as four bytes,
// the last of them without meaning, because vector units like fours.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace loader {

typedef int32_t Int4 __attribute__((vector_size(16)));

constexpr int kOne = 2048;  // a weight of 1

// Where an output column or row comes from: two neighbours and their weights.
struct Tap {
  int first, second, weight_first, weight_second;
};

// Taps of outputs [from, from + count) of a line of `in` pixels scaled to `out`. Beyond the ends
// columns have the outermost pixel alone; rows keep both weights, on the same pixel.
inline std::vector<Tap> taps(int in, int out, int from, int count, bool columns) {
  std::vector<Tap> made(count);
  const double scale = 1.0 / (static_cast<double>(out) / in);
  for (int k = 0; k < count; ++k) {
    float part = static_cast<float>((from + k + 0.5) * scale - 0.5);
    int place = static_cast<int>(std::floor(part));
    part -= place;
    if (columns && place < 0) place = 0, part = 0;
    if (columns && place >= in - 1) place = in - 1, part = 0;
    const auto inside = [in](int p) { return p < 0 ? 0 : p >= in ? in - 1 : p; };
    made[k] = {inside(place), inside(place + 1),
               static_cast<int>(std::lrintf((1.0f - part) * kOne)),
               static_cast<int>(std::lrintf(part * kOne))};
  }
  return made;
}

// One row's samples as integers: vector units turn bytes into them by the line much faster than by
// the pixel.
class WideRow {
 public:
  // Takes samples of pixels [from, to) of a row.
  void take(const uint8_t* row, int from, int to) {
    const size_t count = 3 * static_cast<size_t>(to - from);
    samples_.resize(count + 1);  // pixels are read by four
    row += 3 * static_cast<size_t>(from);
    for (size_t k = 0; k < count; ++k) samples_[k] = row[k];
    from_ = from;
  }
  Int4 pixel(int place) const {
    Int4 value;
    std::memcpy(&value, &samples_[3 * static_cast<size_t>(place - from_)], 16);
    return value;
  }

 private:
  std::vector<int32_t> samples_;
  int from_ = 0;
};

// Scales rows to `to`, a picture of `rows.size() x columns.size()` pixels of four bytes.
//
// next(y) gives row y; it is asked for rising y. A row begins at the pixel that column taps count
// from. Gives false if a row can't be had.
template <class Next>
bool resize_bilinear(Next next, const std::vector<Tap>& columns, const std::vector<Tap>& rows,
                     bool upside_down, uint8_t* to) {
  const int width = static_cast<int>(columns.size()), height = static_cast<int>(rows.size());
  // thread_local, so that nothing is allocated, and nothing lost if libjpeg jumps.
  static thread_local std::vector<int32_t> buffer;
  static thread_local WideRow wide;
  buffer.resize(8 * static_cast<size_t>(width));
  const auto ends = std::minmax(columns.front().first, columns.back().first);  // columns rise or fall
  const int last = std::max(columns.front().second, columns.back().second);
  int32_t* lines[2] = {buffer.data(), buffer.data() + 4 * width};
  int held[2] = {-1, -1};
  const auto fetch = [&](int y, int32_t* line) {
    const uint8_t* row = next(y);
    if (!row) return false;
    wide.take(row, ends.first, last + 1);
    for (int k = 0; k < width; ++k) {
      const Tap& tap = columns[k];
      const Int4 value =
          wide.pixel(tap.first) * tap.weight_first + wide.pixel(tap.second) * tap.weight_second;
      std::memcpy(line + 4 * k, &value, 16);
    }
    return true;
  };
  for (int k = 0; k < height; ++k) {
    const Tap& tap = rows[k];
    if (held[0] != tap.first) {
      if (held[1] == tap.first) {
        std::swap(lines[0], lines[1]);
        std::swap(held[0], held[1]);
      } else if (!fetch(tap.first, lines[0])) {
        return false;
      } else {
        held[0] = tap.first;
      }
    }
    if (tap.second != tap.first && held[1] != tap.second) {
      if (!fetch(tap.second, lines[1])) return false;
      held[1] = tap.second;
    }
    const int32_t* above = lines[0];
    const int32_t* below = tap.second == tap.first ? lines[0] : lines[1];
    const int32_t first = tap.weight_first, second = tap.weight_second;
    uint8_t* line = to + 4 * static_cast<size_t>(width) * (upside_down ? height - 1 - k : k);
    for (int j = 0; j < 4 * width; ++j) {
      const int32_t high = (first * (above[j] >> 4)) >> 16;
      const int32_t low = (second * (below[j] >> 4)) >> 16;
      line[j] = static_cast<uint8_t>((high + low + 2) >> 2);
    }
  }
  return true;
}

// As resize_bilinear, for exactly half the width and half the height: outputs [y, y + height) and
// the given columns (a tap's first pixel, and the one beside it).
template <class Next>
bool resize_half(Next next, const std::vector<int>& columns, int y, int height, bool upside_down,
                 uint8_t* to) {
  const int width = static_cast<int>(columns.size());
  static thread_local std::vector<int32_t> buffer;
  static thread_local WideRow wide;
  buffer.resize(4 * static_cast<size_t>(width));
  const auto ends = std::minmax(columns.front(), columns.back());
  for (int k = 0; k < height; ++k) {
    for (int part = 0; part < 2; ++part) {
      const uint8_t* row = next(2 * (y + k) + part);
      if (!row) return false;
      wide.take(row, ends.first, ends.second + 2);
      for (int j = 0; j < width; ++j) {
        Int4 value = wide.pixel(columns[j]) + wide.pixel(columns[j] + 1);
        Int4 before = {};
        if (part) std::memcpy(&before, &buffer[4 * j], 16);
        value += before;
        std::memcpy(&buffer[4 * j], &value, 16);
      }
    }
    uint8_t* line = to + 4 * static_cast<size_t>(width) * (upside_down ? height - 1 - k : k);
    for (int j = 0; j < 4 * width; ++j) line[j] = static_cast<uint8_t>((buffer[j] + 2) >> 2);
  }
  return true;
}

}  // namespace loader
