// Convolutions cut into tiles whose unfolded columns (the inputs of each output) fit the cache.
#pragma once

#include <algorithm>
#include <vector>

#include "gemm.h"
#include "planes.h"
#include "thread_pool.h"

namespace ghost {

// The inputs of each of (rows, columns) outputs in a plane (height, width): the rectangle of
// kernel_rows by kernel_columns whose corner is (first_row + step * row, first_column + step *
// column). Values outside of the plane are zero.
struct Reach {
  int64_t height, width, rows, columns, step;
  int64_t first_row, first_column, kernel_rows, kernel_columns;

  int64_t in_plane() const { return height * width; }
  int64_t outputs() const { return rows * columns; }
  int64_t taps() const { return kernel_rows * kernel_columns; }
  // Each output has one input, which is never outside.
  bool is_pointwise() const { return taps() == 1 && first_row == 0 && first_column == 0; }
  // An output's position is that of its input. (The gradient of a strided convolution may have fewer
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

// The inputs of some rows of outputs in a plane, with zeros for those outside. Rows are split into
// phases, unless told otherwise: columns that are `spread` = reach.step apart follow each other.
struct Window {
  int64_t height, spread, phase, width;  // phase: columns of one; width: of all

  Window(const Reach& reach, int64_t rows, bool split = true)
      : height((rows - 1) * reach.step + reach.kernel_rows),
        spread(split ? reach.step : 1),
        phase((reach.columns - 1) * (reach.step / spread) + 1 + (reach.kernel_columns - 1) / spread),
        width(phase * std::min(spread, reach.kernel_columns)) {}
  int64_t size() const { return height * width; }
  // Where the inputs by a tap of the kernel begin.
  int64_t tap(int64_t row, int64_t column) const {
    return row * width + column % spread * phase + column / spread;
  }
};

// Every step-th value.
inline void copy_strided(const float* from, int64_t step, float* to, int64_t count) {
  if (step == 1) return copy(to, from, count);
  if (step == 2) return copy_every_second(to, from, count);
  for (int64_t i = 0; i < count; ++i) to[i] = from[step * i];
}

inline void cut_window(const Reach& reach, const float* plane, int64_t row, const Window& window,
                       float* to) {
  if (reach.is_identity()) {
    copy(to, plane + row * reach.width, window.size());
    return;
  }
  const int64_t step = window.spread;
  const auto by_step = [step](int64_t n) { return step == 1 ? n : step == 2 ? n >> 1 : n / step; };
  const int64_t begin = row * reach.step + reach.first_row;
  const int64_t above = std::clamp<int64_t>(-begin, 0, window.height);
  const int64_t end = std::clamp(reach.height - begin, above, window.height);
  std::memset(to, 0, above * window.width * sizeof(float));
  std::memset(to + end * window.width, 0, (window.height - end) * window.width * sizeof(float));
  for (int64_t at = 0, p = 0; at < window.width; at += window.phase) {
    const int64_t first = reach.first_column + p++;  // of the plane's columns
    const int64_t left = first < 0 ? std::min(window.phase, by_step(step - 1 - first)) : 0;
    const int64_t there = first < reach.width ? by_step(reach.width - first + step - 1) : 0;
    const int64_t right = std::clamp(there, left, window.phase);
    const float* from = plane + (begin + above) * reach.width + first + left * step;
    float* line = to + above * window.width + at;
    for (int64_t h = above; h < end; ++h, from += reach.width, line += window.width) {
      for (int64_t w = 0; w < left; ++w) line[w] = 0;
      copy_strided(from, step, line + left, right - left);
      for (int64_t w = right; w < window.phase; ++w) line[w] = 0;
    }
  }
}

// `rows` rows of `width` values that are from_step apart, one after the other.
inline void copy_rows(const float* from, int64_t from_step, float* to, int64_t rows,
                      int64_t width) {
  with_width(width, [&](auto columns) {
    for (int64_t h = 0; h < rows; ++h, from += from_step, to += columns) {
      std::memcpy(to, from, columns * sizeof(float));
    }
  });
}

// Panels of kPanel columns of a matrix (depth, columns), each (depth, kPanel).
struct Panels {
  int64_t depth, columns;

