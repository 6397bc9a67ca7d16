// The operators of Ghost modules, of a ResNet's stem and of dense convolutions; arguments.h tells
// how they are called, layers.cc has those of other layers.

#include "arguments.h"
#include "conv_weight.h"
#include "ghost_tail.h"
#include "stem_tail.h"

namespace {

using ghost::Arguments;
using ghost::Norm;
using ghost::NormOutput;

// Settings of a tail: relu, epsilon of the first BN, epsilon of the second.
constexpr int kTailSettings = 3;

ghost::TailShape tail_shape(const Arguments& a, int u, int weight, int y) {
  return {a.dim(u, 0), a.dim(u, 1), a.dim(weight, 0), a.dim(y, 1),
          a.dim(u, 2), a.dim(u, 3), a.dim(weight, 2), a[0][0] != 0};
}

bool is_sound(const ghost::TailShape& q) {
  return q.intrinsic > 0 && q.ghosts > 0 && q.ghosts % q.intrinsic == 0 && q.kernel % 2 == 1 &&
         q.out_channels >= q.intrinsic && q.out_channels <= q.intrinsic + q.ghosts;
}

// settings, u, gamma, beta, weight, gamma, beta[, shortcut] -> y, saved (2 * intrinsic + 2 * ghosts)
int tail(GHOST_ARGUMENTS, bool with_shortcut) {
  Arguments a(count, data, dims, shapes, types);
  const int y = with_shortcut ? 8 : 7;
  a.want_count(y + 2);
  a.want_size(0, kTailSettings);
  if (!a.fit()) return 1;
  const ghost::TailShape q = tail_shape(a, 1, 4, y);
  a.want(is_sound(q) && !(q.relu && with_shortcut));
  a.want_size(1, q.images * q.intrinsic * q.plane());
  a.want_sizes(2, 2, q.intrinsic);
  a.want_size(4, q.ghosts * q.kernel * q.kernel);
  a.want_sizes(5, 2, q.ghosts);
  a.want_sizes(7, y - 6, q.images * q.out_channels * q.plane());
  a.want_size(y + 1, 2 * (q.intrinsic + q.ghosts));
  if (!a.fit()) return 1;
  const Norm first = {a[2], a[3], nullptr, nullptr, a[0][1]};
  const Norm second = {a[5], a[6], nullptr, nullptr, a[0][2]};
  const float* shortcut = with_shortcut ? a[7] : nullptr;
  float* saved = a[y + 1];
  const NormOutput first_out = {saved, saved + q.intrinsic};
  const NormOutput second_out = {saved + 2 * q.intrinsic, saved + 2 * q.intrinsic + q.ghosts};
  ghost::tail_forward(q, a[1], first, a[4], second, shortcut, a[y], first_out, second_out);
  return 0;
}

// settings, u, gamma, beta, mean, variance, weight, gamma, beta, mean, variance[, shortcut] -> y
int tail_evaluate(GHOST_ARGUMENTS, bool with_shortcut) {
  Arguments a(count, data, dims, shapes, types);
  const int y = with_shortcut ? 12 : 11;
  a.want_count(y + 1);
  a.want_size(0, kTailSettings);
  if (!a.fit()) return 1;
  const ghost::TailShape q = tail_shape(a, 1, 6, y);
  a.want(is_sound(q) && !(q.relu && with_shortcut));
  a.want_size(1, q.images * q.intrinsic * q.plane());
  a.want_sizes(2, 4, q.intrinsic);
  a.want_size(6, q.ghosts * q.kernel * q.kernel);
  a.want_sizes(7, 4, q.ghosts);
  a.want_sizes(11, y - 10, q.images * q.out_channels * q.plane());
  if (!a.fit()) return 1;
  const Norm first = {a[2], a[3], a[4], a[5], a[0][1]};
  const Norm second = {a[7], a[8], a[9], a[10], a[0][2]};
  const float* shortcut = with_shortcut ? a[11] : nullptr;
  ghost::tail_evaluate(q, a[1], first, a[6], second, shortcut, a[y]);
  return 0;
}

// settings, u, gamma, beta, weight, gamma, beta, saved, dy[, y]
// -> du, dgamma, dbeta, dweight, dgamma, dbeta[, dshortcut]
int tail_backward(GHOST_ARGUMENTS, bool with_shortcut) {
  Arguments a(count, data, dims, shapes, types);
  const int du = with_shortcut ? 10 : 9;
  a.want_count(du + (with_shortcut ? 7 : 6));
  a.want_size(0, kTailSettings);
  if (!a.fit()) return 1;
  const ghost::TailShape q = tail_shape(a, 1, 4, 8);
  a.want(is_sound(q) && !(q.relu && with_shortcut));
  const int64_t in_size = q.images * q.intrinsic * q.plane();
  const int64_t out_size = q.images * q.out_channels * q.plane();
  const int64_t weights = q.ghosts * q.kernel * q.kernel;
  a.want_size(1, in_size);
  a.want_sizes(2, 2, q.intrinsic);
  a.want_size(4, weights);
  a.want_sizes(5, 2, q.ghosts);
  a.want_size(7, 2 * (q.intrinsic + q.ghosts));
  a.want_sizes(8, du - 8, out_size);
  a.want_size(du, in_size);
  a.want_sizes(du + 1, 2, q.intrinsic);
  a.want_size(du + 3, weights);
  a.want_sizes(du + 4, 2, q.ghosts);
  if (with_shortcut) a.want_size(du + 6, out_size);
  if (!a.fit()) return 1;
  const Norm first = {a[2], a[3], nullptr, nullptr, a[0][1]};
  const Norm second = {a[5], a[6], nullptr, nullptr, a[0][2]};
  const float* saved = a[7];
  const ghost::TailBack back = {saved,
                                saved + q.intrinsic,
                                saved + 2 * q.intrinsic,
                                saved + 2 * q.intrinsic + q.ghosts,
                                with_shortcut ? a[9] : nullptr,
                                a[8]};
  const ghost::TailGradients out = {a[du],     a[du + 1], a[du + 2],
                                    a[du + 3], a[du + 4], a[du + 5],
                                    with_shortcut ? a[du + 6] : nullptr};
  ghost::tail_backward(q, a[1], first, a[4], second, back, out);
  return 0;
}

ghost::StemShape stem_shape(const Arguments& a, int u) {
  return {a.dim(u, 0), a.dim(u, 1), a.dim(u, 2), a.dim(u, 3)};
}

ghost::ConvShape conv_shape(const Arguments& a, int x, int weight) {
  return {a.dim(x, 0), a.dim(x, 1),      a.dim(weight, 0),
          a.dim(x, 2), a.dim(x, 3),      a.dim(weight, 2),
          static_cast<int64_t>(a[0][0])};
}

// Convolution: settings (stride), then x, dy, weight and their gradients at these places.
ghost::ConvShape checked_conv(Arguments* a, int x, int y, int weight) {
  const ghost::ConvShape q = conv_shape(*a, x, weight);
  a->want(q.stride >= 1 && q.kernel % 2 == 1);
  a->want_size(x, q.images * q.in_channels * q.in_plane());
  a->want_size(weight, q.out_channels * q.depth());
  if (a->fit()) a->want_size(y, q.images * q.out_channels * q.out_plane());
  return q;
}

int conv_backward_input(GHOST_ARGUMENTS, bool add) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(5);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::ConvShape q = checked_conv(&a, 3, 1, 2);
  a.want_size(4, a.size(3));
  if (!a.fit()) return 1;
  ghost::conv_backward_input(q, a[1], a[2], add ? a[3] : nullptr, a[4]);
  return 0;
}

}  // namespace

