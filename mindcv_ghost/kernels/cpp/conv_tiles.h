// Convolutions cut into tiles whose columns (what the kernel sees, output by output) fit the cache.
#pragma once

#include <algorithm>
#include <vector>

#include "gemm.h"
#include "planes.h"
#include "pool.h"

namespace ghost {

// Which values of a plane (height, width) each of (rows, columns) outputs sees: the rectangle of
// kernel_rows by kernel_columns whose corner is (first_row + step * row, first_column + step *
// column). What lies outside of the plane is zero.
struct Reach {
  int64_t height, width, rows, columns, step;
  int64_t first_row, first_column, kernel_rows, kernel_columns;

  int64_t in_plane() const { return height * width; }
  int64_t outputs() const { return rows * columns; }
  int64_t taps() const { return kernel_rows * kernel_columns; }
  // Each output sees one value, and none is outside.
  bool is_pointwise() const { return taps() == 1 && first_row == 0 && first_column == 0; }
  // An output's place is that of what it sees. (A strided convolution's gradient may have fewer
  // outputs in a row than there are values.)
  bool is_identity() const { return is_pointwise() && step == 1 && columns == width; }
};

// Some images (all rows), or some rows of one image, of the outputs.
struct Tile {
  int64_t image, images, row, rows;

  int64_t columns(const Reach& reach) const { return images * rows * reach.columns; }
};

// Tiles of about `columns` columns, in the images' order; fewer columns where tiles would be fewer
// than `parts`.
inline std::vector<Tile> tiles(const Reach& reach, int64_t images, int64_t columns, int64_t parts) {
  const int64_t even = (images * reach.outputs() + parts - 1) / parts;
  const int64_t wanted = std::max<int64_t>(1, std::min(columns, even));
  const int64_t at_once = std::clamp<int64_t>(wanted / reach.outputs(), 1, images);
  const int64_t blocks = (reach.outputs() + wanted - 1) / wanted;
  const int64_t rows =
      at_once > 1 ? reach.rows : std::max<int64_t>(1, (reach.rows + blocks - 1) / blocks);
  std::vector<Tile> all;
  for (int64_t n = 0; n < images; n += at_once) {
    for (int64_t h = 0; h < reach.rows; h += rows) {
      all.push_back({n, std::min(at_once, images - n), h, std::min(rows, reach.rows - h)});
    }
  }
  return all;
}

// What a tile's kernels see of a plane, with zeros where that is outside.
struct Window {
  int64_t height, width;

  Window(const Reach& reach, int64_t rows)
      : height((rows - 1) * reach.step + reach.kernel_rows),
        width((reach.columns - 1) * reach.step + reach.kernel_columns) {}
  int64_t size() const { return height * width; }
};

inline void cut_window(const Reach& reach, const float* plane, int64_t row, const Window& window,
                       float* to) {
  if (reach.is_identity()) {
    copy(to, plane + row * reach.width, window.size());
    return;
  }
  const int64_t left = std::min(window.width, std::max<int64_t>(0, -reach.first_column));
  const int64_t skipped = std::max<int64_t>(0, reach.first_column);
  const int64_t copied =
      std::max<int64_t>(0, std::min(window.width - left, reach.width - skipped));
  for (int64_t h = 0; h < window.height; ++h, to += window.width) {
    const int64_t from = row * reach.step + reach.first_row + h;
    if (from < 0 || from >= reach.height) {
      std::memset(to, 0, window.width * sizeof(float));
      continue;
    }
    for (int64_t w = 0; w < left; ++w) to[w] = 0;
    copy(to + left, plane + from * reach.width + skipped, copied);
    for (int64_t w = left + copied; w < window.width; ++w) to[w] = 0;
  }
}

// Every step-th value of every step-th row.
inline void copy_strided(const float* from, int64_t from_width, int64_t step, float* to,
                         int64_t rows, int64_t width) {
  with_width(width, [&](auto columns) {
    for (int64_t h = 0; h < rows; ++h, from += step * from_width, to += columns) {
      if (step == 1) {
        std::memcpy(to, from, columns * sizeof(float));
      } else if (step == 2) {
        for (int64_t w = 0; w < columns; ++w) to[w] = from[2 * w];
      } else {
        for (int64_t w = 0; w < columns; ++w) to[w] = from[step * w];
      }
    }
  });
}

// Panels of kPanel columns of a matrix (depth, columns), each (depth, kPanel); the last is filled
// up with zeros.
struct Panels {
  int64_t depth, columns;

