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

  // at(i): the vector of the values from i on of image n.
  template <typename At>
  void write(int64_t channel, int64_t n, const At& at) const {
    const Line& line = out_.line;
    float* to = out_.channel(channel) + n * line.step;
    if (n == 0 && channel == 0) std::memset(to - line.margin(), 0, line.margin() * sizeof(float));
    const float* add = other_ == nullptr ? nullptr : other_->channel(channel) + n * other_->line.step;
    const int64_t plane = line.plane(), whole = plane / kLanes * kLanes;
    int64_t i = 0;
    for (; i < whole; i += kLanes) store(to + i, value(at(i), add, i));
    if (i < plane) {
      store(to + i, masked(value(at(i), add, i), (1u << (plane - i)) - 1));
      i += kLanes;
    }
    if (n + 1 < line.images) {
      for (; i < line.step; i += kLanes) store(to + i, Vector{});
    } else {
      const int64_t last = line.stride - n * line.step - kLanes;
      for (; i < last; i += kLanes) store(to + i, Vector{});
      store(to + last, Vector{});
    }
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

// What follows a product: from a line of its result to lines of the output.
class Finish {
 public:
  Finish(const Run& run, const PlannedStep& p, const Line& from)
      : run_(run), p_(p), from_(from), writer_(run, p) {
    if (p.step.kind != StepKind::kGhost) return;
    const int64_t kernel = run.plan.weight(p.step.cheap_weight).sides[2];
    plane_ = Line(1, p.out_height, p.out_width, kernel / 2);
    masks_ = NeighbourMasks(plane_, 0, kernel / 2);
    cheap_ = Depthwise(plane_, masks_, kernel);
  }

  void row(int64_t c, const float* u) const {
    if (p_.step.kind == StepKind::kGhost) return ghost(c, u);
    const Affine a = run_.affines[p_.affine + c];
    for (int64_t n = 0; n < from_.images; ++n, u += from_.step) {
      writer_.write(p_.step.first + c, n, [&](int64_t i) {
        return activated(p_.step.activation, load(u + i) * a.scale + a.shift);
      });
    }
  }

 private:
  void ghost(int64_t c, const float* u) const {
    const Step& step = p_.step;
    const Weight& cheap = run_.plan.weight(step.cheap_weight);
    const int64_t ratio = cheap.sides[0] / p_.rows, taps = cheap.sides[2] * cheap.sides[3];
    const Affine a = run_.affines[p_.affine + c];
    alignas(64) static thread_local std::vector<float> memory;
    memory.assign(plane_.size(1), 0);
    float* x = memory.data() + plane_.margin();
    for (int64_t n = 0; n < from_.images; ++n, u += from_.step) {
      writer_.write(step.first + c, n, [&](int64_t i) {
        Vector v = activated(step.activation, load(u + i) * a.scale + a.shift);
        const int64_t left = plane_.plane() - i;
        if (left < kLanes) v = masked(v, (1u << left) - 1);
        store(x + i, v);
        return v;
      });
      for (int64_t k = c * ratio; k < (c + 1) * ratio; ++k) {
        const int64_t channel = step.first + p_.rows + k;
        if (channel >= step.channels) break;  // a surplus ghost
        const float* weight = cheap.data + k * taps;
        const Affine b = run_.affines[p_.cheap_affine + k];
        cheap_.with(x, weight, [&](const auto& sum) {
          writer_.write(channel, n, [&](int64_t i) {
            return activated(step.activation, sum(i) * b.scale + b.shift);
          });
        });
      }
    }
  }

  const Run& run_;
  const PlannedStep& p_;
  const Line& from_;
  LineWriter writer_;
  Line plane_;
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

// A dense convolution and what follows it.
inline void convolve(const Run& run, const PlannedStep& p, Member* team) {
  constexpr int64_t kRows = 8;  // of a part
  const Map& source = run.plan.map(p.gathered == -1 ? p.step.input : p.gathered);
  const int64_t channels = run.input(p).channels;
  if (p.gathered != -1) {
    team->each(channels, [&](int64_t c) { gather_channel(run, p, c); });
  }
  const Line& line = source.line;
  const NeighbourMasks masks(line, 0, p.kernel / 2);
  const Lines x = {source.data, channels, line.stride * (source.channels / channels),
                   taps_of(p, source, masks),
                   p.kernel == 1                                ? Lines::kPointwise
                   : p.kernel == 3 && source.channels == channels ? Lines::kThree
                                                                  : Lines::kGeneral};
  const float* weights = run.plan.weight(p.step.weight).data;
  const int64_t depth = x.depth(), blocks = (p.rows + kRows - 1) / kRows;
  const Finish finish(run, p, line);
  const auto weight_of = [&](int64_t block) { return weights + block * kRows * depth; };
  const auto rows_of = [&](int64_t block) { return std::min(kRows, p.rows - block * kRows); };
  if (p.product == -1) {
    // Few positions beyond whole vectors are columns by themselves.
    const int64_t rest = line.length() % kLanes;
    const Columns columns(x, line.length() - rest, rest <= 4 ? rest : 0);
    const int64_t vectors = (line.length() - columns.count() + kLanes - 1) / kLanes;
    const int64_t width = (vectors + 1) * kLanes, threads = SharedPool::get().threads();
    team->each(blocks, [&](int64_t block) {
      Scratch scratch(kRows * width, 1);
      float* u = scratch.take(kRows * width);
      const int64_t rows = rows_of(block);
      const float* next = weight_of(block + threads < blocks ? block + threads : block);
      multiply(weight_of(block), depth, rows, x, 0, vectors, next, u, width);
      columns.multiply(weight_of(block), rows, vectors == 0 ? next : weight_of(block),
                       u + vectors * kLanes, width);
      for (int64_t r = 0; r < rows; ++r) finish.row(block * kRows + r, u + r * width);
    });
    return;
  }
  const Map& product = run.plan.map(p.product);
  // Parts are some positions, whose inputs fit the L2 cache, and some rows.
  const Split split(depth, line.vectors(), blocks);
  team->each(split.parts(), [&](int64_t part) {
    for_panels(split.first(part), split.end(part), [&](int64_t at, auto n) {
      for (int64_t block = split.first_block(part); block < split.end_block(part); ++block) {
        const float* weight = weight_of(block);
        multiply(weight, depth, rows_of(block), x, at, at + n, weight,
                 product.channel(block * kRows) + at * kLanes, line.stride);
      }
    });
  });
  team->each(p.rows, [&](int64_t c) { finish.row(c, product.channel(c)); });
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
  team->each(p.rows + channels, [&](int64_t part) {
    part < p.rows ? winograd.transform_weights(part) : winograd.transform_input(part - p.rows);
  });
  team->each(kPoints, [&](int64_t point) { winograd.multiply_point(point); });
  const Line line(run.input(p).line.images, p.out_height, p.out_width, 0);
  const Finish finish(run, p, line);
  const int64_t tiles = run.plan.map(p.product).line.stride;
  team->each(p.rows, [&](int64_t row) {
    Scratch scratch(line.length() + kLanes + 17 * tiles, 2);
    float* u = scratch.take(line.length() + kLanes);
    winograd.transform_output(row, u, scratch.take(17 * tiles));
    finish.row(row, u);
  });
}

// Max pooling of 3x3 with stride 2 and a border of one, which never has the maximum.
inline void pool(const Run& run, const PlannedStep& p, Member* team) {
  const Map& in = run.input(p);
  const int64_t height = in.line.height, width = in.line.width;
  const LineWriter writer(run, p);
  team->each(in.channels, [&](int64_t c) {
    std::vector<float> highest(width + 2), values(p.out_height * p.out_width + kLanes);
    for (int64_t n = 0; n < in.line.images; ++n) {
      const float* x = in.channel(c) + n * in.line.step;
      for (int64_t h = 0; h < p.out_height; ++h) {
        const float* row = x + 2 * h * width;
        const float *above = h > 0 ? row - width : row, *below = 2 * h + 1 < height ? row + width : row;
        for (int64_t w = 0; w < width; ++w) {
          highest[w + 1] = greater(greater(above[w], row[w]), below[w]);
        }
        highest[0] = highest[1], highest[width + 1] = highest[width];
        float* y = values.data() + h * p.out_width;
        for (int64_t w = 0; w < p.out_width; ++w) {
          y[w] = greater(greater(highest[2 * w], highest[2 * w + 1]), highest[2 * w + 2]);
        }
      }
      writer.write(c, n, [&](int64_t i) { return load(values.data() + i); });
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
    case StepKind::kMaxPool: return pool(run, p, team);
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

// Runs a program whose maps have been placed. y (images, channels, height, width): the last map.
inline void run_program(const Plan& plan, const float* images, Affine* affines, float* y) {
  const int64_t steps = static_cast<int64_t>(plan.steps().size());
  Team team(kStepPhases * steps + 2);
  const Run run = {plan, images, affines};
  team.run([&](Member& member) {
    member.each(steps, [&](int64_t i) {
      const PlannedStep& p = plan.steps()[i];
      const Step& step = p.step;
      if (p.rows == 0) return;
      find_affines(plan, step.norm, step.epsilon, step.bias, p.rows, affines + p.affine);
      if (step.kind == StepKind::kGhost) {
        find_affines(plan, step.cheap_norm, step.cheap_epsilon, -1,
                     plan.weight(step.cheap_weight).sides[0], affines + p.cheap_affine);
      }
    });
    for (const PlannedStep& p : plan.steps()) {
      const StepTimer timer(&p - plan.steps().data(), member);
      run_step(run, p, &member);
    }
    const Map& result = plan.result();
    const Line& line = result.line;
    member.each(line.images, [&](int64_t n) {
      for (int64_t c = 0; c < result.channels; ++c) {
        copy(y + (n * result.channels + c) * line.plane(), result.channel(c) + n * line.step,
             line.plane());
      }
    });
  });
}

}  // namespace ghost
