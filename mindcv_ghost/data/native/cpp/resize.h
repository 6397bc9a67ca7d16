// Bilinear resizing of a stream of RGB rows, bit for bit as OpenCV does it for MindSpore.
//
// OpenCV interpolates along rows first, with weights of 11 bits, and then along columns; at exactly
// half the size it averages four pixels. There is no antialiasing. Output pixels have four bytes,
// the last of them unused, because vector units load four at once.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace loader {

typedef int32_t Int4 __attribute__((vector_size(16)));

constexpr int kOne = 2048;  // a weight of 1

// An output column or row is the weighted sum of two neighbours.
struct Tap {
  int first, second, weight_first, weight_second;
};

// Taps of outputs [from, from + count) of a line of `in` pixels resized to `out`. Beyond the ends
// columns use the outermost pixel with weight 1; rows keep both weights, on the same pixel.
inline std::vector<Tap> taps(int in, int out, int from, int count, bool columns) {
  std::vector<Tap> result(count);
  const double scale = 1.0 / (static_cast<double>(out) / in);
  for (int k = 0; k < count; ++k) {
    float fraction = static_cast<float>((from + k + 0.5) * scale - 0.5);
    int index = static_cast<int>(std::floor(fraction));
    fraction -= index;
    if (columns && index < 0) index = 0, fraction = 0;
    if (columns && index >= in - 1) index = in - 1, fraction = 0;
    const auto inside = [in](int p) { return p < 0 ? 0 : p >= in ? in - 1 : p; };
    result[k] = {inside(index), inside(index + 1),
                 static_cast<int>(std::lrintf((1.0f - fraction) * kOne)),
                 static_cast<int>(std::lrintf(fraction * kOne))};
  }
  return result;
}

// One thread's memory for resizing. Loops use plain pointers into it: the compiler would reload a
// thread_local variable or a vector's pointer after every store.
struct Scratch {
  std::vector<int32_t> samples;  // of a row, widened at once: faster than pixel by pixel
  std::vector<int32_t> lines;

  // Widens pixels [from, to) of a row to int32; returns where pixel 0 would be.
  const int32_t* widened(const uint8_t* row, int from, int to) {
    const size_t count = 3 * static_cast<size_t>(to - from);
    if (samples.size() < count + 1) samples.resize(count + 1);  // loads read four samples
    int32_t* const wide = samples.data();
    row += 3 * static_cast<size_t>(from);
    for (size_t k = 0; k < count; ++k) wide[k] = row[k];
    return wide - 3 * static_cast<ptrdiff_t>(from);
  }
};

inline Scratch& scratch() {
  static thread_local Scratch memory;
  return memory;
}

inline Int4 load(const int32_t* from) {
  Int4 value;
  std::memcpy(&value, from, 16);
  return value;
}

// Interpolates along a row, which needs its pixels [left, right].
inline void interpolate(const uint8_t* row, const Tap* taps, int width, int left, int right,
                        Scratch* memory, int32_t* line) {
  const int32_t* const wide = memory->widened(row, left, right + 1);
  for (int k = 0; k < width; ++k) {
    const Tap tap = taps[k];
    const Int4 value = load(wide + 3 * tap.first) * tap.weight_first +
                       load(wide + 3 * tap.second) * tap.weight_second;
    std::memcpy(line + 4 * k, &value, 16);
  }
}

// Resizes rows to `to`, an image of rows.size() x columns.size() pixels of four bytes.
//
// next(y) returns row y, or null if it can't be read; y never decreases. A row begins at the pixel
// that the columns' taps count from. Returns false if a row can't be read.
template <class Next>
bool resize_bilinear(Next next, const std::vector<Tap>& columns, const std::vector<Tap>& rows,
                     bool vflip, uint8_t* to) {
  const int width = static_cast<int>(columns.size()), height = static_cast<int>(rows.size());
  Scratch& memory = scratch();
  memory.lines.resize(8 * static_cast<size_t>(width));
  int32_t* lines[2] = {memory.lines.data(), memory.lines.data() + 4 * width};
  const int left = std::min(columns.front().first, columns.back().first);  // either order
  const int right = std::max(columns.front().second, columns.back().second);
  const Tap* const taps = columns.data();
  int held[2] = {-1, -1};
  const auto fetch = [&](int y, int32_t* line) {
    const uint8_t* row = next(y);
    if (!row) return false;
    interpolate(row, taps, width, left, right, &memory, line);
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
    uint8_t* line = to + 4 * static_cast<size_t>(width) * (vflip ? height - 1 - k : k);
    for (int j = 0; j < 4 * width; ++j) {
      const int32_t high = (first * (above[j] >> 4)) >> 16;
      const int32_t low = (second * (below[j] >> 4)) >> 16;
      line[j] = static_cast<uint8_t>((high + low + 2) >> 2);
    }
  }
  return true;
}

// As resize_bilinear, for exactly half the width and half the height: output rows [y, y + height);
// `columns` has the first of the two input pixels of each output column.
template <class Next>
bool resize_half(Next next, const std::vector<int>& columns, int y, int height, bool vflip,
                 uint8_t* to) {
  const int width = static_cast<int>(columns.size());
  Scratch& memory = scratch();
  memory.lines.resize(4 * static_cast<size_t>(width));
  int32_t* const sums = memory.lines.data();
  const int left = std::min(columns.front(), columns.back());
  const int right = std::max(columns.front(), columns.back());
  const int* const firsts = columns.data();
  for (int k = 0; k < height; ++k) {
    for (int part = 0; part < 2; ++part) {
      const uint8_t* row = next(2 * (y + k) + part);
      if (!row) return false;
      const int32_t* const wide = memory.widened(row, left, right + 2);
      for (int j = 0; j < width; ++j) {
        Int4 value = load(wide + 3 * firsts[j]) + load(wide + 3 * firsts[j] + 3);
        if (part) value += load(sums + 4 * j);
        std::memcpy(sums + 4 * j, &value, 16);
      }
    }
    uint8_t* line = to + 4 * static_cast<size_t>(width) * (vflip ? height - 1 - k : k);
    for (int j = 0; j < 4 * width; ++j) line[j] = static_cast<uint8_t>((sums[j] + 2) >> 2);
  }
  return true;
}

}  // namespace loader
