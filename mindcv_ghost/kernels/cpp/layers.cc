// Operators of layers that any network may have: depthwise convolutions, batch normalisations, means
// and weights of maps; the look at all gradients, and the optimizer. arguments.h tells how they are
// called.

#include "arguments.h"
#include "batch_norm.h"
#include "depthwise.h"
#include "maps.h"
#include "optimizer.h"

namespace {

using ghost::Arguments;
using ghost::Norm;

// Settings: the stride.
ghost::DepthwiseShape depthwise_shape(Arguments* a, int x, int weight, int y) {
  const int64_t channels = a->dim(x, 1), outputs = a->dim(weight, 0);
  const ghost::DepthwiseShape q = {a->dim(x, 0),
                                   channels,
                                   channels > 0 ? outputs / channels : 0,
                                   a->dim(x, 2),
                                   a->dim(x, 3),
                                   a->dim(weight, 2),
                                   a->dim(weight, 3),
                                   static_cast<int64_t>((*a)[0][0])};
  a->want(q.ratio > 0 && q.ratio * channels == outputs && q.height > 0 && q.width > 0);
  a->want(q.kernel_height % 2 == 1 && q.kernel_width % 2 == 1);
  a->want(q.stride == 1 || q.stride == 2);
  a->want_size(weight, outputs * q.taps());
  a->want_size(x, q.images * channels * q.plane());
  if (a->fit()) a->want_size(y, q.images * outputs * q.out_plane());
  return q;
}

// Settings: epsilon.
ghost::NormShape norm_shape(Arguments* a, int x) {
  const int64_t values = a->dim(x, 0) * a->dim(x, 1);
  a->want(values > 0 && a->size(x) > 0);
  return {a->dim(x, 0), a->dim(x, 1), a->fit() ? a->size(x) / values : 0};
}

ghost::WeightShape weight_shape(Arguments* a, int x, int weight) {
  const ghost::WeightShape q = {a->dim(x, 0) * a->dim(x, 1), a->dim(x, 2), a->dim(x, 3),
                                a->dim(weight, 2), a->dim(weight, 3)};
  a->want(q.rows > 0 && q.columns > 0 && q.rows <= q.height && q.columns <= q.width);
  a->want_size(x, q.maps * q.plane());
  a->want_size(weight, q.maps * q.weights());
  return q;
}

}  // namespace

