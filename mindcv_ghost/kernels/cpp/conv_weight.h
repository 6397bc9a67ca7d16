// Gradient of a convolution's weight: products of shifted inputs with the outputs' gradients.
#pragma once

#include "dense_conv.h"
#include "winograd_weight.h"

namespace ghost {

// Between (channels, pixels) and panels (channels / kPanel, pixels, kPanel), for one image's rows;
// channels that aren't there are zeros.
inline void channels_to_panels(const float* from, int64_t channels, int64_t channel_step,
                               int64_t pixels, int64_t panel_pixels, float* panels) {
  Vector block[kLanes];
  for (int64_t c = 0; c < round_up(channels, kPanel); c += kLanes) {
    float* to = panels + c / kPanel * panel_pixels * kPanel + c % kPanel;
    const int64_t there = std::min<int64_t>(kLanes, channels - c);
    int64_t i = 0;
    for (; i + kLanes <= pixels; i += kLanes) {
      for (int64_t r = 0; r < kLanes; ++r) {
        block[r] = r < there ? load(from + (c + r) * channel_step + i) : Vector{};
      }
      transpose(block);
      for (int64_t r = 0; r < kLanes; ++r) store(to + (i + r) * kPanel, block[r]);
    }
    for (; i < pixels; ++i) {
      for (int64_t r = 0; r < kLanes; ++r) {
        to[i * kPanel + r] = r < there ? from[(c + r) * channel_step + i] : 0;
      }
    }
  }
}

// Each thread sums up a fixed share of the batch, and the shares are added in order: for one number
// of threads the result is always the same.
inline void conv_backward_weight(const ConvShape& q, const float* x, const float* dy,
                                 float* dweight) {
  if (q.is_winograd()) return winograd_weight(q.winograd(), x, dy, dweight);
  const Reach reach = q.reach();
  const int64_t threads = SharedPool::get().threads();
  const std::vector<Tile> all = tiles(reach, q.images, 256, threads);
  const int64_t count = all.size(), shares = std::min(threads, count);
  const int64_t panels = panels_of(q.out_channels);
  // The rows of a product are input channels; where those are few, the columns of the kernel.
  const bool by_column = q.in_channels < q.kernel;
  const int64_t rows = by_column ? q.kernel : q.in_channels;
  const int64_t others = q.depth() / rows;
  const int64_t size = panels * others * rows * kPanel;
  WholeScratch whole(shares * size, 1);
  float* sums = whole.take(shares * size);
  parallel(shares, [&](int64_t share) {
    float* sum = sums + share * size;
    const int64_t begin = count * share / shares, end = count * (share + 1) / shares;
    for (int64_t index = begin; index < end; ++index) {
      const Tile& t = all[index];
      const Window window(reach, t.rows);
      const int64_t columns = t.columns(reach), outputs = t.rows * reach.columns;
      // An odd number of cache lines between channels: they don't evict each other then.
      const int64_t step = (t.images * window.size() + 15) / 16 / 2 * 32 + 16;
      const int64_t channels = by_column ? q.in_channels : std::min(kPanelRows, q.in_channels);
      Scratch scratch(panels * columns * kPanel + channels * step, 2);
      float* gradient = scratch.take(panels * columns * kPanel);
      float* windows = scratch.take(channels * step);
      for (int64_t n = 0; n < t.images; ++n) {
        channels_to_panels(dy + (t.image + n) * q.out_channels * q.out_plane() +
                               t.row * reach.columns,
                           q.out_channels, q.out_plane(), outputs, columns,
                           gradient + n * outputs * kPanel);
      }
      // Windows follow each other; so do rows of one, where nothing lies between.
      const int64_t runs = reach.is_identity() ? 1 : t.rows, length = outputs / runs;
      for (int64_t row = 0, many; row < rows; row += many) {
        many = rows_at_once(rows - row);
        for (int64_t c = 0; c < (by_column ? q.in_channels : many); ++c) {
          if (by_column && row > 0) break;
          const int64_t channel = by_column ? c : row + c;
          for (int64_t n = 0; n < t.images; ++n) {
            cut_window(reach, x + ((t.image + n) * q.in_channels + channel) * q.in_plane(), t.row,
                       window, windows + c * step + n * window.size());
          }
        }
        with_rows(many, [&](auto known) {
          for (int64_t p = 0; p < panels; ++p) {
            const float* b = gradient + p * columns * kPanel;
            for (int64_t other = 0; other < others; ++other) {
              // by_column: other is (channel, kernel's row); else (kernel's row, kernel's column)
              const int64_t i = by_column ? other % q.kernel : other / q.kernel;
              const int64_t j = by_column ? row : other % q.kernel;
              const float* a = windows + (by_column ? other / q.kernel * step : 0) +
                               i * window.width + j;
              const int64_t a_step = by_column ? 1 : step;
              Accumulators<known> products;
              products.clear();
              for (int64_t n = 0; n < t.images; ++n) {
                for (int64_t h = 0; h < runs; ++h) {
                  products.add_run(a + n * window.size() + h * q.stride * window.width, a_step,
                                   q.stride, b + (n * outputs + h * length) * kPanel, length);
                }
              }
              float* to = sum + ((p * others + other) * rows + row) * kPanel;
              if (index > begin) products.add_rows(to, kPanel);
              products.put(to, kPanel);
            }
          }
        });
      }
    }
  });
  parallel(q.out_channels, [&](int64_t o) {
    float* to = dweight + o * q.depth();
    const float* from = sums + o / kPanel * others * rows * kPanel + o % kPanel;
    for (int64_t other = 0; other < others; ++other) {
      for (int64_t row = 0; row < rows; ++row, from += kPanel) {
        float total = from[0];
        for (int64_t share = 1; share < shares; ++share) total += from[share * size];
        to[by_column ? other * rows + row : row * q.taps() + other] = total;
      }
    }
  });
}

}  // namespace ghost
