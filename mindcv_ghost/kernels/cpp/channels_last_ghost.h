// Ghost and RepGhost modules on channels-last maps: a 1x1 convolution, and a depthwise one of its
// output while that is in the cache.
#pragma once

#include "channels_last_depthwise.h"
#include "channels_last_pointwise.h"

namespace ghost {

// Fills lines first ... first + count - 1 with rows of a convolution of x, from `row` on; zeros for
// rows outside of the maps.
inline void fill_lines(const PackedPointwise& conv, const LastMaps& x, int64_t image, int64_t row,
                       int64_t count, bool relu, const PaddedRows& lines, int64_t first) {
  for (; count > 0 && row < 0; ++row, ++first, --count) lines.clear(first);
  const int64_t inside = std::clamp<int64_t>(x.height - row, 0, count);
  for (int64_t i = inside; i < count; ++i) lines.clear(first + i);
  for (int64_t i = 0; i < inside; ++i) lines.clear_borders(first + i);
  const int64_t width = x.width, step = lines.step();
  constexpr int64_t kShort = 2 * positions_at_once(1);
  if (width < kShort) {  // tiles that end with the row would be small
    const int64_t skipped = lines.row_size() - width * step;
    conv.run(x.row(image, row), inside * width, {relu}, lines.inside(first),
             [=](int64_t p) { return p * step + p / width * skipped; });
    return;
  }
  for (int64_t i = 0; i < inside; ++i) {
    conv.run(x.row(image, row + i), width, {relu}, lines.inside(first + i),
             [=](int64_t p) { return p * step; });
  }
}

struct GhostModuleStep {
  LastMaps x, y;
  Filter primary, cheap;
  int64_t intrinsic;  // output channels of `primary`
  bool relu;          // after both convolutions
  bool concatenated;  // y is the outputs of both convolutions; else of the second alone
  const float* other;  // added to the output, of y's layout, which may be y's own memory; or null
  const LastMaps* factors;  // by which it is multiplied; null if not, or if others are added

  int64_t border() const { return cheap.columns / 2; }
  int64_t margin() const { return cheap.rows / 2; }
};

// Computes some vectors of the intrinsic maps, and the ghost maps of the same channels.
class GhostModulePiece {
 public:
  GhostModulePiece(const GhostModuleStep& step, const Factors& factors, const Piece& piece,
                   int64_t vector, int64_t vectors)
      : q_(step),
        factors_(factors),
        piece_(piece),
        vector_(vector),
        vectors_(vectors),
        some_(rows_in_cache((step.x.width + 2 * step.border()) * vectors * kLanes,
                            piece.row_end - piece.row)),
        rows_memory_(PaddedRows::memory(some_ + 2 * step.margin(), step.x.width, step.border(),
                                        vectors)),
        scratch_(PackedPointwise::memory(step.x.channels.channels(), vectors) +
                     PackedDepthwise::memory(step.cheap, vectors) + rows_memory_ + ghosts_memory(),
                 4),
        primary_(step.primary, step.x.channels, {step.intrinsic, 0}, vector, vectors,
                 scratch_.take(PackedPointwise::memory(step.x.channels.channels(), vectors))),
        cheap_(step.cheap, {step.intrinsic, 0}, vector, vectors, 1,
               scratch_.take(PackedDepthwise::memory(step.cheap, vectors))),
        lines_(step.x.width, step.border(), vectors, scratch_.take(rows_memory_)),
        ghosts_(scratch_.take(ghosts_memory())) {
    if (q_.y.channels.joined) store(ghosts_, Vector{});
  }

  void run() {
    const int64_t margin = q_.margin();
    int64_t ready = 0;  // rows in lines_, of which the first is `first - margin`
    for (int64_t first = piece_.row; first < piece_.row_end; first += some_) {
      const int64_t end = std::min(first + some_, piece_.row_end);
      const int64_t needed = end - first + 2 * margin;
      fill_lines(primary_, q_.x, piece_.image, first - margin + ready, needed - ready, q_.relu,
                 lines_, ready);
      for (int64_t row = first; row < end; ++row) {
        if (q_.y.channels.joined) {
          joined_row(row, row - first);
        } else {
          output_row(row, row - first);
        }
      }
      lines_.move_up(end - first, 2 * margin);
      ready = 2 * margin;
    }
  }

