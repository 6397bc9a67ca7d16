// Bilinear scaling of a stream of RGB rows, digit for digit as OpenCV does it for MindSpore.
//
// OpenCV interpolates columns first, with weights of 11 bits, and then rows; at exactly half the
// size it takes the mean of four pixels. Nothing is smoothed before. Pixels come out as four bytes,
// the last of them without meaning, because vector units like fours.
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

// Memory of one thread for one scaling. Loops take plain pointers into it: what is thread_local or
// in a vector would be looked up again after every store.
struct Scratch {
  std::vector<int32_t> samples;  // of a row; vector units widen bytes by the line, not by the pixel
  std::vector<int32_t> lines;

  // Widens pixels [from, to) of a row; gives where pixel 0 would be.
  const int32_t* widened(const uint8_t* row, int from, int to) {
    const size_t count = 3 * static_cast<size_t>(to - from);
    if (samples.size() < count + 1) samples.resize(count + 1);  // pixels are read by four
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

// Interpolates the columns of a row, which needs its pixels [left, right].
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

// Scales rows to `to`, a picture of `rows.size() x columns.size()` pixels of four bytes.
//
// next(y) gives row y; it is asked for rising y. A row begins at the pixel that column taps count
// from. Gives false if a row can't be had.
template <class Next>
bool resize_bilinear(Next next, const std::vector<Tap>& columns, const std::vector<Tap>& rows,
                     bool upside_down, uint8_t* to) {
  const int width = static_cast<int>(columns.size()), height = static_cast<int>(rows.size());
  Scratch& memory = scratch();
  memory.lines.resize(8 * static_cast<size_t>(width));
  int32_t* lines[2] = {memory.lines.data(), memory.lines.data() + 4 * width};
  const int left = std::min(columns.front().first, columns.back().first);  // they rise or fall
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
  Scratch& memory = scratch();
  memory.lines.resize(4 * static_cast<size_t>(width));
  int32_t* const sums = memory.lines.data();
  const int left = std::min(columns.front(), columns.back());
  const int right = std::max(columns.front(), columns.back());
  const int* const places = columns.data();
  for (int k = 0; k < height; ++k) {
    for (int part = 0; part < 2; ++part) {
      const uint8_t* row = next(2 * (y + k) + part);
      if (!row) return false;
      const int32_t* const wide = memory.widened(row, left, right + 2);
      for (int j = 0; j < width; ++j) {
        Int4 value = load(wide + 3 * places[j]) + load(wide + 3 * places[j] + 3);
        if (part) value += load(sums + 4 * j);
        std::memcpy(sums + 4 * j, &value, 16);
      }
    }
    uint8_t* line = to + 4 * static_cast<size_t>(width) * (upside_down ? height - 1 - k : k);
    for (int j = 0; j < 4 * width; ++j) line[j] = static_cast<uint8_t>((sums[j] + 2) >> 2);
  }
  return true;
}

}  // namespace loader
