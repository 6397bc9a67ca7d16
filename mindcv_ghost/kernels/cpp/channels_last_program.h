// A whole network on channels-last maps: a program of steps, which it reads and carries out.
//
// The program is a list of numbers that kernels/channels_last.py writes: the number of maps, then each
// step with its operands. Maps and parameters are numbered; -1 stands for none.
#pragma once

#include <vector>

#include "arguments.h"
#include "channels_last_attention.h"
#include "channels_last_ghost.h"
#include "channels_last_means.h"
#include "channels_last_stem.h"
#include "channels_last_strided.h"
#include "step_times.h"

namespace ghost {

class ChannelsLastProgram {
 public:
  // a: program, images, parameters ..., logits.
  explicit ChannelsLastProgram(const Arguments& a) : a_(a), result_(a.count() - 1) {
    if (!a.fit() || a.count() < 3) return;
    images_ = {a[1], a.dim(1, 0), a.dim(1, 1), a.dim(1, 2), a.dim(1, 3)};
    if (a.size(1) == 0 || a.size(1) != a.dim(1, 0) * a.dim(1, 1) * a.dim(1, 2) * a.dim(1, 3)) return;
    fits_ = true;
    const int64_t maps = next();
    want(maps > 0 && maps <= 64);
    maps_.resize(fits_ ? maps : 0);
    places_.resize(maps_.size());
    sizes_.resize(maps_.size());
    begin_ = position_;
    while (fits_ && position_ < a.size(0)) step(nullptr), ++steps_;
    want(is_complete_);
    for (size_t i = 0; i < maps_.size(); ++i) {
      places_[i] = memory_;
      memory_ += round_up(sizes_[i], 16);
    }
  }

  // Whether the program is whole and fits the sizes of all arguments.
  bool fits() const { return fits_; }
  int64_t memory() const { return memory_; }  // floats, of all maps

  void run(float* memory) {
    for (size_t i = 0; i < maps_.size(); ++i) maps_[i].data = memory + places_[i];
    Team team(steps_);
    team.run([&](Member& member) {
      ChannelsLastProgram mine = *this;  // each thread reads the steps for itself
      mine.position_ = begin_;
      for (int64_t i = 0; mine.position_ < a_.size(0); ++i) {
        const StepTimer timer(i, member);
        mine.step(&member);
      }
    });
  }

 private:
  enum class Kind {
    kStem,
    kGhost,
    kPointwise,
    kDepthwise,
    kMeans,
    kLinear,
    kExcite,
    kHalve,
    kAttend,
    kStridedGhost
  };

  float next_number() {
    want(position_ < a_.size(0));
    return fits_ ? a_[0][position_++] : 0.0f;
  }
  int64_t next() { return static_cast<int64_t>(next_number()); }
  void want(bool condition) { fits_ = fits_ && condition; }

  // A parameter of this size; null for -1.
  const float* parameter(int64_t number, int64_t size) {
    if (number == -1) return nullptr;
    want(number >= 0 && 2 + number < result_ && a_.size(static_cast<int>(2 + number)) == size);
    return fits_ ? a_[static_cast<int>(2 + number)] : nullptr;
  }

  // The map that an earlier step has written.
  const LastMaps& written() {
    const int64_t number = next();
    want(number >= 0 && number < static_cast<int64_t>(maps_.size()) && maps_[number].height > 0);
    static const LastMaps none;
    return fits_ ? maps_[number] : none;
  }

  // The map that a step writes.
  LastMaps& defined(int64_t height, int64_t width, Segments channels) {
    const int64_t number = next();
    want(number >= 0 && number < static_cast<int64_t>(maps_.size()));
    want(height > 0 && width > 0 && channels.first > 0 && channels.second >= 0);
    if (!fits_) return maps_.front();
    maps_[number] = {images_.images, height, width, channels, maps_[number].data};
    sizes_[number] = std::max(sizes_[number], maps_[number].size());
    return maps_[number];
  }

  // The data of a map that is added to y, or null.
  const float* added(const LastMaps& y) {
    const int64_t number = next();
    if (number == -1) return nullptr;
    want(number >= 0 && number < static_cast<int64_t>(maps_.size()));
    if (!fits_) return nullptr;
    const LastMaps& other = maps_[number];
    want(other.height == y.height && other.width == y.width && has_channels_of(other, y));
    return other.data;
  }

