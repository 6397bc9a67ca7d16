// The steps of a program. All members of a team call them with the same arguments, and share the
// work.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "norm.h"
#include "program.h"
#include "stem_tail.h"

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
  Depthwise(const Line& plane, const ColumnMasks& masks, int64_t kernel) {
    for (int64_t h = -kernel / 2; h <= kernel / 2; ++h) {
      for (int64_t w = -kernel / 2; w <= kernel / 2; ++w) {
        taps_.push_back({h * plane.width + w, masks.at(w)});
      }
    }
  }

  Vector at(const float* x, const float* weight, int64_t i) const {
    Vector sum = {};
    for (size_t t = 0; t < taps_.size(); ++t) {
      sum = add_masked(sum, weight[t], load(x + i + taps_[t].offset), taps_[t].inside[i / kLanes]);
    }
    return sum;
  }

 private:
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
    masks_ = ColumnMasks(plane_, kernel / 2);
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
        writer_.write(channel, n, [&](int64_t i) {
          return activated(step.activation, cheap_.at(x, weight, i) * b.scale + b.shift);
        });
      }
    }
  }

  const Run& run_;
  const PlannedStep& p_;
  const Line& from_;
  LineWriter writer_;
  Line plane_;
  ColumnMasks masks_;
  Depthwise cheap_{{}, {}, 0};
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
        int64_t i = 0;
        for (int64_t w = part % sides; w < from.width; w += stride) y[i++] = row[w];
      }
    }
  }
}

// The taps of a kernel, as distances in the lines that a product reads.
inline std::vector<Tap> taps_of(const PlannedStep& p, const Map& source, const ColumnMasks& masks) {
  std::vector<Tap> taps;
  const int64_t stride = p.gathered == -1 ? 1 : p.step.stride, sides = p.kernel == 1 ? 1 : stride;
  const auto down = [&](int64_t i) { return (i - (i < 0 ? stride - 1 : 0)) / stride; };
  for (int64_t h = -(p.kernel / 2); h <= p.kernel / 2; ++h) {
    for (int64_t w = -(p.kernel / 2); w <= p.kernel / 2; ++w) {
      const int64_t row = down(h), column = down(w);
      const int64_t part = (h - row * stride) * sides + (w - column * stride);
      taps.push_back({part * source.line.stride + row * source.line.width + column,
                      masks.at(column)});
    }
  }
  return taps;
}

// A dense convolution and what follows it.
inline void convolve(const Run& run, const PlannedStep& p, Member* team) {
  constexpr int64_t kRows = 8;  // of a part
  const Map& source = run.plan.map(p.gathered == -1 ? p.step.input : p.gathered);
  if (p.gathered != -1) {
    team->each(run.input(p).channels, [&](int64_t c) { gather_channel(run, p, c); });
  }
  const Line& line = source.line;
  const ColumnMasks masks(line, p.kernel / 2);
  const std::vector<Tap> taps = taps_of(p, source, masks);
  const int64_t channels = run.input(p).channels;
  const Lines x = {source.data, channels, line.stride * (source.channels / channels), &taps};
  const float* weight = run.plan.weight(p.step.weight).data;
  const Finish finish(run, p, line);
  const bool pointwise = p.kernel == 1;
  const int64_t blocks = (p.rows + kRows - 1) / kRows, vectors = line.vectors();
  const auto rows_of = [&](int64_t block) { return std::min(kRows, p.rows - block * kRows); };
  if (p.product == -1) {
    team->each(blocks, [&](int64_t block) {
      const int64_t width = vectors * kLanes;
      Scratch scratch(kRows * width, 1);
      float* u = scratch.take(kRows * width);
      const int64_t rows = rows_of(block);
      multiply(weight + block * kRows * x.depth(), rows, x, pointwise, 0, vectors, u, width);
      for (int64_t r = 0; r < rows; ++r) finish.row(block * kRows + r, u + r * width);
    });
    return;
  }
  const Map& product = run.plan.map(p.product);
  constexpr int64_t kPanels = 12;  // vectors
  const int64_t parts = (vectors + kPanels - 1) / kPanels;
  team->each(parts, [&](int64_t part) {
    const int64_t first = part * kPanels, end = std::min(vectors, first + kPanels);
    for_panels(first, end, [&](int64_t at, auto some) {
      for (int64_t block = 0; block < blocks; ++block) {
        multiply(weight + block * kRows * x.depth(), rows_of(block), x, pointwise, at, at + some,
                 product.channel(block * kRows) + at * kLanes, line.stride);
      }
    });
  });
  team->each(p.rows, [&](int64_t c) { finish.row(c, product.channel(c)); });
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
    case StepKind::kGhost: return convolve(run, p, team);
    case StepKind::kMaxPool: return pool(run, p, team);
    case StepKind::kMean: return average(run, p, team);
  }
}

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
    for (const PlannedStep& p : plan.steps()) run_step(run, p, &member);
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