#define PASS count, data, dims, shapes, types, nullptr, nullptr

extern "C" {

// Threads of this process; 1 until it is called.
void ghost_set_threads(int threads) { ghost::SharedPool::set_threads(threads); }

int ghost_tail(GHOST_ARGUMENTS) { return tail(PASS, false); }
int ghost_tail_add(GHOST_ARGUMENTS) { return tail(PASS, true); }
int ghost_tail_evaluate(GHOST_ARGUMENTS) { return tail_evaluate(PASS, false); }
int ghost_tail_add_evaluate(GHOST_ARGUMENTS) { return tail_evaluate(PASS, true); }
int ghost_tail_backward(GHOST_ARGUMENTS) { return tail_backward(PASS, false); }
int ghost_tail_add_backward(GHOST_ARGUMENTS) { return tail_backward(PASS, true); }

// settings (epsilon), u, gamma, beta -> y, saved (2 * C)
int ghost_stem(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(6);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::StemShape q = stem_shape(a, 1);
  a.want_sizes(2, 2, q.channels);
  a.want_size(4, q.images * q.channels * q.out_plane());
  a.want_size(5, 2 * q.channels);
  if (!a.fit()) return 1;
  const Norm norm = {a[2], a[3], nullptr, nullptr, a[0][0]};
  ghost::stem_forward(q, a[1], norm, a[4], {a[5], a[5] + q.channels});
  return 0;
}

// settings, u, gamma, beta, mean, variance -> y
int ghost_stem_evaluate(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(7);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::StemShape q = stem_shape(a, 1);
  a.want_sizes(2, 4, q.channels);
  a.want_size(6, q.images * q.channels * q.out_plane());
  if (!a.fit()) return 1;
  ghost::stem_evaluate(q, a[1], {a[2], a[3], a[4], a[5], a[0][0]}, a[6]);
  return 0;
}

// settings, u, gamma, beta, saved, dy -> du, dgamma, dbeta
int ghost_stem_backward(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(9);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::StemShape q = stem_shape(a, 1);
  a.want_sizes(2, 2, q.channels);
  a.want_size(4, 2 * q.channels);
  a.want_size(5, q.images * q.channels * q.out_plane());
  a.want_size(6, a.size(1));
  a.want_sizes(7, 2, q.channels);
  if (!a.fit()) return 1;
  const Norm norm = {a[2], a[3], nullptr, nullptr, a[0][0]};
  ghost::stem_backward(q, a[1], norm, a[4], a[4] + q.channels, a[5], {a[6], a[7], a[8]});
  return 0;
}

// settings (stride), x, weight -> y
int ghost_conv(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(4);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::ConvShape q = checked_conv(&a, 1, 3, 2);
  if (!a.fit()) return 1;
  ghost::conv_forward(q, a[1], a[2], a[3]);
  return 0;
}

// settings, dy, weight, x (for its shape alone) -> dx
int ghost_conv_backward_input(GHOST_ARGUMENTS) { return conv_backward_input(PASS, false); }

// settings, dy, weight, a gradient of x from elsewhere -> their sum
int ghost_conv_backward_input_add(GHOST_ARGUMENTS) { return conv_backward_input(PASS, true); }

// settings, x, dy, weight (for its shape alone) -> dweight
int ghost_conv_backward_weight(GHOST_ARGUMENTS) {
  Arguments a(count, data, dims, shapes, types);
  a.want_count(5);
  a.want_size(0, 1);
  if (!a.fit()) return 1;
  const ghost::ConvShape q = checked_conv(&a, 1, 2, 3);
  a.want_size(4, a.size(3));
  if (!a.fit()) return 1;
  ghost::conv_backward_weight(q, a[1], a[2], a[4]);
  return 0;
}

}  // extern "C"