  int64_t count() const { return panels_of(columns); }
  // Between panels; a cache line more than they have, because a row of the matrix would otherwise lie
  // in one set of the cache.
  int64_t step() const { return depth * kPanel + 16; }
  int64_t size() const { return count() * step(); }

  // Part of row k: `count` columns from column `first` on.
  void put_row(float* panels, int64_t k, int64_t first, const float* row, int64_t count) const {
    const int64_t begun = first % kPanel;
    float* to = panels + first / kPanel * step() + k * kPanel;
    if (begun > 0) {
      const int64_t head = std::min(count, kPanel - begun);
      copy_few(to + begun, row, head);
      row += head, count -= head, to += step();
    }
    for (; count >= kPanel; count -= kPanel, row += kPanel, to += step()) {
      store(to, load(row));
      store(to + kLanes, load(row + kLanes));
    }
    copy_few(to, row, count);
  }

  // Sets the columns after the last one to zero.
  void fill_up(float* panels) const {
    const int64_t used = columns % kPanel;
    if (used == 0) return;
    float* last = panels + columns / kPanel * step();
    for (int64_t k = 0; k < depth; ++k, last += kPanel) {
      std::memset(last + used, 0, (kPanel - used) * sizeof(float));
    }
  }
};

// Columns of a convolution from `first` on: the outputs of all images, image after image.
struct ColumnRange {
  int64_t first, columns;