  int64_t count() const { return (columns + kPanel - 1) / kPanel; }
  int64_t size() const { return count() * depth * kPanel; }

  // Part of row k: `count` columns from column `first` on, which begins a panel.
  void put_row(float* panels, int64_t k, int64_t first, const float* row, int64_t count) const {
    float* to = panels + first * depth + k * kPanel;
    for (; count >= kPanel; count -= kPanel, row += kPanel, to += depth * kPanel) {
      store(to, load(row));
      store(to + kLanes, load(row + kLanes));
    }
    if (count > 0) {
      for (int64_t w = 0; w < count; ++w) to[w] = row[w];
      for (int64_t w = count; w < kPanel; ++w) to[w] = 0;
    }
  }
};

// Memory that unfold needs beside the panels.
inline int64_t unfold_memory(const Reach& reach, const Tile& t) {
  return t.columns(reach) + t.images * Window(reach, t.rows).size();
}

// x (images, channels, height, width): what each of a tile's outputs sees, channel by channel.
inline void unfold(const Reach& reach, const float* x, int64_t channels, const Tile& t,
                   const Panels& p, float* panels, float* memory) {
  constexpr int64_t kAhead = 3;  // channels; the processor's own prefetching ends with a plane
  const Window window(reach, t.rows);
  const int64_t outputs = t.rows * reach.columns, plane = reach.in_plane();
  float* line = memory;
  float* windows = memory + t.columns(reach);
  const float* image = x + t.image * channels * plane;
  for (int64_t c = 0, k = 0; c < channels; ++c) {
    if (reach.is_pointwise()) {
      const float* from = image + c * plane + t.row * reach.step * reach.width;
      const bool in_place = reach.is_identity() && (t.images == 1 || outputs % kPanel == 0);
      for (int64_t n = 0; n < t.images; ++n, from += channels * plane) {
        if (in_place) {
          for (int64_t i = 0; i < outputs; i += 16) __builtin_prefetch(from + kAhead * plane + i);
          p.put_row(panels, k, n * outputs, from, outputs);
        } else if (reach.is_identity()) {
          copy(line + n * outputs, from, outputs);
        } else {
          copy_strided(from, reach.width, reach.step, line + n * outputs, t.rows, reach.columns);
        }
      }
      if (!in_place) p.put_row(panels, k, 0, line, t.columns(reach));
      ++k;
      continue;
    }
    for (int64_t n = 0; n < t.images; ++n) {
      cut_window(reach, image + (n * channels + c) * plane, t.row, window,
                 windows + n * window.size());
    }
    for (int64_t i = 0; i < reach.kernel_rows; ++i) {
      for (int64_t j = 0; j < reach.kernel_columns; ++j) {
        for (int64_t n = 0; n < t.images; ++n) {
          copy_strided(windows + n * window.size() + i * window.width + j, window.width,
                       reach.step, line + n * outputs, t.rows, reach.columns);
        }
        p.put_row(panels, k++, 0, line, t.columns(reach));
      }
    }
  }
}

// Where outputs go: (row + stride * output's row, column + stride * output's column) of a plane.
struct Target {
  int64_t height, width, stride, row, column;

  int64_t plane() const { return height * width; }
  bool is_dense(const Reach& reach) const { return stride == 1 && plane() == reach.outputs(); }
};

// Where a panel's columns go: runs that lie `stride` apart in a plane.
struct Runs {
  struct Run {
    int64_t length, place;
  };
  Run runs[kPanel];
  int64_t count = 0, stride;

