// The check of all gradients as an operator.

#include "all_finite.h"
#include "arguments.h"

extern "C" {

// Any number of tensors -> (1): 1 if all their values are finite, else 0
int ghost_all_finite(GHOST_PARAMETERS) {
  using ghost::Arguments;
  return ghost::run_operator(
      GHOST_ARGUMENTS, ghost::kAnyNumber, 0,
      [](Arguments* a) {
        a->want(a->count() >= 1);
        if (a->fit()) a->want_size(a->count() - 1, 1);
        return a->count() - 1;
      },
      [](int tensors, const Arguments& a) {
        std::vector<const float*> values;
        std::vector<int64_t> sizes;
        for (int i = 0; i < tensors; ++i) {
          values.push_back(a[i]);
          sizes.push_back(a.size(i));
        }
        a[tensors][0] = ghost::all_finite(values, sizes) ? 1 : 0;
      });
}

}  // extern "C"
