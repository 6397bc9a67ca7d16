// The tail of a Ghost module, without and with a shortcut, as operators.

#include "arguments.h"
#include "pointwise_tail.h"

namespace {

using ghost::Arguments;
using ghost::Norm;
using ghost::NormOutput;
using ghost::run_operator;
using ghost::TailShape;

// Settings: where ReLUs are; epsilon of the first BN, epsilon of the second; then, if the maps of y
// are permuted, their order.
constexpr int kSettings = 3;
constexpr float kAfterEachNorm = 1, kBeforeCheapConvolution = 2;  // 0: nowhere

// Returns the place in y of each of so many maps, given for each map of y which of them it is; nothing
// if `order` isn't such an order.
std::vector<int64_t> places_of(const float* order, int64_t out_channels, int64_t maps) {
  std::vector<int64_t> places(maps, ghost::Channels::kNowhere);
  for (int64_t j = 0; j < out_channels; ++j) {
    const int64_t map = order[j] >= 0 && order[j] < maps ? static_cast<int64_t>(order[j]) : maps;
    if (map == maps || places[map] != ghost::Channels::kNowhere) return {};
    places[map] = j;
  }
  return places;
}

// Array 1 is u; `weight` and `y` are the indices of the weight and of y or its gradient.
TailShape tail_shape(Arguments* a, int weight, int y, bool with_shortcut) {
  const int u = 1;
  const float relus = a->size(0) >= kSettings ? (*a)[0][0] : 0;
  TailShape q = {a->dim(u, 0), a->dim(u, 1), a->dim(weight, 0), a->dim(y, 1), a->dim(u, 2),
                 a->dim(u, 3), a->dim(weight, 2), relus != 0, relus == kAfterEachNorm, {}};
  a->want(relus == 0 || relus == kAfterEachNorm || relus == kBeforeCheapConvolution);
  a->want(q.intrinsic > 0 && q.ghosts > 0 && q.ghosts % q.intrinsic == 0 && q.kernel % 2 == 1 &&
          q.out_channels >= q.intrinsic && q.out_channels <= q.intrinsic + q.ghosts &&
          q.images > 0 && q.plane() > 0);
  a->want(!(q.outer_relu && with_shortcut));
  if (a->fit() && a->size(0) > kSettings) {
    a->want_size(0, kSettings + q.out_channels);
    if (a->fit()) q.places = places_of((*a)[0] + kSettings, q.out_channels, q.intrinsic + q.ghosts);
    a->want(!q.places.empty());
  } else {
    a->want_size(0, kSettings);
  }
  a->want_size(u, q.images * q.intrinsic * q.plane());
  a->want_size(weight, q.ghosts * q.kernel * q.kernel);
  return q;
}

// What training and gradient read of the two BNs, whose statistics are the batch's.
Norm first_norm(const Arguments& a) { return {a[2], a[3], nullptr, nullptr, a[0][1]}; }
Norm second_norm(const Arguments& a) { return {a[5], a[6], nullptr, nullptr, a[0][2]}; }

// settings, u, gamma, beta, weight, gamma, beta[, shortcut] -> y, saved (2 * intrinsic + 2 * ghosts)
int tail(Arguments arguments, bool with_shortcut) {
  const int y = with_shortcut ? 8 : 7;
  return run_operator(
      arguments, y + 2, 0,
      [=](Arguments* a) {
        const TailShape q = tail_shape(a, 4, y, with_shortcut);
        a->want_sizes(2, 2, q.intrinsic);
        a->want_sizes(5, 2, q.ghosts);
        a->want_sizes(7, y - 6, q.images * q.out_channels * q.plane());
        a->want_size(y + 1, 2 * (q.intrinsic + q.ghosts));
        return q;
      },
      [=](const TailShape& q, const Arguments& a) {
        const float* shortcut = with_shortcut ? a[7] : nullptr;
        float* saved = a[y + 1];
        const NormOutput first = {saved, saved + q.intrinsic};
        const NormOutput second = {saved + 2 * q.intrinsic, saved + 2 * q.intrinsic + q.ghosts};
        const auto forward = q.kernel == 1 ? ghost::pointwise_tail_forward : ghost::tail_forward;
        forward(q, a[1], first_norm(a), a[4], second_norm(a), shortcut, a[y], first, second);
      });
}

// settings, u, gamma, beta, mean, variance, weight, gamma, beta, mean, variance[, shortcut] -> y
int tail_evaluate(Arguments arguments, bool with_shortcut) {
  const int y = with_shortcut ? 12 : 11;
  return run_operator(
      arguments, y + 1, 0,
      [=](Arguments* a) {
        const TailShape q = tail_shape(a, 6, y, with_shortcut);
        a->want_sizes(2, 4, q.intrinsic);
        a->want_sizes(7, 4, q.ghosts);
        a->want_sizes(11, y - 10, q.images * q.out_channels * q.plane());
        return q;
      },
      [=](const TailShape& q, const Arguments& a) {
        const Norm first = {a[2], a[3], a[4], a[5], a[0][1]};
        const Norm second = {a[7], a[8], a[9], a[10], a[0][2]};
        const float* shortcut = with_shortcut ? a[11] : nullptr;
        ghost::tail_evaluate(q, a[1], first, a[6], second, shortcut, a[y]);
      });
}

// settings, u, gamma, beta, weight, gamma, beta, saved, dy[, y]
// -> du, dgamma, dbeta, dweight, dgamma, dbeta[, dshortcut]
int tail_backward(Arguments arguments, bool with_shortcut) {
  const int du = with_shortcut ? 10 : 9;
  return run_operator(
      arguments, du + (with_shortcut ? 7 : 6), 0,
      [=](Arguments* a) {
        const TailShape q = tail_shape(a, 4, 8, with_shortcut);
        const int64_t out_size = q.images * q.out_channels * q.plane();
        a->want_sizes(2, 2, q.intrinsic);
        a->want_sizes(5, 2, q.ghosts);
        a->want_size(7, 2 * (q.intrinsic + q.ghosts));
        a->want_sizes(8, du - 8, out_size);
        a->want_size(du, a->size(1));
        a->want_sizes(du + 1, 2, q.intrinsic);
        a->want_size(du + 3, a->size(4));
        a->want_sizes(du + 4, 2, q.ghosts);
        if (with_shortcut) a->want_size(du + 6, out_size);
        return q;
      },
      [=](const TailShape& q, const Arguments& a) {
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
        const auto backward =
            q.kernel == 1 ? ghost::pointwise_tail_backward : ghost::tail_backward;
        backward(q, a[1], first_norm(a), a[4], second_norm(a), back, out);
      });
}

}  // namespace

extern "C" {

int ghost_tail(GHOST_PARAMETERS) { return tail(GHOST_ARGUMENTS, false); }
int ghost_tail_add(GHOST_PARAMETERS) { return tail(GHOST_ARGUMENTS, true); }
int ghost_tail_evaluate(GHOST_PARAMETERS) { return tail_evaluate(GHOST_ARGUMENTS, false); }
int ghost_tail_add_evaluate(GHOST_PARAMETERS) { return tail_evaluate(GHOST_ARGUMENTS, true); }
int ghost_tail_backward(GHOST_PARAMETERS) { return tail_backward(GHOST_ARGUMENTS, false); }
int ghost_tail_add_backward(GHOST_PARAMETERS) { return tail_backward(GHOST_ARGUMENTS, true); }

}  // extern "C"
