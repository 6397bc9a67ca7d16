// Everything after the 7x7 convolution of a ResNet's stem, as one operator: BN, ReLU, and max
// pooling of 3x3 with stride 2 and a border of one.
#pragma once

#include <algorithm>
#include <limits>

#include "norm.h"
#include "thread_pool.h"

namespace ghost {

struct StemShape {
  int64_t images, channels, height, width;

  int64_t plane() const { return height * width; }
  int64_t out_height() const { return (height + 1) / 2; }
  int64_t out_width() const { return (width + 1) / 2; }
  int64_t out_plane() const { return out_height() * out_width(); }
};

// Values of memory for a line of so many that is read and written in whole vectors.
inline int64_t line_size(int64_t count) { return round_up(count, kLanes) + 2 * kLanes; }

// The greater of two; a NaN wins.
template <typename Value>
inline Value greater(Value a, Value b) {
  const Value most = b > a ? b : a;
  return b != b ? b : most;
}

// A channel's BN as an increasing function, of its input times a sign: the maximum of a window can be
// taken before it, on a quarter of the values after it.
struct Increasing {
  float sign, scale, shift;

  explicit Increasing(Affine a)
      : sign(a.scale > 0 ? 1.0f : a.scale < 0 ? -1.0f : 0 * a.scale),
        scale(a.scale * sign),
        shift(a.shift) {}
};

// Pools the windows of output row h of a map: BN and ReLU of the maxima. `line` is memory for
// line_size(width + 1) values.
inline void max_pool_row(const StemShape& q, const float* u, const Increasing& norm, int64_t h,
                         float* line, float* y) {
  const float* middle = u + 2 * h * q.width;
  const float* above = h > 0 ? middle - q.width : middle;
  const float* below = 2 * h + 1 < q.height ? middle + q.width : middle;
  float* columns = line + 1;
  for (int64_t i = 0; i < q.width; i += kLanes) {
    const int64_t n = q.width - i;
    const Vector two = greater(load_at_most(above + i, n) * norm.sign,
                               load_at_most(middle + i, n) * norm.sign);
    store(columns + i, greater(two, load_at_most(below + i, n) * norm.sign));
  }
  columns[-1] = columns[0];
  columns[q.width] = columns[q.width - 1];
  for (int64_t w = 0; w < q.out_width(); w += kLanes) {
    const float* at = columns + 2 * w;
    const Vector left = even_lanes(load(at - 1), load(at - 1 + kLanes));
    const Vector first = load(at), second = load(at + kLanes);
    const Vector most = greater(greater(left, even_lanes(first, second)), odd_lanes(first, second));
    store_at_most(y + w, relu_of(most * norm.scale + norm.shift), q.out_width() - w);
  }
}

inline void max_pool(const StemShape& q, const float* u, Affine a, float* line, float* y) {
  for (int64_t h = 0; h < q.out_height(); ++h) {
    max_pool_row(q, u, Increasing(a), h, line, y + h * q.out_width());
  }
}

// For the windows of a row: the greatest value of some of their positions, and which position it is,
// counted row by row from 0 to 8; the first of equal ones.
struct Maxima {
  float *value, *position;

