// Everything after a Ghost module's primary convolution, as one operator.
//
//   x = act(BN(u))                       intrinsic maps
//   z = act(BN(depthwise(x)))            ghosts
//   y = [x, z] without the surplus       or, without act, relu([x, z] + shortcut)
//
// In a network that applies the activation itself, after the module, only the cheap branch reads
// activated maps: x = BN(u), z = BN(depthwise(act(x))). Such a module may also have an order of its
// maps: map j of y is then map order[j] of [x, z].
//
// Intrinsic channels are independent of each other, and one channel of a whole batch fits the L2
// cache: so u is read from memory once, and y is written once. Within a channel, images are
// processed in groups that fit the L1 cache, through all steps between two sums over the batch. The
// backward pass recomputes x and the result of the depthwise convolution.
#pragma once

#include <algorithm>
#include <vector>

#include "channel_maps.h"
#include "masked_plane.h"
#include "norm.h"
#include "padded_line.h"

namespace ghost {

struct TailShape {
  int64_t images, intrinsic, ghosts, out_channels, height, width, kernel;
  bool inner_relu;  // before the depthwise convolution
  bool outer_relu;  // on the maps of y; then there is an inner one, too
  std::vector<int64_t> places;  // of [x, z]'s maps in y, or Channels::kNowhere; empty without order

  int64_t plane() const { return height * width; }
  int64_t values() const { return images * plane(); }   // of one channel
  int64_t ratio() const { return ghosts / intrinsic; }  // ghosts of an intrinsic map
  // Place in y of a map of [x, z]; Channels::kNowhere for a surplus one.
  int64_t place(int64_t map) const {
    if (!places.empty()) return places[map];
    return map < out_channels ? map : Channels::kNowhere;
  }
};

// Calls body(inner, outer) with a tail's two flags as compile-time constants.
template <typename Body>
inline void with_relus(const TailShape& q, const Body& body) {
  if (q.outer_relu) return body(std::true_type(), std::true_type());
  with_flag(q.inner_relu, [&](auto inner) { body(inner, std::false_type()); });
}

// Some images of a batch.
struct Images {
  int64_t first, count;
};

// A batch's images in groups, of which the last may be smaller.
class Groups {
 public:
  explicit Groups(const TailShape& q)
      : plane_(q.plane()),
        images_(q.images),
        most_(images_at_once(q.plane(), q.images)),
        whole_(q.height, q.width, q.kernel, most_),
        rest_(q.height, q.width, q.kernel, q.images % most_) {}

  const PaddedLine& largest() const { return whole_; }
  bool is_one() const { return most_ == images_; }
  // Memory of a channel's maps: dense, as whole vectors are written; with zeros between.
  int64_t of_batch() const { return round_up(images_ * plane_, kLanes) + kLanes; }
  int64_t of_line() const { return images_ / most_ * whole_.size() + rest_.size(); }

  // Calls body(images, line, dense, start): the line of such a group; where the group begins in the
  // batch's dense maps and in its line.
  template <typename Body>
  void each(const Body& body) const {
    for (int64_t n = 0, start = 0; n < images_; n += most_, start += whole_.size()) {
      const int64_t count = std::min(most_, images_ - n);
      body(Images{n, count}, count == most_ ? whole_ : rest_, n * plane_, start);
    }
  }