  // One of `parts` ranges of whole panels; only the very first panel, which lacks `lead` columns, and
  // the very last may be incomplete.
  static ColumnRange of(int64_t columns, int64_t lead, int64_t part, int64_t parts) {
    const int64_t panels = panels_of(columns + lead);
    const int64_t begin = std::max<int64_t>(0, panels * part / parts * kPanel - lead);
    return {begin, std::min(columns, panels * (part + 1) / parts * kPanel - lead) - begin};
  }
};

// How many ranges of at most `wanted` columns: a multiple of the threads, if there is enough to do.
inline int64_t ranges_of(const Reach& reach, int64_t images, int64_t wanted, int64_t threads) {
  const int64_t total = images * reach.outputs();
  const int64_t least = std::max((total + wanted - 1) / wanted, 2 * threads);
  const int64_t even = std::min(panels_of(total), round_up(least, threads));
  // If images begin with a panel, ranges should begin with an image.
  const int64_t whole = reach.outputs() % kPanel == 0 ? round_up(even, images) : even;
  return whole < 2 * even && whole % threads == 0 ? whole : even;
}

// Some outputs of one image, which are columns of a range from column `at` on.
struct Piece {
  int64_t image, first, count, at;
};

// Calls body(piece) for each image that a range has outputs of.
template <typename Body>
inline void for_images(const Reach& reach, const ColumnRange& range, const Body& body) {
  const int64_t outputs = reach.outputs();
  for (int64_t at = 0, count; at < range.columns; at += count) {
    const int64_t first = (range.first + at) % outputs;
    count = std::min(range.columns - at, outputs - first);
    body(Piece{(range.first + at) / outputs, first, count, at});
  }
}

// Channels that unfold cuts out together. A vector that is read right after parts of it were written
// waits until these have left the store queue.
constexpr int64_t kCutChannels = 8;

// Memory that unfold needs besides the panels: whole rows that cover a piece, for each tap, and their
// inputs.
inline int64_t unfold_memory(const Reach& reach, const ColumnRange& range) {
  const int64_t rows = std::min(reach.rows, range.columns / reach.columns + 2);
  return reach.taps() * rows * reach.columns + kCutChannels * Window(reach, rows).size();
}

// A piece of unfold's work where outputs are their inputs' neighbours: nothing is moved within a plane.
template <typename RowOf>
inline void unfold_identity(const Reach& reach, const float* x, int64_t channels,
                            const Piece& piece, const RowOf& row_of, const Panels& p,
                            float* panels) {
  constexpr int64_t kAhead = 3;  // channels; the processor's own prefetching ends with a plane
  const int64_t plane = reach.in_plane();
  const float* from = x + piece.first;
  for (int64_t c = 0; c < channels; ++c, from += plane) {
    for (int64_t i = 0; i < piece.count; i += 16) __builtin_prefetch(from + kAhead * plane + i);
    p.put_row(panels, row_of(c, 0), piece.at, from, piece.count);
  }
}

// A piece of unfold's work; x: the piece's image.
template <typename RowOf>
inline void unfold_piece(const Reach& reach, const float* x, int64_t channels, const Piece& piece,
                         const RowOf& row_of, const Panels& p, float* panels, float* memory) {
  if (reach.is_identity()) return unfold_identity(reach, x, channels, piece, row_of, p, panels);
  const int64_t row = piece.first / reach.columns, skipped = piece.first % reach.columns;
  const int64_t rows = (skipped + piece.count + reach.columns - 1) / reach.columns;
  const Window window(reach, rows);
  const int64_t taps = reach.taps(), size = rows * reach.columns;
  float *lines = memory, *cut = memory + taps * size;
  if (reach.is_pointwise()) {
    const float* from = x + row * reach.step * reach.width;
    for (int64_t c = 0; c < channels; ++c, from += reach.in_plane()) {
      with_width(reach.columns, [&](auto columns) {
        for (int64_t h = 0; h < rows; ++h) {
          copy_strided(from + h * reach.step * reach.width, reach.step, lines + h * columns, columns);
        }
      });
      p.put_row(panels, row_of(c, 0), piece.at, lines + skipped, piece.count);
    }
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    float* mine = cut + c % kCutChannels * window.size();
    if (c % kCutChannels == 0) {
      for (int64_t i = 0; i < std::min(kCutChannels, channels - c); ++i) {
        cut_window(reach, x + (c + i) * reach.in_plane(), row, window, mine + i * window.size());
      }
    }
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t place = window.tap(tap / reach.kernel_columns, tap % reach.kernel_columns);
      copy_rows(mine + place, reach.step * window.width, lines + tap * size, rows, reach.columns);
    }
    for (int64_t tap = 0; tap < taps; ++tap) {
      p.put_row(panels, row_of(c, tap), piece.at, lines + tap * size + skipped, piece.count);
    }
  }
}

// x: `channels` planes of each image, image_step apart; the inputs of each output of a range.
// row_of(channel, tap) is their row of the panels.
template <typename RowOf>
inline void unfold(const Reach& reach, const float* x, int64_t channels, int64_t image_step,
                   const ColumnRange& range, const RowOf& row_of, const Panels& p, float* panels,
                   float* memory) {
  for_images(reach, range, [&](const Piece& piece) {
    const float* image = x + piece.image * image_step;
    unfold_piece(reach, image, channels, piece, row_of, p, panels, memory);
  });
  p.fill_up(panels);
}

// Where outputs go: (row + stride * output's row, column + stride * output's column) of a plane.
// fills: positions in between belong to no other convolution and become zero (or what is added).
struct Target {
  int64_t height, width, stride, row, column;
  bool fills = false;

  int64_t plane() const { return height * width; }
  // An output's position; after the last one, the end of the plane.
  int64_t place(const Reach& reach, int64_t output) const {
    if (output == reach.outputs()) return plane();
    const int64_t h = output / reach.columns, w = output % reach.columns;
    return (row + stride * h) * width + column + stride * w;
  }
  bool is_dense(const Reach& reach) const { return stride == 1 && plane() == reach.outputs(); }
};

// Where a panel's columns go: runs that lie `stride` apart in a plane.
struct Runs {
  struct Run {
    int64_t length, place, extent;  // extent: from the first value to that of the next run
  };
  Run runs[kPanel];
  int64_t count = 0, stride;
  bool fills;

