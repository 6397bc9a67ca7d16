// Softmax cross entropy as operators.

#include "arguments.h"
#include "cross_entropy.h"

namespace {

using ghost::Arguments;
using ghost::CrossEntropyShape;
using ghost::run_operator;

// Settings: label smoothing, whether the loss is the mean over the rows and not their sum.
constexpr int kSettings = 2;

// Array 1 holds the logits, array 2 the labels.
CrossEntropyShape cross_entropy_shape(Arguments* a) {
  const CrossEntropyShape q = {a->dim(1, 0), a->dim(1, 1), (*a)[0][0], (*a)[0][1] != 0};
  a->want(q.rows > 0 && q.classes > 0);
  a->want_size(1, q.rows * q.classes);
  a->want_size(2, q.rows);
  a->want_size(3, 1);
  return q;
}

}  // namespace

extern "C" {

// settings, logits, labels -> loss (1)
int ghost_cross_entropy(GHOST_PARAMETERS) {
  return run_operator(GHOST_ARGUMENTS, 4, kSettings, cross_entropy_shape,
                      [](const CrossEntropyShape& q, const Arguments& a) {
                        a[3][0] = ghost::cross_entropy_forward(q, a[1], a[2]);
                      });
}

// settings, logits, labels, dloss (1) -> dlogits
int ghost_cross_entropy_backward(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 5, kSettings,
      [](Arguments* a) {
        a->want_size(4, a->size(1));
        return cross_entropy_shape(a);
      },
      [](const CrossEntropyShape& q, const Arguments& a) {
        ghost::cross_entropy_backward(q, a[1], a[2], a[3][0], a[4]);
      });
}

}  // extern "C"
