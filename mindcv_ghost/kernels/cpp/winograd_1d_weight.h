// Gradient of a 3x3 weight by Winograd's algorithm along the height, the transpose of winograd_1d.h:
// for each point and tap along the width, a product of two lines for every pair of channels.
#pragma once

#include <algorithm>

#include "line_sums.h"
#include "winograd_1d.h"
#include "winograd_weight.h"

namespace ghost {

// Adds the products of one block of bands to `sums`.
inline void add_band_products(const BandLine& line, const LineSumsLayout& at, int64_t step,
                              const float* x, const float* dy, int64_t first, float* inputs,
                              float* gradients, float* sums) {
  const WinogradShape& q = line.q;
  const int64_t in_step = LineSums::kInputs * step;
  const int64_t out_step = at.out_groups() * LineSums::kOutputs * step;
  for (int64_t o = 0; o < q.out_channels; ++o) {
    bands_to_points<kOutputTile>(line, dy, q.out_channels, o, first, gradients + o * step, out_step,
                                 [](const Vector* d, Vector* v) { gradients_to_points(d, 1, v, 1); });
  }
  for (int64_t in = 0; in < at.in_groups(); ++in) {
    for (int64_t i = 0; i < LineSums::kInputs; ++i) {
      // A missing last channel repeats another one, whose products nobody reads.
      const int64_t c = std::min(in * LineSums::kInputs + i, q.in_channels - 1);
      bands_to_points<6>(line, x, q.in_channels, c, first, inputs + i * step, in_step,
                         [](const Vector* d, Vector* v) { inputs_to_points(d, 1, v, 1); });
    }
    for (int64_t p = 0; p < kRowPoints; ++p) {
      for (int64_t out = 0; out < at.out_groups(); ++out) {
        LineSums::add(inputs + p * in_step + line.begin(),
                      gradients + p * out_step + out * LineSums::kOutputs * step + line.begin(),
                      step, line.vectors(), sums + at.group(in, p, out) * kLanes);
      }
    }
  }
}

// x (N, in_channels, H, W), dy (N, out_channels, H, W). The result only depends on the number of
// threads.
inline void winograd_1d_weight(const WinogradShape& q, const float* x, const float* dy,
                               float* dweight) {
  constexpr int64_t kPositions = 1056;  // of a block: long, as its sums are loaded and stored
  const LineSumsLayout at = {q.in_channels, q.out_channels, kRowPoints};
  const int64_t all = q.images * q.tile_rows(), lines = at.out_groups() * LineSums::kOutputs;
  const int64_t wanted = std::clamp<int64_t>(kPositions / BandLine::pitch(q), 1, all);
  const int64_t step = BandLine{q, wanted}.step();
  const int64_t input_size = kRowPoints * LineSums::kInputs * step;
  const int64_t gradient_size = kRowPoints * lines * step;
  const auto add = [&](int64_t begin, int64_t end, Scratch& scratch, float* sums) {
    float* inputs = scratch.take(input_size);
    float* gradients = scratch.take(gradient_size);
    std::memset(gradients, 0, gradient_size * sizeof(float));  // lines of missing channels
    const int64_t blocks = (end - begin + wanted - 1) / wanted;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = begin + (end - begin) * block / blocks;
      const int64_t last = begin + (end - begin) * (block + 1) / blocks;
      add_band_products({q, last - first}, at, step, x, dy, first, inputs, gradients, sums);
    }
  };
  sum_in_shares(at, all, input_size + gradient_size, 2, add,
                [&](int64_t o, int64_t c, int64_t column, const float* points) {
                  float* to = dweight + (o * q.in_channels + c) * 9 + column;
                  weights_from_points(points, 1, to, 3);
                });
}

}  // namespace ghost