extern "C" {

// settings, x, weight -> y
int ghost_depthwise(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(4);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::DepthwiseShape q = depthwise_shape(&a, 1, 2, 3);
  if (!a.fit()) return 1;
  ghost::depthwise_forward(q, a[1], a[2], a[3]);
  return 0;
}

// settings, x, weight, dy -> dx, dweight
int ghost_depthwise_backward(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(6);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::DepthwiseShape q = depthwise_shape(&a, 1, 2, 3);
  a.want_size(4, a.size(1));
  a.want_size(5, a.size(2));
  if (!a.fit()) return 1;
  ghost::depthwise_backward(q, a[1], a[2], a[3], a[4], a[5]);
  return 0;
}

// settings, x, gamma, beta -> y, saved (2 * C)
int ghost_norm(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(6);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::NormShape q = norm_shape(&a, 1);
  a.want_sizes(2, 2, q.channels);
  a.want_size(4, a.size(1));
  a.want_size(5, 2 * q.channels);
  if (!a.fit()) return 1;
  const Norm norm = {a[2], a[3], nullptr, nullptr, a[0][0]};
  ghost::norm_forward(q, a[1], norm, a[4], {a[5], a[5] + q.channels});
  return 0;
}

// settings (the share of each norm), x (for its shape alone), saved, then mean and variance of each
// norm, which are moved where they lie -> (1): 1
int ghost_move(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want(count >= 6);
  if (!a.fit()) return 1;
  const int norms = static_cast<int>(a.size(0));
  a.want_count(3 + 2 * norms + 1);
  a.want_size(count - 1, 1);
  const ghost::NormShape q = norm_shape(&a, 1);
  int64_t saved = 0;
  for (int i = 0; i < norms && a.fit(); ++i) {
    a.want_size(4 + 2 * i, a.size(3 + 2 * i));
    saved += 2 * a.size(3 + 2 * i);
  }
  a.want_size(2, saved);
  if (!a.fit()) return 1;
  const float* batch = a[2];
  for (int i = 0; i < norms; ++i) {
    const int mean = 3 + 2 * i;
    const int64_t channels = a.size(mean);
    ghost::move_statistics(channels, q.images * q.plane, a[0][i], batch, batch + channels, a[mean],
                           a[mean + 1]);
    batch += 2 * channels;
  }
  a[count - 1][0] = 1;
  return 0;
}

// settings, x, gamma, beta, mean, variance -> y
int ghost_norm_evaluate(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(7);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::NormShape q = norm_shape(&a, 1);
  a.want_sizes(2, 4, q.channels);
  a.want_size(6, a.size(1));
  if (!a.fit()) return 1;
  ghost::norm_evaluate(q, a[1], {a[2], a[3], a[4], a[5], a[0][0]}, a[6]);
  return 0;
}

// settings, x, gamma, beta, saved, dy -> dx, dgamma, dbeta
int ghost_norm_backward(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(9);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::NormShape q = norm_shape(&a, 1);
  a.want_sizes(2, 2, q.channels);
  a.want_size(4, 2 * q.channels);
  a.want_sizes(5, 2, a.size(1));
  a.want_sizes(7, 2, q.channels);
  if (!a.fit()) return 1;
  const Norm norm = {a[2], a[3], nullptr, nullptr, a[0][0]};
  ghost::norm_backward(q, a[1], norm, a[4], a[4] + q.channels, a[5], {a[6], a[7], a[8]});
  return 0;
}

// x (N, C, H, W) -> y (N, C, 1, 1)
int ghost_mean(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(2);
  if (!a.fit()) return 1;
  const int64_t maps = a.dim(0, 0) * a.dim(0, 1);
  a.want(maps > 0 && a.size(0) > 0);
  a.want_size(1, maps);
  if (!a.fit()) return 1;
  ghost::mean_forward(maps, a.size(0) / maps, a[0], a[1]);
  return 0;
}

// dy, x (for its shape alone) -> dx
int ghost_mean_backward(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(3);
  if (!a.fit()) return 1;
  const int64_t maps = a.dim(1, 0) * a.dim(1, 1);
  a.want(maps > 0 && a.size(1) > 0);
  a.want_size(0, maps);
  a.want_size(2, a.size(1));
  if (!a.fit()) return 1;
  ghost::mean_backward(maps, a.size(1) / maps, a[0], a[2]);
  return 0;
}

// x (N, C, H, W), weight (N, C, h, w) -> y
int ghost_weight(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(3);
  if (!a.fit()) return 1;
  const ghost::WeightShape q = weight_shape(&a, 0, 1);
  a.want_size(2, a.size(0));
  if (!a.fit()) return 1;
  ghost::weight_forward(q, a[0], a[1], a[2]);
  return 0;
}

// x, weight, dy -> dx, dweight
int ghost_weight_backward(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(5);
  if (!a.fit()) return 1;
  const ghost::WeightShape q = weight_shape(&a, 0, 1);
  a.want_sizes(2, 2, a.size(0));
  a.want_size(4, a.size(1));
  if (!a.fit()) return 1;
  ghost::weight_backward(q, a[0], a[1], a[2], a[3], a[4]);
  return 0;
}

// Any number of tensors -> (1): 1 if all their values are finite, else 0
int ghost_all_finite(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want(count >= 1);
  if (a.fit()) a.want_size(count - 1, 1);
  if (!a.fit()) return 1;
  std::vector<const float*> tensors;
  std::vector<int64_t> sizes;
  for (int i = 0; i + 1 < count; ++i) {
    tensors.push_back(a[i]);
    sizes.push_back(a.size(i));
  }
  a[count - 1][0] = ghost::all_finite(tensors, sizes) ? 1 : 0;
  return 0;
}

// settings (for each of n tensors which rate it has, then for each its weight decay), factor (1),
// momentum (1), rates (any number), n gradients, then n tensors and n moments, which are moved where
// they lie -> (1): 1
int ghost_momentum(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want(count >= 8);
  if (!a.fit()) return 1;
  const int n = static_cast<int>(a.size(0) / 2);
  a.want_count(4 + 3 * n + 1);
  a.want_size(0, 2 * n);
  a.want_sizes(1, 2, 1);
  a.want_size(count - 1, 1);
  std::vector<ghost::Moved> tensors;
  std::vector<int64_t> sizes;
  for (int i = 0; i < n && a.fit(); ++i) {
    const int gradient = 4 + i, weight = gradient + n, moment = weight + n;
    const int64_t which = static_cast<int64_t>(a[0][i]);
    a.want_size(weight, a.size(gradient));
    a.want_size(moment, a.size(gradient));
    a.want(which >= 0 && which < a.size(3));
    if (!a.fit()) return 1;
    tensors.push_back({a[gradient], a[weight], a[moment], a[3][which], a[0][n + i]});
    sizes.push_back(a.size(gradient));
  }
  if (!a.fit()) return 1;
  ghost::momentum(tensors, sizes, a[1][0], a[2][0]);
  a[count - 1][0] = 1;
  return 0;
}

}  // extern "C"
