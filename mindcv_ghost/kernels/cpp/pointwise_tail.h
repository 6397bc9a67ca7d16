// The tail of a Ghost module whose cheap kernel is 1x1: a ghost is a multiple of its intrinsic map.
//
// Mean and variance of a ghost follow from those of the intrinsic map after the ReLU, and what is
// computed at a position needs nothing of other positions. So no ghost is kept, and the loops of a
// channel run over its maps as one line.
#pragma once

#include <algorithm>
#include <vector>

#include "ghost_tail.h"

namespace ghost {

// Calls body(begin, count) for blocks of a line that fit the L1 cache.
template <typename Body>
inline void each_block(int64_t values, const Body& body) {
  constexpr int64_t kBlock = 2048;
  for (int64_t i = 0; i < values; i += kBlock) body(i, std::min(kBlock, values - i));
}

// Replaces a channel's values by those after the first BN and the inner ReLU; returns their statistics.
inline Statistics normalise_line(Affine a, bool relu, int64_t values, float* x) {
  StatisticsAccumulator all;
  each_block(values, [&](int64_t begin, int64_t count) {
    write_map(x + begin, a, relu, nullptr, x + begin, count, false);
    all.add(x + begin, count);
  });
  return all.get();
}

// Arguments as in tail_forward.
inline void pointwise_tail_forward(const TailShape& q, const float* u, const Norm& first,
                                   const float* weight, const Norm& second, const float* shortcut,
                                   float* y, const NormOutput& first_out,
                                   const NormOutput& second_out) {
  const int64_t plane = q.plane(), ratio = q.ratio();
  const int64_t step = round_up(q.values(), kLanes) + kLanes;
  parallel_blocks(q.images, q.intrinsic, plane, [&](const Channels& c) {
    Scratch scratch(c.count * step, 1);
    float* x = scratch.take(c.count * step);
    gather(u, c, plane, step, x);
    std::vector<Affine> affines, ghosts;
    for (int64_t i = 0; i < c.count; ++i) {
      const Statistics s = statistics_of(x + i * step, q.values());
      first_out.set(c.first + i, s);
      affines.push_back(first.of_batch(s, c.first + i));
    }
    write_channels(in_output(q, c), plane, x, step, 1, affines, q.outer_relu, shortcut, y);
    for (int64_t i = 0; i < c.count; ++i) {
      float* line = x + i * step;
      const Statistics normalised = normalise_line(affines[i], q.inner_relu, q.values(), line);
      for (int64_t k = (c.first + i) * ratio; k < (c.first + i + 1) * ratio; ++k) {
        const float w = weight[k];
        const Statistics of_ghost = {w * normalised.mean, w * w * normalised.variance};
        second_out.set(k, of_ghost);
        const Affine b = second.of_batch(of_ghost, k);
        ghosts.push_back({b.scale * w, b.shift});
      }
    }
    write_channels(real_ghosts(q, c), plane, x, step, ratio, ghosts, q.outer_relu, shortcut, y);
  });
}

// What the gradients of one ghost need at each position, given the intrinsic value x and the ghost's
// gradient d: the ghost after its BN, and the ghost's part of the gradient of x.
struct PointwiseGhost {
  Affine normalised;
  float of_d, of_x, constant;

