// Maps times weights, as operators.

#include "arguments.h"
#include "rescale.h"

namespace {

using ghost::Arguments;
using ghost::RescaleShape;
using ghost::run_operator;

RescaleShape rescale_shape(Arguments* a) {
  const int x = 0, weight = 1;
  const RescaleShape q = {a->dim(x, 0) * a->dim(x, 1), a->dim(x, 2), a->dim(x, 3),
                          a->dim(weight, 2), a->dim(weight, 3)};
  a->want(q.rows > 0 && q.columns > 0 && q.rows <= q.height && q.columns <= q.width);
  a->want_size(x, q.maps * q.plane());
  a->want_size(weight, q.maps * q.weights());
  return q;
}

}  // namespace

extern "C" {

// x (N, C, H, W), weight (N, C, h, w) -> y
int ghost_rescale(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 3, 0,
      [](Arguments* a) {
        const RescaleShape q = rescale_shape(a);
        a->want_size(2, a->size(0));
        return q;
      },
      [](const RescaleShape& q, const Arguments& a) {
        ghost::rescale_forward(q, a[0], a[1], a[2]);
      });
}

// x, weight, dy -> dx, dweight
int ghost_rescale_backward(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 5, 0,
      [](Arguments* a) {
        const RescaleShape q = rescale_shape(a);
        a->want_sizes(2, 2, a->size(0));
        a->want_size(4, a->size(1));
        return q;
      },
      [](const RescaleShape& q, const Arguments& a) {
        ghost::rescale_backward(q, a[0], a[1], a[2], a[3], a[4]);
      });
}

}  // extern "C"
