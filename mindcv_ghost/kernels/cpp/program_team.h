// Threads that compute a program together.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "thread_pool.h"

namespace ghost {

// All members run the same program, a sequence of phases whose parts they share. A member that
// comes late passes the phases that are done; so any number of members, even one, completes the
// program.
class Team {
  struct alignas(64) Phase {
    std::atomic<int64_t> next{0}, done{0};
  };

 public:
  explicit Team(int64_t most_phases) : phases_(most_phases) {}

  // Calls program(member) on all threads of the pool.
  template <typename Program>
  void run(const Program& program) {
    const std::shared_ptr<Pool> pool = SharedPool::get();
    pool->run(pool->threads(), [&](int64_t i) {
      Member member(this, i == 0);
      program(member);
    });
  }

  class Member {
   public:
    Member(Team* team, bool is_first) : team_(team), is_first_(is_first) {}
    bool is_first() const { return is_first_; }

    // Calls body(0) ... body(count - 1), each once, on whichever member; returns when all are done.
    template <typename Body>
    void each(int64_t count, const Body& body) {
      Phase& phase = team_->phases_[phase_++];
      int64_t part;
      while ((part = phase.next.fetch_add(1, std::memory_order_relaxed)) < count) {
        body(part);
        phase.done.fetch_add(1, std::memory_order_release);
      }
      wait_until([&] { return phase.done.load(std::memory_order_acquire) == count; });
    }

   private:
    Team* team_;
    bool is_first_;
    int64_t phase_ = 0;
  };

 private:
  std::vector<Phase> phases_;
};

using Member = Team::Member;

}  // namespace ghost
