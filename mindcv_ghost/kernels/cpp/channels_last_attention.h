// DFC attention of GhostNetV2 and V3 on channels-last maps: factors at half the size, from a 1x1
// convolution and one along rows and one along columns. The Ghost module multiplies its output by
// them while it writes it.
#pragma once

#include "channels_last_ghost.h"
#include "exponential.h"

namespace ghost {

// y = the means of squares of 2x2; a last odd row or column is left out.
inline void halve(Member* team, const LastMaps& x, const LastMaps& y) {
  for_pieces(team, y.images, y.channels.vectors(), y.height, [&](const Piece& piece) {
    for (int64_t row = piece.row; row < piece.row_end; ++row) {
      for (int64_t v = piece.vector; v < piece.vector_end; ++v) {
        const float* above = x.row(piece.image, 2 * row) + v * kLanes;
        float* to = y.row(piece.image, row) + v * kLanes;
        for (int64_t i = 0; i < y.width; ++i, above += 2 * x.step(), to += y.step()) {
          const float* below = above + x.row_size();
          const Vector sum = load(above) + load(above + x.step()) + load(below) +
                             load(below + x.step());
          store(to, sum * 0.25f);
        }
      }
    }
  });
}

struct AttentionStep {
  LastMaps x;  // maps of half the size
  LastMaps y;  // the factors
  Filter pointwise, along_row, along_column;
};

// Some vectors of the factors.
class AttentionPiece {
 public:
  AttentionPiece(const AttentionStep& step, const Piece& piece, int64_t vector, int64_t vectors)
      : q_(step),
        piece_(piece),
        vector_(vector),
        vectors_(vectors),
        margin_(step.along_column.rows / 2),
        rows_(piece.row_end - piece.row + 2 * margin_),
        border_(step.along_row.columns / 2),
        scratch_(PackedPointwise::memory(in(), vectors) + memory_of(step.along_row) +
                     memory_of(step.along_column) +
                     PaddedRows::memory(rows_, width(), border_, vectors) +
                     rows_ * width() * vectors * kLanes,
                 5),
        pointwise_(step.pointwise, step.x.channels, step.y.channels, vector, vectors,
                   scratch_.take(PackedPointwise::memory(in(), vectors))),
        along_row_(step.along_row, step.y.channels, vector, vectors, 1,
                   scratch_.take(memory_of(step.along_row))),
        along_column_(step.along_column, step.y.channels, vector, vectors, 1,
                      scratch_.take(memory_of(step.along_column))),
        lines_(width(), border_, vectors,
               scratch_.take(PaddedRows::memory(rows_, width(), border_, vectors))),
        crossed_(scratch_.take(rows_ * width() * vectors * kLanes)) {}

  void run() {
    const int64_t row_size = width() * vectors_ * kLanes;
    fill_lines(pointwise_, q_.x, piece_.image, piece_.row - margin_, rows_, false, lines_, 0);
    for (int64_t i = 0; i < rows_; ++i) cross_row(i, crossed_ + i * row_size);
    for (int64_t row = piece_.row; row < piece_.row_end; ++row) {
      const float* from = crossed_ + (row - piece_.row) * row_size;
      for (int64_t v = 0; v < vectors_; ++v) {
        float* to = q_.y.row(piece_.image, row) + (vector_ + v) * kLanes;
        along_column_.run(v, from, row_size, vectors_ * kLanes, width(), {}, to, q_.y.step());
        for (int64_t i = 0; i < width(); ++i, to += q_.y.step()) store(to, sigmoid(load(to)));
      }
    }
  }

 private:
  int64_t in() const { return q_.x.channels.channels(); }
  int64_t width() const { return q_.x.width; }
  int64_t memory_of(const Filter& filter) const {
    return PackedDepthwise::memory(filter, vectors_);
  }

  // The convolution along a row; zeros outside of the maps.
  void cross_row(int64_t line, float* to) const {
    const int64_t step = vectors_ * kLanes, row = piece_.row - margin_ + line;
    if (row < 0 || row >= q_.x.height) {
      std::memset(to, 0, width() * step * sizeof(float));
      return;
    }
    for (int64_t v = 0; v < vectors_; ++v) {
      along_row_.run(v, lines_.row(line), lines_.row_size(), step, width(), {}, to + v * kLanes,
                     step);
    }
  }

  const AttentionStep& q_;
  const Piece& piece_;
  int64_t vector_, vectors_;
  int64_t margin_, rows_, border_;
  Scratch scratch_;
  PackedPointwise pointwise_;
  PackedDepthwise along_row_, along_column_;
  PaddedRows lines_;
  float* crossed_;
};

inline void attend(Member* team, const AttentionStep& q) {
  const auto fetch = [&](int64_t vector, int64_t vectors) {
    const LaneSpan c = q.y.channels.span(vector, vectors);
    q.pointwise.fetch(c, q.x.channels.channels());
    q.along_row.fetch(c, 1);
    q.along_column.fetch(c, 1);
  };
  for_pieces(team, q.y.images, q.y.channels.vectors(), q.y.height, [&](const Piece& piece) {
    const int64_t most = vectors_at_once(q.x.channels.channels());
    for_groups(piece, most, fetch, [&](int64_t vector, int64_t vectors) {
      AttentionPiece(q, piece, vector, vectors).run();
    });
  });
}

}  // namespace ghost
