// Dense convolutions of a program, with what follows them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "program_finish.h"
#include "program_shuffles.h"

namespace ghost {

// Copies every second value of a row from the first and, unless `odd` is null, from the second one
// on. Whole vectors are written, with zeros after the last value.
inline void copy_halves(const float* row, int64_t width, float* even, float* odd) {
  for (int64_t w = 0; w < width; w += 2 * kLanes) {
    Vector a = load_first(row + w, std::min<int64_t>(kLanes, width - w)), b = {};
    if (width - w > kLanes) {
      b = load_first(row + w + kLanes, std::min<int64_t>(kLanes, width - w - kLanes));
    }
    split_pairs(&a, &b);
    store(even + w / 2, a);
    if (odd != nullptr) store(odd + w / 2, b);
  }
}

// Copies a channel of the input into lines from which each tap reads neighbouring values: one line
// for each row and column modulo the stride.
inline void gather_channel(const Run& run, const PlannedStep& p, int64_t c) {
  const Map &in = run.input(p), &to = run.plan.map(p.gathered);
  const int64_t stride = p.step.stride, sides = p.kernel == 1 ? 1 : stride;
  const Line &from = in.line, &line = to.line;
  float* start = to.channel(c * sides * sides);
  if (c == 0) std::memset(to.data - line.margin(), 0, line.margin() * sizeof(float));
  std::memset(start, 0, sides * sides * line.stride * sizeof(float));
  for (int64_t n = 0; n < from.images; ++n) {
    const float* x = p.step.input == 0 ? run.images + (n * in.channels + c) * from.plane()
                                       : in.channel(c) + n * from.step;
    // Of a row, vectors may reach beyond its end, where the next one follows.
    for (int64_t h = 0; h < from.height; ++h) {
      if (h % stride >= sides) continue;
      const float* row = x + h * from.width;
      float* y = start + h % stride * sides * line.stride + n * line.step + h / stride * line.width;
      if (stride == 2) {
        copy_halves(row, from.width, y, sides == 1 ? nullptr : y + line.stride);
        continue;
      }
      if (stride == 1) copy(y, row, from.width);
      for (int64_t column = 0; stride > 1 && column < sides; ++column, y += line.stride) {
        for (int64_t w = column, i = 0; w < from.width; w += stride, ++i) y[i] = row[w];
      }
    }
  }
}

// The taps of a kernel, as distances in the lines that a product reads.
inline std::vector<Tap> taps_of(const PlannedStep& p, const Map& source,
                                const NeighbourMasks& masks) {
  std::vector<Tap> taps;
  const int64_t stride = p.gathered == -1 ? 1 : p.step.stride, sides = p.kernel == 1 ? 1 : stride;
  const auto down = [&](int64_t i) { return (i - (i < 0 ? stride - 1 : 0)) / stride; };
  for (int64_t h = -(p.kernel / 2); h <= p.kernel / 2; ++h) {
    for (int64_t w = -(p.kernel / 2); w <= p.kernel / 2; ++w) {
      const int64_t row = down(h), column = down(w);
      const int64_t part = (h - row * stride) * sides + (w - column * stride);
      taps.push_back({part * source.line.stride + row * source.line.width + column,
                      masks.at(0, column)});
    }
  }
  return taps;
}

// A product divided into ranges of its positions and groups of its rows. Ranges have a multiple of
// three vectors, but for the last one.
class Split {
 public:
  Split(int64_t depth, int64_t vectors, int64_t blocks) : vectors_(vectors), blocks_(blocks) {
    constexpr int64_t kValues = 96 << 10;
    const int64_t fitting = std::max<int64_t>(3, kValues / (depth * kLanes) / 3 * 3);
    const int64_t ranges = (vectors + fitting - 1) / fitting;
    range_ = round_up((vectors + ranges - 1) / ranges, 3);
    ranges_ = (vectors + range_ - 1) / range_;
    const int64_t wanted = 8 * SharedPool::get()->threads();
    groups_ = std::min(blocks, (wanted + ranges_ - 1) / ranges_);
  }

  int64_t parts() const { return ranges_ * groups_; }
  int64_t first(int64_t part) const { return part / groups_ * range_; }
  int64_t end(int64_t part) const { return std::min(vectors_, first(part) + range_); }
  int64_t first_block(int64_t part) const { return part % groups_ * blocks_ / groups_; }
  int64_t end_block(int64_t part) const { return (part % groups_ + 1) * blocks_ / groups_; }

 private:
  int64_t vectors_, blocks_, range_, ranges_, groups_;
};

// What all parts of a convolution share.
struct Convolution {
  const Run& run;
  const PlannedStep& p;
  const Map& source;
  const Line& line;  // of the source
  NeighbourMasks masks;
  Lines x;
  const float* weights;
  int64_t depth, blocks;

  static constexpr int64_t kRows = 8;  // of a block

  Convolution(const Run& run, const PlannedStep& p)
      : run(run),
        p(p),
        source(run.plan.map(p.gathered == -1 ? p.step.input : p.gathered)),
        line(source.line),
        masks(line, 0, p.kernel / 2) {
    const int64_t channels = run.input(p).channels;
    const bool is_three = p.kernel == 3 && source.channels == channels;
    x = {source.data, channels, line.stride * (source.channels / channels),
         taps_of(p, source, masks),
         p.kernel == 1 ? Lines::kPointwise : is_three ? Lines::kThree : Lines::kGeneral};
    weights = run.plan.weight(p.step.weight).data;
    depth = x.depth(), blocks = (p.rows + kRows - 1) / kRows;
  }