  // The maps by which y is multiplied, of its size or smaller, or null.
  const LastMaps* multiplied(const LastMaps& y) {
    const int64_t number = next();
    if (number == -1) return nullptr;
    want(number >= 0 && number < static_cast<int64_t>(maps_.size()) && &maps_[number] != &y);
    if (!fits_) return nullptr;
    const LastMaps& factors = maps_[number];
    want(factors.height > 0 && factors.height <= y.height && factors.width <= y.width &&
         has_channels_of(factors, y));
    return &factors;
  }

  static bool has_channels_of(const LastMaps& a, const LastMaps& b) {
    return a.channels.first == b.channels.first && a.channels.second == b.channels.second &&
           a.channels.joined == b.channels.joined;
  }

  // A filter of `out` channels, each from `in` of the input. It is valid until the next one is read
  // into the same place.
  Filter filter(int place, int64_t out, int64_t in) {
    std::vector<Branch>& branches = branches_[place];
    const int64_t count = next(), rows = next(), columns = next();
    want(count > 0 && count <= 16 && rows > 0 && rows % 2 == 1 && columns > 0 && columns % 2 == 1);
    branches.clear();
    for (int64_t b = 0; fits_ && b < count; ++b) {
      Branch branch;
      const int64_t weight = next();
      branch.rows = next(), branch.columns = next();
      want(branch.rows > 0 && branch.rows <= rows && (rows - branch.rows) % 2 == 0);
      want(branch.columns > 0 && branch.columns <= columns && (columns - branch.columns) % 2 == 0);
      want(weight != -1 || (in == 1 && branch.rows * branch.columns == 1));
      branch.weight = parameter(weight, out * in * branch.rows * branch.columns);
      branch.norm.bias = parameter(next(), out);
      const int64_t norm = next();
      branch.norm.epsilon = next_number();
      if (norm != -1) {
        branch.norm.gamma = parameter(norm, out);
        branch.norm.beta = parameter(norm + 1, out);
        branch.norm.mean = parameter(norm + 2, out);
        branch.norm.variance = parameter(norm + 3, out);
      }
      branches.push_back(branch);
    }
    return {branches.data(), count, rows, columns};
  }

  // Reads a step; carries it out with a team, else only finds the sizes of its maps.
  void step(Member* team) {
    switch (static_cast<Kind>(next())) {
      case Kind::kStem: return stem(team);
      case Kind::kGhost: return ghost(team);
      case Kind::kStridedGhost: return strided_ghost(team);
      case Kind::kPointwise: return pointwise(team);
      case Kind::kDepthwise: return depthwise(team);
      case Kind::kMeans: {
        const LastMaps& x = written();
        const LastMaps& y = defined(1, 1, x.channels);
        want(&x != &y);
        if (team != nullptr) channel_means(team, x, y);
        return;
      }
      case Kind::kLinear: return linear_layer(team);
      case Kind::kExcite: {
        const LastMaps &squeezed = written(), &y = written();
        const int64_t channels = y.channels.channels();
        const float* weight = parameter(next(), channels * squeezed.channels.first);
        const float* bias = parameter(next(), channels);
        want(weight != nullptr && squeezed.channels.second == 0);
        if (team != nullptr) excite(team, squeezed, weight, bias, y);
        return;
      }
      case Kind::kHalve: {
        const LastMaps& x = written();
        const LastMaps& y = defined(x.height / 2, x.width / 2, x.channels);
        want(&x != &y);
        if (team != nullptr) halve(team, x, y);
        return;
      }
      case Kind::kAttend: {
        const LastMaps& x = written();
        const int64_t first = next(), second = next(), channels = first + second;
        const LastMaps& y = defined(x.height, x.width, Segments::of(first, second));
        AttentionStep q = {x, y, filter(0, channels, x.channels.channels()),
                           filter(1, channels, 1), filter(2, channels, 1)};
        want(q.pointwise.taps() == 1 && q.along_row.rows == 1 && q.along_column.columns == 1);
        want(&x != &y);
        if (team != nullptr) attend(team, q);
        return;
      }
    }
    want(false);
  }

  void stem(Member* team) {
    const int64_t first = next(), second = next(), stride = next();
    const bool relu = next() != 0;
    want(stride > 0);
    if (!fits_) return;
    const LastMaps& y = defined((images_.height - 1) / stride + 1, (images_.width - 1) / stride + 1,
                                Segments::of(first, second));
    const Filter conv = filter(0, first + second, images_.channels);
    want(conv.rows == conv.columns && same_kernels(conv));
    if (team != nullptr) stem_conv(team, images_, conv, stride, relu, y);
  }

