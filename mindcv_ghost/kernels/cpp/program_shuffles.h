// Values in order to those at every second or fourth position, and back.
#pragma once

#include <algorithm>

#include "vectors.h"

namespace ghost {

#ifdef GHOST_SHUFFLES
// Two vectors of values in order, to those at even and at odd positions.
template <int... kLane>
inline void split_pairs(Vector* a, Vector* b, std::integer_sequence<int, kLane...>) {
  const Vector even = __builtin_shufflevector(*a, *b, (2 * kLane)...);
  const Vector odd = __builtin_shufflevector(*a, *b, (2 * kLane + 1)...);
  *a = even, *b = odd;
}
inline void split_pairs(Vector* a, Vector* b) {
  split_pairs(a, b, std::make_integer_sequence<int, kLanes>());
}
// The reverse.
template <int... kLane>
inline void join_pairs(Vector* a, Vector* b, std::integer_sequence<int, kLane...>) {
  constexpr int kHalf = kLanes / 2;
  const Vector low = __builtin_shufflevector(*a, *b, (kLane / 2 + kLane % 2 * kLanes)...);
  const Vector high = __builtin_shufflevector(*a, *b, (kHalf + kLane / 2 + kLane % 2 * kLanes)...);
  *a = low, *b = high;
}
inline void join_pairs(Vector* a, Vector* b) {
  join_pairs(a, b, std::make_integer_sequence<int, kLanes>());
}
#else
inline void split_pairs(Vector* a, Vector* b) {
  Vector to[2];
  for (int i = 0; i < 2 * kLanes; ++i) to[i % 2][i / 2] = (i < kLanes ? *a : *b)[i % kLanes];
  *a = to[0], *b = to[1];
}
inline void join_pairs(Vector* a, Vector* b) {
  Vector to[2];
  for (int i = 0; i < 2 * kLanes; ++i) to[i / kLanes][i % kLanes] = (i % 2 == 0 ? *a : *b)[i / 2];
  *a = to[0], *b = to[1];
}
#endif

// Four vectors of values in order, to those whose position modulo 4 is 0, 1, 2 and 3.
inline void deinterleave(Vector* v) {
  split_pairs(v, v + 1);
  split_pairs(v + 2, v + 3);
  split_pairs(v, v + 2);      // even values: 0 and 2
  split_pairs(v + 1, v + 3);  // odd ones: 1 and 3
}

// The reverse.
inline void interleave(Vector* v) {
  join_pairs(v, v + 2);
  join_pairs(v + 1, v + 3);
  join_pairs(v, v + 1);
  join_pairs(v + 2, v + 3);
}

}  // namespace ghost
