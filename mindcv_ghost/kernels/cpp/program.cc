// A network's evaluation as one operator.

#include "program_steps.h"

namespace {

using ghost::Affine;
using ghost::Arguments;
using ghost::Plan;
using ghost::Weight;

// The plan for operators' arguments: steps, images, parameters, result.
Plan plan_of(Arguments* a) {
  std::vector<Weight> weights;
  for (int i = 2; i + 1 < a->count(); ++i) {
    Weight weight = {(*a)[i], {1, 1, 1, 1}};
    for (int axis = 0; axis < 4; ++axis) {
      if (a->dim(i, axis) > 0) weight.sides[axis] = a->dim(i, axis);
    }
    a->want(weight.size() == a->size(i));
    weights.push_back(weight);
  }
  int64_t images[4];
  for (int axis = 0; axis < 4; ++axis) images[axis] = a->dim(1, axis);
  a->want(images[0] * images[1] * images[2] * images[3] > 0);
  if (!a->fit()) return Plan();
  Plan plan((*a)[0], a->size(0), std::move(weights), images);
  a->want(plan.fits());
  if (!a->fit()) return Plan();
  const ghost::Map& result = plan.result();
  a->want_size(a->count() - 1, images[0] * result.channels * result.line.plane());
  return plan;
}

}  // namespace

extern "C" {

// steps, images, parameters ... -> the last step's map. The steps are explained in program.h.
int ghost_program(GHOST_PARAMETERS) {
  return ghost::run_operator(
      GHOST_ARGUMENTS, ghost::kAnyNumber, 0,
      [](Arguments* a) {
        a->want(a->count() >= 3);
        return a->fit() ? plan_of(a) : Plan();
      },
      [](Plan plan, const Arguments& a) {
        const int64_t affines = 2 * plan.affines();
        ghost::WholeScratch scratch(plan.memory() + affines, 2);
        plan.place(scratch.take(plan.memory()));
        float* memory = scratch.take(affines);
        ghost::run_program(plan, a[1], reinterpret_cast<Affine*>(memory), a[a.count() - 1]);
      });
}

}  // extern "C"