  static bool same_kernels(const Filter& filter) {
    for (int64_t b = 0; b < filter.count; ++b) {
      const Branch& branch = filter.branches[b];
      if (branch.rows != filter.rows || branch.columns != filter.columns) return false;
    }
    return true;
  }

  void ghost(Member* team) {
    const LastMaps& x = written();
    const int64_t intrinsic = next(), ghosts = next();
    const bool relu = next() != 0, concatenated = ghosts > 0;
    want(ghosts <= intrinsic);
    const LastMaps& y = defined(x.height, x.width, Segments::of(intrinsic, ghosts));
    const float* other = added(y);
    const LastMaps* factors = multiplied(y);
    want(&x != &y && (other == nullptr || factors == nullptr));
    const Filter primary = filter(0, intrinsic, x.channels.channels());
    const Filter cheap = filter(1, intrinsic, 1);
    want(primary.taps() == 1);
    if (team != nullptr) {
      ghost_module(team, {x, y, primary, cheap, intrinsic, relu, concatenated, other, factors});
    }
  }

  void strided_ghost(Member* team) {
    const LastMaps& x = written();
    const int64_t intrinsic = next(), ghosts = next();
    const bool relu = next() != 0, concatenated = ghosts > 0;
    const int64_t stride = next();
    const bool last_relu = next() != 0;
    want(ghosts <= intrinsic && (stride == 1 || stride == 2));
    if (!fits_) return;
    const Segments channels = {intrinsic, concatenated ? ghosts : 0};
    const LastMaps& y = defined((x.height - 1) / stride + 1, (x.width - 1) / stride + 1, channels);
    want(&x != &y);
    const Filter primary = filter(0, intrinsic, x.channels.channels());
    const Filter cheap = filter(1, intrinsic, 1), strided = filter(2, channels.channels(), 1);
    want(primary.taps() == 1 && strided.rows >= stride);
    if (team == nullptr) return;
    const LastMaps between = {x.images, x.height, x.width, channels, nullptr};
    const GhostModuleStep module = {x,    between,      primary, cheap,  intrinsic,
                                    relu, concatenated, nullptr, nullptr};
    strided_ghost_module(team, {module, y, strided, stride, last_relu});
  }

  void pointwise(Member* team) {
    const LastMaps& x = written();
    const int64_t first = next(), second = next();
    const bool relu = next() != 0;
    const LastMaps& y = defined(x.height, x.width, Segments::of(first, second));
    const float* other = added(y);
    const Filter conv = filter(0, first + second, x.channels.channels());
    want(&x != &y && conv.taps() == 1);
    if (team != nullptr) pointwise_conv(team, x, conv, relu, other, y);
  }

  void depthwise(Member* team) {
    const LastMaps& x = written();
    const int64_t stride = next();
    const bool relu = next() != 0;
    want(stride == 1 || stride == 2);
    if (!fits_) return;
    const LastMaps& y =
        defined((x.height - 1) / stride + 1, (x.width - 1) / stride + 1, x.channels);
    const Filter conv = filter(0, x.channels.channels(), 1);
    want(&x != &y);
    if (team != nullptr) depthwise_conv(team, x, conv, stride, relu, y);
  }

  void linear_layer(Member* team) {
    const LastMaps& x = written();
    const int64_t channels = next();
    const Gate gate = static_cast<Gate>(next());
    const bool is_last = next() == 1;
    const LastMaps* y = is_last ? nullptr : &defined(1, 1, {channels, 0});
    const float* weight = parameter(next(), channels * x.channels.channels());
    const float* bias = parameter(next(), channels);
    want(x.height == 1 && x.width == 1 && weight != nullptr && y != &x);
    if (is_last) {
      want(a_.size(result_) == images_.images * channels);
      is_complete_ = true;
    }
    if (team == nullptr || !fits_) return;
    linear(team, x, weight, bias, channels, gate, is_last ? a_[result_] : y->data,
           is_last ? channels : y->step());
  }

  const Arguments a_;
  int result_;  // number of the argument for the logits
  Images images_ = {};
  std::vector<LastMaps> maps_;
  std::vector<int64_t> places_, sizes_;
  std::vector<Branch> branches_[3];
  int64_t position_ = 0, begin_ = 0, steps_ = 0, memory_ = 0;
  bool fits_ = false, is_complete_ = false;
};

}  // namespace ghost
