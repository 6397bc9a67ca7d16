// Global average pooling as operators.

#include "arguments.h"
#include "pooling.h"

namespace {

using ghost::Arguments;
using ghost::run_operator;

// Number of maps in x.
int64_t map_count(Arguments* a, int x) {
  const int64_t maps = a->dim(x, 0) * a->dim(x, 1);
  a->want(maps > 0 && a->size(x) > 0);
  return maps;
}

}  // namespace

extern "C" {

// x (N, C, H, W) -> y (N, C) or (N, C, 1, 1)
int ghost_mean(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 2, 0,
      [](Arguments* a) {
        const int64_t maps = map_count(a, 0);
        a->want_size(1, maps);
        return maps;
      },
      [](int64_t maps, const Arguments& a) {
        ghost::mean_forward(maps, a.size(0) / maps, a[0], a[1]);
      });
}

// dy, x (for its shape only) -> dx
int ghost_mean_backward(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 3, 0,
      [](Arguments* a) {
        const int64_t maps = map_count(a, 1);
        a->want_size(0, maps);
        a->want_size(2, a->size(1));
        return maps;
      },
      [](int64_t maps, const Arguments& a) {
        ghost::mean_backward(maps, a.size(1) / maps, a[0], a[2]);
      });
}

}  // extern "C"
