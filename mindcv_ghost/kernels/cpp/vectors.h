// Vectors as wide as the registers of the compiler's target, as extension types of the compiler.
#pragma once

#include <algorithm>
#include <cmath>
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

// The first `count` values, then zeros; memory after them isn't read.
inline Vector load_first(const float* from, int64_t count) {
  if (count == kLanes) return load(from);
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(_mm512_maskz_loadu_ps((1u << count) - 1, from));
#else
  Vector v = {};
  for (int64_t i = 0; i < count; ++i) v[i] = from[i];
  return v;
#endif
}

// As load_first, for any count.
inline Vector load_at_most(const float* from, int64_t count) {
  return count <= 0 ? Vector{} : load_first(from, std::min<int64_t>(count, kLanes));
}

// Stores the first `count` values of v.
inline void store_first(float* to, Vector v, int64_t count) {
  if (count == kLanes) return store(to, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, (1u << count) - 1, reinterpret_cast<__m512>(v));
#else
  for (int64_t i = 0; i < count; ++i) to[i] = v[i];
#endif
}

// As store_first, for any count.
inline void store_at_most(float* to, Vector v, int64_t count) {
  if (count > 0) store_first(to, v, std::min<int64_t>(count, kLanes));
}

// The first `count` lanes of v, then zeros.
inline Vector first_lanes(Vector v, int64_t count) {
  if (count == kLanes) return v;
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(
      _mm512_maskz_mov_ps((1u << count) - 1, reinterpret_cast<__m512>(v)));
#else
  for (int64_t i = count; i < kLanes; ++i) v[i] = 0;
  return v;
#endif
}

inline Vector square_root(Vector v) {
  float values[kLanes];
  store(values, v);
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = std::sqrt(values[lane]);
  return load(values);
}

inline float sum_of(Vector v) {
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

// d, or 0 where v isn't positive; a NaN counts as positive.
inline Vector where_positive(Vector v, Vector d) { return v <= Vector{} ? Vector{} : d; }

// Several sums over values, each in kOpen vectors: enough to hide the latency of additions.
template <int kSums>
class Sums {
 public:
  // Calls add(i, n, sums) for vectors of n values from i on, of which it adds something to `sums`,
  // an array of kSums vectors.
  template <typename Add>
  __attribute__((always_inline)) void add(int64_t count, const Add& add) {
    int64_t i = 0;
    for (; i + kOpen * kLanes <= count; i += kOpen * kLanes) {
#pragma GCC unroll 4
      for (int v = 0; v < kOpen; ++v) add(i + v * kLanes, int64_t{kLanes}, parts_[v]);
    }
    for (; i + kLanes <= count; i += kLanes) add(i, int64_t{kLanes}, parts_[0]);
    if (i < count) add(i, count - i, parts_[0]);
  }
  float get(int which) const {
    Vector sum = parts_[0][which];
    for (int v = 1; v < kOpen; ++v) sum += parts_[v][which];
    return sum_of(sum);
  }

 private:
  static constexpr int kOpen = 4;
  Vector parts_[kOpen][kSums] = {};
};

// Hides from the compiler how a value was computed. The compiler then can't fuse that computation
// with later ones, reorder both, or reload the value for each use. For results that must have the same
// bits everywhere, and for values that several instructions share.
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

// sum + factor * v at the chosen lanes, sum at the others.
inline Vector add_masked(Vector sum, float factor, Vector v, uint32_t bits) {
  return reinterpret_cast<Vector>(_mm512_mask3_fmadd_ps(
      _mm512_set1_ps(factor), reinterpret_cast<__m512>(v), reinterpret_cast<__m512>(sum),
      static_cast<__mmask16>(bits)));
}

// Expands v: its first values, in order, at the chosen lanes, and zeros at the others.
inline Vector expand(Vector v, uint32_t bits) {
  return reinterpret_cast<Vector>(
      _mm512_maskz_expand_ps(static_cast<__mmask16>(bits), reinterpret_cast<__m512>(v)));
}

// Compresses v: its values at the chosen lanes, in order; the lanes after them are undefined.
inline Vector compress(Vector v, uint32_t bits) {
  return reinterpret_cast<Vector>(
      _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), reinterpret_cast<__m512>(v)));
}
#else
typedef int32_t Indices __attribute__((vector_size(sizeof(Vector))));

