// The steps of a program. All members of a team call them with the same arguments, and share the
// work.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <vector>

#include "norm.h"
#include "program.h"
#include "stem_tail.h"
#include "winograd.h"

namespace ghost {

// What steps read besides their own records.
struct Run {
  const Plan& plan;
  const float* images;    // (images, channels, height, width)
  const Affine* affines;  // of all steps' channels
  bool is_first;          // of the groups of images

  const Map& input(const PlannedStep& p) const { return plan.map(p.step.input); }
  const Map& output(const PlannedStep& p) const { return plan.map(p.step.output); }
  const Map* other(const PlannedStep& p) const {
    return p.step.other == -1 ? nullptr : &plan.map(p.step.other);
  }
};

inline Vector activated(Activation activation, Vector v) {
  return activation == Activation::kRelu ? relu_of(v) : v;
}

// The scale and shift of each channel of a BN, or of a bias alone.
inline void find_affines(const Plan& plan, int64_t norm, float epsilon, int64_t bias,
                         int64_t channels, Affine* to) {
  for (int64_t c = 0; c < channels; ++c) {
    Affine a = {1, 0};
    if (norm != -1) {
      const Statistics s = {plan.weight(norm + 2).data[c], plan.weight(norm + 3).data[c]};
      a = affine(s, epsilon, plan.weight(norm).data[c], plan.weight(norm + 1).data[c]);
    }
    if (bias != -1) a.shift += a.scale * plan.weight(bias).data[c];
    to[c] = a;
  }
}

// Writes one channel's line of a map. Vectors may extend into the next image's values, which follow;
// zeros lie where no value is.
class LineWriter {
 public:
  LineWriter(const Run& run, const PlannedStep& p)
      : out_(run.output(p)), other_(run.other(p)), outer_(p.step.outer) {}

  // Writes positions first ... end - 1 of image n, where at(i) is the vector of the values from i on.
  // `first` is a multiple of kLanes, and so is `end` unless it is the map's.
  template <typename At>
  void write(int64_t channel, int64_t n, int64_t first, int64_t end, const At& at) const {
    const Line& line = out_.line;
    float* to = out_.channel(channel) + n * line.step;
    const float* add = other_ == nullptr ? nullptr : other_->channel(channel) + n * other_->line.step;
    int64_t i = first;
    for (; i + kLanes <= end; i += kLanes) store(to + i, value(at(i), add, i));
    if (end < line.plane()) return;
    if (i < end) {
      store(to + i, masked(value(at(i), add, i), (1u << (end - i)) - 1));
    }
    write_zeros(channel, n);
  }

  // Writes what lies between a map and the next one.
  void write_zeros(int64_t channel, int64_t n) const {
    const Line& line = out_.line;
    float* to = out_.channel(channel) + n * line.step;
    if (n == 0 && channel == 0) std::memset(to - line.margin(), 0, line.margin() * sizeof(float));
    const int64_t end = n + 1 < line.images ? line.step : line.stride - n * line.step;
    std::memset(to + line.plane(), 0, (end - line.plane()) * sizeof(float));
  }

 private:
  Vector value(Vector v, const float* add, int64_t i) const {
    return add == nullptr ? v : activated(outer_, v + load(add + i));
  }

  const Map& out_;
  const Map* other_;
  Activation outer_;
};

// Depthwise convolution of stride 1 of a map with zeros around.
class Depthwise {
 public:
  Depthwise() = default;
  Depthwise(const Line& plane, const NeighbourMasks& masks, int64_t kernel)
      : kernel_(kernel), width_(plane.width) {
    for (int64_t h = -(kernel / 2); h <= kernel / 2; ++h) {
      for (int64_t w = -(kernel / 2); w <= kernel / 2; ++w) {
        taps_.push_back({h * plane.width + w, masks.at(0, w)});
      }
    }
  }

