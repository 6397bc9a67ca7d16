// Depthwise convolutions as operators.

#include "arguments.h"
#include "depthwise_conv.h"

namespace {

using ghost::Arguments;
using ghost::DepthwiseShape;
using ghost::run_operator;

// Settings: the stride. Then x and weight; y or its gradient is the third.
DepthwiseShape depthwise_shape(Arguments* a) {
  const int x = 1, weight = 2, y = 3;
  const int64_t channels = a->dim(x, 1), outputs = a->dim(weight, 0);
  const DepthwiseShape q = {a->dim(x, 0),
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

}  // namespace

extern "C" {

// settings, x, weight -> y
int ghost_depthwise(GHOST_PARAMETERS) {
  return run_operator(GHOST_ARGUMENTS, 4, 1, depthwise_shape,
                      [](const DepthwiseShape& q, const Arguments& a) {
                        ghost::depthwise_forward(q, a[1], a[2], a[3]);
                      });
}

// settings, x, weight, dy -> dx, dweight
int ghost_depthwise_backward(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 6, 1,
      [](Arguments* a) {
        const DepthwiseShape q = depthwise_shape(a);
        a->want_size(4, a->size(1));
        a->want_size(5, a->size(2));
        return q;
      },
      [](const DepthwiseShape& q, const Arguments& a) {
        ghost::depthwise_backward(q, a[1], a[2], a[3], a[4], a[5]);
      });
}

}  // extern "C"
