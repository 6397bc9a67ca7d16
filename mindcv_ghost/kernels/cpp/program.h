// A network's program: its steps, the maps between them, and where these lie in memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "arguments.h"
#include "planes.h"
#include "program_lines.h"
#include "program_product.h"
#include "program_team.h"
#include "winograd.h"

namespace ghost {

enum class StepKind { kConvolution, kGhost, kStem, kMean };
enum class Activation { kNone, kRelu };

// One step, as kernels/program.py encodes it: as many numbers in the order of `Step` there. -1
// stands for what a step doesn't have. Maps are numbered, 0 being the images; `weight` and so on
// are parameters' numbers, and a norm's is that of gamma, followed by beta, mean and variance.
struct Step {
  static constexpr int64_t kNumbers = 16;

  StepKind kind;
  int64_t input, output;
  int64_t first, channels;  // where the step's channels begin in the output map, of so many
  int64_t weight, bias, norm;
  float epsilon;
  Activation activation;
  int64_t stride;
  int64_t other;     // a map that is added
  Activation outer;  // after the sum
  int64_t cheap_weight, cheap_norm;
  float cheap_epsilon;

  explicit Step(const float* n)
      : kind(static_cast<StepKind>(n[0])),
        input(at(n, 1)),
        output(at(n, 2)),
        first(at(n, 3)),
        channels(at(n, 4)),
        weight(at(n, 5)),
        bias(at(n, 6)),
        norm(at(n, 7)),
        epsilon(n[8]),
        activation(static_cast<Activation>(n[9])),
        stride(at(n, 10)),
        other(at(n, 11)),
        outer(static_cast<Activation>(n[12])),
        cheap_weight(at(n, 13)),
        cheap_norm(at(n, 14)),
        cheap_epsilon(n[15]) {}

 private:
  static int64_t at(const float* numbers, int i) { return static_cast<int64_t>(numbers[i]); }
};

// A parameter of the network, read at each call.
struct Weight {
  const float* data;
  int64_t sides[4];  // 1 for those that it doesn't have
  int64_t size() const { return sides[0] * sides[1] * sides[2] * sides[3]; }
};

// Feature maps of some channels.
struct Map {
  int64_t channels = 0;
  Line line;
  float* data = nullptr;  // of its first channel

  float* channel(int64_t c) const { return data + c * line.stride; }
};

// A step with everything that follows from the images' shape.
struct PlannedStep {
  explicit PlannedStep(const Step& s) : step(s) {}

  Step step;
  int64_t out_height = 0, out_width = 0;
  // Channels that the product makes, the kernel's side, and the step's own maps: the input in the
  // form that the product reads, and the product's result; -1 for none.
  int64_t rows = 0, kernel = 1, gathered = -1, product = -1;
  // By Winograd's algorithm with tiles of so many rows and columns of outputs, or 0: the inputs are
  // those at its points, and so are the product and the weights where they are maps.
  int64_t tile = 0, points = -1;

  int64_t tile_rows() const { return (out_height + tile - 1) / tile; }
  int64_t tile_columns() const { return (out_width + tile - 1) / tile; }
  // Where the scales and shifts of its channels begin, those of the product's and the cheap ones'.
  int64_t affine = 0, cheap_affine = 0;
};

// The plan of a program for some images: arithmetic on shapes alone.
class Plan {
 public:
  Plan() = default;
  // numbers: the encoded steps. images: (count, channels, height, width) of a group of images;
  // groups: how many the program is repeated for.
  Plan(const float* numbers, int64_t count, std::vector<Weight> weights, const int64_t* images,
       int64_t groups)
      : weights_(std::move(weights)), images_(images[0]), groups_(groups) {
    maps_.push_back({images[1], Line(images_, images[2], images[3], 0)});
    fits_ = count % Step::kNumbers == 0 && count > 0;
    for (int64_t i = 0; fits_ && i < count; i += Step::kNumbers) add(Step(numbers + i));
    if (fits_) lay_out();
  }

  // Whether the sizes of all parameters fit the steps.
  bool fits() const { return fits_; }
  const std::vector<PlannedStep>& steps() const { return steps_; }
  const Map& map(int64_t number) const { return maps_[number]; }
  const Map& result() const { return maps_[steps_.back().step.output]; }
  const Weight& weight(int64_t number) const { return weights_[number]; }
  int64_t affines() const { return affines_; }
  int64_t images() const { return images_; }
  int64_t groups() const { return groups_; }
  // Values of the largest map.
  int64_t largest() const {
    int64_t most = 1;
    for (const PlannedStep& p : steps_) {
      const Map& map = maps_[p.step.output];
      most = std::max(most, map.channels * map.line.images * map.line.plane());
    }
    return most;
  }
  int64_t memory() const { return memory_; }  // floats, of all maps
  // Puts the maps into memory, which begins at the start of a cache line.
  void place(float* memory) {
    for (size_t i = 1; i < maps_.size(); ++i) {
      maps_[i].data = memory + places_[i] + maps_[i].line.margin();
    }
  }