  // `wanted` columns of a tile from its column `first` on; image_step between images of y.
  Runs(const Reach& reach, const Tile& t, const Target& target, int64_t first, int64_t wanted,
       int64_t image_step)
      : stride(target.stride) {
    const int64_t outputs = t.rows * reach.columns;
    while (wanted > 0) {
      const int64_t rest = first % outputs, h = t.row + rest / reach.columns;
      const int64_t w = rest % reach.columns;
      const int64_t left = target.is_dense(reach) ? outputs - rest : reach.columns - w;
      const int64_t length = std::min(wanted, left);
      runs[count++] = {length, (t.image + first / outputs) * image_step +
                                   (target.row + stride * h) * target.width + target.column +
                                   stride * w};
      first += length, wanted -= length;
    }
  }

  // other: what is added, placed as y; or null.
  void write(const float* from, const float* other, float* y) const {
    for (int64_t i = 0; i < count; ++i) {
      float* to = y + runs[i].place;
      const int64_t length = runs[i].length;
      if (other != nullptr) {
        const float* add = other + runs[i].place;
        for (int64_t w = 0; w < length; ++w) to[stride * w] = from[w] + add[stride * w];
      } else if (stride == 1 && length == kLanes) {
        store(to, load(from));
      } else {
        for (int64_t w = 0; w < length; ++w) to[stride * w] = from[w];
      }
      from += length;
    }
  }
};

// y (images, out_channels, target) = weight * what each output sees of x (images, in_channels,
// reach), plus `other`, placed as y, where there is one. weight: (out_channels, in_channels * taps),
// packed by pack_rows for rows_at_once rows at a time.
inline void convolve_tiles(const Reach& reach, int64_t images, int64_t in_channels,
                           int64_t out_channels, const float* x, const float* weight,
                           const Target& target, const float* other, float* y) {
  constexpr int64_t kBytes = 384 << 10;  // of columns: they should stay in the second-level cache
  const int64_t depth = in_channels * reach.taps(), threads = SharedPool::get().threads();
  const int64_t fitting = kBytes / (depth * static_cast<int64_t>(sizeof(float)));
  const int64_t wanted = std::clamp(fitting / kPanel * kPanel, kPanel, 32 * kPanel);
  const std::vector<Tile> all = tiles(reach, images, wanted, 2 * threads);
  // Too few tiles: each is unfolded by several threads, which share its rows.
  const int64_t count = all.size(), shares = count < threads ? threads : 1;
  parallel(count * shares, [&](int64_t part) {
    const Tile& t = all[part / shares];
    const Panels panels = {depth, t.columns(reach)};
    Scratch scratch(panels.size() + unfold_memory(reach, t) + kPanelRows * kPanel, 3);
    float* columns = scratch.take(panels.size());
    unfold(reach, x, in_channels, t, panels, columns, scratch.take(unfold_memory(reach, t)));
    float* block = scratch.take(kPanelRows * kPanel);
    const int64_t channel_step = out_channels * target.plane();
    const int64_t turn = part % shares;
    const bool past_caches =
        is_streamed(images * channel_step) && can_stream(y, target.plane());
    for (int64_t p = 0; p < panels.count(); ++p) {
      const int64_t first = p * kPanel, width = std::min(kPanel, panels.columns - first);
      const Runs runs(reach, t, target, first, width, channel_step);
      const bool direct = width == kPanel && runs.count == 1 && runs.stride == 1;
      const bool streamed = direct && past_caches && runs.runs[0].place % kLanes == 0;
      float* out = y + runs.runs[0].place;
      const float* add = other == nullptr ? nullptr : other + runs.runs[0].place;
      int64_t index = 0;
      for (int64_t row = 0, rows; row < out_channels; row += rows, ++index) {
        rows = rows_at_once(out_channels - row);
        if (index % shares != turn) continue;
        with_rows(rows, [&](auto known) {
          packed_product<known>(weight + row * depth, columns + p * depth * kPanel, depth,
                                direct && other != nullptr ? add + row * target.plane() : nullptr,
                                streamed,
                                direct ? out + row * target.plane() : block,
                                direct ? target.plane() : kPanel);
        });
        if (direct) continue;
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t channel = (row + r) * target.plane();
          runs.write(block + r * kPanel, other == nullptr ? nullptr : other + channel, y + channel);
        }
      }
    }
    if (past_caches) end_streams();
  });
}

}  // namespace ghost