  // Takes over what is greater in the later row `other`, whose positions are of its own row.
  void join(const Maxima& other, float row, int64_t count) const {
    for (int64_t w = 0; w < count; w += kLanes) {
      const Vector old = load(value + w), later = load(other.value + w);
      const auto wins = later > old;
      store(value + w, wins ? later : old);
      store(position + w, wins ? load(other.position + w) + 3 * row : load(position + w));
    }
  }
};

constexpr float kNoMaximum = -std::numeric_limits<float>::infinity();

// The windows' maxima within one row of a map. `even` and `odd` are memory for lines.
inline void row_maxima(const StemShape& q, const float* u, float sign, float* even, float* odd,
                       const Maxima& to) {
  const int64_t count = q.out_width();
  for (int64_t w = 0; w < count; w += kLanes) {
    const int64_t n = q.width - 2 * w;
    const Vector first = load_at_most(u + 2 * w, n) * sign;
    const Vector second = load_at_most(u + 2 * w + kLanes, n - kLanes) * sign;
    store(even + w, even_lanes(first, second));
    store(odd + 1 + w, odd_lanes(first, second));
  }
  odd[0] = kNoMaximum;
  if (q.width % 2 == 1) odd[count] = kNoMaximum;
  for (int64_t w = 0; w < count; w += kLanes) {
    const Vector left = load(odd + w), middle = load(even + w), right = load(odd + w + 1);
    const auto second = middle > left;
    const Vector two = second ? middle : left;
    const auto third = right > two;
    store(to.value + w, third ? right : two);
    const Vector position = second ? Vector{} + 1.0f : Vector{};
    store(to.position + w, third ? Vector{} + 2.0f : position);
  }
}

// Memory of the pooling's gradient of one map, in lines of line_size(out_width() + 1) values.
struct PoolMemory {
  float *value, *row_value, *row_position, *odd, *even;  // a line each
  float *positions, *gradients;                          // a line for each output row
};

// Adds to the even and odd columns from w on of a map's row what windows give it, of which it is row
// `row`.
inline void add_gradients(const float* position, const float* d, float row, int64_t w,
                          Vector* even, Vector* odd) {
  const float first = 3 * row;
  const Vector here = load(position + w), next = load(position + w + 1);
  const Vector given = load(d + w);
  *even += here == first + 1 ? given : Vector{};
  *odd += here == first + 2 ? given : Vector{};
  *odd += next == first ? load(d + w + 1) : Vector{};
}

// Gives each pooled value's gradient to the position of its maximum, unless a ReLU stops it.
inline void max_pool_backward(const StemShape& q, const float* u, Affine a, const float* dy,
                              const PoolMemory& m, float* d) {
  const Increasing norm(a);
  const int64_t count = q.out_width(), line = line_size(count + 1);
  const Maxima of_row = {m.row_value, m.row_position};
  for (int64_t h = 0; h < q.out_height(); ++h, dy += count) {
    float *position = m.positions + h * line, *given = m.gradients + h * line;
    const Maxima most = {m.value, position};
    std::fill_n(m.value, line, kNoMaximum);
    for (int64_t r = std::max<int64_t>(0, 2 * h - 1); r < std::min(q.height, 2 * h + 2); ++r) {
      row_maxima(q, u + r * q.width, norm.sign, m.even, m.odd, of_row);
      most.join(of_row, static_cast<float>(r - 2 * h + 1), count);
    }
    for (int64_t w = 0; w < count; w += kLanes) {
      const Vector y = load(m.value + w) * norm.scale + norm.shift;
      store(given + w, where_positive(y, load_at_most(dy + w, count - w)));
    }
    std::fill(given + count, given + line, 0.0f);
  }
  for (int64_t r = 0; r < q.height; ++r, d += q.width) {
    for (int64_t w = 0; w < count; w += kLanes) {
      Vector even = {}, odd = {};
      for (int64_t h = r / 2; h < std::min(q.out_height(), (r + 1) / 2 + 1); ++h) {
        add_gradients(m.positions + h * line, m.gradients + h * line,
                      static_cast<float>(r - 2 * h + 1), w, &even, &odd);
      }
      const int64_t n = q.width - 2 * w;
      store_at_most(d + 2 * w, first_of_pairs(even, odd), n);
      store_at_most(d + 2 * w + kLanes, second_of_pairs(even, odd), n - kLanes);
    }
  }
}

// u (N, C, H, W) to y (N, C, ceil(H / 2), ceil(W / 2)).
inline void stem_forward(const StemShape& q, const float* u, const Norm& norm, float* y,
                         const NormOutput& out) {
  parallel(q.channels, [&](int64_t c) {
    const int64_t size = line_size(q.width + 1);
    Scratch scratch(size, 1);
    float* line = scratch.take(size);
    StatisticsAccumulator running;
    for (int64_t n = 0; n < q.images; ++n) {
      const float* map = u + (n * q.channels + c) * q.plane();
      if (n + 1 < q.images) prefetch(map + q.channels * q.plane(), q.plane());
      running.add(map, q.plane());
    }
    const Statistics s = running.get();
    out.set(c, s);
    for (int64_t n = 0; n < q.images; ++n) {
      const int64_t map = n * q.channels + c;
      max_pool(q, u + map * q.plane(), norm.of_batch(s, c), line, y + map * q.out_plane());
    }
  });
}

// As stem_forward, with the running statistics.
inline void stem_evaluate(const StemShape& q, const float* u, const Norm& norm, float* y) {
  parallel(q.images * q.channels, [&](int64_t part) {
    const int64_t size = line_size(q.width + 1);
    Scratch scratch(size, 1);
    float* line = scratch.take(size);
    max_pool(q, u + part * q.plane(), norm.of_running(part % q.channels), line,
             y + part * q.out_plane());
  });
}

struct StemGradients {
  float *u, *gamma, *beta;
};

// mean and variance are those of the batch.
inline void stem_backward(const StemShape& q, const float* u, const Norm& norm, const float* mean,
                          const float* variance, const float* dy, const StemGradients& out) {
  const int64_t values = q.images * q.plane();
  parallel(q.channels, [&](int64_t c) {
    const int64_t line = line_size(q.out_width() + 1), all = q.out_height() * line;
    Scratch scratch(values + 5 * line + 2 * all, 8);
    float* d = scratch.take(values);
    const auto take = [&](int64_t count) {
      float* taken = scratch.take(count);
      std::fill_n(taken, count, 0.0f);
      return taken;
    };
    const PoolMemory m = {take(line), take(line), take(line), take(line),
                          take(line), take(all),  take(all)};
    const Statistics s = {mean[c], variance[c]};
    NormBackward back(norm, c, s);
    for (int64_t n = 0; n < q.images; ++n) {
      const int64_t map = n * q.channels + c;
      const float* uc = u + map * q.plane();
      if (n + 1 < q.images) prefetch(uc + q.channels * q.plane(), q.plane());
      max_pool_backward(q, uc, back.affine(), dy + map * q.out_plane(), m, d + n * q.plane());
      back.add(uc, d + n * q.plane(), q.plane());
    }
    out.gamma[c] = back.gamma();
    out.beta[c] = back.beta();
    const NormBackward::Line line_back = back.line();
    const bool streamed = is_streamed(q.channels * values);
    for (int64_t n = 0; n < q.images; ++n) {
      const int64_t at = (n * q.channels + c) * q.plane();
      line_back.write(u + at, d + n * q.plane(), out.u + at, q.plane(), streamed);
    }
    if (streamed) end_streams();
  });
}

}  // namespace ghost
