// Batch normalisation, without and with a shortcut, and the update of running statistics, as
// operators.

#include "arguments.h"
#include "batch_norm.h"

namespace {

using ghost::Arguments;
using ghost::Norm;
using ghost::NormShape;
using ghost::run_operator;

// Settings: whether a ReLU follows the BN, epsilon.
constexpr int kSettings = 2;

// Array 1 is x.
NormShape norm_shape(Arguments* a, bool relu) {
  const int x = 1;
  const int64_t maps = a->dim(x, 0) * a->dim(x, 1);
  a->want(maps > 0 && a->size(x) > 0);
  return {a->dim(x, 0), a->dim(x, 1), a->fit() ? a->size(x) / maps : 0, relu};
}

NormShape norm_shape(Arguments* a, int parameters, bool with_shortcut) {
  const bool relu = (*a)[0][0] != 0;
  a->want(!(relu && with_shortcut));
  const NormShape q = norm_shape(a, relu);
  a->want_sizes(2, parameters, q.channels);
  return q;
}

// In training, where the operators compute the batch statistics or are given them.
Norm training_norm(const Arguments& a) { return {a[2], a[3], nullptr, nullptr, a[0][1]}; }

// settings, x, gamma, beta[, shortcut] -> y, saved (2 * C)
int batch_norm(Arguments arguments, bool with_shortcut) {
  const int y = with_shortcut ? 5 : 4;
  return run_operator(
      arguments, y + 2, kSettings,
      [=](Arguments* a) {
        const NormShape q = norm_shape(a, 2, with_shortcut);
        a->want_sizes(4, y - 3, a->size(1));
        a->want_size(y + 1, 2 * q.channels);
        return q;
      },
      [=](const NormShape& q, const Arguments& a) {
        ghost::norm_forward(q, a[1], training_norm(a), with_shortcut ? a[4] : nullptr, a[y],
                            {a[y + 1], a[y + 1] + q.channels});
      });
}

// settings, x, gamma, beta, running mean, running variance[, shortcut] -> y
int batch_norm_evaluate(Arguments arguments, bool with_shortcut) {
  const int y = with_shortcut ? 7 : 6;
  return run_operator(
      arguments, y + 1, kSettings,
      [=](Arguments* a) {
        const NormShape q = norm_shape(a, 4, with_shortcut);
        a->want_sizes(6, y - 5, a->size(1));
        return q;
      },
      [=](const NormShape& q, const Arguments& a) {
        ghost::norm_evaluate(q, a[1], {a[2], a[3], a[4], a[5], a[0][1]},
                             with_shortcut ? a[6] : nullptr, a[y]);
      });
}

// settings, x, gamma, beta, saved, dy[, y] -> dx, dgamma, dbeta[, dshortcut]
int batch_norm_backward(Arguments arguments, bool with_shortcut) {
  const int dx = with_shortcut ? 7 : 6;
  return run_operator(
      arguments, dx + (with_shortcut ? 4 : 3), kSettings,
      [=](Arguments* a) {
        const NormShape q = norm_shape(a, 2, with_shortcut);
        a->want_size(4, 2 * q.channels);
        a->want_sizes(5, dx - 4, a->size(1));
        a->want_sizes(dx + 1, 2, q.channels);
        if (with_shortcut) a->want_size(dx + 3, a->size(1));
        return q;
      },
      [=](const NormShape& q, const Arguments& a) {
        const float* saved = a[4];
        ghost::norm_backward(
            q, a[1], training_norm(a),
            {saved, saved + q.channels, a[5], with_shortcut ? a[6] : nullptr},
            {a[dx], a[dx + 1], a[dx + 2], with_shortcut ? a[dx + 3] : nullptr});
      });
}

}  // namespace

extern "C" {

int ghost_batch_norm(GHOST_PARAMETERS) { return batch_norm(GHOST_ARGUMENTS, false); }
int ghost_batch_norm_add(GHOST_PARAMETERS) { return batch_norm(GHOST_ARGUMENTS, true); }
int ghost_batch_norm_evaluate(GHOST_PARAMETERS) {
  return batch_norm_evaluate(GHOST_ARGUMENTS, false);
}
int ghost_batch_norm_add_evaluate(GHOST_PARAMETERS) {
  return batch_norm_evaluate(GHOST_ARGUMENTS, true);
}
int ghost_batch_norm_backward(GHOST_PARAMETERS) {
  return batch_norm_backward(GHOST_ARGUMENTS, false);
}
int ghost_batch_norm_add_backward(GHOST_PARAMETERS) {
  return batch_norm_backward(GHOST_ARGUMENTS, true);
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
        const NormShape q = norm_shape(a, false);
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
