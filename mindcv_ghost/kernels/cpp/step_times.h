// The time that each step of a program takes.
#pragma once

#include <chrono>

#include "program_team.h"

namespace ghost {

// Adds up the seconds of each step, for benchmarks alone: compile with -DGHOST_STEP_TIMES.
#ifdef GHOST_STEP_TIMES
extern "C" {
inline double ghost_step_seconds[1024];
}
class StepTimer {
 public:
  StepTimer(int64_t step, const Member& member)
      : step_(member.is_first() ? step : -1), start_(std::chrono::steady_clock::now()) {}
  ~StepTimer() {
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start_;
    if (step_ >= 0 && step_ < 1024) ghost_step_seconds[step_] += taken.count();
  }

 private:
  int64_t step_;
  std::chrono::steady_clock::time_point start_;
};
#else
struct StepTimer {
  StepTimer(int64_t, const Member&) {}
};
#endif

}  // namespace ghost
