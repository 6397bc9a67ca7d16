// The steps of a program. All members of a team call them with the same arguments, and share the
// work.
#pragma once

#include <algorithm>
#include <cstdint>

#include "program_convolution.h"
#include "program_finish.h"
#include "program_winograd.h"
#include "stem_tail.h"
#include "step_times.h"

namespace ghost {

// A convolution, BN, activation, and max pooling of 3x3 with stride 2 and a border of one. Each
// part computes some rows of some pooled maps.
inline void stem(const Run& run, const PlannedStep& p, Member* team) {
  constexpr int64_t kBand = 8;  // pooled rows
  team->each(run.input(p).channels, [&](int64_t c) { gather_channel(run, p, c); });
  const Convolution q(run, p);
  const LineWriter writer(run, p);
  const int64_t height = q.line.height, width = q.line.width;
  const int64_t bands = (p.out_height + kBand - 1) / kBand;
  team->each(q.line.images * bands * q.blocks, [&](int64_t part) {
    const int64_t block = part % q.blocks, n = part / q.blocks / bands;
    const int64_t first = part / q.blocks % bands * kBand;
    const int64_t end = std::min(p.out_height, first + kBand);
    const int64_t top = std::max<int64_t>(0, 2 * first - 1), bottom = std::min(height, 2 * end);
    const int64_t image = n * q.line.step;
    const int64_t begin = (image + top * width) / kLanes;
    const int64_t stop = (image + bottom * width + kLanes - 1) / kLanes;
    const int64_t length = (stop - begin) * kLanes;
    const int64_t half = (width + 1) / 2 + kLanes;
    Scratch scratch(Convolution::kRows * length + width + kLanes + 2 * half + 1, 4);
    float* u = scratch.take(Convolution::kRows * length);
    float* highest = scratch.take(width + kLanes);
    float* even = scratch.take(half);
    float* odd = scratch.take(half + 1);
    multiply(q.weight(block), q.depth, q.rows(block), q.x, begin, stop, q.weight(block), u, length);
    for (int64_t r = 0; r < q.rows(block); ++r) {
      const int64_t c = block * Convolution::kRows + r;
      const Affine a = run.affines[p.affine + c];
      float* line = u + r * length;
      for (int64_t i = 0; i < length; i += kLanes) {
        store(line + i, activated(p.step.activation, load(line + i) * a.scale + a.shift));
      }
      const float* rows = line + image - begin * kLanes;
      float* y = run.output(p).channel(p.step.first + c) + n * run.output(p).line.step;
      for (int64_t h = first; h < end; ++h) {
        const float* row = rows + 2 * h * width;
        const float* above = h > 0 ? row - width : row;
        const float* below = 2 * h + 1 < height ? row + width : row;
        for (int64_t w = 0; w < width; ++w) {
          highest[w] = greater(greater(above[w], row[w]), below[w]);
        }
        // The window's middle column is an even one; the last has no odd one after it if the width
        // is odd.
        copy_halves(highest, width, even, odd + 1);
        odd[0] = even[0];
        if (width % 2 == 1) odd[p.out_width] = even[p.out_width - 1];
        for (int64_t w = 0; w < p.out_width; ++w) {
          y[h * p.out_width + w] = greater(greater(odd[w], even[w]), odd[w + 1]);
        }
      }
      if (end == p.out_height) writer.write_zeros(p.step.first + c, n);
    }
  });
}

// The mean of each map.
inline void average(const Run& run, const PlannedStep& p, Member* team) {
  const Map &in = run.input(p), &out = run.output(p);
  const LineWriter writer(run, p);
  const int64_t plane = in.line.plane();
  team->each((in.channels + 15) / 16, [&](int64_t part) {
    for (int64_t c = 16 * part; c < std::min(in.channels, 16 * part + 16); ++c) {
      for (int64_t n = 0; n < in.line.images; ++n) {
        const float* x = in.channel(c) + n * in.line.step;
        float sum = 0;
        for (int64_t i = 0; i < plane; ++i) sum += x[i];
        out.channel(c)[n * out.line.step] = sum / static_cast<float>(plane);
        writer.write_zeros(c, n);
      }
    }
  });
}

inline void run_step(const Run& run, const PlannedStep& p, Member* team) {
  switch (p.step.kind) {
    case StepKind::kConvolution:
    case StepKind::kGhost:
      return p.tile == 4   ? convolve_winograd(run, p, team)
             : p.tile == 2 ? convolve_winograd_rows(run, p, team)
                           : convolve(run, p, team);
    case StepKind::kStem: return stem(run, p, team);
    case StepKind::kMean: return average(run, p, team);
  }
}

// Most phases of a step.
constexpr int64_t kStepPhases = 3;

// Scales and shifts of all steps' channels.
inline void find_affines(const Plan& plan, const PlannedStep& p, Affine* affines) {
  const Step& step = p.step;
  if (p.rows == 0) return;
  find_affines(plan, step.norm, step.epsilon, step.bias, p.rows, affines + p.affine);
  if (step.kind != StepKind::kGhost) return;
  find_affines(plan, step.cheap_norm, step.cheap_epsilon, -1,
               plan.weight(step.cheap_weight).sides[0], affines + p.cheap_affine);
}

// Copies a map to y (images, channels, height, width).
inline void copy_result(const Map& result, float* y) {
  const Line& line = result.line;
  for (int64_t n = 0; n < line.images; ++n) {
    for (int64_t c = 0; c < result.channels; ++c, y += line.plane()) {
      copy(y, result.channel(c) + n * line.step, line.plane());
    }
  }
}

// Runs a program, whose maps have been placed, for all groups of images. y (images, channels,
// height, width) is what the last step computes.
inline void run_program(const Plan& plan, const float* images, Affine* affines, float* y) {
  const int64_t steps = static_cast<int64_t>(plan.steps().size()), groups = plan.groups();
  const Map& result = plan.result();
  const int64_t in = plan.images() * plan.map(0).channels * plan.map(0).line.plane();
  const int64_t out = plan.images() * result.channels * result.line.plane();
  Team team(1 + groups * (kStepPhases * steps + 1));
  team.run([&](Member& member) {
    member.each(steps, [&](int64_t i) { find_affines(plan, plan.steps()[i], affines); });
    for (int64_t group = 0; group < groups; ++group) {
      const Run run = {plan, images + group * in, affines, group == 0};
      for (int64_t i = 0; i < steps; ++i) {
        const StepTimer timer(i, member);
        run_step(run, plan.steps()[i], &member);
      }
      member.each(1, [&](int64_t) { copy_result(result, y + group * out); });
    }
  });
}

}  // namespace ghost
