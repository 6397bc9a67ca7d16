// Measures this machine's peaks: multiply-adds per second in registers, and memory bandwidth.
//
// Vectors are the compiler's own (vector_size), which it splits into the processor's registers.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

template <typename Body>
double seconds_on(int threads, const Body& body) {
  const double started = now();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back([&body, t] { body(t); });
  body(0);
  for (std::thread& other : others) other.join();
  return now() - started;
}

volatile float sink;

typedef float Vector __attribute__((vector_size(64)));

// Operations per second of all threads, with independent chains of multiply-adds.
template <int kChains>
double multiply_adds(int threads) {
  constexpr int64_t kRounds = 4000000;
  const double seconds = seconds_on(threads, [](int t) {
    Vector chain[kChains], factor = {}, term = {};
    factor += 0.9999f;
    term += 1e-4f * (t + 1);
    for (int i = 0; i < kChains; ++i) chain[i] = term * static_cast<float>(i + 1);
    for (int64_t round = 0; round < kRounds; ++round) {
      for (int i = 0; i < kChains; ++i) chain[i] = chain[i] * factor + term;
    }
    for (int i = 1; i < kChains; ++i) chain[0] += chain[i];
    sink = chain[0][0] + chain[0][15];
  });
  return 2.0 * 16 * kChains * kRounds * threads / seconds;
}

}  // namespace

extern "C" {

// Floating-point operations per second; the best of several tries and numbers of chains.
double peak_operations(int threads) {
  double best = 0;
  for (int i = 0; i < 3; ++i) {
    best = std::max({best, multiply_adds<4>(threads), multiply_adds<5>(threads),
                     multiply_adds<8>(threads), multiply_adds<12>(threads)});
  }
  return best;
}

// Bytes per second, reading only, and reading and writing; the best of several tries.
void peak_bandwidth(int threads, double* reading, double* copying) {
  const int64_t size = int64_t{1} << 26;  // floats: 256 MB, beyond any cache
  std::vector<float> from(size, 1.0f), to(size, 0.0f);
  const int64_t share = size / threads;
  *reading = *copying = 0;
  for (int i = 0; i < 15; ++i) {
    const double reads = seconds_on(threads, [&](int t) {
      const float* data = from.data() + t * share;
      Vector sums[8] = {};
      for (int64_t k = 0; k + 128 <= share; k += 128) {
        for (int v = 0; v < 8; ++v) {
          Vector next;
          std::memcpy(&next, data + k + 16 * v, sizeof next);
          sums[v] += next;
        }
      }
      for (int v = 1; v < 8; ++v) sums[0] += sums[v];
      sink = sums[0][0];
    });
    const double copies = seconds_on(threads, [&](int t) {
      const float* in = from.data() + t * share;
      float* out = to.data() + t * share;
      for (int64_t k = 0; k < share; ++k) out[k] = in[k] + 1.0f;
    });
    // memcpy writes past the caches and doesn't read the destination first.
    const double moves = seconds_on(threads, [&](int t) {
      std::memcpy(to.data() + t * share, from.data() + t * share, share * sizeof(float));
    });
    const double bytes = 4.0 * share * threads;
    *reading = std::max(*reading, bytes / reads);
    *copying = std::max(*copying, 2 * bytes / std::min(copies, moves));
  }
  sink = to[size / 2];
}
}
