// Whether all values of many tensors are finite.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "tensor_parts.h"

namespace ghost {

// Whether no value is infinite or NaN: the exponent of either has all bits set.
inline bool all_finite(const std::vector<const float*>& tensors,
                       const std::vector<int64_t>& sizes) {
  const TensorParts parts(sizes);
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

}  // namespace ghost
