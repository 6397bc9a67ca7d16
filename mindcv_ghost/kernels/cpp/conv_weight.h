// Gradient of a convolution's weight: products of shifted inputs with the outputs' gradients.
#pragma once

#include "dense_conv.h"
#include "winograd_1d_weight.h"
#include "winograd_weight.h"

namespace ghost {

// From (channels, pixels) to panels (channels / kPanel, pixels, kPanel), for rows of one image;
// missing channels are zeros.
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

// The factors of a weight's gradient: (rows, outputs' positions) of the inputs, for each of
// `others`, with (outputs' places, out_channels). Rows are input channels, for each tap; where
// channels are few, the columns of the kernel, for each channel and row of the kernel.
struct WeightLayout {
  bool by_column;
  int64_t rows, others, kernel;

  explicit WeightLayout(const ConvShape& q)
      : by_column(q.in_channels < q.kernel),
        rows(by_column ? q.kernel : q.in_channels),
        others(q.depth() / rows),
        kernel(q.kernel) {}

  // Which of the products, (others, rows), is value i of a filter.
  int64_t product(int64_t i) const { return by_column ? i : i % others * rows + i / others; }
};

// Some outputs of conv_backward_weight, and their windows of inputs.
struct WeightTile {
  const ConvShape& q;
  const Reach& reach;
  const Tile tile;
  const Window window;
  // Places; windows follow each other, and so do rows of one where nothing lies between.
  const int64_t columns, outputs, runs, length;
  const int64_t step;  // between channels

  WeightTile(const ConvShape& shape, const Reach& seen, const Tile& t)
      : q(shape),
        reach(seen),
        tile(t),
        window(seen, t.rows, !WeightLayout(shape).by_column),
        columns(t.columns(seen)),
        outputs(t.rows * seen.columns),
        runs(seen.is_identity() ? 1 : t.rows),
        length(outputs / runs),
        // An odd number of cache lines: channels don't evict each other then.
        step((t.images * window.size() + 15) / 16 / 2 * 32 + 16) {}

  // Gradients of the outputs: (panels, columns, kPanel).
  void gather_gradient(const float* dy, float* gradient) const {
    for (int64_t n = 0; n < tile.images; ++n) {
      const int64_t image = (tile.image + n) * q.out_channels * q.out_plane();
      channels_to_panels(dy + image + tile.row * reach.columns, q.out_channels, q.out_plane(),
                         outputs, columns, gradient + n * outputs * kPanel);
    }
  }

  // Windows of `count` channels from `first` on: (channels, step).
  void cut_windows(const float* x, int64_t first, int64_t count, float* windows) const {
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t n = 0; n < tile.images; ++n) {
        const int64_t plane = (tile.image + n) * q.in_channels + first + c;
        cut_window(reach, x + plane * q.in_plane(), tile.row, window,
                   windows + c * step + n * window.size());
      }
    }
  }

  // Where x has the windows of `count` channels from `first` on.
  Ahead inputs_ahead(const float* x, int64_t first, int64_t count) const {
    const int64_t top = tile.row * q.stride + reach.first_row;
    const int64_t begin = std::max<int64_t>(0, top), end = std::min(q.height, top + window.height);
    const float* from = x + (tile.image * q.in_channels + first) * q.in_plane() + begin * q.width;
    if (tile.rows == reach.rows) return ahead(from, q.in_channels, q.in_plane(), count);
    return {from, q.in_plane(), count, panels_of((end - begin) * q.width)};
  }

  // Where dy has the gradients of `count` channels from `first` on.
  Ahead gradient_ahead(const float* dy, int64_t first, int64_t count) const {
    const float* from =
        dy + (tile.image * q.out_channels + first) * q.out_plane() + tile.row * reach.columns;
    if (tile.rows == reach.rows) return ahead(from, q.out_channels, q.out_plane(), count);
    return {from, q.out_plane(), count, panels_of(outputs)};
  }

  // The product for `other`, from row `row` on.
  template <int kRows>
  Accumulators<kRows> product(const WeightLayout& w, int64_t row, int64_t other,
                              const float* windows, const float* gradient, Ahead& ahead) const {
    const int64_t i = w.by_column ? other % w.kernel : other / w.kernel;
    const int64_t j = w.by_column ? row : other % w.kernel;
    const float* a = windows + (w.by_column ? other / w.kernel * step : 0) + window.tap(i, j);
    Accumulators<kRows> sums;
    sums.clear();
    for (int64_t n = 0; n < tile.images; ++n) {
      for (int64_t h = 0; h < runs; ++h) {
        sums.add_run(a + n * window.size() + h * q.stride * window.width, w.by_column ? 1 : step,
                     q.stride / window.spread, gradient + (n * outputs + h * length) * kPanel, length,
                     ahead);
      }
    }
    return sums;
  }

 private:
  // Whole planes, which follow each other in an image.
  Ahead ahead(const float* from, int64_t channels, int64_t plane, int64_t count) const {
    return {from, channels * plane, tile.images, panels_of(count * plane)};
  }
};

