// Vectors of the widest registers that the compiler's target has, in the compiler's own notation.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ghost {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;  // SSE, NEON; elsewhere the compiler splits them up
#endif

// Whether there are 32 vector registers, or 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof(v)); }

// A value of which the compiler knows nothing but that it is there: it can neither fuse or reorder
// what has made it with what is made of it, nor load it anew for each use. For results that have to
// be the same bits wherever they are made, and for values that several instructions share.
template <typename Value>
inline Value opaque(Value v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__SSE2__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#else
  asm("" : "+m"(v));
#endif
  return v;
}

// Lanes chosen by bits, the lowest for the first lane.
#if defined(__AVX512F__)
inline Vector masked(Vector v, uint32_t bits) {
  return reinterpret_cast<Vector>(
      _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), reinterpret_cast<__m512>(v)));
}

// v's first values, in order, at the chosen lanes, and zeros at the others.
inline Vector expand(Vector v, uint32_t bits) {
  return reinterpret_cast<Vector>(
      _mm512_maskz_expand_ps(static_cast<__mmask16>(bits), reinterpret_cast<__m512>(v)));
}

// The reverse: v's values at the chosen lanes, in order; what follows them has no meaning.
inline Vector compress(Vector v, uint32_t bits) {
  return reinterpret_cast<Vector>(
      _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), reinterpret_cast<__m512>(v)));
}
#else
typedef int32_t Indices __attribute__((vector_size(sizeof(Vector))));

// For all choices of lanes: all bits set at those chosen; where each lane's value comes from. The
// number of lanes is part of the name: a process has one such object of a name, even if it has
// loaded libraries for several processors.
template <int kOf>
struct LaneTables {
  int32_t chosen[1 << kOf][kOf] = {}, expanded[1 << kOf][kOf] = {}, compressed[1 << kOf][kOf] = {};

  constexpr LaneTables() {
    for (int bits = 0; bits < 1 << kOf; ++bits) {
      for (int lane = 0, next = 0; lane < kOf; ++lane) {
        if ((bits >> lane & 1) == 0) continue;
        chosen[bits][lane] = -1;
        expanded[bits][lane] = next;
        compressed[bits][next++] = lane;
      }
    }
  }
};
template <int kOf>
inline constexpr LaneTables<kOf> kLaneTables;

inline Indices load_indices(const int32_t* from) {
  Indices v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

inline Vector shuffled(Vector v, Indices from) {
#if defined(__GNUC__) && !defined(__clang__)
  return __builtin_shuffle(v, from);
#else
  Vector result;
  for (int lane = 0; lane < kLanes; ++lane) result[lane] = v[from[lane]];
  return result;
#endif
}

inline Vector masked(Vector v, uint32_t bits) {
  return reinterpret_cast<Vector>(reinterpret_cast<Indices>(v) &
                                  load_indices(kLaneTables<kLanes>.chosen[bits]));
}

// v's first values, in order, at the chosen lanes, and zeros at the others.
inline Vector expand(Vector v, uint32_t bits) {
  return masked(shuffled(v, load_indices(kLaneTables<kLanes>.expanded[bits])), bits);
}

// The reverse: v's values at the chosen lanes, in order; what follows them has no meaning.
inline Vector compress(Vector v, uint32_t bits) {
  return shuffled(v, load_indices(kLaneTables<kLanes>.compressed[bits]));
}
#endif

// memcpy for a few thousand values. The C library's goes over to `rep movsb` there, which some
// processors take three times as long for.
inline void copy(float* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Vector a = load(from + i), b = load(from + i + kLanes);
    store(to + i, a);
    store(to + i + kLanes, b);
  }
  for (; i < count; ++i) to[i] = from[i];
}

// Stores past the caches, where there is an instruction for it: `to` lies at a multiple of the
// vector's size. end_streams() has to follow before another thread may read it.
inline void stream(float* to, Vector v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, reinterpret_cast<__m512>(v));
#elif defined(__AVX__)
  _mm256_stream_ps(to, reinterpret_cast<__m256>(v));
#elif defined(__SSE2__)
  _mm_stream_ps(to, reinterpret_cast<__m128>(v));
#else
  store(to, v);
#endif
}

inline void end_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Whether an output of so many values is better stored past the caches: the last one won't hold it
// until it is read, and would only read each line from memory first.
inline bool is_streamed(int64_t values) { return values >= (4 << 20); }

// How many values lie between the multiple of a vector's size before `to`, and `to`. MindSpore's
// memory begins 16 bytes behind the start of a cache line.
inline int64_t behind_boundary(const float* to) {
  return reinterpret_cast<uintptr_t>(to) % sizeof(Vector) / sizeof(float);
}

// Writes `count` values, where at(i) is the vector of those from i on; past the caches but for what
// doesn't fill a vector at the beginning and the end. count: a vector at least.
template <typename At>
inline void stream_all(float* to, int64_t count, const At& at) {
  const int64_t head = (kLanes - behind_boundary(to)) % kLanes;
  const Vector first = at(0), last = at(count - kLanes);
  std::memcpy(to, &first, head * sizeof(float));
  int64_t i = head;
  for (; i + kLanes <= count; i += kLanes) stream(to + i, at(i));
  const int64_t left = count - i;
  std::memcpy(to + i, reinterpret_cast<const float*>(&last) + kLanes - left, left * sizeof(float));
}

// As copy, past the caches if that is wanted.
inline void copy_out(float* to, const float* from, int64_t count, bool streamed) {
  if (!streamed || count < kLanes) return copy(to, from, count);
  stream_all(to, count, [from](int64_t i) { return load(from + i); });
}

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define GHOST_SHUFFLES
#endif
#endif

#ifdef GHOST_SHUFFLES
template <int kStep, int... kLane>
inline void swap_blocks(Vector& a, Vector& b, std::integer_sequence<int, kLane...>) {
  const Vector first =
      __builtin_shufflevector(a, b, ((kLane & kStep) ? kLanes + kLane - kStep : kLane)...);
  const Vector second =
      __builtin_shufflevector(a, b, ((kLane & kStep) ? kLanes + kLane : kLane + kStep)...);
  a = first;
  b = second;
}

template <int kStep>
inline void transpose_step(Vector* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) == 0) {
      swap_blocks<kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, kLanes>());
    }
  }
  if constexpr (2 * kStep < kLanes) transpose_step<2 * kStep>(rows);
}

// Transposes kLanes vectors: swaps the blocks off the diagonal, of one value, then two, and so on.
inline void transpose(Vector* rows) { transpose_step<1>(rows); }
#else
inline void transpose(Vector* rows) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float kept = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = kept;
    }
  }
}
#endif

}  // namespace ghost
