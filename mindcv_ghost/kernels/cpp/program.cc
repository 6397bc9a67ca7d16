// A network's evaluation as one operator.

#include "program_steps.h"

namespace {

using ghost::Affine;
using ghost::Arguments;
using ghost::Plan;
using ghost::Weight;

// The operator's arguments: steps, images, parameters, result.
struct Call {
  const float *numbers, *images;
  int64_t count;
  int64_t sides[4];  // of the images
  std::vector<Weight> weights;
  float* result;
  Plan one;  // for one image

  Plan plan(int64_t images_at_once, int64_t groups) const {
    const int64_t group[4] = {images_at_once, sides[1], sides[2], sides[3]};
    return Plan(numbers, count, weights, group, groups);
  }
};

Call call_of(Arguments* a) {
  Call call = {};
  a->want(a->count() >= 3);
  if (!a->fit()) return call;
  const int last = a->count() - 1;
  for (int i = 2; i < last; ++i) {
    Weight weight = {(*a)[i], {1, 1, 1, 1}};
    for (int axis = 0; axis < 4; ++axis) {
      if (a->dim(i, axis) > 0) weight.sides[axis] = a->dim(i, axis);
    }
    a->want(weight.size() == a->size(i));
    call.weights.push_back(weight);
  }
  for (int axis = 0; axis < 4; ++axis) call.sides[axis] = a->dim(1, axis);
  call.numbers = (*a)[0], call.images = (*a)[1], call.count = a->size(0), call.result = (*a)[last];
  a->want(a->size(1) > 0 && call.sides[3] > 0);
  if (!a->fit()) return call;
  call.one = call.plan(1, 1);
  a->want(call.one.fits());
  if (!a->fit()) return call;
  const ghost::Map& result = call.one.result();
  a->want_size(last, call.sides[0] * result.channels * result.line.plane());
  return call;
}

// The images from `first` on that a plan is for.
void evaluate(const Call& call, int64_t first, Plan plan) {
  const int64_t affines = 2 * plan.affines();
  ghost::WholeScratch scratch(plan.memory() + affines, 2);
  plan.place(scratch.take(plan.memory()));
  float* memory = scratch.take(affines);
  const int64_t out = plan.result().channels * plan.result().line.plane();
  ghost::run_program(plan, call.images + first * call.sides[1] * call.sides[2] * call.sides[3],
                     reinterpret_cast<Affine*>(memory), call.result + first * out);
}

// All images, in groups whose largest maps fit the caches: two images of 224x224 at a time take
// longer than one after the other.
void evaluate_all(const Call& call) {
  constexpr int64_t kValues = 1 << 20;
  const int64_t images = call.sides[0];
  if (images == 1) return evaluate(call, 0, call.one);
  const int64_t most = std::clamp<int64_t>(kValues / call.one.largest(), 1, images);
  const int64_t groups = images / most;
  evaluate(call, 0, call.plan(most, groups));
  if (images % most > 0) evaluate(call, groups * most, call.plan(images % most, 1));
}

}  // namespace

extern "C" {

// steps, images, parameters ... -> the last step's map. program.h explains the steps.
int ghost_program(GHOST_PARAMETERS) {
  return ghost::run_operator(GHOST_ARGUMENTS, ghost::kAnyNumber, 0, call_of,
                             [](const Call& call, const Arguments&) { evaluate_all(call); });
}

}  // extern "C"
