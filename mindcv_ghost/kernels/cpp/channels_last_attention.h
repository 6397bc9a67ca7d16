// DFC attention of GhostNetV2 and V3 on channels-last maps: weights at half the size, from a 1x1
// convolution and one along rows and one along columns, enlarged by repetition.
#pragma once

#include "channels_last_ghost.h"
#include "exponential.h"
#include "rescale.h"

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
  LastMaps y;  // multiplied by the weights
  Filter pointwise, along_row, along_column;
};

// Some vectors of the weights, and their product with y.
class AttentionPiece {
 public:
  AttentionPiece(const AttentionStep& step, const Piece& piece, int64_t vector, int64_t vectors,
                 const std::vector<int64_t>& row_sources, const std::vector<int64_t>& sources)
      : q_(step),
        piece_(piece),
        vector_(vector),
        vectors_(vectors),
        row_sources_(row_sources),
        sources_(sources),
        margin_(step.along_column.rows / 2),
        rows_(piece.row_end - piece.row + 2 * margin_),
        border_(step.along_row.columns / 2),
        scratch_(PackedPointwise::memory(in(), vectors) + memory_of(step.along_row) +
                     memory_of(step.along_column) +
                     PaddedRows::memory(rows_, width(), border_, vectors) +
                     rows_ * width() * vectors * kLanes + width() * kLanes,
                 6),
        pointwise_(step.pointwise, step.x.channels, step.y.channels, vector, vectors,
                   scratch_.take(PackedPointwise::memory(in(), vectors))),
        along_row_(step.along_row, step.y.channels, vector, vectors, 1,
                   scratch_.take(memory_of(step.along_row))),
        along_column_(step.along_column, step.y.channels, vector, vectors, 1,
                      scratch_.take(memory_of(step.along_column))),
        lines_(width(), border_, vectors,
               scratch_.take(PaddedRows::memory(rows_, width(), border_, vectors))),
        crossed_(scratch_.take(rows_ * width() * vectors * kLanes)),
        weights_(scratch_.take(width() * kLanes)) {}

  void run() {
    const int64_t row_size = width() * vectors_ * kLanes;
    fill_lines(pointwise_, q_.x, piece_.image, piece_.row - margin_, rows_, false, lines_, 0);
    for (int64_t i = 0; i < rows_; ++i) cross_row(i, crossed_ + i * row_size);
    int64_t y_row = 0;
    for (int64_t row = piece_.row; row < piece_.row_end; ++row) {
      while (row_sources_[y_row] < row) ++y_row;
      const int64_t begin = y_row;
      while (y_row < q_.y.height && row_sources_[y_row] == row) ++y_row;
      for (int64_t v = 0; v < vectors_; ++v) {
        const float* from = crossed_ + (row - piece_.row) * row_size;
        along_column_.run(v, from, row_size, vectors_ * kLanes, width(), {}, weights_, kLanes);
        for (int64_t i = 0; i < width(); ++i) {
          store(weights_ + i * kLanes, sigmoid(load(weights_ + i * kLanes)));
        }
        for (int64_t h = begin; h < y_row; ++h) multiply_row(h, vector_ + v);
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

  void multiply_row(int64_t row, int64_t vector) const {
    float* at = q_.y.row(piece_.image, row) + vector * kLanes;
    for (int64_t i = 0; i < q_.y.width; ++i, at += q_.y.step()) {
      store(at, load(at) * load(weights_ + sources_[i] * kLanes));
    }
  }

  const AttentionStep& q_;
  const Piece& piece_;
  int64_t vector_, vectors_;
  const std::vector<int64_t>&row_sources_, &sources_;
  int64_t margin_, rows_, border_;
  Scratch scratch_;
  PackedPointwise pointwise_;
  PackedDepthwise along_row_, along_column_;
  PaddedRows lines_;
  float *crossed_, *weights_;
};

inline void attend(Member* team, const AttentionStep& q) {
  const auto row_sources = RescaleShape::sources(q.y.height, q.x.height);
  const auto sources = RescaleShape::sources(q.y.width, q.x.width);
  for_pieces(team, q.y.images, q.y.channels.vectors(), q.x.height, [&](const Piece& piece) {
    const int64_t most = vectors_at_once(q.x.channels.channels());
    for_even_shares(piece.vector_end - piece.vector, most, [&](int64_t first, int64_t vectors) {
      AttentionPiece(q, piece, piece.vector + first, vectors, row_sources, sources).run();
    });
  });
}

}  // namespace ghost