  // The columns of a range, one panel's at most; image_step between images of y.
  Runs(const Reach& reach, const Target& target, const ColumnRange& range, int64_t image_step)
      : stride(target.stride), fills(target.fills) {
    for_images(reach, range, [&](const Piece& piece) {
      const int64_t end = piece.first + piece.count;
      for (int64_t first = piece.first, length; first < end; first += length) {
        const int64_t left = reach.columns - first % reach.columns;
        length = std::min(end - first, target.is_dense(reach) ? piece.count : left);
        const int64_t place = target.place(reach, first);
        const int64_t next = target.place(reach, first + length);
        runs[count++] = {length, piece.image * image_step + place, next - place};
      }
    });
  }

  // other: an array of the layout of y that is added, or null.
  void write(const float* from, const float* other, float* y) const {
    for (int64_t i = 0; i < count; ++i) {
      float* to = y + runs[i].place;
      const float* add = other == nullptr ? nullptr : other + runs[i].place;
      const int64_t length = runs[i].length;
      if (fills) {
        fill(runs[i], from, add, to);
      } else if (add != nullptr) {
        for (int64_t w = 0; w < length; ++w) to[stride * w] = from[w] + add[stride * w];
      } else if (stride == 1) {
        copy_few(to, from, length);
      } else {
        for (int64_t w = 0; w < length; ++w) to[stride * w] = from[w];
      }
      from += length;
    }
  }

 private:
  // As write, for one run and the places up to the next one.
  void fill(const Run& run, const float* from, const float* add, float* to) const {
    if (add == nullptr && stride == 2) {
      const int64_t last = run.length - 1;
      for (int64_t i = 0; i < last; ++i) {
        to[2 * i] = from[i];
        to[2 * i + 1] = 0;
      }
      to[2 * last] = from[last];
      std::memset(to + 2 * last + 1, 0, (run.extent - 2 * last - 1) * sizeof(float));
      return;
    }
    if (add != nullptr) {
      copy(to, add, run.extent);
    } else {
      std::memset(to, 0, run.extent * sizeof(float));
    }
    for (int64_t w = 0; w < run.length; ++w) to[stride * w] += from[w];
  }
};

// By how many columns panels have to begin earlier so that each vector of y lies within a cache
// line: writing across lines takes up to 1.7 times as long.
inline int64_t lead_of(const Reach& reach, const Target& target, const float* y) {
  if (!target.is_dense(reach) || target.plane() % kLanes != 0) return 0;
  return values_past_boundary(y);
}

// Whether products of unfolded columns fetch ahead. With 16 registers a step takes half as many
// multiply-adds, and fetching took longer than waiting: 1.4 times for 32 to 256 maps of 32 x 32.
constexpr bool kFetchesInputs = kManyRegisters;

// The inputs of a range where they lie in x, as products fetch them ahead: kPanel values of every channel
// at a time.
class InputsAhead {
 public:
  InputsAhead(const Reach& reach, const float* x, int64_t channels, int64_t image_step,
              const ColumnRange& range)
      : reach_(reach), x_(x), channels_(channels), image_step_(image_step), range_(range) {
    // What lies between the inputs of a kernel smaller than its steps would drive columns out.
    if (reach.step > reach.kernel_rows) range_.columns = 0;
  }

  Ahead next() {
    while (from_ >= end_) {
      if (range_.columns == 0) return {};
      next_piece();
    }
    const Ahead ahead = {from_, reach_.in_plane(), channels_};
    from_ += std::min(kPanel, end_ - from_);
    return ahead;
  }

