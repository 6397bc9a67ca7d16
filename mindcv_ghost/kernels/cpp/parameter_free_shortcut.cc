// The shortcut without weights as operators.

#include "arguments.h"
#include "parameter_free_shortcut.h"

namespace {

using ghost::Arguments;
using ghost::run_operator;
using ghost::ShortcutShape;

// Settings: stride, maps of zeros before the input's. `x` and `y` are the indices of these arrays.
constexpr int kSettings = 2;

ShortcutShape shortcut_shape(Arguments* a, int x, int y) {
  const ShortcutShape q = {a->dim(x, 0),
                           a->dim(x, 1),
                           a->dim(x, 2),
                           a->dim(x, 3),
                           static_cast<int64_t>((*a)[0][0]),
                           a->dim(y, 1),
                           static_cast<int64_t>((*a)[0][1])};
  a->want(q.stride >= 1 && q.before >= 0 && q.before + q.channels <= q.out_channels);
  a->want_size(x, q.images * q.channels * q.plane());
  if (a->fit()) a->want_size(y, q.images * q.out_channels * q.out_plane());
  return q;
}

}  // namespace

extern "C" {

// settings, x -> y
int ghost_parameter_free_shortcut(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 3, kSettings, [](Arguments* a) { return shortcut_shape(a, 1, 2); },
      [](const ShortcutShape& q, const Arguments& a) { ghost::shortcut_forward(q, a[1], a[2]); });
}

// settings, dy, x (for its shape only) -> dx
int ghost_parameter_free_shortcut_backward(GHOST_PARAMETERS) {
  return run_operator(
      GHOST_ARGUMENTS, 4, kSettings,
      [](Arguments* a) {
        a->want_size(3, a->size(2));
        return shortcut_shape(a, 2, 1);
      },
      [](const ShortcutShape& q, const Arguments& a) { ghost::shortcut_backward(q, a[1], a[3]); });
}

}  // extern "C"
