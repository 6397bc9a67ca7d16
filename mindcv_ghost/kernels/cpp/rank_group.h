// The ranks of a job on this machine: memory that they share, and a barrier.
#pragma once

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <new>

#include "thread_pool.h"

namespace ghost {

// The place of this process among the ranks. The shared memory is all zeros at first. It holds the
// barrier, and for each rank an area of two blocks, one of which is filled while the other is read.
class RankGroup {
 public:
  static constexpr int64_t kBlock = 1 << 18;  // floats; with more ranks than cores, each block costs switches between them
  static constexpr int kMostRanks = 1024;

  static size_t bytes(int ranks) { return kHeader + sizeof(float) * 2 * kBlock * ranks; }

  // Maps the memory that a file descriptor stands for; returns null if that fails.
  static RankGroup* join(int descriptor, int rank, int ranks) {
    if (rank < 0 || rank >= ranks || ranks > kMostRanks) return nullptr;
    void* data = mmap(nullptr, bytes(ranks), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (data == MAP_FAILED) return nullptr;
    return new RankGroup(data, rank, ranks);
  }

  ~RankGroup() { munmap(barrier_, bytes(ranks_)); }
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

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
    if (barrier_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == ranks_u()) {
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

  RankGroup(void* data, int rank, int ranks)
      : rank_(rank),
        ranks_(ranks),
        barrier_(static_cast<Barrier*>(data)),
        areas_(reinterpret_cast<float*>(static_cast<char*>(data) + kHeader)) {}

  uint32_t ranks_u() const { return static_cast<uint32_t>(ranks_); }
  void futex(int operation, uint32_t value) {
    syscall(SYS_futex, &barrier_->generation, operation, value, nullptr, nullptr, 0);
  }

  const int rank_, ranks_;
  int half_ = 0;
  Barrier* const barrier_;
  float* const areas_;
};

// The group of the process; null before it has joined one.
inline RankGroup*& process_group() {
  static RankGroup* group = nullptr;
  return group;
}

}  // namespace ghost
