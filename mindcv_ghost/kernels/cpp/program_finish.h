// What follows a product in a program: BN, activation, a Ghost module's depthwise convolution, the
// sum with a shortcut, and the way into the output map.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "norm.h"
#include "program.h"

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

// Writes one channel's line of a map. Vectors may extend into the next image's values, which
// follow; zeros lie where no value is.
class LineWriter {
 public:
  LineWriter(const Run& run, const PlannedStep& p)
      : out_(run.output(p)), other_(run.other(p)), outer_(p.step.outer) {}

  // Writes positions first ... end - 1 of image n, where at(i) is the vector of the values from i
  // on. `first` is a multiple of kLanes, and so is `end` unless it is the map's.
  template <typename At>
  void write(int64_t channel, int64_t n, int64_t first, int64_t end, const At& at) const {
    const Line& line = out_.line;
    float* to = out_.channel(channel) + n * line.step;
    const float* add =
        other_ == nullptr ? nullptr : other_->channel(channel) + n * other_->line.step;
    const Activation outer = outer_;
    const auto value = [=](Vector v, int64_t i) {
      return add == nullptr ? v : activated(outer, v + load(add + i));
    };
    int64_t i = first;
    for (; i + kLanes <= end; i += kLanes) store(to + i, value(at(i), i));
    if (end < line.plane()) return;
    if (i < end) store(to + i, masked(value(at(i), i), (1u << (end - i)) - 1));
    write_zeros(channel, n);
  }

  // Writes what lies between a map and the next one.
  void write_zeros(int64_t channel, int64_t n) const {
    const Line& line = out_.line;
    float* to = out_.channel(channel) + n * line.step;
    if (n == 0 && channel == 0) clear(to - line.margin(), line.margin());
    const int64_t end = n + 1 < line.images ? line.step : line.stride - n * line.step;
    clear(to + line.plane(), end - line.plane());
  }

 private:
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

  // Outputs first ... end - 1 of image n, as LineWriter takes them. u: row c from begin_of(first)
  // on.
  void write(int64_t c, int64_t n, int64_t first, int64_t end, const float* u,
             float* memory) const {
    const Step& step = p_.step;
    const Affine a = run_.affines[p_.affine + c];
    const Activation activation = step.activation;
    const int64_t begin = begin_of(first), stop = end_of(end);
    u -= begin;
    if (step.kind != StepKind::kGhost) {
      return writer_.write(step.first + c, n, first, end, [=](int64_t i) {
        return activated(activation, load(u + i) * a.scale + a.shift);
      });
    }
    const int64_t margin = plane_.margin();
    float* x = memory + margin - begin;
    clear(memory, margin);
    int64_t i = begin;
    for (; i + kLanes <= stop; i += kLanes) {
      store(x + i, activated(activation, load(u + i) * a.scale + a.shift));
    }
    if (i < stop) {
      const Vector v = activated(activation, load(u + i) * a.scale + a.shift);
      store(x + i, masked(v, (1u << (stop - i)) - 1));
      i += kLanes;
    }
    clear(x + i, margin);
    writer_.write(step.first + c, n, first, end, [=](int64_t at) { return load(x + at); });
    ghosts(c, n, first, end, x);
  }

 private:
  // The ghosts of map x, which has zeros around it.
  void ghosts(int64_t c, int64_t n, int64_t first, int64_t end, const float* x) const {
    const Step& step = p_.step;
    const Weight& cheap = run_.plan.weight(step.cheap_weight);
    const int64_t ratio = cheap.sides[0] / p_.rows, taps = cheap.sides[2] * cheap.sides[3];
    const Activation activation = step.activation;
    for (int64_t k = c * ratio; k < (c + 1) * ratio; ++k) {
      const int64_t channel = step.first + p_.rows + k;
      if (channel >= step.channels) return;  // surplus ghosts
      const Affine b = run_.affines[p_.cheap_affine + k];
      cheap_.with(x, cheap.data + k * taps, [&](const auto& sum) {
        writer_.write(channel, n, first, end, [=](int64_t i) {
          return activated(activation, sum(i) * b.scale + b.shift);
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

}  // namespace ghost
