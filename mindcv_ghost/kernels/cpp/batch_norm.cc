// Batch normalisation, and the update of running statistics, as operators.

#include "arguments.h"
#include "batch_norm.h"

namespace {

using ghost::Arguments;
using ghost::Norm;
using ghost::NormShape;
using ghost::run_operator;

NormShape norm_shape(Arguments* a) {
  const int x = 1;
  const int64_t maps = a->dim(x, 0) * a->dim(x, 1);
  a->want(maps > 0 && a->size(x) > 0);
  return {a->dim(x, 0), a->dim(x, 1), a->fit() ? a->size(x) / maps : 0};
}

// In training, where the operators compute the batch statistics or are given them.
Norm training_norm(const Arguments& a) { return {a[2], a[3], nullptr, nullptr, a[0][0]}; }

}  // namespace

extern "C" {

// settings (epsilon), x, gamma, beta -> y, saved (2 * C)
int ghost_batch_norm(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 6, 1,
      [](Arguments* a) {
        const NormShape q = norm_shape(a);
        a->want_sizes(2, 2, q.channels);
        a->want_size(4, a->size(1));
        a->want_size(5, 2 * q.channels);
        return q;
      },
      [](const NormShape& q, const Arguments& a) {
        ghost::norm_forward(q, a[1], training_norm(a), a[4], {a[5], a[5] + q.channels});
      });
}

// settings, x, gamma, beta, running mean, running variance -> y
int ghost_batch_norm_evaluate(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 7, 1,
      [](Arguments* a) {
        const NormShape q = norm_shape(a);
        a->want_sizes(2, 4, q.channels);
        a->want_size(6, a->size(1));
        return q;
      },
      [](const NormShape& q, const Arguments& a) {
        ghost::norm_evaluate(q, a[1], {a[2], a[3], a[4], a[5], a[0][0]}, a[6]);
      });
}

// settings, x, gamma, beta, saved, dy -> dx, dgamma, dbeta
int ghost_batch_norm_backward(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 9, 1,
      [](Arguments* a) {
        const NormShape q = norm_shape(a);
        a->want_sizes(2, 2, q.channels);
        a->want_size(4, 2 * q.channels);
        a->want_sizes(5, 2, a->size(1));
        a->want_sizes(7, 2, q.channels);
        return q;
      },
      [](const NormShape& q, const Arguments& a) {
        const float* saved = a[4];
        ghost::norm_backward(q, a[1], training_norm(a), saved, saved + q.channels, a[5],
                             {a[6], a[7], a[8]});
      });
}

// settings (each BN's weight of the new batch), x (for its shape only), saved, then running mean and
// running variance of each BN, which are updated in place -> (1): 1
int ghost_update_running_statistics(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, ghost::kAnyNumber, 0,
      [](Arguments* a) {
        a->want(a->count() >= 6);
        if (!a->fit()) return NormShape();
        const int norms = static_cast<int>(a->size(0));
        a->want_count(3 + 2 * norms + 1);
        a->want_size(a->count() - 1, 1);
        const NormShape q = norm_shape(a);
        int64_t saved = 0;
        for (int i = 0; i < norms && a->fit(); ++i) {
          a->want_size(4 + 2 * i, a->size(3 + 2 * i));
          saved += 2 * a->size(3 + 2 * i);
        }
        a->want_size(2, saved);
        return q;
      },
      [](const NormShape& q, const Arguments& a) {
        const float* batch = a[2];
        for (int i = 0; i < a.size(0); ++i) {
          const int mean = 3 + 2 * i;
          const int64_t channels = a.size(mean);
          ghost::update_running_statistics(channels, q.images * q.plane, a[0][i], batch,
                                           batch + channels, a[mean], a[mean + 1]);
          batch += 2 * channels;
        }
        a[a.count() - 1][0] = 1;
      });
}

}  // extern "C"