 private:
  // The rows of one image that the range reads.
  void next_piece() {
    const int64_t outputs = reach_.outputs(), first = range_.first % outputs;
    const int64_t count = std::min(range_.columns, outputs - first);
    const float* image = x_ + range_.first / outputs * image_step_;
    const int64_t begin = first / reach_.columns * reach_.step + reach_.first_row;
    const int64_t last = (first + count - 1) / reach_.columns * reach_.step + reach_.first_row;
    from_ = image + std::max<int64_t>(0, begin) * reach_.width;
    end_ = image + std::min(reach_.height, last + reach_.kernel_rows) * reach_.width;
    range_.first += count, range_.columns -= count;
  }

  const Reach& reach_;
  const float* x_;
  int64_t channels_, image_step_;
  ColumnRange range_;  // what is left
  const float *from_ = nullptr, *end_ = nullptr;
};

// y (images, out_channels, target) = weight * the inputs of each output in x (images, in_channels,
// reach), plus `other` of the layout of y unless it is null. weight: (out_channels, in_channels *
// taps), packed by pack_rows for rows_at_once rows at a time.
struct TiledConvolution {
  const Reach& reach;
  int64_t images, in_channels, out_channels;
  const float *x, *weight;
  const Target& target;
  const float* other;
  float* y;

  int64_t depth() const { return in_channels * reach.taps(); }
  int64_t image_step() const { return in_channels * reach.in_plane(); }
  int64_t channel_step() const { return out_channels * target.plane(); }
  bool is_past_caches() const {
    return is_streamed(images * channel_step()) && target.plane() % kLanes == 0;
  }

  // Input channels are taken some at a time, so that many columns fit the cache.
  static constexpr int64_t kDepth = 600;
  int64_t blocks() const { return (depth() + kDepth - 1) / kDepth; }
  int64_t block_channels() const { return (in_channels + blocks() - 1) / blocks(); }

  // The outputs of a range, or every shares-th product of them; `next` is the range that follows.
  void compute(const ColumnRange& range, const ColumnRange& next, int64_t turn,
               int64_t shares) const {
    const int64_t taps = reach.taps(), many = block_channels();
    const Panels whole = {many * taps, range.columns};
    const int64_t sum_size = many < in_channels ? whole.count() * out_channels * kPanel : 0;
    Scratch scratch(whole.size() + unfold_memory(reach, range) + kPanelRows * kPanel + sum_size, 4);
    float* columns = scratch.take(whole.size());
    float* memory = scratch.take(unfold_memory(reach, range));
    float* block = scratch.take(kPanelRows * kPanel);
    float* sums = scratch.take(sum_size);
    for (int64_t c = 0; c < in_channels; c += many) {
      const int64_t there = std::min(many, in_channels - c);
      const Panels panels = {there * taps, range.columns};
      unfold(
          reach, x + c * reach.in_plane(), there, image_step(), range,
          [taps](int64_t channel, int64_t tap) { return channel * taps + tap; }, panels, columns,
          memory);
      const bool is_last = c + there == in_channels;
      const int64_t following = is_last ? 0 : c + there;
      InputsAhead inputs(reach, x + following * reach.in_plane(),
                         std::min(many, in_channels - following), image_step(),
                         is_last ? next : range);
      for (int64_t p = 0; p < panels.count(); ++p) {
        const int64_t first = p * kPanel;
        const ColumnRange part = {range.first + first, std::min(kPanel, range.columns - first)};
        compute_panel(part, {columns + p * panels.step(), c * taps, panels.depth, c == 0, is_last},
                      sums + p * out_channels * kPanel, inputs, turn, shares, block);
      }
    }
    if (is_past_caches()) end_streams();
  }

 private:
  // A panel's columns, of some input channels: rows `first` to `first` + `depth` of all.
  struct Block {
    const float* columns;
    int64_t first, depth;
    bool is_first, is_last;
  };

