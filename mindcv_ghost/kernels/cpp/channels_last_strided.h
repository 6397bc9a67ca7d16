// A Ghost module and the strided depthwise convolution after it on channels-last maps. The module's
// output is the largest map of a block; here it never leaves the cache.
#pragma once

#include "channels_last_ghost.h"

namespace ghost {

struct StridedGhostStep {
  GhostModuleStep module;  // its y has the size of x, and no memory
  LastMaps y;
  Filter strided;
  int64_t stride;
  bool relu;  // after the strided convolution

  // Rows and columns around a map that its convolutions reach.
  int64_t border() const { return std::max(module.border(), strided.columns / 2); }
};

// Computes some vectors of the intrinsic maps, the ghost maps of the same channels, and the strided
// convolution of both.
class StridedGhostPiece {
 public:
  StridedGhostPiece(const StridedGhostStep& step, const Piece& piece, int64_t vector,
                    int64_t vectors)
      : q_(step),
        piece_(piece),
        vector_(vector),
        vectors_(vectors),
        ghost_vectors_(std::clamp<int64_t>(vectors_of(ghosts()) - vector, 0, vectors)),
        some_(rows_in_cache(step.stride * (module().x.width + 2 * step.border()) * vectors * kLanes,
                            piece.row_end - piece.row)),
        rows_((some_ - 1) * step.stride + step.strided.rows),
        scratch_(primary_memory() + PackedDepthwise::memory(module().cheap, vectors) +
                     2 * PackedDepthwise::memory(step.strided, vectors) + lines_memory(true) +
                     lines_memory(false),
                 6),
        primary_(module().primary, module().x.channels, {module().intrinsic, 0}, vector, vectors,
                 scratch_.take(primary_memory())),
        cheap_(module().cheap, {module().intrinsic, 0}, vector, vectors, 1,
               scratch_.take(PackedDepthwise::memory(module().cheap, vectors))),
        first_(step.strided, step.y.channels, vector, vectors, step.stride,
               scratch_.take(PackedDepthwise::memory(step.strided, vectors))),
        second_(step.strided, step.y.channels, second_vector(), ghost_vectors_, step.stride,
                scratch_.take(PackedDepthwise::memory(step.strided, vectors))),
        lines_(module().x.width, step.border(), vectors, scratch_.take(lines_memory(true))),
        ghosts_(module().x.width, step.border(), vectors, scratch_.take(lines_memory(false))) {}

  void run() {
    const int64_t margin = module().margin(), stride = q_.stride, kernel = q_.strided.rows;
    int64_t intrinsic_ready = 0, ghosts_ready = 0;
    for (int64_t row = piece_.row; row < piece_.row_end; row += some_) {
      const int64_t end = std::min(row + some_, piece_.row_end);
      const int64_t from = row * stride - kernel / 2;  // of the module's output, line 0 of ghosts_
      const int64_t needed = (end - row - 1) * stride + kernel;
      fill_lines(primary_, module().x, piece_.image, from - margin + intrinsic_ready,
                 needed + 2 * margin - intrinsic_ready, module().relu, lines_, intrinsic_ready);
      intrinsic_ready = needed + 2 * margin;
      for (; ghosts_ready < needed; ++ghosts_ready) ghost_row(from + ghosts_ready, ghosts_ready);
      for (int64_t out = row; out < end; ++out) output_row(out, (out - row) * stride);
      const int64_t done = std::min((end - row) * stride, needed);
      intrinsic_ready -= done, ghosts_ready -= done;
      lines_.move_up(done, intrinsic_ready);
      ghosts_.move_up(done, ghosts_ready);
    }
  }

 private:
  const GhostModuleStep& module() const { return q_.module; }
  int64_t ghosts() const {
    return module().concatenated ? q_.y.channels.second : module().intrinsic;
  }
  // Where the ghost maps' vectors begin in y.
  int64_t second_vector() const {
    return vector_ + (module().concatenated ? vectors_of(q_.y.channels.first) : 0);
  }
  int64_t primary_memory() const {
    return PackedPointwise::memory(module().x.channels.channels(), vectors_);
  }
  int64_t lines_memory(bool intrinsic) const {
    const int64_t rows = rows_ + (intrinsic ? 2 * module().margin() : 0);
    return PaddedRows::memory(rows, module().x.width, q_.border(), vectors_);
  }

  void ghost_row(int64_t row, int64_t line) const {
    const LastMaps& x = module().x;
    if (row < 0 || row >= x.height) return ghosts_.clear(line);
    ghosts_.clear_borders(line);
    const float* from = lines_.row(line) + (q_.border() - module().border()) * lines_.step();
    for (int64_t v = 0; v < ghost_vectors_; ++v) {
      cheap_.run(v, from, lines_.row_size(), lines_.step(), x.width, {module().relu},
                 ghosts_.inside(line) + v * kLanes, ghosts_.step());
    }
  }

  // `line`: the first of ghosts_ that the row reads.
  void output_row(int64_t row, int64_t line) const {
    float* y = q_.y.row(piece_.image, row);
    const int64_t skipped = (q_.border() - q_.strided.columns / 2) * lines_.step();
    const int64_t width = q_.y.width, step = q_.y.step();
    if (module().concatenated) {
      const float* from = lines_.row(line + module().margin()) + skipped;
      for (int64_t v = 0; v < vectors_; ++v) {
        first_.run(v, from, lines_.row_size(), lines_.step(), width, {q_.relu},
                   y + (vector_ + v) * kLanes, step);
      }
    }
    for (int64_t v = 0; v < ghost_vectors_; ++v) {
      second_.run(v, ghosts_.row(line) + skipped, ghosts_.row_size(), ghosts_.step(), width,
                  {q_.relu}, y + (second_vector() + v) * kLanes, step);
    }
  }

  const StridedGhostStep& q_;
  const Piece& piece_;
  int64_t vector_, vectors_, ghost_vectors_, some_, rows_;
  Scratch scratch_;
  PackedPointwise primary_;
  PackedDepthwise cheap_, first_, second_;
  PaddedRows lines_, ghosts_;
};

inline void strided_ghost_module(Member* team, const StridedGhostStep& q) {
  const int64_t vectors = vectors_of(q.module.intrinsic);
  const auto fetch = [&](int64_t vector, int64_t some) {
    const LaneSpan c = Segments{q.module.intrinsic, 0}.span(vector, some);
    q.module.primary.fetch(c, q.module.x.channels.channels());
    q.module.cheap.fetch(c, 1);
    q.strided.fetch(c, 1);
  };
  for_pieces(team, q.y.images, vectors, q.y.height, [&](const Piece& piece) {
    const int64_t most = vectors_at_once(q.module.x.channels.channels());
    for_groups(piece, most, fetch, [&](int64_t vector, int64_t some) {
      StridedGhostPiece(q, piece, vector, some).run();
    });
  });
}

}  // namespace ghost
