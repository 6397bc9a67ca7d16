// The ranks of a job on this machine: memory that they share, and a barrier.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "thread_pool.h"

namespace ghost {

// A rank's view of memory that all ranks of the group share, which is all zeros at first. It holds a
// barrier, and for each rank an area of two blocks: one is filled while the other may still be read.
class RankGroup {
 public:
  // Floats. Every block costs two switches to each rank that waits for a core.
  static constexpr int64_t kBlock = 1 << 18;
  static constexpr int kMostRanks = 1024;

  static size_t bytes(int ranks) { return kHeader + sizeof(float) * 2 * kBlock * ranks; }

  RankGroup(void* memory, int rank, int ranks)
      : rank_(rank),
        ranks_(ranks),
        barrier_(static_cast<Barrier*>(memory)),
        areas_(reinterpret_cast<float*>(static_cast<char*>(memory) + kHeader)) {}

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }

  // A rank's block that is in use now. Ranks change blocks together, each by its own call.
  float* block(int rank) const { return areas_ + (2 * rank + half_) * kBlock; }
  void change_blocks() { half_ = 1 - half_; }

  // Returns when all ranks have called it. Sleeps after a short while: with fewer cores than ranks
  // or threads, the others need the core to arrive. If a rank has died, its job's supervisors kill
  // the ones that wait here.
  void wait() {
    const uint32_t seen = barrier_->generation.load(std::memory_order_acquire);
    if (barrier_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(ranks_)) {
      barrier_->arrived.store(0, std::memory_order_relaxed);
      barrier_->generation.store(seen + 1, std::memory_order_release);
      futex(kWake, kMostRanks);
      return;
    }
    for (int i = 0; i < kSpins; ++i) {
      if (barrier_->generation.load(std::memory_order_acquire) != seen) return;
      relax();
    }
    while (barrier_->generation.load(std::memory_order_acquire) == seen) futex(kWait, seen);
  }

 private:
  struct Barrier {
    std::atomic<uint32_t> generation, arrived;
  };
  static_assert(std::atomic<uint32_t>::is_always_lock_free, "a lock would be in one process only");

  static constexpr size_t kHeader = 4096;
  static constexpr int kSpins = 2000;  // about 20 microseconds
  // linux/futex.h, which isn't everywhere; not the private variants: the waiters are processes.
  static constexpr int kWait = 0, kWake = 1;

  void futex(int operation, uint32_t value) {
    syscall(SYS_futex, &barrier_->generation, operation, value, nullptr, nullptr, 0);
  }

  const int rank_, ranks_;
  int half_ = 0;
  Barrier* const barrier_;
  float* const areas_;
};

}  // namespace ghost