  void compute_panel(const ColumnRange& part, const Block& b, float* sums, InputsAhead& inputs,
                     int64_t turn, int64_t shares, float* block) const {
    const Runs runs(reach, target, part, channel_step());
    const bool direct = part.columns == kPanel && runs.count == 1 && runs.stride == 1;
    const int64_t place = runs.runs[0].place, plane = target.plane();
    const bool streamed = direct && is_past_caches() && values_past_boundary(y + place) == 0;
    // The same rows of `other` in the panel after this one, before the next range's inputs.
    const bool fetches_other = kFetchesInputs && b.is_last && direct && other != nullptr &&
                               place % plane + 2 * kPanel <= plane;
    int64_t index = 0, fetched = fetches_other ? 0 : out_channels;
    for_rows(out_channels, [&](int64_t row, auto rows) {
      if (index++ % shares != turn) return;
      const int64_t at = place + row * plane;
      Ahead ahead;
      if (fetched < out_channels) {
        ahead = {other + place + kPanel + fetched * plane, plane,
                 std::min(b.depth, out_channels - fetched)};
        fetched += ahead.rows;
      } else if (kFetchesInputs) {
        ahead = inputs.next();
      }
      const float* a = weight + row * depth() + b.first * rows;
      float* to = !b.is_last ? sums + row * kPanel : direct ? y + at : block;
      const bool adds = b.is_last && direct && other != nullptr;
      packed_product<rows>(a, b.columns, b.depth, adds ? other + at : nullptr, b.is_last && streamed,
                           to, b.is_last && direct ? plane : kPanel, ahead,
                           b.is_first ? nullptr : sums + row * kPanel);
      if (direct || !b.is_last) return;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t channel = (row + r) * plane;
        runs.write(block + r * kPanel, other == nullptr ? nullptr : other + channel, y + channel);
      }
    });
  }
};

// Calls body(range, next range or an empty one, turn, shares) on all threads, for ranges of columns that
// have `depth` values each. With several shares, each range is there for each of their turns.
template <typename Body>
inline void for_ranges(const Reach& reach, int64_t images, int64_t depth, int64_t lead,
                       const Body& body) {
  // Columns stay in the L2 cache, beside the inputs of the next ones, which are few where neighbours
  // share them.
  const int64_t bytes = (kFetchesInputs && reach.is_identity() ? 192 : 384) << 10;
  const int64_t threads = SharedPool::get()->threads();
  const int64_t fitting = bytes / (depth * static_cast<int64_t>(sizeof(float)));
  const int64_t wanted = std::clamp(fitting / kPanel * kPanel, kPanel, 32 * kPanel);
  const int64_t total = images * reach.outputs();
  const int64_t count = ranges_of(reach, images, wanted, threads);
  // Too few panels: each is unfolded by several threads, which share its rows.
  const int64_t shares = count < 2 * threads && count % threads != 0 ? threads : 1;
  // Neighbouring ranges are computed by one thread, so that it can fetch the next one's inputs.
  const int64_t parts = std::min(count, 8 * threads);
  parallel(parts * shares, [&](int64_t index) {
    const int64_t part = index / shares, end = count * (part + 1) / parts;
    for (int64_t i = count * part / parts; i < end; ++i) {
      const ColumnRange next = ColumnRange::of(total, lead, std::min(i + 1, count - 1), count);
      body(ColumnRange::of(total, lead, i, count), i + 1 < end ? next : ColumnRange{0, 0},
           index % shares, shares);
    }
  });
}

inline void convolve_tiles(const Reach& reach, int64_t images, int64_t in_channels,
                           int64_t out_channels, const float* x, const float* weight,
                           const Target& target, const float* other, float* y) {
  const TiledConvolution convolution = {reach,  images, in_channels, out_channels, x,
                                        weight, target, other,       y};
  for_ranges(reach, images, convolution.block_channels() * reach.taps(), lead_of(reach, target, y),
             [&](const ColumnRange& range, const ColumnRange& next, int64_t turn, int64_t shares) {
               convolution.compute(range, next, turn, shares);
             });
}

}  // namespace ghost
