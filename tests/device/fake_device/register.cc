// Operators that only devices have, in the form of MindSpore 2.8's aot Custom operators: an overflow
// register of the whole process, and arithmetic with or without saturation.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

std::atomic<int> flag{0};
std::atomic<int> saturates{0};
std::atomic<int> overflows{0};

// Events of the register since they were last taken: C cleared, G read (get), R raised.
constexpr int kEvents = 4096;
char events[kEvents];
std::atomic<int> event_count{0};

void note(char event) {
  const int place = event_count.fetch_add(1);
  if (place < kEvents) events[place] = event;
}

void raise() {
  if (flag.exchange(1) == 0) note('R');
}

int64_t size_of(int dims, const int64_t *shape) {
  int64_t size = 1;
  for (int i = 0; i < dims; ++i) size *= shape[i];
  return size;
}

}  // namespace

extern "C" {

void fake_set_saturates(int value) { saturates = value; }

// Makes the inputs of fake_gradient too large for the device from now on, or stops doing so.
void fake_set_overflows(int value) { overflows = value; }

void fake_raise() { raise(); }

int fake_flag() { return flag; }

// Copies the events, clears them, and returns their number.
int fake_take_events(char *out) {
  const int count = std::min(event_count.exchange(0), kEvents);
  std::memcpy(out, events, count);
  return count;
}

// int32 (8) -> int32 (8): NPUGetFloatStatusV2.
int fake_get_status(int, void **data, int *dims, int64_t **shapes, const char **, void *, void *) {
  auto *out = static_cast<int32_t *>(data[1]);
  const int64_t size = size_of(dims[1], shapes[1]);
  note('G');
  for (int64_t i = 0; i < size; ++i) out[i] = i == 0 ? flag.load() : 0;
  return 0;
}

// int32 (8) -> int32 (8): NPUClearFloatStatusV2.
int fake_clear_status(int, void **data, int *dims, int64_t **shapes, const char **, void *, void *) {
  auto *out = static_cast<int32_t *>(data[1]);
  const int64_t size = size_of(dims[1], shapes[1]);
  note('C');
  flag = 0;
  for (int64_t i = 0; i < size; ++i) out[i] = 0;
  return 0;
}

// float32 -> float32 (1): a GPU's FloatStatus.
int fake_float_status(int, void **data, int *dims, int64_t **shapes, const char **, void *, void *) {
  const auto *in = static_cast<const float *>(data[0]);
  const int64_t size = size_of(dims[0], shapes[0]);
  bool finite = true;
  for (int64_t i = 0; i < size; ++i) finite = finite && std::isfinite(in[i]);
  *static_cast<float *>(data[1]) = finite ? 0.0f : 1.0f;
  return 0;
}

// float32 -> float32: turns computed values into those that the device would compute.
int fake_gradient(int, void **data, int *dims, int64_t **shapes, const char **, void *, void *) {
  const auto *in = static_cast<const float *>(data[0]);
  auto *out = static_cast<float *>(data[1]);
  const int64_t size = size_of(dims[0], shapes[0]);
  std::memcpy(out, in, size * sizeof(float));
  if (overflows) {
    for (int64_t i = 0; i < size; ++i) out[i] = static_cast<float>(1e60 * out[i]);
  }
  if (!saturates) return 0;
  for (int64_t i = 0; i < size; ++i) {
    if (std::isfinite(out[i])) continue;
    raise();
    const float largest = std::numeric_limits<float>::max();
    out[i] = std::isnan(out[i]) ? 0.0f : std::copysign(largest, out[i]);
  }
  return 0;
}

}  // extern "C"
