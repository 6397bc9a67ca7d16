// The tail of a ResNet's stem as operators.

#include "arguments.h"
#include "stem_tail.h"

namespace {

using ghost::Arguments;
using ghost::Norm;
using ghost::run_operator;
using ghost::StemShape;

StemShape stem_shape(Arguments* a) {
  const StemShape q = {a->dim(1, 0), a->dim(1, 1), a->dim(1, 2), a->dim(1, 3)};
  a->want(q.images > 0 && q.height > 0 && q.width > 0);
  return q;
}

// In training, where the operators compute the batch statistics or are given them.
Norm training_norm(const Arguments& a) { return {a[2], a[3], nullptr, nullptr, a[0][0]}; }

}  // namespace

extern "C" {

// settings (epsilon), u, gamma, beta -> y, saved (2 * C)
int ghost_stem(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 6, 1,
      [](Arguments* a) {
        const StemShape q = stem_shape(a);
        a->want_sizes(2, 2, q.channels);
        a->want_size(4, q.images * q.channels * q.out_plane());
        a->want_size(5, 2 * q.channels);
        return q;
      },
      [](const StemShape& q, const Arguments& a) {
        ghost::stem_forward(q, a[1], training_norm(a), a[4], {a[5], a[5] + q.channels});
      });
}

// settings, u, gamma, beta, running mean, running variance -> y
int ghost_stem_evaluate(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 7, 1,
      [](Arguments* a) {
        const StemShape q = stem_shape(a);
        a->want_sizes(2, 4, q.channels);
        a->want_size(6, q.images * q.channels * q.out_plane());
        return q;
      },
      [](const StemShape& q, const Arguments& a) {
        ghost::stem_evaluate(q, a[1], {a[2], a[3], a[4], a[5], a[0][0]}, a[6]);
      });
}

// settings, u, gamma, beta, saved, dy -> du, dgamma, dbeta
int ghost_stem_backward(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 9, 1,
      [](Arguments* a) {
        const StemShape q = stem_shape(a);
        a->want_sizes(2, 2, q.channels);
        a->want_size(4, 2 * q.channels);
        a->want_size(5, q.images * q.channels * q.out_plane());
        a->want_size(6, a->size(1));
        a->want_sizes(7, 2, q.channels);
        return q;
      },
      [](const StemShape& q, const Arguments& a) {
        const float* saved = a[4];
        ghost::stem_backward(q, a[1], training_norm(a), saved, saved + q.channels, a[5],
                             {a[6], a[7], a[8]});
      });
}

}  // extern "C"