 private:
  int64_t plane_, images_, most_;
  PaddedLine whole_, rest_;
};

// The ghosts of a block of channels that are in y: without the surplus, unless an order scatters it.
inline Channels real_ghosts(const TailShape& q, const Channels& c) {
  const int64_t first = q.intrinsic + c.first * q.ratio();
  if (!q.places.empty()) {
    return {q.images, q.out_channels, 0, c.count * q.ratio(), q.places.data() + first};
  }
  const int64_t count = std::clamp<int64_t>(q.out_channels - first, 0, c.count * q.ratio());
  return {q.images, q.out_channels, first, count};
}

// The channels of y that are a block of intrinsic maps.
inline Channels in_output(const TailShape& q, const Channels& c) {
  const int64_t* places = q.places.empty() ? nullptr : q.places.data() + c.first;
  return {q.images, q.out_channels, c.first, c.count, places};
}

// Normalises a group's dense maps into a line.
inline void put_normalised(const PaddedLine& p, const float* maps, Affine a, bool relu,
                           float* line) {
  with_flag(relu, [&](auto with_relu) {
    p.each_step([=](int64_t i, int64_t place, uint32_t bits) {
      const Vector v = load(maps + place) * a.scale + a.shift;
      store(line + i, expand(with_relu ? relu_of(v) : v, bits));
    });
  });
}

// Convolves a line into a group's dense maps.
inline void convolve_into(const PaddedLine& p, const float* x, const float* weight, float* memory,
                          float* maps) {
  convolve(p, x, weight, memory, [=](int64_t, int64_t place, uint32_t bits, Vector values) {
    store(maps + place, compress(values, bits));  // the next store overwrites the excess
  });
}

// u (N, intrinsic, H, W), weight (ghosts, 1, d, d), shortcut and y (N, out_channels, H, W).
inline void tail_forward(const TailShape& q, const float* u, const Norm& first,
                         const float* weight, const Norm& second, const float* shortcut, float* y,
                         const NormOutput& first_out, const NormOutput& second_out) {
  const Groups groups(q);
  const PaddedLine& largest = groups.largest();
  const int64_t plane = q.plane(), step = groups.of_batch(), ratio = q.ratio();
  parallel_blocks(q.images, q.intrinsic, plane, [&](const Channels& c) {
    const Channels real = real_ghosts(q, c);
    Scratch scratch(c.count * (ratio + 1) * step + largest.size_with_margins() + largest.size(), 4);
    float* intrinsic = scratch.take(c.count * step);
    float* ghosts = scratch.take(c.count * ratio * step);
    float* x = largest.between_margins(scratch.take(largest.size_with_margins()));
    float* memory = scratch.take(largest.size());
    gather(u, c, plane, step, intrinsic);
    std::vector<Affine> affines, ghost_affines;
    for (int64_t i = 0; i < c.count; ++i) {
      const Statistics s = statistics_of(intrinsic + i * step, q.values());
      first_out.set(c.first + i, s);
      affines.push_back(first.of_batch(s, c.first + i));
    }
    write_channels(in_output(q, c), plane, intrinsic, step, 1, affines, q.outer_relu, shortcut, y);
    for (int64_t i = 0; i < c.count; ++i) {
      std::vector<StatisticsAccumulator> of_ghosts(ratio);
      groups.each([&](const Images& images, const PaddedLine& p, int64_t dense, int64_t) {
        put_normalised(p, intrinsic + i * step + dense, affines[i], q.inner_relu, x);
        for (int64_t k = 0; k < ratio; ++k) {
          const int64_t ghost = (c.first + i) * ratio + k;
          float* maps = ghosts + (i * ratio + k) * step + dense;
          convolve_into(p, x, weight + ghost * p.taps(), memory, maps);
          of_ghosts[k].add(maps, images.count * plane);
        }
      });
      for (int64_t k = 0; k < ratio; ++k) {
        const int64_t ghost = (c.first + i) * ratio + k;
        const Statistics s = of_ghosts[k].get();
        second_out.set(ghost, s);
        ghost_affines.push_back(second.of_batch(s, ghost));
      }
    }
    write_channels(real, plane, ghosts, step, 1, ghost_affines, q.outer_relu, shortcut, y);
  });
}

// As tail_forward, with the running statistics. Nothing is summed over the batch, so maps are
// processed in memory order.
inline void tail_evaluate(const TailShape& q, const float* u, const Norm& first,
                          const float* weight, const Norm& second, const float* shortcut,
                          float* y) {
  const MaskedPlane p(q.height, q.width, q.kernel);
  const int64_t plane = q.plane(), ratio = q.ratio();
  const bool streamed = is_streamed(q.images * q.out_channels * plane);
  // Writes map `place` of y, whose values before the sum and the ReLU are at(i, n).
  const auto write = [&](int64_t place, const auto& at) __attribute__((always_inline)) {
    const float* other = shortcut == nullptr ? nullptr : shortcut + place * plane;
    write_activated(q.outer_relu, other, y + place * plane, plane, streamed, at);
  };
  parallel_runs(q.images * q.intrinsic, plane, [&](int64_t begin, int64_t end) {
    Scratch scratch(p.size() + p.taps(), 2);
    float *x = p.within(scratch.take(p.size())), *kernel = scratch.take(p.taps());
    for (int64_t map = begin; map < end; ++map) {
      const int64_t c = map % q.intrinsic, before = map / q.intrinsic * q.out_channels;
      const float* from = u + map * plane;
      const Affine a = first.of_running(c);
      write_map(from, a, q.inner_relu, nullptr, x, plane, false);
      if (const int64_t place = q.place(c); place != Channels::kNowhere) {
        write(before + place, [from, a](int64_t i, int64_t n) {
          return load_first(from + i, n) * a.scale + a.shift;
        });
      }
      for (int64_t k = c * ratio; k < (c + 1) * ratio; ++k) {
        const int64_t place = q.place(q.intrinsic + k);
        if (place == Channels::kNowhere) continue;
        const Affine b = second.of_running(k);
        for (int64_t t = 0; t < p.taps(); ++t) kernel[t] = weight[k * p.taps() + t] * b.scale;
        write(before + place, [&p, x, kernel, b](int64_t i, int64_t) {
          return p.at(x, kernel, i, Vector{} + b.shift);
        });
      }
    }
    if (streamed) end_streams();
  });
}

// Inputs of the backward pass: results of the forward pass, and dy; null where there is none.
struct TailBack {
  const float *mean1, *variance1, *mean2, *variance2;  // of the batch
  const float *y;                                      // for the shortcut's ReLU
  const float *dy;
};

struct TailGradients {
  float *u, *gamma1, *beta1, *weight, *gamma2, *beta2, *shortcut;
};

// Gathers the gradient of y's maps, before the last ReLU if there is one.
inline void gather_gradient(const TailBack& back, float* shortcut, const Channels& c, int64_t plane,
                            int64_t step, float* to) {
  if (shortcut == nullptr) return gather(back.dy, c, plane, step, to);
  gather_gradient(back.dy, back.y, c, plane, step, to, shortcut);
}

// The gradient of an intrinsic channel's values after its BN, from that of its maps in y and that of
// the cheap branch's input, x.
template <bool kInner, bool kOuter>
inline Vector before_inner_relu(Vector x, Vector of_y, Vector of_cheap) {
  if (kOuter) return where_positive(x, of_y + of_cheap);
  return of_y + (kInner ? where_positive(x, of_cheap) : of_cheap);
}

// Memory of the backward pass of one intrinsic channel.
struct ChannelMemory {
  // Dense maps of the batch. dx starts as the gradient of y and ends as that of u.
  const float* u;
  float* dx;
  const float* dghosts;  // ghost after ghost, each of Groups::of_batch() values
  // Lines of the batch, one for each ghost, but at least one: the ghosts; the last one becomes the
  // gradient before the first BN.
  float* ghosts;
  // Lines of a group.
  float *x, *e, *sum, *memory;
};

// The gradients of intrinsic channel c; only the first `real` of its ghosts are in y.
template <bool kInner, bool kOuter>
inline void channel_backward(const TailShape& q, const Groups& groups, int64_t c, int64_t real,
                             const ChannelMemory& m, const Norm& first, const float* weight,
                             const Norm& second, const TailBack& back, const TailGradients& out) {
  const int64_t taps = q.kernel * q.kernel, begin = c * q.ratio();
  const int64_t step = groups.of_batch(), length = groups.of_line();
  float *const x = m.x, *const e = m.e;
  std::vector<NormBackward> norms;
  for (int64_t k = begin; k < begin + real; ++k) {
    norms.emplace_back(second, k, Statistics{back.mean2[k], back.variance2[k]});
  }
  NormBackward norm(first, c, {back.mean1[c], back.variance1[c]});
  groups.each([&](const Images& images, const PaddedLine& p, int64_t dense, int64_t start) {
    put_normalised(p, m.u + dense, norm.affine(), kInner, x);
    for (int64_t k = 0; k < real; ++k) {
      const float* dghost = m.dghosts + k * step + dense;
      float* ghost = m.ghosts + k * length + start;
      const Affine a = norms[k].affine();
      const float mean = norms[k].mean();
      Vector alone = {}, with_x = {};
      convolve(p, x, weight + (begin + k) * taps, m.memory,
               [&](int64_t i, int64_t place, uint32_t bits, Vector z) {
                 Vector d = expand(load(dghost + place), bits);
                 if (kOuter) d = where_positive(z * a.scale + a.shift, d);
                 store(ghost + i, z);
                 alone += d;
                 with_x += d * (z - mean);
               });
      norms[k].add_sums(sum_of(with_x), sum_of(alone), images.count * q.plane());
    }
  });
  float* const changed = m.ghosts + std::max<int64_t>(0, real - 1) * length;
  std::vector<double> sums(real * taps);
  groups.each([&](const Images& images, const PaddedLine& p, int64_t dense, int64_t start) {
    if (!groups.is_one()) put_normalised(p, m.u + dense, norm.affine(), kInner, x);
    const float *u = m.u + dense, *dx = m.dx + dense;
    float *sum = m.sum, *dv = changed + start;
    const float mean = norm.mean();
    Vector alone = {}, with_x = {};
    const auto finish = [&](int64_t i, int64_t place, uint32_t bits, Vector from_ghosts) {
      const Vector of_y = expand(load(dx + place), bits);
      // Between the maps x is zero, so that an inner ReLU lets nothing through.
      const Vector of_cheap = kInner ? from_ghosts : masked(from_ghosts, bits);
      const Vector d = before_inner_relu<kInner, kOuter>(load(x + i), of_y, of_cheap);
      store(dv + i, d);
      alone += d;
      with_x += d * (expand(load(u + place), bits) - mean);
    };
    for (int64_t k = 0; k < real; ++k) {
      const float* dghost = m.dghosts + k * step + dense;
      const float* ghost = m.ghosts + k * length + start;
      const Affine a = norms[k].affine();
      const NormBackward::Line through = norms[k].line();
      p.each_step([=](int64_t i, int64_t place, uint32_t bits) {
        const Vector z = load(ghost + i);
        Vector d = expand(load(dghost + place), bits);
        if (kOuter) d = where_positive(z * a.scale + a.shift, d);
        store(e + i, masked(through.at(z, d), bits));
      });
      const float* kernel = weight + (begin + k) * taps;
      if (k + 1 < real) {
        convolve_backward(p, e, x, kernel, m.memory, sums.data() + k * taps,
                          [=](int64_t i, int64_t, uint32_t, Vector values) {
                            store(sum + i, k > 0 ? load(sum + i) + values : values);
                          });
      } else {
        convolve_backward(p, e, x, kernel, m.memory, sums.data() + k * taps,
                          [&](int64_t i, int64_t place, uint32_t bits, Vector values) {
                            finish(i, place, bits, real > 1 ? load(sum + i) + values : values);
                          });
      }
    }
    if (real == 0) {
      p.each_step([&](int64_t i, int64_t place, uint32_t bits) {
        finish(i, place, bits, Vector{});
      });
    }
    norm.add_sums(sum_of(with_x), sum_of(alone), images.count * q.plane());
  });
  for (int64_t k = 0; k < q.ratio(); ++k) {
    out.gamma2[begin + k] = k < real ? norms[k].gamma() : 0;
    out.beta2[begin + k] = k < real ? norms[k].beta() : 0;
    for (int64_t t = 0; t < taps; ++t) {
      out.weight[(begin + k) * taps + t] = k < real ? static_cast<float>(sums[k * taps + t]) : 0;
    }
  }
  out.gamma1[c] = norm.gamma();
  out.beta1[c] = norm.beta();
  const NormBackward::Line through = norm.line();
  groups.each([&](const Images&, const PaddedLine& p, int64_t dense, int64_t start) {
    const float *u = m.u + dense, *dv = changed + start;
    float* du = m.dx + dense;
    p.each_step([=](int64_t i, int64_t place, uint32_t bits) {
      store(du + place, through.at(load(u + place), compress(load(dv + i), bits)));
    });
  });
}

// Shapes as in tail_forward; a gradient has the shape of its variable.
inline void tail_backward(const TailShape& q, const float* u, const Norm& first,
                          const float* weight, const Norm& second, const TailBack& back,
                          const TailGradients& out) {
  const Groups groups(q);
  const PaddedLine& largest = groups.largest();
  const int64_t plane = q.plane(), ratio = q.ratio(), step = groups.of_batch();
  parallel_blocks(q.images, q.intrinsic, plane, [&](const Channels& c) {
    const Channels real = real_ghosts(q, c);
    Scratch scratch((2 * c.count + real.count) * step + ratio * groups.of_line() +
                        2 * largest.size_with_margins() + 2 * largest.size(), 8);
    float* us = scratch.take(c.count * step);
    float* dxs = scratch.take(c.count * step);
    float* dghosts = scratch.take(real.count * step);
    float* ghosts = scratch.take(ratio * groups.of_line());
    float* x = largest.between_margins(scratch.take(largest.size_with_margins()));
    float* e = largest.between_margins(scratch.take(largest.size_with_margins()));
    float* sum = scratch.take(largest.size());
    float* memory = scratch.take(largest.size());
    // One array after the other: alternating between them image by image is slower.
    gather(u, c, plane, step, us);
    gather_gradient(back, out.shortcut, in_output(q, c), plane, step, dxs);
    gather_gradient(back, out.shortcut, real, plane, step, dghosts);
    for (int64_t i = 0; i < c.count; ++i) {
      const int64_t k = std::min(i * ratio, real.count), there = std::min(ratio, real.count - k);
      const ChannelMemory m = {us + i * step, dxs + i * step, dghosts + k * step,
                               ghosts,        x,              e,
                               sum,           memory};
      with_relus(q, [&](auto inner, auto outer) {
        channel_backward<inner, outer>(q, groups, c.first + i, there, m, first, weight, second, back,
                                       out);
      });
    }
    scatter(dxs, c, plane, step, is_streamed(q.intrinsic * q.values()), out.u);
  });
}

}  // namespace ghost
