// Dense convolutions as operators.

#include "arguments.h"
#include "conv_weight.h"

namespace {

using ghost::Arguments;
using ghost::ConvShape;
using ghost::run_operator;

// Settings: the stride. `x`, `y` and `weight` are the indices of these arrays or their gradients.
ConvShape conv_shape(Arguments* a, int x, int y, int weight) {
  const ConvShape q = {a->dim(x, 0), a->dim(x, 1),      a->dim(weight, 0),
                       a->dim(x, 2), a->dim(x, 3),      a->dim(weight, 2),
                       static_cast<int64_t>((*a)[0][0])};
  a->want(q.stride >= 1 && q.kernel % 2 == 1 && q.images > 0 && q.in_plane() > 0);
  a->want_size(x, q.images * q.in_channels * q.in_plane());
  a->want_size(weight, q.out_channels * q.depth());
  if (a->fit()) a->want_size(y, q.images * q.out_channels * q.out_plane());
  return q;
}

// settings, dy, weight, x -> dx
ConvShape input_gradient_shape(Arguments* a) {
  const ConvShape q = conv_shape(a, 3, 1, 2);
  a->want_size(4, a->size(3));
  return q;
}

}  // namespace

extern "C" {

// settings (stride), x, weight -> y
int ghost_conv(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 4, 1, [](Arguments* a) { return conv_shape(a, 1, 3, 2); },
      [](const ConvShape& q, const Arguments& a) { ghost::conv_forward(q, a[1], a[2], a[3]); });
}

// settings, dy, weight, x (for its shape only) -> dx
int ghost_conv_backward_input(GHOST_PARAMETERS) {
  return run_operator(GHOST_ARGUMENTS, 5, 1, input_gradient_shape,
                      [](const ConvShape& q, const Arguments& a) {
                        ghost::conv_backward_input(q, a[1], a[2], nullptr, a[4]);
                      });
}

// settings, dy, weight, another gradient of x -> the sum of dx and that gradient
int ghost_conv_backward_input_add(GHOST_PARAMETERS) {
  return run_operator(GHOST_ARGUMENTS, 5, 1, input_gradient_shape,
                      [](const ConvShape& q, const Arguments& a) {
                        ghost::conv_backward_input(q, a[1], a[2], a[3], a[4]);
                      });
}

// settings, x, dy, weight (for its shape only) -> dweight
int ghost_conv_backward_weight(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 5, 1,
      [](Arguments* a) {
        const ConvShape q = conv_shape(a, 1, 2, 3);
        a->want_size(4, a->size(3));
        return q;
      },
      [](const ConvShape& q, const Arguments& a) {
        ghost::conv_backward_weight(q, a[1], a[2], a[4]);
      });
}

}  // extern "C"