  // Calls body(at), where at(i) is the vector of outputs from i on.
  template <typename Body>
  void with(const float* x, const float* weight, const Body& body) const {
    if (kernel_ != 3) {
      return body([&](int64_t i) {
        Vector sum = {};
        for (size_t t = 0; t < taps_.size(); ++t) {
          const uint32_t inside = taps_[t].inside[i / kLanes];
          sum = add_masked(sum, weight[t], load(x + i + taps_[t].offset), inside);
        }
        return sum;
      });
    }
    const uint16_t *left = taps_[0].inside, *right = taps_[2].inside;
    const int64_t width = width_;
    const float w[9] = {weight[0], weight[1], weight[2], weight[3], weight[4],
                        weight[5], weight[6], weight[7], weight[8]};
    body([=](int64_t i) {
      const float *row = x + i, *above = row - width, *below = row + width;
      const uint32_t has_left = left[i / kLanes], has_right = right[i / kLanes];
      Vector middle = w[1] * load(above) + w[4] * load(row) + w[7] * load(below);
      Vector before = w[0] * load(above - 1) + w[3] * load(row - 1) + w[6] * load(below - 1);
      Vector after = w[2] * load(above + 1) + w[5] * load(row + 1) + w[8] * load(below + 1);
      return middle + (masked(before, has_left) + masked(after, has_right));
    });
  }

 private:
  int64_t kernel_ = 0, width_ = 0;
  std::vector<Tap> taps_;
};

// What follows a product: from the product's result to the output.
class Finish {
 public:
  Finish(const Run& run, const PlannedStep& p)
      : run_(run), p_(p), plane_(1, p.out_height, p.out_width, 0), writer_(run, p) {
    if (p.step.kind != StepKind::kGhost) return;
    const int64_t kernel = run.plan.weight(p.step.cheap_weight).sides[2];
    plane_ = Line(1, p.out_height, p.out_width, kernel / 2);
    masks_ = NeighbourMasks(plane_, 0, kernel / 2);
    cheap_ = Depthwise(plane_, masks_, kernel);
  }

  // Positions that the outputs first ... end - 1 depend on, from a multiple of kLanes on.
  int64_t begin_of(int64_t first) const {
    return std::max<int64_t>(0, first - plane_.reach * plane_.width) / kLanes * kLanes;
  }
  int64_t end_of(int64_t end) const {
    return std::min(plane_.plane(), end + plane_.reach * plane_.width);
  }
  // Floats of memory that `write` needs for so many such positions.
  int64_t memory(int64_t positions) const { return 2 * plane_.margin() + positions + 2 * kLanes; }

  // All positions of row c of the product. u: its line, whose images are `step` apart.
  void write_line(int64_t c, const float* u, int64_t step, float* memory) const {
    for (int64_t n = 0; n < run_.output(p_).line.images; ++n, u += step) {
      write(c, n, 0, plane_.plane(), u, memory);
    }
  }

  // Outputs first ... end - 1 of image n, as LineWriter takes them. u: row c from begin_of(first) on.
  void write(int64_t c, int64_t n, int64_t first, int64_t end, const float* u, float* memory) const {
    const Step& step = p_.step;
    const Affine a = run_.affines[p_.affine + c];
    const int64_t begin = begin_of(first), stop = end_of(end);
    u -= begin;
    if (step.kind != StepKind::kGhost) {
      return writer_.write(step.first + c, n, first, end, [&](int64_t i) {
        return activated(step.activation, load(u + i) * a.scale + a.shift);
      });
    }
    const int64_t margin = plane_.margin();
    float* x = memory + margin - begin;
    std::memset(memory, 0, margin * sizeof(float));
    int64_t i = begin;
    for (; i + kLanes <= stop; i += kLanes) {
      store(x + i, activated(step.activation, load(u + i) * a.scale + a.shift));
    }
    if (i < stop) {
      const Vector v = activated(step.activation, load(u + i) * a.scale + a.shift);
      store(x + i, masked(v, (1u << (stop - i)) - 1));
      i += kLanes;
    }
    std::memset(x + i, 0, margin * sizeof(float));
    writer_.write(step.first + c, n, first, end, [&](int64_t at) { return load(x + at); });
    ghosts(c, n, first, end, x);
  }

