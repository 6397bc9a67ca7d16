// Operators on all tensors of a network at a time: the look at all gradients, and the optimizer.
#pragma once

#include <algorithm>
#include <vector>

#include "pool.h"
#include "vectors.h"

namespace ghost {

// Tensors of some sizes cut into parts, which threads share.
class Parts {
 public:
  explicit Parts(const std::vector<int64_t>& sizes) {
    for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {
      for (int64_t i = 0; i < sizes[tensor]; i += kPart) {
        parts_.push_back({tensor, i, std::min(kPart, sizes[tensor] - i)});
      }
    }
  }

  int64_t count() const { return static_cast<int64_t>(parts_.size()); }

  // Calls body(part, tensor, first, count) for each: `count` values of a tensor from `first` on.
  template <typename Body>
  void each(const Body& body) const {
    const int64_t some = 8;
    parallel((count() + some - 1) / some, [&](int64_t first) {
      for (int64_t p = first * some; p < std::min(count(), (first + 1) * some); ++p) {
        body(p, parts_[p].tensor, parts_[p].first, parts_[p].count);
      }
    });
  }

 private:
  static constexpr int64_t kPart = 1 << 15;
  struct Part {
    size_t tensor;
    int64_t first, count;
  };
  std::vector<Part> parts_;
};

// Whether none of the values is infinite or no number: what both have is an exponent of ones.
inline bool all_finite(const std::vector<const float*>& tensors,
                       const std::vector<int64_t>& sizes) {
  const Parts parts(sizes);
  std::vector<uint32_t> highest(parts.count());
  parts.each([&](int64_t part, size_t tensor, int64_t first, int64_t count) {
    const float* values = tensors[tensor] + first;
    uint32_t most = 0;
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, values + i, sizeof(bits));
      bits &= 0x7fffffffu;
      most = bits > most ? bits : most;
    }
    highest[part] = most;
  });
  const auto finite = [](uint32_t bits) { return bits < 0x7f800000u; };
  return std::all_of(highest.begin(), highest.end(), finite);
}

// A tensor that gradient descent with momentum moves.
struct Moved {
  const float* gradient;
  float *weight, *moment;
  float rate, decay;
};

// Rounds where MindSpore's Mul, AddN and ApplyMomentum do.
struct MomentumStep {
  float factor, momentum, rate, decay;

  template <typename Value>
  void move(Value gradient, Value* weight, Value* moment) const {
    Value g = opaque(gradient * factor);
    if (decay != 0) g = opaque(opaque(*weight * decay) + g);
    *moment = opaque(*moment * momentum) + g;
    *weight -= opaque(*moment * rate);
  }
};

// Gradients are multiplied by `factor` first.
inline void momentum(const std::vector<Moved>& tensors, const std::vector<int64_t>& sizes,
                     float factor, float momentum) {
  Parts(sizes).each([&](int64_t, size_t tensor, int64_t first, int64_t count) {
    const Moved& q = tensors[tensor];
    const MomentumStep step = {factor, momentum, q.rate, q.decay};
    const float* gradient = q.gradient + first;
    float *weight = q.weight + first, *moment = q.moment + first;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      Vector w = load(weight + i), m = load(moment + i);
      step.move(load(gradient + i), &w, &m);
      store(weight + i, w);
      store(moment + i, m);
    }
    for (; i < count; ++i) step.move(gradient[i], weight + i, moment + i);
  });
}

}  // namespace ghost
