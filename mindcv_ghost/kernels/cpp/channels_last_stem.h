// A network's first convolution: from images, a plane for each channel, to channels-last maps.
#pragma once

#include "channels_last_depthwise.h"
#include "channels_last_pointwise.h"

namespace ghost {

// Images (images, channels, height, width).
struct Images {
  const float* data;
  int64_t images, channels, height, width;

  const float* row(int64_t image, int64_t channel, int64_t y) const {
    return data + ((image * channels + channel) * height + y) * width;
  }
};

// A row of outputs of some vectors. x: the first tap's row of the first channel; rows follow at
// x_row, channels at x_channel.
template <int kVectors>
inline void stem_row(const float* x, int64_t x_channel, int64_t x_row, int64_t channels,
                     int64_t kernel, int64_t stride, const float* weight, const float* shift,
                     int64_t count, const Finish& finish, float* y, int64_t y_step) {
  constexpr int kMost = positions_at_once(kVectors);
  for_even_shares(count, kMost, [&](int64_t first, int64_t share) {
    with_number<kMost>(share, [&](auto positions) {
      PointwiseTile<positions, kVectors> tile(shift);
      const float* w = weight;
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t row = 0; row < kernel; ++row, w += kernel * kVectors * kLanes) {
          // The taps of a row are neighbours, as channels are elsewhere.
          tile.add(x + c * x_channel + row * x_row + first * stride, stride, kernel, w);
        }
      }
      tile.put(finish, first, [&](int64_t p) { return p * y_step; }, y);
    });
  });
}

// y = norm(conv(x)), with a ReLU; the kernel is square and odd, and padded by half of it.
inline void stem_conv(Member* team, const Images& x, const Filter& filter, int64_t stride,
                      bool relu, const LastMaps& y) {
  const int64_t kernel = filter.rows, border = kernel / 2, depth = x.channels * filter.taps();
  for_pieces(team, y.images, y.channels.vectors(), y.height, [&](const Piece& piece) {
    const int64_t x_row = x.width + 2 * border, x_channel = kernel * x_row;
    for_even_shares(piece.vector_end - piece.vector, kGroup, [&](int64_t first, int64_t vectors) {
      const int64_t memory = PackedPointwise::memory(depth, vectors), vector = piece.vector + first;
      Scratch scratch(memory + x.channels * x_channel, 2);
      float *shift = scratch.take(memory), *weight = shift + vectors * kLanes;
      float* lines = scratch.take(x.channels * x_channel);
      for (int64_t v = 0; v < vectors; ++v) {
        store(shift + v * kLanes, filter.shift(y.channels.span(vector + v)));
      }
      pack_pointwise(filter, depth, y.channels, vector, vectors, weight);
      std::memset(lines, 0, x.channels * x_channel * sizeof(float));
      for (int64_t row = piece.row; row < piece.row_end; ++row) {
        for (int64_t c = 0; c < x.channels; ++c) {
          for (int64_t k = 0; k < kernel; ++k) {
            const int64_t from = row * stride - border + k;
            float* to = lines + c * x_channel + k * x_row + border;
            if (from >= 0 && from < x.height) {
              copy(to, x.row(piece.image, c, from), x.width);
            } else {
              std::memset(to, 0, x.width * sizeof(float));
            }
          }
        }
        with_number<kGroup>(vectors, [&](auto known) {
          stem_row<known>(lines, x_channel, x_row, x.channels, kernel, stride, weight, shift,
                          y.width, {relu}, y.row(piece.image, row) + vector * kLanes, y.step());
        });
      }
    });
  });
}

}  // namespace ghost