// Each thread sums over a fixed share of the batch, and the sums are added in order: the result only
// depends on the number of threads.
inline void conv_backward_weight(const ConvShape& q, const float* x, const float* dy,
                                 float* dweight) {
  if (q.is_winograd_1d(kFewWeightProducts)) return winograd_1d_weight(q.winograd(), x, dy, dweight);
  if (q.is_winograd()) return winograd_weight(q.winograd(), x, dy, dweight);
  const Reach reach = q.reach();
  const WeightLayout w(q);
  const int64_t threads = SharedPool::get()->threads();
  const std::vector<Tile> all = tiles(reach, q.images, 256, threads);
  const int64_t count = all.size(), shares = std::min(threads, count);
  const int64_t panels = panels_of(q.out_channels), size = panels * w.others * w.rows * kPanel;
  WholeScratch whole(shares * size, 1);
  float* sums = whole.take(shares * size);
  parallel(shares, [&](int64_t share) {
    const int64_t begin = count * share / shares, end = count * (share + 1) / shares;
    float* sums_of_share = sums + share * size;
    for (int64_t index = begin; index < end; ++index) {
      const WeightTile t(q, reach, all[index]), next(q, reach, all[std::min(index + 1, end - 1)]);
      const int64_t channels = w.by_column ? q.in_channels : std::min(kPanelRows, q.in_channels);
      Scratch scratch(panels * t.columns * kPanel + channels * t.step, 2);
      float* gradient = scratch.take(panels * t.columns * kPanel);
      float* windows = scratch.take(channels * t.step);
      t.gather_gradient(dy, gradient);
      if (w.by_column) t.cut_windows(x, 0, q.in_channels, windows);
      for_rows(w.rows, [&](int64_t row, auto many) {
        if (!w.by_column) t.cut_windows(x, row, many, windows);
        // The next channels are fetched while these are computed, and a share of the next tile.
        const int64_t following = row + many < w.rows ? row + many : 0;
        const bool is_end = index + 1 == end;
        Ahead inputs, gradients;
        if (!w.by_column && (following > 0 || !is_end)) {
          const int64_t count = std::min<int64_t>(many, w.rows - following);
          inputs = (following > 0 ? t : next).inputs_ahead(x, following, count);
        }
        const int64_t done = q.out_channels * row / w.rows;
        const int64_t until = q.out_channels * (row + many) / w.rows;
        if (!is_end) gradients = next.gradient_ahead(dy, done, until - done);
        if (panels * w.others == 1) {
          while (gradients.left() > 0) gradients.fetch();
        }
        for (int64_t panel = 0; panel < panels; ++panel) {
          const float* b = gradient + panel * t.columns * kPanel;
          for (int64_t other = 0; other < w.others; ++other) {
            Ahead& ahead = inputs.left() > 0 ? inputs : gradients;
            auto products = t.product<many>(w, row, other, windows, b, ahead);
            const int64_t place = (panel * w.others + other) * w.rows + row;
            float* to = sums_of_share + place * kPanel;
            if (index > begin) products.add_rows(to, kPanel);
            products.put(to, kPanel);
          }
        }
      });
    }
  });
  // The shares' sum, of kLanes filters and kLanes of their values at a time.
  const int64_t blocks = (q.depth() + kLanes - 1) / kLanes;
  parallel_runs(panels * kPanel / kLanes * blocks, kLanes * kLanes, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t o = part / blocks * kLanes, first = part % blocks * kLanes;
      const int64_t count = std::min<int64_t>(kLanes, q.depth() - first);
      const float* panel = sums + o / kPanel * w.others * w.rows * kPanel + o % kPanel;
      Vector block[kLanes] = {};
      for (int64_t i = 0; i < count; ++i) {
        const float* from = panel + w.product(first + i) * kPanel;
        block[i] = load(from);
        for (int64_t share = 1; share < shares; ++share) block[i] += load(from + share * size);
      }
      transpose(block);
      const int64_t there = std::clamp<int64_t>(q.out_channels - o, 0, kLanes);
      for (int64_t l = 0; l < there; ++l) {
        store_first(dweight + (o + l) * q.depth() + first, block[l], count);
      }
    }
  });
}

}  // namespace ghost
