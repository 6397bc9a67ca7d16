// Convolutions of 3x3 with stride 2 of few channels and small maps, and the gradient of their
// input, as products of lines (line_product.h): the maps are split by the parity of their rows and
// columns into four lines each, in which a tap is at the same distance for all outputs.
#pragma once

#include <algorithm>
#include <vector>

#include "line_product.h"
#include "planes.h"
#include "thread_pool.h"

namespace ghost {

// Fetches rows of planes that will be written, while their values are computed.
inline void prefetch_planes(float* first, int64_t planes, int64_t plane, int64_t images,
                            int64_t step) {
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t i = 0; i < planes * plane; i += 16) __builtin_prefetch(first + n * step + i, 1, 2);
  }
}

struct StridedShape {
  int64_t images, in_channels, out_channels, height, width;

  int64_t out_height() const { return (height + 1) / 2; }
  int64_t out_width() const { return (width + 1) / 2; }
  int64_t in_plane() const { return height * width; }
  int64_t out_plane() const { return out_height() * out_width(); }
  int64_t depth() const { return 9 * in_channels; }

  // Whether this is faster than conv_tiles.h: an image's lines must fit the L2 cache.
  bool is_faster() const {
    const int64_t most = std::max(4 * in_channels, out_channels);
    return in_channels * out_channels <= 2048 && most * out_plane() <= 64 << 10;
  }
};

// Positions of some images' outputs in a line: a row of outputs is followed by a zero, and an image's
// last row by a row of zeros.
struct StridedLine {
  const StridedShape& q;
  int64_t images;

  // As many images as make a line of about 300 positions.
  static StridedLine of(const StridedShape& q) {
    const StridedLine one = {q, 1};
    return {q, std::clamp<int64_t>(300 / one.image(), 1, q.images)};
  }
  int64_t pitch() const { return q.out_width() + 1; }
  int64_t image() const { return (q.out_height() + 1) * pitch(); }
  int64_t length() const { return images * image(); }
  int64_t vectors() const { return (length() + kLanes - 1) / kLanes; }
  int64_t blocks() const { return (q.images + images - 1) / images; }
  // From a line to the next: taps reach a row and a value further. An odd number of cache lines.
  int64_t step() const { return (vectors() * kLanes + pitch() + 1 + 15) / 16 / 2 * 32 + 16; }

  // What tap (a, b) reads for the first output: the line of its parity, and the distance in it.
  int64_t tap(int64_t a, int64_t b) const {
    return (a % 2 * 2 + b % 2) * step() + a / 2 * pitch() + b / 2;
  }

  // x, the first image's plane of a channel, to its four lines; channels' planes of an image follow
  // each other, `channels` of them.
  void split(const float* x, int64_t channels, int64_t there, float* to) const {
    for (int64_t phase = 0; phase < 4; ++phase) {
      float* end = to + phase * step() + there * image();
      std::memset(end, 0, (step() - there * image()) * sizeof(float));
    }
    with_width(q.width, [&](auto width) {
      for (int64_t n = 0; n < there; ++n) {
        const float* plane = x + n * channels * q.in_plane();
        prefetch(plane + kAhead * q.in_plane(), q.in_plane());
        for (int64_t i = 0; i <= q.out_height(); ++i) {
          float* rows = to + n * image() + i * pitch();
          for (int64_t a = 0; a < 2; ++a, rows += 2 * step()) {
            const int64_t row = 2 * i - 1 + a;
            const bool inside = row >= 0 && row < q.height;
            split_row(inside ? plane + row * q.width : nullptr, width, rows, rows + step());
          }
        }
      }
    });
  }