// Tables for all choices of lanes: masks, and the source of each lane's value. The number of lanes is
// part of the name, because a process has only one such object of a name, even if it has loaded
// libraries for several processors.
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

// sum + factor * v at the chosen lanes, sum at the others.
inline Vector add_masked(Vector sum, float factor, Vector v, uint32_t bits) {
  return sum + factor * masked(v, bits);
}

// Expands v: its first values, in order, at the chosen lanes, and zeros at the others.
inline Vector expand(Vector v, uint32_t bits) {
  return masked(shuffled(v, load_indices(kLaneTables<kLanes>.expanded[bits])), bits);
}

// Compresses v: its values at the chosen lanes, in order; the lanes after them are undefined.
inline Vector compress(Vector v, uint32_t bits) {
  return shuffled(v, load_indices(kLaneTables<kLanes>.compressed[bits]));
}
#endif

// memcpy for a few thousand values. At that size the C library's memcpy uses `rep movsb`, which takes
// three times as long on some processors.
inline void copy(float* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Vector a = load(from + i), b = load(from + i + kLanes);
    store(to + i, a);
    store(to + i + kLanes, b);
  }
  for (; i < count; ++i) to[i] = from[i];
}

// memset to zeros for a few values.
inline void clear(float* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, Vector{});
  if (i < count) store_first(to + i, Vector{}, count - i);
}

// At most 2 * kWidth values, as two blocks that may overlap: no loop with a mispredicted end.
template <int kWidth = kLanes>
inline void copy_few(float* to, const float* from, int64_t count) {
  typedef float Block __attribute__((vector_size(kWidth * sizeof(float))));
  if (count >= kWidth) {
    Block first, last;
    std::memcpy(&first, from, sizeof(Block));
    std::memcpy(&last, from + count - kWidth, sizeof(Block));
    std::memcpy(to, &first, sizeof(Block));
    std::memcpy(to + count - kWidth, &last, sizeof(Block));
  } else if constexpr (kWidth > 1) {
    copy_few<kWidth / 2>(to, from, count);
  }
}

// Stores that bypass the caches, if there is an instruction for it; `to` must be aligned to the
// vector's size. end_streams() has to follow before another thread reads the values.
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

// Whether stores of an output of so many values should bypass the caches: the last-level cache can't
// keep it until it is read, and would first read each line from memory.
inline bool is_streamed(int64_t values) { return values >= (4 << 20); }

// How many values `to` lies after an address aligned to the vector's size. MindSpore's memory begins
// 16 bytes after the start of a cache line.
inline int64_t values_past_boundary(const float* to) {
  return reinterpret_cast<uintptr_t>(to) % sizeof(Vector) / sizeof(float);
}

// Fetches values into the caches while something else is computed. The processor's own prefetching stops
// at the end of a page, and small maps of one channel lie on a page each.
inline void prefetch(const float* from, int64_t count) {
  constexpr int64_t kLine = 16, kMost = 1024;  // values
  for (int64_t i = 0; i < std::min(count, kMost); i += kLine) __builtin_prefetch(from + i, 0);
}

// As prefetch, into the L2 cache and for any number of values.
inline void prefetch_far(const float* from, int64_t count) {
  constexpr int64_t kLine = 16;  // values
  for (int64_t i = 0; i < count; i += kLine) {
    __builtin_prefetch(from + i, 0, 2);
    // Without it, GCC 12 takes a function that only prefetches for one without effects, and drops
    // its calls.
    asm volatile("");
  }
}

// As prefetch, for values that will be written.
inline void prefetch_to_write(const float* to, int64_t count) {
  constexpr int64_t kLine = 16, kMost = 1024;
  for (int64_t i = 0; i < std::min(count, kMost); i += kLine) __builtin_prefetch(to + i, 1);
}

