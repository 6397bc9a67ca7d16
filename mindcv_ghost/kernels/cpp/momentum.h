// Gradient descent with momentum, for all tensors of a network.
#pragma once

#include <vector>

#include "tensor_parts.h"
#include "vectors.h"

namespace ghost {

// The update of one tensor.
struct MomentumUpdate {
  const float* gradient;
  float *weight, *moment;
  int64_t size;
  float rate, decay;
};

// Rounds where MindSpore's Mul, AddN and ApplyMomentum do.
struct MomentumStep {
  float factor, momentum, rate, decay;

  template <typename Value>
  void apply(Value gradient, Value* weight, Value* moment) const {
    Value g = opaque(gradient * factor);
    if (decay != 0) g = opaque(opaque(*weight * decay) + g);
    *moment = opaque(*moment * momentum) + g;
    *weight -= opaque(*moment * rate);
  }
};

// Gradients are multiplied by `factor` first.
inline void momentum(const std::vector<MomentumUpdate>& updates, float factor, float momentum) {
  std::vector<int64_t> sizes;
  for (const MomentumUpdate& update : updates) sizes.push_back(update.size);
  TensorParts(sizes).each([&](int64_t, size_t tensor, int64_t first, int64_t count) {
    const MomentumUpdate& q = updates[tensor];
    const MomentumStep step = {factor, momentum, q.rate, q.decay};
    const float* gradient = q.gradient + first;
    float *weight = q.weight + first, *moment = q.moment + first;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      Vector w = load(weight + i), m = load(moment + i);
      step.apply(load(gradient + i), &w, &m);
      store(weight + i, w);
      store(moment + i, m);
    }
    for (; i < count; ++i) step.apply(gradient[i], weight + i, moment + i);
  });
}

}  // namespace ghost