  // dy, the first image's plane of a channel, to its line.
  void spread(const float* dy, int64_t channels, int64_t there, float* to) const {
    std::memset(to + there * image(), 0, (step() - there * image()) * sizeof(float));
    with_width(q.out_width(), [&](auto width) {
      for (int64_t n = 0; n < there; ++n) {
        const float* plane = dy + n * channels * q.out_plane();
        prefetch(plane + kAhead * q.out_plane(), q.out_plane());
        float* rows = to + n * image();
        for (int64_t h = 0; h < q.out_height(); ++h, rows += width + 1, plane += width) {
          std::memcpy(rows, plane, width * sizeof(float));
          rows[width] = 0;
        }
        std::memset(rows, 0, pitch() * sizeof(float));
      }
    });
  }

  // The reverse of spread.
  void gather(const float* from, int64_t channels, int64_t there, float* y) const {
    with_width(q.out_width(), [&](auto width) {
      for (int64_t n = 0; n < there; ++n) {
        float* plane = y + n * channels * q.out_plane();
        const float* rows = from + n * image();
        for (int64_t h = 0; h < q.out_height(); ++h, rows += width + 1, plane += width) {
          std::memcpy(plane, rows, width * sizeof(float));
        }
      }
    });
  }

  // The gradient of x from its four parities, `from` and `step` apart, plus `other` unless it is null.
  void join(const float* from, int64_t from_step, int64_t channels, int64_t there,
            const float* other, float* x) const {
    with_width(q.width, [&](auto width) {
      for (int64_t n = 0; n < there; ++n) {
        const int64_t at = n * channels * q.in_plane();
        for (int64_t h = 0; h < q.height; ++h) {
          const float* even = from + h % 2 * 2 * from_step + n * image() + h / 2 * pitch();
          const float* add = other == nullptr ? nullptr : other + at + h * q.width;
          join_row(even, even + from_step, add, width, x + at + h * q.width);
        }
      }
    });
  }

 private:
  static constexpr int64_t kAhead = 2;  // channels; the processor's own prefetching ends with a plane

  static void prefetch(const float* plane, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(plane + i);
  }

  // A padded row's even columns, the first of which is padding, and its odd ones; null: zeros.
  template <typename Width>
  static void split_row(const float* __restrict row, Width width, float* __restrict even,
                        float* __restrict odd) {
    const int64_t pairs = width / 2, pitch = (width + 1) / 2 + 1;
    if (row == nullptr) {
      std::memset(even, 0, pitch * sizeof(float));
      std::memset(odd, 0, pitch * sizeof(float));
      return;
    }
    even[0] = odd[pitch - 1] = even[pitch - 1] = 0;
    for (int64_t j = 0; j < pairs; ++j) {
      odd[j] = row[2 * j];
      even[j + 1] = row[2 * j + 1];
    }
    if (width % 2 == 1) odd[pairs] = row[width - 1];
  }

  template <typename Width>
  static void join_row(const float* __restrict even, const float* __restrict odd,
                       const float* __restrict other, Width width, float* __restrict to) {
    interleave(to, even, odd, width / 2);
    if (width % 2 == 1) to[width - 1] = even[width / 2];
    if (other == nullptr) return;
    for (int64_t i = 0; i < width; ++i) to[i] += other[i];
  }
};

// Calls body(first image, images there) for all blocks of images, on all threads.
template <typename Body>
inline void parallel_blocks(const StridedLine& line, const Body& body) {
  parallel(line.blocks(), [&](int64_t block) {
    const int64_t first = block * line.images;
    body(first, std::min(line.images, line.q.images - first));
  });
}