 private:
  // The ghosts of map x, which has zeros around it.
  void ghosts(int64_t c, int64_t n, int64_t first, int64_t end, const float* x) const {
    const Step& step = p_.step;
    const Weight& cheap = run_.plan.weight(step.cheap_weight);
    const int64_t ratio = cheap.sides[0] / p_.rows, taps = cheap.sides[2] * cheap.sides[3];
    for (int64_t k = c * ratio; k < (c + 1) * ratio; ++k) {
      const int64_t channel = step.first + p_.rows + k;
      if (channel >= step.channels) return;  // surplus ghosts
      const Affine b = run_.affines[p_.cheap_affine + k];
      cheap_.with(x, cheap.data + k * taps, [&](const auto& sum) {
        writer_.write(channel, n, first, end, [&](int64_t i) {
          return activated(step.activation, sum(i) * b.scale + b.shift);
        });
      });
    }
  }

  const Run& run_;
  const PlannedStep& p_;
  Line plane_;
  LineWriter writer_;
  NeighbourMasks masks_;
  Depthwise cheap_;
};

// Copies a channel of the input into lines from which each tap reads neighbouring values: one line for
// each row and column modulo the stride.
inline void gather_channel(const Run& run, const PlannedStep& p, int64_t c) {
  const Map &in = run.input(p), &to = run.plan.map(p.gathered);
  const int64_t stride = p.step.stride, sides = p.kernel == 1 ? 1 : stride;
  const Line &from = in.line, &line = to.line;
  if (c == 0) std::memset(to.data - line.margin(), 0, line.margin() * sizeof(float));
  for (int64_t part = 0; part < sides * sides; ++part) {
    float* start = to.channel(c * sides * sides + part);
    std::memset(start, 0, line.stride * sizeof(float));
    for (int64_t n = 0; n < from.images; ++n) {
      const float* x = p.step.input == 0 ? run.images + (n * in.channels + c) * from.plane()
                                         : in.channel(c) + n * from.step;
      float* y = start + n * line.step;
      for (int64_t h = part / sides; h < from.height; h += stride, y += line.width) {
        const float* row = x + h * from.width;
        const int64_t first = part % sides, count = (from.width - first + stride - 1) / stride;
        if (stride == 2) {
          for (int64_t i = 0; i < count; ++i) y[i] = row[first + 2 * i];
        } else {
          for (int64_t i = 0; i < count; ++i) y[i] = row[first + stride * i];
        }
      }
    }
  }
}

// The taps of a kernel, as distances in the lines that a product reads.
inline std::vector<Tap> taps_of(const PlannedStep& p, const Map& source, const NeighbourMasks& masks) {
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
    const int64_t wanted = 8 * SharedPool::get().threads();
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
  // Few positions beyond whole vectors are columns by themselves.
  const int64_t length = q.line.length(), rest = length % kLanes;
  const Columns columns(q.x, length - rest, rest <= 4 ? rest : 0);
  const int64_t vectors = (length - columns.count() + kLanes - 1) / kLanes;
  const int64_t width = (vectors + 1) * kLanes, threads = SharedPool::get().threads();
  team->each(q.blocks, [&](int64_t block) {
    const int64_t memory = finish.memory(q.line.plane());
    Scratch scratch(Convolution::kRows * width + memory, 2);
    float* u = scratch.take(Convolution::kRows * width);
    float* x = scratch.take(memory);
    const int64_t rows = q.rows(block);
    const float* weight = q.weight(block);
    const float* next = q.weight(block + threads < q.blocks ? block + threads : block);
    multiply(weight, q.depth, rows, q.x, 0, vectors, next, u, width);
    columns.multiply(weight, rows, vectors == 0 ? next : weight, u + vectors * kLanes, width);
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
      multiply(weight, q.depth, q.rows(block), q.x, begin / kLanes, (begin + width) / kLanes, weight,
               u, width);
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
  const int64_t bands = round_up((q.line.height + most - 1) / most, SharedPool::get().threads());
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

// Four vectors of values in order, to those whose position modulo 4 is 0, 1, 2 and 3; and back.
#ifdef GHOST_SHUFFLES
template <int... kLane>
inline void deinterleave_with(Vector* v, std::integer_sequence<int, kLane...>) {
  const Vector even_a = __builtin_shufflevector(v[0], v[1], (2 * kLane)...);
  const Vector odd_a = __builtin_shufflevector(v[0], v[1], (2 * kLane + 1)...);
  const Vector even_b = __builtin_shufflevector(v[2], v[3], (2 * kLane)...);
  const Vector odd_b = __builtin_shufflevector(v[2], v[3], (2 * kLane + 1)...);
  v[0] = __builtin_shufflevector(even_a, even_b, (2 * kLane)...);
  v[1] = __builtin_shufflevector(odd_a, odd_b, (2 * kLane)...);
  v[2] = __builtin_shufflevector(even_a, even_b, (2 * kLane + 1)...);
  v[3] = __builtin_shufflevector(odd_a, odd_b, (2 * kLane + 1)...);
}
template <int... kLane>
inline void interleave_with(Vector* v, std::integer_sequence<int, kLane...>) {
  constexpr int kHalf = kLanes / 2;
  const auto low = [](Vector a, Vector b) {
    return __builtin_shufflevector(a, b, (kLane / 2 + kLane % 2 * kLanes)...);
  };
  const auto high = [](Vector a, Vector b) {
    return __builtin_shufflevector(a, b, (kHalf + kLane / 2 + kLane % 2 * kLanes)...);
  };
  const Vector even_a = low(v[0], v[2]), even_b = high(v[0], v[2]);
  const Vector odd_a = low(v[1], v[3]), odd_b = high(v[1], v[3]);
  v[0] = low(even_a, odd_a), v[1] = high(even_a, odd_a);
  v[2] = low(even_b, odd_b), v[3] = high(even_b, odd_b);
}
inline void deinterleave(Vector* v) {
  deinterleave_with(v, std::make_integer_sequence<int, kLanes>());
}
inline void interleave(Vector* v) {
  interleave_with(v, std::make_integer_sequence<int, kLanes>());
}
#else
inline void deinterleave(Vector* v) {
  Vector to[4];
  for (int i = 0; i < 4 * kLanes; ++i) to[i % 4][i / 4] = v[i / kLanes][i % kLanes];
  std::copy(to, to + 4, v);
}
inline void interleave(Vector* v) {
  Vector to[4];
  for (int i = 0; i < 4 * kLanes; ++i) to[i / kLanes][i % kLanes] = v[i % 4][i / 4];
  std::copy(to, to + 4, v);
}
#endif

// A 3x3 convolution by Winograd's algorithm (winograd.h), whose vectors are those of tiles here. Maps:
// the weights, the inputs and the sums at each of the points.
class Winograd {
 public:
  Winograd(const Run& run, const PlannedStep& p)
      : run_(run),
        p_(p),
        in_(run.input(p)),
        weights_(run.plan.map(p.points)),
        inputs_(run.plan.map(p.gathered)),
        sums_(run.plan.map(p.product)),
        tiles_(inputs_.line),
        masks_(tiles_, 1, 1) {}

  // The weights of one output channel: (points, in_channels).
  void transform_weights(int64_t row) const {
    const int64_t depth = in_.channels;
    const float* from = run_.plan.weight(p_.step.weight).data + row * depth * 9;
    float* to = weights_.channel(row);
    Vector w[kLanes + 9], half[18], u[kPoints];
    for (int64_t i = 0; i < depth; i += kLanes) {
      const int64_t there = std::min<int64_t>(kLanes, depth - i);
      load_columns<9>(from + 9 * i, 9, there, w);
      for (int column = 0; column < 3; ++column) {
        weights_to_points(w + column, 3, half + column, 3);
      }
      for (int r = 0; r < 6; ++r) weights_to_points(half + 3 * r, 1, u + 6 * r, 1);
      for (int point = 0; point < kPoints; ++point) {
        store_first(to + point * depth + i, u[point], there);
      }
    }
  }

  // An input channel at all points.
  void transform_input(int64_t c) const {
    const int64_t width = tiles_.stride + kLanes, margin = tiles_.width + 1;
    Scratch scratch(16 * width + 2 * margin, 1);
    float* values = scratch.take(16 * width + 2 * margin) + margin;
    spread(in_.channel(c), values, width);
    for (int64_t i = 0; i < tiles_.length(); i += kLanes) {
      Vector half[36], d[6], v[kPoints];
      for (int a = 0; a < 6; ++a) {
        const int row = a == 0 ? -1 : a == 5 ? 1 : 0;
        for (int b = 0; b < 6; ++b) {
          const int column = b == 0 ? -1 : b == 5 ? 1 : 0;
          const float* from = values + ((a + 3) % 4 * 4 + (b + 3) % 4) * width;
          d[b] = load(from + i + row * tiles_.width + column);
          if (row != 0 || column != 0) d[b] = masked(d[b], masks_.at(row, column)[i / kLanes]);
        }
        inputs_to_points(d, 1, half + 6 * a, 1);
      }
      for (int b = 0; b < 6; ++b) inputs_to_points(half + b, 6, v + b, 6);
      for (int64_t point = 0; point < kPoints; ++point) {
        store(inputs_.channel(c * kPoints + point) + i, v[point]);
      }
    }
  }

  void multiply_point(int64_t point) const {
    const Lines x = {inputs_.channel(point), in_.channels, kPoints * tiles_.stride, {Tap{}},
                     Lines::kPointwise};
    const float* weight = weights_.data + point * in_.channels;
    multiply(weight, weights_.line.stride, p_.rows, x, 0, tiles_.vectors(), weight,
             sums_.channel(point), kPoints * tiles_.stride);
  }

  // The outputs of a channel as a dense line.
  void transform_output(int64_t row, float* u, float* values) const {
    const int64_t width = tiles_.stride;
    for (int64_t i = 0; i < tiles_.length(); i += kLanes) {
      Vector half[24], m[6], out[16];
      for (int b = 0; b < 6; ++b) {
        for (int a = 0; a < 6; ++a) m[a] = load(sums_.channel(row * kPoints + 6 * a + b) + i);
        from_points(m, 1, half + b, 6);
      }
      for (int a = 0; a < 4; ++a) from_points(half + 6 * a, 1, out + 4 * a, 1);
      for (int k = 0; k < 16; ++k) store(values + k * width + i, out[k]);
    }
    const int64_t height = in_.line.height, wide = in_.line.width;
    for (int64_t n = 0; n < tiles_.images; ++n) {
      for (int64_t h = 0; h < height; ++h, u += wide) {
        const float* from = values + h % 4 * 4 * width + n * tiles_.step + h / 4 * tiles_.width;
        // What is written beyond the row is overwritten by the next one.
        for (int64_t w = 0; w < wide; w += 4 * kLanes) {
          Vector block[4];
          for (int k = 0; k < 4; ++k) block[k] = load(from + k * width + w / 4);
          interleave(block);
          for (int k = 0; k < 4 && w + k * kLanes < wide; ++k) store(u + w + k * kLanes, block[k]);
        }
      }
    }
  }

 private:
  // Every fourth value of every fourth row, as 16 lines of tiles.
  void spread(const float* x, float* values, int64_t width) const {
    const Line& line = in_.line;
    for (int64_t n = 0; n < line.images; ++n) {
      for (int64_t h = 0; h < 4 * tiles_.height; ++h) {
        const float* row = x + n * line.step + h * line.width;
        float* to = values + h % 4 * 4 * width + n * tiles_.step + h / 4 * tiles_.width;
        const int64_t wide = h < line.height ? line.width : 0;
        // What is written beyond the row of tiles is overwritten by the next one.
        for (int64_t w = 0; w < 4 * tiles_.width; w += 4 * kLanes) {
          Vector block[4];
          for (int k = 0; k < 4; ++k) {
            const int64_t there = std::clamp<int64_t>(wide - w - k * kLanes, 0, kLanes);
            block[k] = there == kLanes ? load(row + w + k * kLanes)
                       : there == 0    ? Vector{}
                                       : masked(load(row + w + k * kLanes), (1u << there) - 1);
          }
          deinterleave(block);
          for (int k = 0; k < 4; ++k) store(to + k * width + w / 4, block[k]);
        }
      }
    }
  }

  const Run& run_;
  const PlannedStep& p_;
  const Map &in_, &weights_, &inputs_, &sums_;
  const Line& tiles_;
  NeighbourMasks masks_;
};

inline void convolve_winograd(const Run& run, const PlannedStep& p, Member* team) {
  const Winograd winograd(run, p);
  const int64_t channels = run.input(p).channels;
  const int64_t weights = run.is_first ? p.rows : 0;
  team->each(weights + channels, [&](int64_t part) {
    part < weights ? winograd.transform_weights(part) : winograd.transform_input(part - weights);
  });
  team->each(kPoints, [&](int64_t point) { winograd.multiply_point(point); });
  const Line line(run.input(p).line.images, p.out_height, p.out_width, 0);
  const Finish finish(run, p);
  const int64_t tiles = run.plan.map(p.product).line.stride;
  team->each(p.rows, [&](int64_t row) {
    const int64_t length = line.length() + 4 * kLanes, memory = finish.memory(line.plane());
    Scratch scratch(length + 17 * tiles + memory, 3);
    float* u = scratch.take(length);
    winograd.transform_output(row, u, scratch.take(17 * tiles));
    finish.write_line(row, u, line.step, scratch.take(memory));
  });
}

// A convolution, BN, activation, and max pooling of 3x3 with stride 2 and a border of one. Each part
// computes some rows of some pooled maps.
inline void stem(const Run& run, const PlannedStep& p, Member* team) {
  constexpr int64_t kBand = 8;  // pooled rows
  team->each(run.input(p).channels, [&](int64_t c) { gather_channel(run, p, c); });
  const Convolution q(run, p);
  const LineWriter writer(run, p);
  const int64_t height = q.line.height, width = q.line.width;
  const int64_t bands = (p.out_height + kBand - 1) / kBand;
  team->each(q.line.images * bands * q.blocks, [&](int64_t part) {
    const int64_t block = part % q.blocks, n = part / q.blocks / bands;
    const int64_t first = part / q.blocks % bands * kBand;
    const int64_t end = std::min(p.out_height, first + kBand);
    const int64_t top = std::max<int64_t>(0, 2 * first - 1), bottom = std::min(height, 2 * end);
    const int64_t image = n * q.line.step;
    const int64_t begin = (image + top * width) / kLanes;
    const int64_t stop = (image + bottom * width + kLanes - 1) / kLanes;
    const int64_t length = (stop - begin) * kLanes;
    Scratch scratch(Convolution::kRows * length + width + 2, 2);
    float* u = scratch.take(Convolution::kRows * length);
    float* highest = scratch.take(width + 2);
    multiply(q.weight(block), q.depth, q.rows(block), q.x, begin, stop, q.weight(block), u, length);
    for (int64_t r = 0; r < q.rows(block); ++r) {
      const int64_t c = block * Convolution::kRows + r;
      const Affine a = run.affines[p.affine + c];
      float* line = u + r * length;
      for (int64_t i = 0; i < length; i += kLanes) {
        store(line + i, activated(p.step.activation, load(line + i) * a.scale + a.shift));
      }
      const float* rows = line + image - begin * kLanes;
      float* y = run.output(p).channel(p.step.first + c) + n * run.output(p).line.step;
      for (int64_t h = first; h < end; ++h) {
        const float* row = rows + 2 * h * width;
        const float* above = h > 0 ? row - width : row;
        const float* below = 2 * h + 1 < height ? row + width : row;
        for (int64_t w = 0; w < width; ++w) {
          highest[w + 1] = greater(greater(above[w], row[w]), below[w]);
        }
        highest[0] = highest[1], highest[width + 1] = highest[width];
        for (int64_t w = 0; w < p.out_width; ++w) {
          y[h * p.out_width + w] =
              greater(greater(highest[2 * w], highest[2 * w + 1]), highest[2 * w + 2]);
        }
      }
      if (end == p.out_height) writer.write_zeros(p.step.first + c, n);
    }
  });
}

// The mean of each map.
inline void average(const Run& run, const PlannedStep& p, Member* team) {
  const Map& in = run.input(p);
  const LineWriter writer(run, p);
  const int64_t plane = in.line.plane();
  team->each((in.channels + 15) / 16, [&](int64_t part) {
    for (int64_t c = 16 * part; c < std::min(in.channels, 16 * part + 16); ++c) {
      for (int64_t n = 0; n < in.line.images; ++n) {
        const float* x = in.channel(c) + n * in.line.step;
        float sum = 0;
        for (int64_t i = 0; i < plane; ++i) sum += x[i];
        run.output(p).channel(c)[n] = sum / static_cast<float>(plane);
      }
    }
  });
}

inline void run_step(const Run& run, const PlannedStep& p, Member* team) {
  switch (p.step.kind) {
    case StepKind::kConvolution:
    case StepKind::kGhost: return p.is_winograd ? convolve_winograd(run, p, team) : convolve(run, p, team);
    case StepKind::kStem: return stem(run, p, team);
    case StepKind::kMean: return average(run, p, team);
  }
}

// Adds up the seconds of each step, for benchmarks alone: compile with -DGHOST_STEP_TIMES.
#ifdef GHOST_STEP_TIMES
extern "C" {
inline double ghost_step_seconds[1024];
}
class StepTimer {
 public:
  StepTimer(int64_t step, const Member& member)
      : step_(member.is_first() ? step : -1), start_(std::chrono::steady_clock::now()) {}
  ~StepTimer() {
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start_;
    if (step_ >= 0 && step_ < 1024) ghost_step_seconds[step_] += taken.count();
  }

 private:
  int64_t step_;
  std::chrono::steady_clock::time_point start_;
};
#else
struct StepTimer {
  StepTimer(int64_t, const Member&) {}
};
#endif

// Most phases of a step.
constexpr int64_t kStepPhases = 3;

// Scales and shifts of all steps' channels.
inline void find_affines(const Plan& plan, const PlannedStep& p, Affine* affines) {
  const Step& step = p.step;
  if (p.rows == 0) return;
  find_affines(plan, step.norm, step.epsilon, step.bias, p.rows, affines + p.affine);
  if (step.kind != StepKind::kGhost) return;
  find_affines(plan, step.cheap_norm, step.cheap_epsilon, -1,
               plan.weight(step.cheap_weight).sides[0], affines + p.cheap_affine);
}

// Copies a map to y (images, channels, height, width).
inline void copy_result(const Map& result, float* y) {
  const Line& line = result.line;
  for (int64_t n = 0; n < line.images; ++n) {
    for (int64_t c = 0; c < result.channels; ++c, y += line.plane()) {
      copy(y, result.channel(c) + n * line.step, line.plane());
    }
  }
}

// Runs a program, whose maps have been placed, for all groups of images. y (images, channels, height,
// width) is what the last step computes.
inline void run_program(const Plan& plan, const float* images, Affine* affines, float* y) {
  const int64_t steps = static_cast<int64_t>(plan.steps().size()), groups = plan.groups();
  const Map& result = plan.result();
  const int64_t in = plan.images() * plan.map(0).channels * plan.map(0).line.plane();
  const int64_t out = plan.images() * result.channels * result.line.plane();
  Team team(1 + groups * (kStepPhases * steps + 1));
  team.run([&](Member& member) {
    member.each(steps, [&](int64_t i) { find_affines(plan, plan.steps()[i], affines); });
    for (int64_t group = 0; group < groups; ++group) {
      const Run run = {plan, images + group * in, affines, group == 0};
      for (int64_t i = 0; i < steps; ++i) {
        const StepTimer timer(i, member);
        run_step(run, plan.steps()[i], &member);
      }
      member.each(1, [&](int64_t) { copy_result(result, y + group * out); });
    }
  });
}

}  // namespace ghost
