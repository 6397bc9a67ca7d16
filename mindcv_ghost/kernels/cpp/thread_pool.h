// Threads and scratch memory of the kernels.
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace ghost {

// Tells the core that this is a spin loop, if there is an instruction for it.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until a condition is met. After a while it lets other threads have the core: there may be
// more threads than cores, or than a container's quota gives time for.
template <typename Condition>
void wait_until(const Condition& met) {
  constexpr int kSpins = 1 << 14;
  for (int spins = 0; !met();) {
    if (spins < kSpins) {
      ++spins;
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

// Runs the parts of a job on a fixed number of threads, the caller among them.
//
// OpenMP isn't used because MindSpore's own idle threads and its would spin against each other.
// The result of a part never depends on the thread that runs it, so results don't depend on timing.
// If two callers run jobs at the same time, the second job runs on its caller's thread alone.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { wait_for_jobs(); });
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // The pool whose job this thread is working on, or nullptr.
  static Pool*& current() {
    static thread_local Pool* pool = nullptr;
    return pool;
  }

  // Calls body(0) ... body(count - 1), each once, in any order; returns when all are done.
  template <typename Body>
  void run(int64_t count, const Body& body) {
    if (threads_ == 1 || count <= 1 || !busy_.try_lock()) {
      const Working here(this);
      for (int64_t i = 0; i < count; ++i) body(i);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      call_ = [](const void* any, int64_t i) { (*static_cast<const Body*>(any))(i); };
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      open_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_parts();
    {
      // Workers that wake up from now on are too late: wait only for those that are running.
      std::lock_guard<std::mutex> lock(mutex_);
      open_ = false;
    }
    wait_until([this] { return active_.load(std::memory_order_acquire) == 0; });
    busy_.unlock();
  }

 private:
  // Rounds of spinning before a worker sleeps: the next operator usually follows at once.
  static constexpr int kSpins = 4000;

  // Makes a pool the current one of this thread, as long as it exists.
  class Working {
   public:
    explicit Working(Pool* pool) : before_(current()) { current() = pool; }
    ~Working() { current() = before_; }
    Working(const Working&) = delete;
    Working& operator=(const Working&) = delete;

   private:
    Pool* before_;
  };

  void take_parts() {
    const Working here(this);
    for (;;) {
      const int64_t part = next_.fetch_add(1, std::memory_order_relaxed);
      if (part >= count_) return;
      call_(body_, part);
    }
  }

  void wait_for_jobs() {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i) {
        relax();
      }
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        if (stopping_) return;
        if (!open_) continue;
        active_.fetch_add(1, std::memory_order_relaxed);
      }
      take_parts();
      active_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int threads_;
  std::vector<std::thread> workers_;
  std::mutex busy_;   // held by the caller whose job the workers do
  std::mutex mutex_;  // guards the job and sleeping
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> active_{0};
  bool open_ = false;
  bool stopping_ = false;
  int64_t count_ = 0;
  const void* body_ = nullptr;
  void (*call_)(const void*, int64_t) = nullptr;
};

// The pool of the process: made at first use, and again in a forked child, which has no threads.
//
// The number of threads can be changed while jobs run: each runs to its end on the pool that it has
// begun on, which its caller owns together with this class. All parts of a job have to see the same
// number of threads, because they divide work by it.
class SharedPool {
 public:
  static std::shared_ptr<Pool> get() {
    if (Pool* own = Pool::current()) return {std::shared_ptr<Pool>(), own};  // the caller owns it
    std::lock_guard<std::mutex> lock(mutex());
    if (slot() == nullptr) {
      static std::once_flag once;
      std::call_once(once, [] { pthread_atfork(before_fork, after_fork, after_fork_in_child); });
      slot() = std::make_shared<Pool>(wanted());
    }
    return slot();
  }

  // Jobs that begin from now on have this number of threads.
  static void set_threads(int threads) {
    std::shared_ptr<Pool> old;  // ended when the mutex is free: its workers may wait for that
    std::lock_guard<std::mutex> lock(mutex());
    wanted() = threads < 1 ? 1 : threads;
    if (slot() != nullptr && slot()->threads() != wanted()) old.swap(slot());
  }

 private:
  // Never destroyed: a thread may still compute while the process exits.
  static std::mutex& mutex() {
    static std::mutex* only = new std::mutex();
    return *only;
  }
  static std::shared_ptr<Pool>& slot() {
    static std::shared_ptr<Pool>* pool = new std::shared_ptr<Pool>();
    return *pool;
  }
  static int& wanted() {
    static int threads = 1;
    return threads;
  }
  static void before_fork() { mutex().lock(); }
  static void after_fork() { mutex().unlock(); }
  static void after_fork_in_child() {
    new std::shared_ptr<Pool>(std::move(slot()));  // leaked: its threads can't be joined here
    mutex().unlock();
  }
};

// Calls body(0) ... body(count - 1) on the process's pool.
template <typename Body>
void parallel(int64_t count, const Body& body) {
  SharedPool::get()->run(count, body);
}

// Calls body(first, end) on the pool for runs of `count` maps of `size` values. Runs are long enough
// to outweigh the overhead; each thread gets several if there are enough maps.
template <typename Body>
void parallel_runs(int64_t count, int64_t size, const Body& body) {
  constexpr int64_t kLeast = 1 << 10, kMost = 1 << 14;  // values
  const int64_t values = std::max<int64_t>(1, size);
  const int64_t fair = count / (4 * SharedPool::get()->threads());
  const int64_t run = std::max<int64_t>(1, std::clamp(fair, kLeast / values, kMost / values));
  parallel((count + run - 1) / run, [&](int64_t part) {
    body(part * run, std::min(count, (part + 1) * run));
  });
}

// Calls body(map) for all of `count` maps of `size` values.
template <typename Body>
inline void for_maps(int64_t count, int64_t size, const Body& body) {
  parallel_runs(count, size, [&](int64_t first, int64_t end) {
    for (int64_t map = first; map < end; ++map) body(map);
  });
}

// Owner of scratch memory: one part of a parallel job, or the whole operator, whose parts share it.
enum class Scope { part, whole };

#ifdef GHOST_SEPARATE_SCRATCH
// For sanitizers: every array is allocated separately, and taking more than requested aborts.
template <Scope kScope>
class ScratchOf {
 public:
  ScratchOf(int64_t floats, int arrays) : floats_(floats), arrays_(arrays) {}

  float* take(int64_t floats) {
    floats_ -= floats;
    if (floats_ < 0 || --arrays_ < 0) std::abort();
    taken_.emplace_back(static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64)));
    return taken_.back().get();
  }

 private:
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };
  int64_t floats_;
  int arrays_;
  std::vector<std::unique_ptr<float, Free>> taken_;
};
#else
// Float arrays that live as long as this object. A thread keeps its memory for the next use: the
// operating system takes as long to map new pages as some operators take to compute.
template <Scope kScope>
class ScratchOf {
 public:
  // floats: upper bound of the total size; arrays: their number.
  ScratchOf(int64_t floats, int arrays) {
    const size_t bytes = (static_cast<size_t>(floats) + arrays * kAlign) * sizeof(float);
    Memory& memory = mine();
    if (memory.bytes < bytes) {
      memory.data.reset();
      memory.bytes = 0;
      const size_t step = bytes < kHugePage / 2 ? 64 : kHugePage;
      const size_t rounded = (bytes + step - 1) / step * step;
      memory.data.reset(static_cast<float*>(std::aligned_alloc(step, rounded)));
      if (memory.data == nullptr) throw std::bad_alloc();
      memory.bytes = rounded;
      if (step == kHugePage) madvise(memory.data.get(), rounded, MADV_HUGEPAGE);
    }
    next_ = memory.data.get();
  }

  float* take(int64_t floats) {
    float* taken = next_;
    next_ += (floats + kAlign - 1) / kAlign * kAlign;
    return taken;
  }

 private:
  static constexpr int64_t kAlign = 16;
  // Small pages lie anywhere in memory: some sets of the L2 cache then get more than they hold.
  static constexpr size_t kHugePage = 2 << 20;
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };
  struct Memory {
    std::unique_ptr<float, Free> data;
    size_t bytes = 0;
  };
  static Memory& mine() {
    thread_local Memory memory;
    return memory;
  }
  float* next_;
};
#endif

using Scratch = ScratchOf<Scope::part>;
using WholeScratch = ScratchOf<Scope::whole>;

}  // namespace ghost