inline void strided_forward(const StridedShape& q, const float* x, const float* weight, float* y) {
  const StridedLine line = StridedLine::of(q);
  const int64_t depth = q.depth(), step = line.step();
  WholeScratch whole(q.out_channels * depth, 1);
  float* packed = whole.take(q.out_channels * depth);
  for_line_rows(q.out_channels, [&](int64_t row, int64_t rows) {
    pack_rows(weight + row * depth, depth, 1, rows, depth, packed + row * depth);
  });
  std::vector<int64_t> at(depth);
  for (int64_t k = 0; k < depth; ++k) at[k] = k / 9 * 4 * step + line.tap(k % 9 / 3, k % 3);
  parallel_blocks(line, [&](int64_t first, int64_t there) {
    Scratch scratch((4 * q.in_channels + kLineRows) * step, 2);
    float* inputs = scratch.take(4 * q.in_channels * step);
    float* products = scratch.take(kLineRows * step);
    for (int64_t c = 0; c < q.in_channels; ++c) {
      line.split(x + (first * q.in_channels + c) * q.in_plane(), q.in_channels, there,
                 inputs + 4 * c * step);
    }
    for_line_rows(q.out_channels, [&](int64_t row, int64_t rows) {
      prefetch_planes(y + (first * q.out_channels + row) * q.out_plane(), rows, q.out_plane(),
                      there, q.out_channels * q.out_plane());
      line_product(packed + row * depth, rows, inputs, at.data(), depth, line.vectors(), products,
                   step);
      for (int64_t r = 0; r < rows; ++r) {
        line.gather(products + r * step, q.out_channels, there,
                    y + (first * q.out_channels + row + r) * q.out_plane());
      }
    });
  });
}

// The products that give the gradient of inputs of one parity of rows and of columns. Of an even row
// the kernel's middle row sees an output's row; of an odd one, its last row sees that and its first
// row the next.
struct StridedPhase {
  int64_t taps;
  std::vector<int64_t> at;
  std::vector<float> weights;

  StridedPhase(const StridedLine& line, const float* weight, int64_t row, int64_t column)
      : taps((1 + row) * (1 + column)) {
    const StridedShape& q = line.q;
    const int64_t depth = q.out_channels * taps;
    weights.resize(q.in_channels * depth);
    for (int64_t k = 0; k < depth; ++k) {
      const int64_t o = k / taps, i = k % taps / (1 + column), j = k % (1 + column);
      const int64_t tap = 3 * (row == 0 ? 1 : 2 - 2 * i) + (column == 0 ? 1 : 2 - 2 * j);
      at.push_back(o * line.step() + i * line.pitch() + j);
      for (int64_t c = 0; c < q.in_channels; ++c) {
        weights[line_weight(c, k, q.in_channels, depth)] = weight[(o * q.in_channels + c) * 9 + tap];
      }
    }
  }
};

inline void strided_backward_input(const StridedShape& q, const float* dy, const float* weight,
                                   const float* other, float* dx) {
  const StridedLine line = StridedLine::of(q);
  const int64_t step = line.step();
  std::vector<StridedPhase> phases;
  for (int64_t phase = 0; phase < 4; ++phase) {
    phases.emplace_back(line, weight, phase / 2, phase % 2);
  }
  parallel_blocks(line, [&](int64_t first, int64_t there) {
    Scratch scratch((q.out_channels + 4 * kLineRows) * step, 2);
    float* gradients = scratch.take(q.out_channels * step);
    float* products = scratch.take(4 * kLineRows * step);
    for (int64_t o = 0; o < q.out_channels; ++o) {
      line.spread(dy + (first * q.out_channels + o) * q.out_plane(), q.out_channels, there,
                  gradients + o * step);
    }
    for_line_rows(q.in_channels, [&](int64_t row, int64_t rows) {
      prefetch_planes(dx + (first * q.in_channels + row) * q.in_plane(), rows, q.in_plane(), there,
                      q.in_channels * q.in_plane());
      for (int64_t phase = 0; phase < 4; ++phase) {
        const StridedPhase& p = phases[phase];
        const int64_t depth = q.out_channels * p.taps;
        line_product(p.weights.data() + row * depth, rows, gradients, p.at.data(), depth,
                     line.vectors(), products + phase * kLineRows * step, step);
      }
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t place = (first * q.in_channels + row + r) * q.in_plane();
        line.join(products + r * step, kLineRows * step, q.in_channels, there,
                  other == nullptr ? nullptr : other + place, dx + place);
      }
    });
  });
}

}  // namespace ghost