// Writes `count` values, where at(i, n) is the vector of n values from i on. `streamed`: whole vectors
// bypass the caches; incomplete ones at the beginning and the end don't.
template <typename At>
__attribute__((always_inline)) inline void write_all(float* to, int64_t count, bool streamed,
                                                     const At& at) {
  int64_t i = 0;
  if (streamed) {
    const int64_t head = std::min(count, (kLanes - values_past_boundary(to)) % kLanes);
    if (head > 0) store_first(to, at(0, head), head);
    for (i = head; i + kLanes <= count; i += kLanes) stream(to + i, at(i, kLanes));
  } else {
    for (; i + kLanes <= count; i += kLanes) store(to + i, at(i, kLanes));
  }
  if (i < count) store_first(to + i, at(i, count - i), count - i);
}

// As copy; `streamed`: bypass the caches.
inline void copy_out(float* to, const float* from, int64_t count, bool streamed) {
  if (!streamed) return copy(to, from, count);
  write_all(to, count, true, [from](int64_t i, int64_t n) { return load_first(from + i, n); });
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

template <int kFirst, int... kLane>
inline Vector every_second(Vector a, Vector b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, (2 * kLane + kFirst)...);
}

// The even or the odd lanes of two vectors that follow each other.
inline Vector even_lanes(Vector a, Vector b) {
  return every_second<0>(a, b, std::make_integer_sequence<int, kLanes>());
}
inline Vector odd_lanes(Vector a, Vector b) {
  return every_second<1>(a, b, std::make_integer_sequence<int, kLanes>());
}

template <int kFirst, int... kLane>
inline Vector alternating(Vector even, Vector odd, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(even, odd, (kFirst + kLane / 2 + kLane % 2 * kLanes)...);
}

// The reverse: the vector that is the first or the second of the two.
inline Vector first_of_pairs(Vector even, Vector odd) {
  return alternating<0>(even, odd, std::make_integer_sequence<int, kLanes>());
}
inline Vector second_of_pairs(Vector even, Vector odd) {
  return alternating<kLanes / 2>(even, odd, std::make_integer_sequence<int, kLanes>());
}

template <int kCount, int kStep>
inline void add_lanes(Vector* v) {
#pragma GCC unroll 8
  for (int i = 0; i < (kCount + 1) / 2; ++i) {
    Vector a = v[2 * i], b = v[kCount > 1 ? 2 * i + 1 : 0];
    swap_blocks<kStep>(a, b, std::make_integer_sequence<int, kLanes>());
    v[i] = a + b;
  }
  if constexpr (2 * kStep < kLanes) add_lanes<(kCount + 1) / 2, 2 * kStep>(v);
}

// Lane i is the sum of v[i], of kCount vectors (a power of two up to kLanes), which are overwritten.
template <int kCount>
inline Vector sums_of(Vector* v) {
  add_lanes<kCount, 1>(v);
  return v[0];
}

// Transposes kLanes vectors: swaps the blocks off the diagonal, of one value, then two, and so on.
inline void transpose(Vector* rows) { transpose_step<1>(rows); }
#else
template <int kCount>
inline Vector sums_of(Vector* v) {
  Vector sums = {};
  for (int i = 0; i < kCount; ++i) sums[i] = sum_of(v[i]);
  return sums;
}

inline Vector every_second(Vector a, Vector b, int first) {
  Vector result;
  for (int i = 0; i < kLanes; ++i) {
    const int from = 2 * i + first;
    result[i] = from < kLanes ? a[from] : b[from - kLanes];
  }
  return result;
}
inline Vector even_lanes(Vector a, Vector b) { return every_second(a, b, 0); }
inline Vector odd_lanes(Vector a, Vector b) { return every_second(a, b, 1); }

inline Vector alternating(Vector even, Vector odd, int first) {
  Vector result;
  for (int i = 0; i < kLanes; ++i) result[i] = (i % 2 == 0 ? even : odd)[first + i / 2];
  return result;
}
inline Vector first_of_pairs(Vector even, Vector odd) { return alternating(even, odd, 0); }
inline Vector second_of_pairs(Vector even, Vector odd) { return alternating(even, odd, kLanes / 2); }

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

#ifdef GHOST_SHUFFLES
template <typename Block, int... kLane>
inline Block every_second(Block a, Block b, std::integer_sequence<int, kLane...>) {
  constexpr int kHalf = sizeof...(kLane) / 2;
  return __builtin_shufflevector(a, b, (kLane < kHalf ? 2 * kLane : 2 * kLane + 1)...);
}
#endif

