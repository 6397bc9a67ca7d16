// Feature maps with the channels of a position side by side ("channels last"), and how threads share
// work on them.
//
// A vector holds kLanes channels of one position. So a depthwise convolution needs no shuffles for
// any kernel, stride or width of maps, and a 1x1 convolution has the channels of its output in
// lanes. With planes of 7x7 or 14x14 values, lanes along rows would be half empty.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "planes.h"
#include "program_team.h"
#include "rescale.h"
#include "vectors.h"

namespace ghost {

inline int64_t vectors_of(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// The channels in one vector: `first` and those after it.
struct LaneSpan {
  int64_t first, count;
};

// Channels in one or two segments; each begins at a whole vector. The maps of a Ghost module are two
// segments, so that both halves are written in whole vectors. Unused lanes aren't read.
struct Segments {
  int64_t first = 0, second = 0;
  bool joined = false;  // both are in one vector, of which the first is exactly half

  // Joined if possible: the first maps of a network are large and have few channels.
  static Segments of(int64_t first, int64_t second) {
    return {first, second, 2 * first == kLanes && second > 0 && second <= first};
  }

  int64_t channels() const { return first + second; }
  int64_t vectors() const { return joined ? 1 : vectors_of(first) + vectors_of(second); }
  int64_t step() const { return vectors() * kLanes; }  // floats from one position to the next
  int64_t second_at() const { return joined ? first : vectors_of(first) * kLanes; }

  // The channels of some vectors.
  LaneSpan span(int64_t vector, int64_t vectors) const {
    const LaneSpan begin = span(vector), end = span(vector + vectors - 1);
    return {begin.first, end.first + end.count - begin.first};
  }

  LaneSpan span(int64_t vector) const {
    if (joined) return {0, channels()};
    const int64_t whole = vectors_of(first);
    if (vector < whole) return {vector * kLanes, std::min<int64_t>(kLanes, first - vector * kLanes)};
    const int64_t at = (vector - whole) * kLanes;
    return {first + at, std::min<int64_t>(kLanes, second - at)};
  }
};

// Maps (images, height, width, channels).
struct LastMaps {
  int64_t images = 0, height = 0, width = 0;
  Segments channels;
  float* data = nullptr;

  int64_t step() const { return channels.step(); }
  int64_t row_size() const { return width * step(); }
  int64_t size() const { return images * height * row_size(); }
  float* row(int64_t image, int64_t y) const { return data + (image * height + y) * row_size(); }
};

// A part of some maps: vectors vector ... vector_end - 1 of rows row ... row_end - 1.
struct Piece {
  int64_t image, vector, vector_end, row, row_end;
};

// Calls body(piece) on all threads for pieces that make up maps of so many vectors and rows.
//
// Many rows are shared by rows, so that a thread reads each input for all outputs. A piece computes
// a few rows around its own once more, which is much if there are few; then vectors are shared, and
// shares are equal to a row of a vector, so that five vectors keep two threads busy.
template <typename Body>
inline void for_pieces(Member* team, int64_t images, int64_t vectors, int64_t rows,
                       const Body& body) {
  constexpr int64_t kManyRows = 16;  // of a thread
  const int64_t threads = SharedPool::get()->threads();
  const bool by_rows = rows >= kManyRows * threads;
  const int64_t inner = by_rows ? 1 : vectors;  // pieces have all vectors, or one or more
  const int64_t total = images * inner * rows, parts = std::min(threads, total);
  team->each(parts, [&](int64_t part) {
    const int64_t end = total * (part + 1) / parts;
    for (int64_t unit = total * part / parts; unit < end;) {
      const int64_t image = unit / (inner * rows), first = unit / rows % inner, row = unit % rows;
      const int64_t whole = row == 0 ? std::min((end - unit) / rows, inner - first) : 0;
      const int64_t row_end = whole > 0 ? rows : std::min(rows, row + end - unit);
      const int64_t last = first + std::max<int64_t>(whole, 1);
      body(by_rows ? Piece{image, 0, vectors, row, row_end} : Piece{image, first, last, row, row_end});
      unit += (last - first) * (row_end - row);
    }
  });
}

// What follows a convolution, as one multiplication and one addition: batch normalisation in
// evaluation, a bias, or both. Pointers are null for what there isn't.
struct Norm {
  const float *gamma = nullptr, *beta = nullptr, *mean = nullptr, *variance = nullptr;
  float epsilon = 0;
  const float* bias = nullptr;

  Vector scale(LaneSpan c) const {
    if (gamma == nullptr) return Vector{} + 1.0f;
    Vector root = square_root(load_first(variance + c.first, c.count) + epsilon);
    const Vector scaled = load_first(gamma + c.first, c.count);
    // Unused lanes are 0 / sqrt(epsilon), and epsilon may be 0.
    for (int64_t lane = c.count; lane < kLanes; ++lane) root[lane] = 1.0f;
    return scaled / root;
  }

  void fetch(LaneSpan c) const {
    for (const float* values : {gamma, beta, mean, variance, bias}) {
      if (values != nullptr) prefetch_far(values + c.first, c.count);
    }
  }

  Vector shift(LaneSpan c, Vector scale) const {
    Vector v = {};
    if (bias != nullptr) v = load_first(bias + c.first, c.count) * scale;
    if (gamma == nullptr) return v;
    return v + (load_first(beta + c.first, c.count) - load_first(mean + c.first, c.count) * scale);
  }
};

// A convolution with its norm. Without a weight it is the norm alone.
struct Branch {
  const float* weight = nullptr;
  Norm norm;
  int64_t rows = 1, columns = 1;  // of its kernel
};

// Parallel branches whose outputs are added: in evaluation one convolution.
struct Filter {
  const Branch* branches = nullptr;
  int64_t count = 0, rows = 1, columns = 1;

  int64_t taps() const { return rows * columns; }

  // Fetches the parameters of some channels into the L2 cache. At one image, most of them are read
  // once in a call, from memory. depth: channels of the input that each one reads.
  void fetch(LaneSpan c, int64_t depth) const {
    for (int64_t b = 0; b < count; ++b) {
      const int64_t size = depth * branches[b].rows * branches[b].columns;
      branches[b].norm.fetch(c);
      if (branches[b].weight != nullptr) {
        prefetch_far(branches[b].weight + c.first * size, c.count * size);
      }
    }
  }

  Vector shift(LaneSpan c) const {
    Vector sum = {};
    for (int64_t b = 0; b < count; ++b) {
      sum += branches[b].norm.shift(c, branches[b].norm.scale(c));
    }
    return sum;
  }
};

// What happens to a convolution's output: a ReLU, or other maps are added.
struct Finish {
  bool relu = false;
  const float* other = nullptr;  // of the output's layout

  Vector operator()(Vector v, int64_t at) const {
    if (relu) v = relu_of(v);
    return other == nullptr ? v : v + load(other + at);
  }
  Finish from(int64_t at) const { return {relu, other == nullptr ? nullptr : other + at}; }
};

// Maps by which others are multiplied, enlarged to their size by repetition.
class Factors {
 public:
  // maps: null for none.
  Factors(const LastMaps* maps, const LastMaps& y) : maps_(maps), y_(y) {
    if (maps == nullptr) return;
    rows_ = RescaleShape::sources(y.height, maps->height);
    places_ = RescaleShape::sources(y.width, maps->width);
    for (int64_t& place : places_) place *= maps->step();
  }

  // Multiplies a row of a vector of channels, which begins at `channel` of the layout.
  void multiply(int64_t image, int64_t row, int64_t channel) const {
    if (maps_ == nullptr) return;
    const float* factors = maps_->row(image, rows_[row]) + channel;
    float* to = y_.row(image, row) + channel;
    for (int64_t i = 0; i < y_.width; ++i, to += y_.step()) {
      store(to, load(to) * load(factors + places_[i]));
    }
  }

 private:
  const LastMaps* maps_;
  const LastMaps& y_;
  std::vector<int64_t> rows_, places_;
};

// Even shares of `count` with at most `most` in each: calls body(first, share).
template <typename Body>
inline void for_even_shares(int64_t count, int64_t most, const Body& body) {
  const int64_t shares = (count + most - 1) / most;
  for (int64_t i = 0; i < shares; ++i) {
    const int64_t first = count * i / shares;
    body(first, count * (i + 1) / shares - first);
  }
}

// Calls body(first, share) for even shares of a piece's vectors with at most `most` in each, and
// fetch(first, share) for each one before the body of the share before it.
template <typename Fetch, typename Body>
inline void for_groups(const Piece& piece, int64_t most, const Fetch& fetch, const Body& body) {
  const int64_t count = piece.vector_end - piece.vector, groups = (count + most - 1) / most;
  const auto begin = [&](int64_t i) { return piece.vector + count * i / groups; };
  fetch(begin(0), begin(1) - begin(0));
  for (int64_t i = 0; i < groups; ++i) {
    if (i + 1 < groups) fetch(begin(i + 1), begin(i + 2) - begin(i + 1));
    body(begin(i), begin(i + 1) - begin(i));
  }
}

// Calls body(integral_constant<number>) for a number from 1 to kMost.
template <int kMost, typename Body>
inline void with_number(int64_t number, const Body& body) {
  if constexpr (kMost > 1) {
    if (number < kMost) return with_number<kMost - 1>(number, body);
  }
  body(std::integral_constant<int, kMost>());
}

}  // namespace ghost