 private:
  bool exists(int64_t weight) const {
    return weight >= 0 && weight < static_cast<int64_t>(weights_.size());
  }
  bool has(int64_t weight, int64_t size) const {
    return exists(weight) && weights_[weight].size() == size;
  }
  bool has_norm(int64_t norm, int64_t size) const {
    if (norm == -1) return true;
    for (int i = 0; i < 4; ++i) {
      if (!has(norm + i, size)) return false;
    }
    return true;
  }

  // Adds a step and the size of its output.
  void add(const Step& step) {
    const auto known = [&](int64_t map) {
      return map >= 0 && map < static_cast<int64_t>(maps_.size());
    };
    const int64_t count = static_cast<int64_t>(maps_.size());
    fits_ = known(step.input) && step.output > 0 && step.output <= count;
    if (!fits_) return;
    PlannedStep planned(step);
    fits_ = known_step(&planned);
    if (!fits_) return;
    const Line line(images_, planned.out_height, planned.out_width, 0);
    if (step.output == count) maps_.push_back({step.channels, line});
    const auto fits = [&](int64_t map, int64_t channels) {
      return map > 0 && known(map) && maps_[map].channels == channels &&
             maps_[map].line.height == line.height && maps_[map].line.width == line.width;
    };
    fits_ = fits(step.output, step.channels) && step.first >= 0 && step.first < step.channels &&
            (step.other == -1 || fits(step.other, step.channels));
    steps_.push_back(planned);
  }

  // Fills in what a step's input and weights imply; whether they fit.
  bool known_step(PlannedStep* p) {
    const Step& step = p->step;
    const Map& in = maps_[step.input];
    p->out_height = in.line.height, p->out_width = in.line.width;
    switch (step.kind) {
      case StepKind::kMean:
        p->out_height = p->out_width = 1;
        return step.channels == in.channels && step.input > 0 && step.first == 0 &&
               step.other == -1;
      case StepKind::kConvolution:
      case StepKind::kStem:
      case StepKind::kGhost: break;
      default: return false;
    }
    if (!exists(step.weight) || step.stride < 1) return false;
    const Weight& weight = weights_[step.weight];
    p->rows = weight.sides[0], p->kernel = weight.sides[2];
    p->affine = affines_;
    affines_ += p->rows;
    p->out_height = (in.line.height - 1) / step.stride + 1;
    p->out_width = (in.line.width - 1) / step.stride + 1;
    if (weight.sides[1] != in.channels || weight.sides[3] != p->kernel || p->kernel % 2 != 1 ||
        !has_norm(step.norm, p->rows) ||
        (step.bias != -1 && !has(step.bias, p->rows))) {
      return false;
    }
    if (step.kind == StepKind::kStem) {
      p->out_height = (p->out_height + 1) / 2, p->out_width = (p->out_width + 1) / 2;
      if (!is_gathered(*p) || step.other != -1) return false;
    }
    if (step.kind != StepKind::kGhost) return step.first + p->rows <= step.channels;
    if (!exists(step.cheap_weight)) return false;
    const Weight& cheap = weights_[step.cheap_weight];
    p->cheap_affine = affines_;
    affines_ += cheap.sides[0];
    return cheap.sides[0] % p->rows == 0 && cheap.sides[1] == 1 &&
           cheap.sides[2] == cheap.sides[3] && cheap.sides[2] % 2 == 1 &&
           has_norm(step.cheap_norm, cheap.sides[0]) &&
           step.first + p->rows <= step.channels;
  }

  // Gives maps the margins that their readers need, adds the steps' own maps, and finds places.
  void lay_out() {
    for (PlannedStep& p : steps_) {
      p.tile = winograd_tile(p);
      if (p.kernel == 1 || is_gathered(p) || p.tile > 0) continue;
      Map& in = maps_[p.step.input];
      const int64_t reach = std::max(in.line.reach, p.kernel / 2);
      in.line = Line(images_, in.line.height, in.line.width, reach);
    }
    for (PlannedStep& p : steps_) {
      if (p.rows == 0) continue;
      if (p.tile > 0) {
        add_points(&p);
        continue;
      }
      if (is_gathered(p)) {
        const int64_t sides = p.kernel == 1 ? 1 : p.step.stride;
        const int64_t reach = (p.kernel / 2 + p.step.stride - 1) / p.step.stride;
        p.gathered = static_cast<int64_t>(maps_.size());
        const Line& in = maps_[p.step.input].line;
        const Line line(images_, (in.height - 1) / p.step.stride + 1,
                        (in.width - 1) / p.step.stride + 1, reach);
        maps_.push_back({maps_[p.step.input].channels * sides * sides, line});
      }
      if (p.step.kind == StepKind::kStem) continue;
      const Map& source = maps_[p.gathered == -1 ? p.step.input : p.gathered];
      if (is_split(source)) {
        p.product = static_cast<int64_t>(maps_.size());
        maps_.push_back({p.rows, source.line});
      }
    }
    find_places();
  }

