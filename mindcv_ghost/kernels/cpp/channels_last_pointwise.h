// 1x1 convolutions of channels-last maps.
#pragma once

#include "channels_last.h"

namespace ghost {

constexpr int kGroup = kManyRegisters ? 4 : 3;  // vectors of output channels at a time, at most

// Vectors of output channels at a time for so many inputs: their weights should stay in the L1 cache
// from one tile of positions to the next.
inline int64_t vectors_at_once(int64_t depth) {
  constexpr int64_t kFloats = 8 << 10;
  return std::clamp<int64_t>(kFloats / (depth * kLanes), 1, kGroup);
}

// Positions at a time for so many vectors: their sums and a row of the weight fill the registers.
constexpr int positions_at_once(int vectors) {
  return kManyRegisters ? (vectors == 1 ? 14 : 24 / vectors) : (vectors == 1 ? 10 : 12 / vectors);
}

// The weights (out, in) of some vectors of output channels, times the scales of their norms, as
// (in, vectors * kLanes).
inline void pack_pointwise(const Filter& filter, int64_t in, const Segments& out, int64_t vector,
                           int64_t vectors, float* packed) {
  const int64_t step = vectors * kLanes;
  for (int64_t v = 0; v < vectors; ++v) {
    const LaneSpan c = out.span(vector + v);
    for (int64_t b = 0; b < filter.count; ++b) {
      const Vector scale = filter.branches[b].norm.scale(c);
      const float* weight = filter.branches[b].weight + c.first * in;
      for (int64_t k = 0; k < in; k += kLanes) {
        const int64_t there = std::min<int64_t>(kLanes, in - k);
        Vector block[kLanes];
        for (int64_t r = 0; r < kLanes; ++r) {
          block[r] = r < c.count ? load_first(weight + r * in + k, there) : Vector{};
        }
        transpose(block);
        float* to = packed + k * step + v * kLanes;
        for (int64_t i = 0; i < there; ++i, to += step) {
          store(to, b == 0 ? block[i] * scale : load(to) + block[i] * scale);
        }
      }
    }
  }
}

// The sums of some positions and vectors of output channels.
template <int kPositions, int kVectors>
struct PointwiseTile {
  Vector sums[kPositions][kVectors];

  // Begins with the norms' shifts.
  explicit PointwiseTile(const float* shift) {
#pragma GCC unroll 16
    for (int p = 0; p < kPositions; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[p][v] = load(shift + v * kLanes);
    }
  }

  // Adds `count` channels of positions that are `step` apart.
  __attribute__((always_inline)) void add(const float* a, int64_t step, int64_t count,
                                          const float* weight) {
    // One pointer for three positions: the other two are addressed by an index register.
    constexpr int kPointers = (kPositions + 2) / 3;
    const float* pointers[kPointers];
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) pointers[i] = a + 3 * i * step;
    for (int64_t k = 0; k < count; ++k, weight += kVectors * kLanes) {
      Vector w[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) w[v] = load(weight + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < kPositions; ++p) {
        const float value = pointers[p / 3][(p % 3) * step];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[p][v] += value * w[v];
      }
#pragma GCC unroll 8
      for (int i = 0; i < kPointers; ++i) ++pointers[i];
    }
  }

  // Writes the positions from number `first` on, to y + place(number).
  template <typename Place>
  void put(const Finish& finish, int64_t first, const Place& place, float* y) const {
#pragma GCC unroll 16
    for (int p = 0; p < kPositions; ++p) {
      const int64_t at = place(first + p);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        store(y + at + v * kLanes, finish(sums[p][v], at + v * kLanes));
      }
    }
  }
};

// `count` positions of the maps x with channels `in` -> y + place(position).
template <int kVectors, typename Place>
inline void pointwise_positions(const float* x, const Segments& in, int64_t count,
                                const float* weight, const float* shift, const Finish& finish,
                                float* y, const Place& place) {
  constexpr int kMost = positions_at_once(kVectors);
  const int64_t step = in.step();
  for_even_shares(count, kMost, [&](int64_t first, int64_t share) {
    with_number<kMost>(share, [&](auto positions) {
      PointwiseTile<positions, kVectors> tile(shift);
      const float* a = x + first * step;
      tile.add(a, step, in.first, weight);
      if (in.second > 0) {
        tile.add(a + in.second_at(), step, in.second, weight + in.first * kVectors * kLanes);
      }
      tile.put(finish, first, place, y);
    });
  });
}

// The weights of some vectors of output channels, packed for one part of the work.
class PackedPointwise {
 public:
  static int64_t memory(int64_t in, int64_t vectors) { return (in + 1) * vectors * kLanes; }

  PackedPointwise(const Filter& filter, const Segments& in, const Segments& out, int64_t vector,
                  int64_t vectors, float* memory)
      : in_(in), vectors_(vectors), shift_(memory), weight_(memory + vectors * kLanes) {
    for (int64_t v = 0; v < vectors; ++v) {
      store(shift_ + v * kLanes, filter.shift(out.span(vector + v)));
    }
    pack_pointwise(filter, in.channels(), out, vector, vectors, weight_);
  }

  template <typename Place>
  void run(const float* x, int64_t count, const Finish& finish, float* y,
           const Place& place) const {
    with_number<kGroup>(vectors_, [&](auto vectors) {
      pointwise_positions<vectors>(x, in_, count, weight_, shift_, finish, y, place);
    });
  }

 private:
  Segments in_;
  int64_t vectors_;
  float *shift_, *weight_;
};

// y = norm(conv(x)), with a ReLU or plus `other`, which may be y's own memory.
inline void pointwise_conv(Member* team, const LastMaps& x, const Filter& filter, bool relu,
                           const float* other, const LastMaps& y) {
  for_pieces(team, y.images, y.channels.vectors(), y.height, [&](const Piece& piece) {
    const int64_t most = vectors_at_once(x.channels.channels());
    const auto fetch = [&](int64_t vector, int64_t vectors) {
      filter.fetch(y.channels.span(vector, vectors), x.channels.channels());
    };
    for_groups(piece, most, fetch, [&](int64_t vector, int64_t vectors) {
      Scratch scratch(PackedPointwise::memory(x.channels.channels(), vectors), 1);
      float* memory = scratch.take(PackedPointwise::memory(x.channels.channels(), vectors));
      const PackedPointwise conv(filter, x.channels, y.channels, vector, vectors, memory);
      const int64_t at = y.row(piece.image, piece.row) - y.data + vector * kLanes;
      const Finish finish = {relu, other};
      conv.run(x.row(piece.image, piece.row), (piece.row_end - piece.row) * y.width,
               finish.from(at), y.data + at, [&](int64_t p) { return p * y.step(); });
    });
  });
}

}  // namespace ghost