// Every second of 2 * count - 1 values; blocks of kWidth, the last of which may overlap the one before.
template <int kWidth = kLanes>
inline void copy_every_second(float* to, const float* from, int64_t count) {
#ifdef GHOST_SHUFFLES
  typedef float Block __attribute__((vector_size(kWidth * sizeof(float))));
  if (count >= kWidth) {
    for (int64_t i = 0; i < count; i += kWidth) {
      const int64_t at = std::min(i, count - kWidth);
      Block a, b;  // b ends with the last value that is wanted
      std::memcpy(&a, from + 2 * at, sizeof(Block));
      std::memcpy(&b, from + 2 * at + kWidth - 1, sizeof(Block));
      a = every_second(a, b, std::make_integer_sequence<int, kWidth>());
      std::memcpy(to + at, &a, sizeof(Block));
    }
  } else if constexpr (kWidth > 2) {
    copy_every_second<kWidth / 2>(to, from, count);
  } else if (count == 1) {
    *to = *from;
  }
#else
  for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
#endif
}

#ifdef GHOST_SHUFFLES
template <int kFirst, typename Block, int... kLane>
inline Block interleaved(Block a, Block b, std::integer_sequence<int, kLane...>) {
  constexpr int kWidth = sizeof...(kLane);
  return __builtin_shufflevector(a, b, (kFirst + kLane / 2 + kLane % 2 * kWidth)...);
}
#endif

// a[0], b[0], a[1], b[1], ...: `pairs` of them, in blocks of kWidth as above.
template <int kWidth = kLanes>
inline void interleave(float* to, const float* a, const float* b, int64_t pairs) {
#ifdef GHOST_SHUFFLES
  typedef float Block __attribute__((vector_size(kWidth * sizeof(float))));
  if (pairs >= kWidth) {
    constexpr auto kAll = std::make_integer_sequence<int, kWidth>();
    for (int64_t i = 0; i < pairs; i += kWidth) {
      const int64_t at = std::min(i, pairs - kWidth);
      Block first, second;
      std::memcpy(&first, a + at, sizeof(Block));
      std::memcpy(&second, b + at, sizeof(Block));
      const Block low = interleaved<0>(first, second, kAll);
      const Block high = interleaved<kWidth / 2>(first, second, kAll);
      std::memcpy(to + 2 * at, &low, sizeof(Block));
      std::memcpy(to + 2 * at + kWidth, &high, sizeof(Block));
    }
  } else if constexpr (kWidth > 2) {
    interleave<kWidth / 2>(to, a, b, pairs);
  } else if (pairs == 1) {
    to[0] = a[0];
    to[1] = b[0];
  }
#else
  for (int64_t i = 0; i < pairs; ++i) {
    to[2 * i] = a[i];
    to[2 * i + 1] = b[i];
  }
#endif
}

// The columns of a matrix (rows, kColumns), whose rows are `step` apart: columns[j] holds a value of
// each row, and zeros for what kLanes has more than rows. There must be room for a multiple of kLanes
// columns.
template <int kColumns>
inline void load_columns(const float* from, int64_t step, int64_t rows, Vector* columns) {
#pragma GCC unroll 4
  for (int first = 0; first < kColumns; first += kLanes) {
    Vector* block = columns + first;
    const int64_t there = std::min(kLanes, kColumns - first);
    for (int64_t r = 0; r < rows; ++r) block[r] = load_first(from + r * step + first, there);
    for (int64_t r = rows; r < kLanes; ++r) block[r] = Vector{};
    transpose(block);
  }
}

// The reverse of the above, for so many rows.
template <int kColumns>
inline void store_columns(Vector* columns, int64_t step, int64_t rows, float* to) {
#pragma GCC unroll 4
  for (int first = 0; first < kColumns; first += kLanes) {
    Vector* block = columns + first;
    const int64_t there = std::min(kLanes, kColumns - first);
    transpose(block);
    for (int64_t r = 0; r < rows; ++r) store_first(to + r * step + first, block[r], there);
  }
}

}  // namespace ghost