  // The tile with which Winograd's algorithm is fastest, or 0. Tiles of 4x4 need the fewest
  // products, but there have to be many: their weights' transform writes four times the weights.
  int64_t winograd_tile(const PlannedStep& p) const {
    constexpr int64_t kLeastTiles = 32;
    if (p.rows == 0 || p.kernel != 3 || is_gathered(p)) return 0;
    const WinogradShape q = {images_, maps_[p.step.input].channels, p.rows, p.out_height,
                             p.out_width};
    const bool is_faster = q.is_faster() && q.tiles() >= kLanes;
    if (is_faster && q.tiles() >= kLeastTiles) return 4;
    if (suits_small_tiles(p)) return 2;
    return is_faster && groups_ * q.tiles() >= kLeastTiles ? 4 : 0;
  }
  // Whether tiles of 2x2 are faster than 9 products an output: they have to fill vectors, and their
  // inputs at the points have to fit the L2 cache.
  bool suits_small_tiles(const PlannedStep& p) const {
    constexpr int64_t kValues = 288 << 10, kLeastVectors = 3;
    const int64_t tiles = images_ * ((p.out_height + 1) / 2) * ((p.out_width + 1) / 2);
    const int64_t channels = maps_[p.step.input].channels;
    const PointLines lines(16, channels, tiles);
    return channels >= kLanes && p.rows >= 8 && lines.size() <= kValues &&
           lines.width() >= kLeastVectors * kLanes &&
           2 * 16 * lines.width() <= 9 * images_ * p.out_height * p.out_width;
  }
  void add_points(PlannedStep* p) {
    const int64_t channels = maps_[p->step.input].channels, side = p->tile + 2;
    const Line tiles(images_, p->tile_rows(), p->tile_columns(), 0);
    const PointLines lines(side * side, channels, tiles.length());
    p->gathered = static_cast<int64_t>(maps_.size());
    maps_.push_back({1, Line(1, 1, lines.size(), 0)});
    if (p->tile == 2) return;
    p->product = static_cast<int64_t>(maps_.size());
    maps_.push_back({side * side * p->rows, tiles});
    p->points = static_cast<int64_t>(maps_.size());
    maps_.push_back({p->rows, Line(1, 1, side * side * channels, 0)});
  }

  // Whether a product reads a copy of its input: images, or every stride-th value.
  static bool is_gathered(const PlannedStep& p) {
    return p.rows > 0 && (p.step.stride > 1 || p.step.input == 0);
  }
  // Whether the input is too large to be read by each thread for some rows of the product.
  static bool is_split(const Map& source) {
    constexpr int64_t kValues = 208 << 10;
    return source.channels * source.line.length() > kValues;
  }

  // Memory is used again after the last step that reads a map.
  void find_places() {
    struct Life {
      int64_t first, last;
    };
    std::vector<Life> lives(maps_.size(), {INT64_MAX, -1});
    for (int64_t i = 0; i < static_cast<int64_t>(steps_.size()); ++i) {
      const PlannedStep& p = steps_[i];
      for (int64_t map : {p.step.input, p.step.output, p.step.other, p.gathered, p.product,
                          p.points}) {
        if (map == -1) continue;
        lives[map].first = std::min(lives[map].first, i);
        lives[map].last = i;
      }
    }
    lives[steps_.back().step.output].last = INT64_MAX;
    for (const PlannedStep& p : steps_) {
      if (p.points != -1 && groups_ > 1) lives[p.points] = {0, INT64_MAX};
    }
    places_.assign(maps_.size(), 0);
    for (size_t i = 1; i < maps_.size(); ++i) {
      // The lowest place where no map is that is needed at the same time.
      const int64_t size = round_up(maps_[i].line.size(maps_[i].channels), 16);
      int64_t place = 0;
      for (bool moved = true; moved;) {
        moved = false;
        for (size_t k = 1; k < maps_.size(); ++k) {
          const bool placed = k < i;
          if (!placed || lives[k].last < lives[i].first || lives[k].first > lives[i].last) continue;
          const int64_t end = places_[k] + round_up(maps_[k].line.size(maps_[k].channels), 16);
          if (places_[k] < place + size && place < end) place = end, moved = true;
        }
      }
      places_[i] = place;
      memory_ = std::max(memory_, place + size);
    }
  }

  std::vector<Weight> weights_;
  std::vector<PlannedStep> steps_;
  std::vector<Map> maps_;
  std::vector<int64_t> places_;
  int64_t images_ = 0, groups_ = 1, memory_ = 0, affines_ = 0;
  bool fits_ = false;
};

}  // namespace ghost
