// The maps of some channels of a batch: how threads share them, and how they move between a tensor
// (N, C, H, W) and memory in which the maps of a channel follow each other.
#pragma once

#include <algorithm>
#include <vector>

#include "norm.h"
#include "thread_pool.h"

namespace ghost {

// Channels of a tensor (images, all, H, W): neighbours; or, with `places`, those at places[0] ...
// places[count - 1], where kNowhere is a channel that isn't in the tensor.
struct Channels {
  static constexpr int64_t kNowhere = -1;

  int64_t images, all, first, count;
  const int64_t* places = nullptr;
};

// Calls body(channels) for blocks of neighbouring channels, each for one thread: small maps of
// neighbouring channels share cache lines, which would be fetched several times if the channels were
// processed one by one.
template <typename Body>
inline void parallel_blocks(int64_t images, int64_t channels, int64_t plane, const Body& body) {
  constexpr int64_t kMap = 1024, kChannel = 1 << 15;  // values that need no neighbours
  const int64_t wanted = std::min(kMap / plane, kChannel / (images * plane));
  const int64_t fair = channels / (4 * SharedPool::get()->threads());
  const int64_t most = std::clamp<int64_t>(std::min(wanted, fair), 1, 16);
  parallel((channels + most - 1) / most, [&](int64_t part) {
    const int64_t first = part * most;
    body(Channels{images, channels, first, std::min(most, channels - first)});
  });
}

// Calls body(i, at, place) for the maps of all images, in a tensor's order: of channel first + i, at
// `at` of the tensor and at `place` of memory, where each channel's maps follow each other and
// channels lie `step` apart. Before an image's maps, calls ahead(at, count) for the values of the
// next image. Channels that aren't in the tensor are left out.
template <typename Ahead, typename Body>
__attribute__((always_inline)) inline void each_map(const Channels& c, int64_t plane, int64_t step,
                                                    const Ahead& ahead, const Body& body) {
  if (c.places != nullptr) {
    for (int64_t n = 0; n < c.images; ++n) {
      for (int64_t i = 0; i < c.count; ++i) {
        if (c.places[i] == Channels::kNowhere) continue;
        const int64_t at = (n * c.all + c.places[i]) * plane;
        if (n + 1 < c.images) ahead(at + c.all * plane, plane);
        body(i, at, i * step + n * plane);
      }
    }
    return;
  }
  for (int64_t n = 0; n < c.images; ++n) {
    const int64_t at = (n * c.all + c.first) * plane;
    if (n + 1 < c.images) ahead(at + c.all * plane, c.count * plane);
    for (int64_t i = 0; i < c.count; ++i) body(i, at + i * plane, i * step + n * plane);
  }
}

// Fills the memory of channels that aren't in the tensor with zeros.
inline void clear_absent(const Channels& c, int64_t plane, int64_t step, float* to) {
  for (int64_t i = 0; c.places != nullptr && i < c.count; ++i) {
    if (c.places[i] == Channels::kNowhere) std::fill_n(to + i * step, c.images * plane, 0.0f);
  }
}

// Copies maps of a tensor; `to` is as each_map has it.
inline void gather(const float* from, const Channels& c, int64_t plane, int64_t step, float* to) {
  clear_absent(c, plane, step, to);
  each_map(
      c, plane, step, [from](int64_t at, int64_t count) { prefetch(from + at, count); },
      [=](int64_t, int64_t at, int64_t place) { copy(to + place, from + at, plane); });
}

// Writes maps of a tensor, from memory as each_map has it. `streamed`: bypass the caches.
inline void scatter(const float* from, const Channels& c, int64_t plane, int64_t step, bool streamed,
                    float* to) {
  each_map(
      c, plane, step,
      [=](int64_t at, int64_t count) {
        if (!streamed) prefetch_to_write(to + at, count);
      },
      [=](int64_t, int64_t at, int64_t place) { copy_out(to + at, from + place, plane, streamed); });
  if (streamed) end_streams();
}

// Writes channels of y, whose values before normalisation are x, of which each channel makes `each` of
// y: after a ReLU, or as relu(values + shortcut) unless `shortcut` is null.
inline void write_channels(const Channels& c, int64_t plane, const float* x, int64_t step,
                           int64_t each, const std::vector<Affine>& affines, bool relu,
                           const float* shortcut, float* y) {
  const bool streamed = is_streamed(c.images * c.all * plane);
  each_map(
      c, plane, step,
      [=](int64_t at, int64_t count) {
        if (shortcut != nullptr) prefetch(shortcut + at, count);
        if (!streamed) prefetch_to_write(y + at, count);
      },
      [&](int64_t i, int64_t at, int64_t place) {
        const float* other = shortcut == nullptr ? nullptr : shortcut + at;
        const float* from = x + place - (i - i / each) * step;
        write_map(from, affines[i], relu, other, y + at, plane, streamed);
      });
  if (streamed) end_streams();
}

// Writes the gradient of a BN's input x from d, the gradient of its result.
inline void write_input_gradient(const Channels& c, int64_t plane, const float* x, const float* d,
                                 int64_t step, const std::vector<NormBackward::Line>& lines,
                                 bool streamed, float* dx) {
  each_map(
      c, plane, step,
      [=](int64_t at, int64_t count) {
        if (!streamed) prefetch_to_write(dx + at, count);
      },
      [&](int64_t i, int64_t at, int64_t place) {
        lines[i].write(x + place, d + place, dx + at, plane, streamed);
      });
  if (streamed) end_streams();
}

// Gathers a gradient that has passed back through the last ReLU, whose result is y; it is also the
// gradient of the shortcut.
inline void gather_gradient(const float* dy, const float* y, const Channels& c, int64_t plane,
                            int64_t step, float* to, float* shortcut) {
  const bool streamed = is_streamed(c.images * c.all * plane);
  clear_absent(c, plane, step, to);
  each_map(
      c, plane, step,
      [=](int64_t at, int64_t count) {
        prefetch(dy + at, count);
        prefetch(y + at, count);
        if (!streamed) prefetch_to_write(shortcut + at, count);
      },
      [=](int64_t, int64_t at, int64_t place) {
        write_all(shortcut + at, plane, streamed, [=](int64_t i, int64_t n) {
          const Vector d = where_positive(load_first(y + at + i, n), load_first(dy + at + i, n));
          store(to + place + i, d);
          return d;
        });
      });
  if (streamed) end_streams();
}

}  // namespace ghost
