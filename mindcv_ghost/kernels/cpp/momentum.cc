// Gradient descent with momentum as an operator.

#include "arguments.h"
#include "momentum.h"

extern "C" {

// settings (for each of n tensors the index of its rate, then for each its weight decay), factor (1),
// momentum (1), rates (any number), n gradients, then n tensors and n moments, which are updated in
// place -> (1): 1
int ghost_momentum(GHOST_PARAMETERS) {
  using ghost::Arguments;
  using Updates = std::vector<ghost::MomentumUpdate>;
  return ghost::run_operator(
      GHOST_ARGUMENTS, ghost::kAnyNumber, 0,
      [](Arguments* a) {
        Updates updates;
        a->want(a->count() >= 8);
        if (!a->fit()) return updates;
        const int n = static_cast<int>(a->size(0) / 2);
        a->want_count(4 + 3 * n + 1);
        a->want_size(0, 2 * n);
        a->want_sizes(1, 2, 1);
        a->want_size(a->count() - 1, 1);
        for (int i = 0; i < n && a->fit(); ++i) {
          const int gradient = 4 + i, weight = gradient + n, moment = weight + n;
          const int64_t rate = static_cast<int64_t>((*a)[0][i]);
          a->want_size(weight, a->size(gradient));
          a->want_size(moment, a->size(gradient));
          a->want(rate >= 0 && rate < a->size(3));
          if (!a->fit()) break;
          updates.push_back({(*a)[gradient], (*a)[weight], (*a)[moment], a->size(gradient),
                             (*a)[3][rate], (*a)[0][n + i]});
        }
        return updates;
      },
      [](const Updates& updates, const Arguments& a) {
        ghost::momentum(updates, a[1][0], a[2][0]);
        a[a.count() - 1][0] = 1;
      });
}

}  // extern "C"