  PointwiseGhost(const NormBackward& norm, float w)
      : normalised{norm.affine().scale * w, norm.affine().shift} {
    const NormBackward::Line line = norm.line();
    of_d = w * line.scale;
    of_x = of_d * w * line.slope;
    constant = of_d * line.shift;
  }
};

// d, or what a ReLU after the ghost's BN leaves of it.
template <bool kRelu>
inline Vector before_relu(Affine normalised, Vector x, Vector d) {
  return kRelu ? where_positive(x * normalised.scale + normalised.shift, d) : d;
}

// The gradients of intrinsic channel c, whose maps after its BN are u * a.scale + a.shift; only the
// first `real` of its ghosts are in y. dx: the gradient of its maps in y, which becomes the gradient
// before the first BN. dghosts: the gradients of the ghosts, `step` apart. Returns that BN.
template <bool kInner, bool kOuter>
inline NormBackward pointwise_channel(const TailShape& q, int64_t c, int64_t real, int64_t step,
                                      const float* u, float* dx, const float* dghosts,
                                      const Norm& first, const float* weight, const Norm& second,
                                      const TailBack& back, const TailGradients& out) {
  NormBackward norm(first, c, {back.mean1[c], back.variance1[c]});
  const Affine a = norm.affine();
  const auto x_of = [=](Vector v) {
    const Vector x = v * a.scale + a.shift;
    return kInner ? relu_of(x) : x;
  };
  // Distances from about the mean of x: sums of x itself would cancel where the mean is large.
  const float middle = kInner ? std::max(first.beta[c], 0.0f) : first.beta[c];
  std::vector<PointwiseGhost> ghosts;
  for (int64_t k = 0; k < q.ratio(); ++k) {
    const int64_t ghost = c * q.ratio() + k;
    out.gamma2[ghost] = out.beta2[ghost] = out.weight[ghost] = 0;
    if (k >= real) continue;
    const float w = weight[ghost], *ds = dghosts + k * step;
    NormBackward of_ghost(second, ghost, {back.mean2[ghost], back.variance2[ghost]});
    const Affine normalised = {of_ghost.affine().scale * w, of_ghost.affine().shift};
    double distances = 0, alone = 0, with_x = 0;
    each_block(q.values(), [&](int64_t begin, int64_t count) {
      const float *from = u + begin, *d = ds + begin;
      Sums<3> of;
      of.add(count, [=](int64_t i, int64_t n, Vector* sums) {
        const Vector x = x_of(load_first(from + i, n));
        const Vector passed = before_relu<kOuter>(normalised, x, load_first(d + i, n));
        const Vector distance = first_lanes(x - middle, n);
        sums[0] += distance;
        sums[1] += passed;
        sums[2] += passed * distance;
      });
      distances += of.get(0);
      alone += of.get(1);
      with_x += of.get(2);
    });
    with_x -= distances / q.values() * alone;
    of_ghost.add_sums(static_cast<float>(w * with_x), static_cast<float>(alone), q.values());
    out.gamma2[ghost] = of_ghost.gamma();
    out.beta2[ghost] = of_ghost.beta();
    // The BN undoes the weight's size, but for its epsilon.
    const double share = second.epsilon / (static_cast<double>(back.variance2[ghost]) + second.epsilon);
    out.weight[ghost] = static_cast<float>(of_ghost.affine().scale * with_x * share);
    ghosts.emplace_back(of_ghost, w);
  }
  const float mean = norm.mean();
  each_block(q.values(), [&](int64_t begin, int64_t count) {
    const float *from = u + begin, *ds = dghosts + begin;
    float* to = dx + begin;
    Sums<2> of;
    of.add(count, [=, &ghosts](int64_t i, int64_t n, Vector* sums) {
      const Vector v = load_first(from + i, n), x = x_of(v);
      Vector of_cheap = {};
      for (int64_t k = 0; k < real; ++k) {
        const PointwiseGhost& g = ghosts[k];
        const Vector passed = before_relu<kOuter>(g.normalised, x, load_first(ds + k * step + i, n));
        of_cheap += passed * g.of_d - x * g.of_x - g.constant;
      }
      const Vector d = before_inner_relu<kInner, kOuter>(x, load_first(to + i, n), of_cheap);
      store_first(to + i, d, n);
      const Vector counted = first_lanes(d, n);
      sums[0] += counted;
      sums[1] += counted * (v - mean);
    });
    norm.add_sums(of.get(1), of.get(0), count);
  });
  out.gamma1[c] = norm.gamma();
  out.beta1[c] = norm.beta();
  return norm;
}

// Arguments as in tail_backward.
inline void pointwise_tail_backward(const TailShape& q, const float* u, const Norm& first,
                                    const float* weight, const Norm& second, const TailBack& back,
                                    const TailGradients& out) {
  const int64_t plane = q.plane(), ratio = q.ratio();
  const int64_t step = round_up(q.values(), kLanes) + kLanes;
  const bool streamed = is_streamed(q.intrinsic * q.values());
  parallel_blocks(q.images, q.intrinsic, plane, [&](const Channels& c) {
    const Channels real = real_ghosts(q, c);
    Scratch scratch((2 * c.count + real.count) * step, 3);
    float* us = scratch.take(c.count * step);
    float* dxs = scratch.take(c.count * step);
    float* dghosts = scratch.take(real.count * step);
    gather(u, c, plane, step, us);
    gather_gradient(back, out.shortcut, in_output(q, c), plane, step, dxs);
    gather_gradient(back, out.shortcut, real, plane, step, dghosts);
    std::vector<NormBackward::Line> lines;
    for (int64_t i = 0; i < c.count; ++i) {
      const int64_t k = std::min(i * ratio, real.count), there = std::min(ratio, real.count - k);
      with_relus(q, [&](auto inner, auto outer) {
        lines.push_back(pointwise_channel<inner, outer>(q, c.first + i, there, step, us + i * step,
                                                        dxs + i * step, dghosts + k * step, first,
                                                        weight, second, back, out)
                            .line());
      });
    }
    write_input_gradient(c, plane, us, dxs, step, lines, streamed, out.u);
  });
}

}  // namespace ghost