  const float* weight(int64_t block) const { return weights + block * kRows * depth; }
  int64_t rows(int64_t block) const { return std::min(kRows, p.rows - block * kRows); }
};

// Each part computes some rows of the product at all positions, and what follows.
inline void convolve_rows(const Convolution& q, const Finish& finish, Member* team) {
  const int64_t length = q.line.length(), rest = columns_of(length);
  const int64_t vectors = (length - rest + kLanes - 1) / kLanes;
  // Made with a thread's first part: the input may be overwritten when a thread comes too late for
  // one.
  std::optional<Columns> columns;
  const int64_t width = (vectors + 1) * kLanes, threads = SharedPool::get()->threads();
  team->each(q.blocks, [&](int64_t block) {
    const int64_t memory = finish.memory(q.line.plane());
    Scratch scratch(Convolution::kRows * width + memory, 2);
    float* u = scratch.take(Convolution::kRows * width);
    float* x = scratch.take(memory);
    const int64_t rows = q.rows(block);
    const float* weight = q.weight(block);
    const float* next = q.weight(block + threads < q.blocks ? block + threads : block);
    multiply(weight, q.depth, rows, q.x, 0, vectors, next, u, width);
    if (!columns.has_value()) columns.emplace(q.x, length - rest, rest);
    columns->multiply(weight, rows, vectors == 0 ? next : weight, u + vectors * kLanes, width);
    for (int64_t r = 0; r < rows; ++r) {
      finish.write_line(block * Convolution::kRows + r, u + r * width, q.line.step, x);
    }
  });
}

// Each part computes some rows of maps of one image, of all channels, and what follows. Rows beside
// them, which the depthwise convolution reads, are computed twice.
inline void convolve_bands(const Convolution& q, const Finish& finish, int64_t rows, Member* team) {
  const int64_t plane = q.line.plane(), band = rows * q.line.width;
  team->each((plane + band - 1) / band, [&](int64_t part) {
    const int64_t first = part * band, end = std::min(plane, first + band);
    const int64_t begin = finish.begin_of(first), stop = finish.end_of(end);
    const int64_t width = round_up(stop - begin, kLanes), memory = finish.memory(width);
    Scratch scratch(Convolution::kRows * width + memory, 2);
    float* u = scratch.take(Convolution::kRows * width);
    float* x = scratch.take(memory);
    for (int64_t block = 0; block < q.blocks; ++block) {
      const float* weight = q.weight(block);
      multiply(weight, q.depth, q.rows(block), q.x, begin / kLanes, (begin + width) / kLanes,
               weight, u, width);
      for (int64_t r = 0; r < q.rows(block); ++r) {
        finish.write(block * Convolution::kRows + r, 0, first, end, u + r * width, x);
      }
    }
  });
}

// The product first, then what follows.
inline void convolve_split(const Convolution& q, const Finish& finish, Member* team) {
  const Map& product = q.run.plan.map(q.p.product);
  const Split split(q.depth, q.line.vectors(), q.blocks);
  team->each(split.parts(), [&](int64_t part) {
    for_panels(split.first(part), split.end(part), [&](int64_t at, auto n) {
      for (int64_t block = split.first_block(part); block < split.end_block(part); ++block) {
        const float* weight = q.weight(block);
        multiply(weight, q.depth, q.rows(block), q.x, at, at + n, weight,
                 product.channel(block * Convolution::kRows) + at * kLanes, q.line.stride);
      }
    });
  });
  team->each(q.p.rows, [&](int64_t c) {
    const int64_t memory = finish.memory(q.line.plane());
    Scratch scratch(memory, 1);
    finish.write_line(c, product.channel(c), q.line.step, scratch.take(memory));
  });
}

// Rows of a band, if what a part reads and computes then fits the caches; 0 if not.
inline int64_t band_rows(const Convolution& q) {
  constexpr int64_t kValues = 64 << 10, kMost = 16;
  if (q.line.images > 1 || q.p.kernel > 1) return 0;
  // Bands begin with a vector.
  int64_t step = 1;
  while (step * q.line.width % kLanes != 0) step *= 2;
  const int64_t fitting = kValues / (q.source.channels * q.line.width);
  const int64_t most = std::min(fitting, kMost);
  if (most < 8) return 0;
  const int64_t bands = round_up((q.line.height + most - 1) / most, SharedPool::get()->threads());
  return round_up((q.line.height + bands - 1) / bands, step);
}

// A dense convolution and what follows it.
inline void convolve(const Run& run, const PlannedStep& p, Member* team) {
  if (p.gathered != -1) {
    team->each(run.input(p).channels, [&](int64_t c) { gather_channel(run, p, c); });
  }
  const Convolution q(run, p);
  const Finish finish(run, p);
  if (p.product == -1) return convolve_rows(q, finish, team);
  const int64_t rows = band_rows(q);
  if (rows > 0) return convolve_bands(q, finish, rows, team);
  convolve_split(q, finish, team);
}

}  // namespace ghost
