// The exponential function of vectors, and the sigmoid.
#pragma once

#include "vectors.h"

namespace ghost {

// e^v to about 2 units in the last place, for v within -87 ... 88, and NaN for NaN; values outside
// count as the nearest inside. By v = n log(2) + r, with r at most log(2) / 2 from zero, and e^r by
// its Taylor series.
inline Vector exponential(Vector v) {
  typedef int32_t Bits __attribute__((vector_size(sizeof(Vector))));
  const Vector zero = {};
  v = v < -87.0f ? zero - 87.0f : v;
  v = v > 88.0f ? zero + 88.0f : v;
  // Adding 1.5 * 2^23 rounds to a whole number, which is then in the last bits.
  const Vector shifted = opaque(v * 1.44269504f + 12582912.0f);
  const Vector n = opaque(shifted - 12582912.0f);
  // log(2) in two parts, of which the first times n is exact.
  Vector r = opaque(v - n * 0.693359375f);
  r = r + n * 2.12194440e-4f;
  Vector sum = r * (1.0f / 5040) + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const Bits exponent = reinterpret_cast<Bits>(shifted) << 23;  // the other bits leave on the left
  return reinterpret_cast<Vector>(reinterpret_cast<Bits>(sum) + exponent);
}

inline Vector sigmoid(Vector v) { return 1.0f / (1.0f + exponential(-v)); }

}  // namespace ghost