 private:
  void output_row(int64_t row, int64_t line) const {
    const int64_t step = q_.y.step(), margin = q_.margin();
    const int64_t start = q_.y.row(piece_.image, row) - q_.y.data;
    const int64_t ghosts = vectors_of(q_.concatenated ? q_.y.channels.second : q_.intrinsic);
    const Finish add = {false, q_.other}, both = {q_.relu, q_.other};
    for (int64_t v = 0; v < vectors_; ++v) {
      const int64_t channel = (vector_ + v) * kLanes, at = start + channel;
      if (q_.concatenated) {
        const float* from = lines_.inside(line + margin) + v * kLanes;
        for (int64_t i = 0; i < q_.y.width; ++i) {
          const Vector value = load(from + i * lines_.step());
          store(q_.y.data + at + i * step, add(value, at + i * step));
        }
        factors_.multiply(piece_.image, row, channel);
      }
      if (vector_ + v >= ghosts) continue;  // all of its ghost maps are cropped
      const int64_t ghost = channel + (q_.concatenated ? q_.y.channels.second_at() : 0);
      const int64_t to = start + ghost;
      cheap_.run(v, lines_.row(line), lines_.row_size(), lines_.step(), q_.y.width, both.from(to),
                 q_.y.data + to, step);
      factors_.multiply(piece_.image, row, ghost);
    }
  }

  int64_t ghosts_memory() const {
    return q_.y.channels.joined ? (q_.y.width + 1) * kLanes : 0;
  }

  // A row of outputs whose ghost maps are in the same vector as the intrinsic ones. Both halves are
  // computed in the lower lanes; a load that begins half a vector earlier moves the ghosts up, and
  // has the zeros of unused lanes below them.
  void joined_row(int64_t row, int64_t line) const {
    const int64_t start = q_.y.row(piece_.image, row) - q_.y.data, step = q_.y.step();
    cheap_.run(0, lines_.row(line), lines_.row_size(), lines_.step(), q_.y.width, {q_.relu},
               ghosts_ + kLanes, kLanes);
    const float* from = lines_.inside(line + q_.margin());
    const Finish add = {false, q_.other};
    for (int64_t i = 0; i < q_.y.width; ++i) {
      const Vector ghosts = load(ghosts_ + (i + 1) * kLanes - q_.intrinsic);
      const int64_t at = start + i * step;
      store(q_.y.data + at, add(load(from + i * lines_.step()) + ghosts, at));
    }
    factors_.multiply(piece_.image, row, 0);
  }

  const GhostModuleStep& q_;
  const Factors& factors_;
  const Piece& piece_;
  int64_t vector_, vectors_, some_, rows_memory_;
  Scratch scratch_;
  PackedPointwise primary_;
  PackedDepthwise cheap_;
  PaddedRows lines_;
  float* ghosts_;
};

inline void ghost_module(Member* team, const GhostModuleStep& q) {
  const Factors factors(q.factors, q.y);
  const auto fetch = [&](int64_t vector, int64_t vectors) {
    const LaneSpan c = Segments{q.intrinsic, 0}.span(vector, vectors);
    q.primary.fetch(c, q.x.channels.channels());
    q.cheap.fetch(c, 1);
  };
  for_pieces(team, q.y.images, vectors_of(q.intrinsic), q.y.height, [&](const Piece& piece) {
    const int64_t most = vectors_at_once(q.x.channels.channels());
    for_groups(piece, most, fetch, [&](int64_t vector, int64_t vectors) {
      GhostModulePiece(q, factors, piece, vector, vectors).run();
    });
  });
}

}  // namespace ghost
