// What follows a Ghost module's primary convolution, as one operator.
//
//   x = act(BN(u))                       intrinsic maps
//   z = act(BN(depthwise(x)))            ghosts
//   y = [x, z] without the surplus       or, where act is none, relu([x, z] + shortcut)
//
// All of it is independent between intrinsic maps, and one map of a whole batch fits the second
// cache: so u is read once from memory and y written once. Within a map, groups of images that fit
// the nearest cache go through as many steps as there are between two sums over the batch. The
// backward pass computes x and the depthwise result anew.
#pragma once

#include <algorithm>
#include <vector>

#include "planes.h"
#include "pool.h"

namespace ghost {

// Some images of a batch.
struct Group {
  int64_t first, count;
};

struct TailShape {
  int64_t images, intrinsic, ghosts, out_channels, height, width, kernel;
  bool relu;

  int64_t plane() const { return height * width; }
  int64_t values() const { return images * plane(); }       // of one channel
  int64_t ratio() const { return ghosts / intrinsic; }      // ghosts of an intrinsic map
  bool is_surplus(int64_t ghost) const { return intrinsic + ghost >= out_channels; }
  Padded padded() const { return {height, width, kernel}; }
  int64_t group() const { return images_at_once(plane(), images); }
  Group all() const { return {0, images}; }
};

// One batch normalisation; mean and variance are the moving ones, which only evaluation reads.
struct Norm {
  const float *gamma, *beta, *mean, *variance;
  float epsilon;

  Affine of_batch(Statistics s, int64_t c) const { return affine(s, epsilon, gamma[c], beta[c]); }
  Affine of_moving(int64_t c) const {
    return affine({mean[c], variance[c]}, epsilon, gamma[c], beta[c]);
  }
};

// Where the forward pass puts the batch's statistics.
struct NormOutput {
  float *mean, *variance;

  void set(int64_t c, Statistics s) const {
    mean[c] = s.mean;
    variance[c] = s.variance;
  }
};

// Calls body(group) for the batch's groups of q.group() images; the last may be smaller.
template <typename Body>
inline void each_group(const TailShape& q, const Body& body) {
  for (int64_t n = 0; n < q.images; n += q.group()) {
    body(Group{n, std::min(q.group(), q.images - n)});
  }
}

// Copies a channel of a tensor (images, channels, plane), image after image. Steps of a power of two
// between images, as most are, would have them evict each other from the second cache.
inline void gather(const float* from, const Group& g, int64_t channels, int64_t channel,
                   int64_t plane, float* to) {
  from += (g.first * channels + channel) * plane;
  for (int64_t n = 0; n < g.count; ++n, from += channels * plane, to += plane) {
    copy(to, from, plane);
  }
}

// Writes a channel of y for a group whose values before normalisation are x.
inline void write_channel(const TailShape& q, const float* x, Affine a, const float* shortcut,
                          float* y, int64_t channel, const Group& g) {
  const bool streamed = is_streamed(q.images * q.out_channels * q.plane());
  for (int64_t n = 0; n < g.count; ++n, x += q.plane()) {
    const int64_t at = ((g.first + n) * q.out_channels + channel) * q.plane();
    const float* other = shortcut == nullptr ? nullptr : shortcut + at;
    write_map(x, a, q.relu, other, y + at, q.plane(), streamed);
  }
  if (streamed) end_streams();
}

// u (N, intrinsic, H, W), weight (ghosts, 1, d, d), shortcut and y (N, out_channels, H, W).
inline void tail_forward(const TailShape& q, const float* u, const Norm& first,
                         const float* weight, const Norm& second, const float* shortcut, float* y,
                         const NormOutput& first_out, const NormOutput& second_out) {
  const Padded p = q.padded();
  const int64_t values = q.values(), plane = q.plane(), group = q.group(), ratio = q.ratio();
  parallel(q.intrinsic, [&](int64_t c) {
    Scratch scratch((ratio + 1) * values + group * plane + p.size(group) + p.length(group), 5);
    float* ghosts = scratch.take(ratio * values);
    float* x = scratch.take(values);
    float* memory = scratch.take(group * plane);
    float* padded = scratch.take(p.size(group));
    float* line = scratch.take(p.length(group));
    gather(u, q.all(), q.intrinsic, c, plane, x);
    const Statistics intrinsic = statistics(x, values);
    first_out.set(c, intrinsic);
    const Affine a = first.of_batch(intrinsic, c);
    write_channel(q, x, a, shortcut, y, c, q.all());
    p.clear(padded, group);
    each_group(q, [&](const Group& g) {
      normalise(x + g.first * plane, a, q.relu, memory, g.count * plane);
      p.put(memory, padded, g.count);
      for (int64_t k = 0; k < ratio; ++k) {
        convolve(p, padded, weight + (c * ratio + k) * q.kernel * q.kernel, line, g.count);
        p.get(line, ghosts + k * values + g.first * plane, g.count);
      }
    });
    for (int64_t k = 0; k < ratio; ++k) {
      const float* ghost = ghosts + k * values;
      const int64_t channel = c * ratio + k;
      const Statistics s = statistics(ghost, values);
      second_out.set(channel, s);
      if (q.is_surplus(channel)) continue;
      write_channel(q, ghost, second.of_batch(s, channel), shortcut, y, q.intrinsic + channel,
                    q.all());
    }
  });
}

// As tail_forward, with the moving statistics.
inline void tail_evaluate(const TailShape& q, const float* u, const Norm& first,
                          const float* weight, const Norm& second, const float* shortcut,
                          float* y) {
  const Padded p = q.padded();
  const int64_t group = q.group(), plane = q.plane();
  parallel(q.intrinsic, [&](int64_t c) {
    Scratch scratch(group * plane + p.size(group) + p.length(group), 3);
    float* memory = scratch.take(group * plane);
    float* padded = scratch.take(p.size(group));
    float* line = scratch.take(p.length(group));
    p.clear(padded, std::min(group, q.images));
    each_group(q, [&](const Group& g) {
      gather(u, g, q.intrinsic, c, plane, memory);
      const Affine a = first.of_moving(c);
      write_channel(q, memory, a, shortcut, y, c, g);
      normalise(memory, a, q.relu, memory, g.count * plane);
      p.put(memory, padded, g.count);
      for (int64_t k = c * q.ratio(); k < (c + 1) * q.ratio() && !q.is_surplus(k); ++k) {
        convolve(p, padded, weight + k * q.kernel * q.kernel, line, g.count);
        p.get(line, memory, g.count);
        write_channel(q, memory, second.of_moving(k), shortcut, y, q.intrinsic + k, g);
      }
    });
  });
}

// What the backward pass gets from the forward pass and from behind; null where there is none.
struct TailBack {
  const float *mean1, *variance1, *mean2, *variance2;  // of the batch
  const float *y;                                      // for the shortcut's ReLU
  const float *dy;
};

struct TailGradients {
  float *u, *gamma1, *beta1, *weight, *gamma2, *beta2, *shortcut;
};

// Gradient of a channel before the shortcut's ReLU, which is also the shortcut's.
inline void gather_gradient(const TailShape& q, const TailBack& back, float* shortcut,
                            int64_t channel, float* to) {
  if (shortcut == nullptr) return gather(back.dy, q.all(), q.out_channels, channel, q.plane(), to);
  const bool streamed = is_streamed(q.images * q.out_channels * q.plane());
  for (int64_t n = 0; n < q.images; ++n, to += q.plane()) {
    const int64_t at = (n * q.out_channels + channel) * q.plane();
    const float *y = back.y + at, *dy = back.dy + at;
    float* out = shortcut + at;
    for (int64_t i = 0; i < q.plane(); ++i) to[i] = y[i] <= 0 ? 0 : dy[i];
    if (streamed && can_stream(out, q.plane())) {
      for (int64_t i = 0; i < q.plane(); i += kLanes) stream(out + i, load(to + i));
    } else {
      copy(out, to, q.plane());
    }
  }
  if (streamed) end_streams();
}

// Backward through act(BN(x)): first add() all of d, which loses what the ReLU stopped; then
// line() is the gradient of x.
class NormBackward {
 public:
  NormBackward(const Norm& norm, int64_t c, Statistics s, bool relu)
      : a_(norm.of_batch(s, c)),
        mean_(s.mean),
        inverse_(1 / std::sqrt(s.variance + norm.epsilon)),
        relu_(relu) {}

  void add(const float* x, float* d, int64_t count) {
    float with_x = 0, alone = 0;
    const float scale = a_.scale, shift = a_.shift, mean = mean_;
    if (relu_) {
      for (int64_t i = 0; i < count; ++i) d[i] = x[i] * scale + shift <= 0 ? 0 : d[i];
    }
    for (int64_t i = 0; i < count; ++i) {
      alone += d[i];
      with_x += d[i] * (x[i] - mean);
    }
    add_sums(with_x, alone, count);
  }
  // Takes in `count` values by their sums of d * (x - mean) and of d.
  void add_sums(float with_x, float alone, int64_t count) {
    with_x_ += with_x;
    alone_ += alone;
    count_ += count;
  }

  float gamma() const { return static_cast<float>(with_x_) * inverse_; }
  float beta() const { return static_cast<float>(alone_); }

  // dx = scale * (d - x * slope - shift)
  struct Line {
    float scale, slope, shift;

    void write(const float* x, const float* d, float* dx, int64_t count, bool streamed) const {
      if (streamed && can_stream(dx, count)) {
        for (int64_t i = 0; i < count; i += kLanes) {
          stream(dx + i, scale * (load(d + i) - load(x + i) * slope - shift));
        }
      } else {
        for (int64_t i = 0; i < count; ++i) dx[i] = scale * (d[i] - x[i] * slope - shift);
      }
    }
  };
  Line line() const {
    const float slope = static_cast<float>(with_x_ / count_) * inverse_ * inverse_;
    return {a_.scale, slope, static_cast<float>(alone_ / count_) - mean_ * slope};
  }

 private:
  Affine a_;
  float mean_, inverse_;
  bool relu_;
  double with_x_ = 0, alone_ = 0;
  int64_t count_ = 0;
};

// Shapes as in tail_forward; every gradient has the shape of what it belongs to.
inline void tail_backward(const TailShape& q, const float* u, const Norm& first,
                          const float* weight, const Norm& second, const TailBack& back,
                          const TailGradients& out) {
  const Padded p = q.padded();
  const int64_t values = q.values(), plane = q.plane(), group = q.group(), ratio = q.ratio();
  const int64_t taps = q.kernel * q.kernel;
  parallel(q.intrinsic, [&](int64_t c) {
    Scratch scratch((2 * ratio + 2) * values + group * plane + 2 * p.size(group) +
                        p.length(group) + taps, 9);
    float* ghosts = scratch.take(ratio * values);
    float* dghosts = scratch.take(ratio * values);
    float* dx = scratch.take(values);
    float* all = scratch.take(values);
    float* memory = scratch.take(group * plane);
    float* x = scratch.take(p.size(group));
    float* padded = scratch.take(p.size(group));
    float* line = scratch.take(p.length(group));
    float* flipped = scratch.take(taps);
    const int64_t begin = c * ratio;
    const int64_t end = std::min(begin + ratio, std::max(begin, q.out_channels - q.intrinsic));
    std::vector<NormBackward> norms;
    for (int64_t k = begin; k < end; ++k) {
      norms.emplace_back(second, k, Statistics{back.mean2[k], back.variance2[k]}, q.relu);
    }
    NormBackward norm(first, c, {back.mean1[c], back.variance1[c]}, q.relu);
    const Affine a = first.of_batch({back.mean1[c], back.variance1[c]}, c);
    // One array after the other: taken in turn, image by image, memory gives them more slowly.
    gather(u, q.all(), q.intrinsic, c, plane, all);
    gather_gradient(q, back, out.shortcut, c, dx);
    for (int64_t k = begin; k < end; ++k) {
      gather_gradient(q, back, out.shortcut, q.intrinsic + k, dghosts + (k - begin) * values);
    }
    p.clear(x, group);
    p.clear(padded, group);
    each_group(q, [&](const Group& g) {
      const float* uc = all + g.first * plane;
      normalise(uc, a, q.relu, memory, g.count * plane);
      p.put(memory, x, g.count);
      for (int64_t k = begin; k < end; ++k) {
        const int64_t at = (k - begin) * values + g.first * plane;
        convolve(p, x, weight + k * taps, line, g.count);
        p.get(line, ghosts + at, g.count);
        norms[k - begin].add(ghosts + at, dghosts + at, g.count * plane);
      }
    });
    std::vector<double> sums((end - begin) * taps);
    each_group(q, [&](const Group& g) {
      const float* uc = all + g.first * plane;
      normalise(uc, a, q.relu, memory, g.count * plane);
      p.put(memory, x, g.count);
      float* d = dx + g.first * plane;
      for (int64_t k = begin; k < end; ++k) {
        const float* ghost = ghosts + (k - begin) * values + g.first * plane;
        const float* dghost = dghosts + (k - begin) * values + g.first * plane;
        const NormBackward::Line back_line = norms[k - begin].line();
        // A smaller last group leaves the one before it behind itself, where nobody looks.
        back_line.write(ghost, dghost, memory, g.count * plane, false);
        p.put(memory, padded, g.count);
        for (int64_t i = 0; i < taps; ++i) flipped[i] = weight[k * taps + taps - 1 - i];
        convolve(p, padded, flipped, line, g.count);
        p.add(line, d, g.count);
        correlate(p, padded, x, sums.data() + (k - begin) * taps, g.count);
      }
      norm.add(uc, d, g.count * plane);
    });
    for (int64_t k = begin; k < begin + ratio; ++k) {
      const bool real = k < end;
      out.gamma2[k] = real ? norms[k - begin].gamma() : 0;
      out.beta2[k] = real ? norms[k - begin].beta() : 0;
      for (int64_t i = 0; i < taps; ++i) {
        out.weight[k * taps + i] = real ? static_cast<float>(sums[(k - begin) * taps + i]) : 0;
      }
    }
    out.gamma1[c] = norm.gamma();
    out.beta1[c] = norm.beta();
    const NormBackward::Line back_line = norm.line();
    const bool streamed = is_streamed(q.intrinsic * values);
    for (int64_t n = 0; n < q.images; ++n) {
      float* du = out.u + (n * q.intrinsic + c) * plane;
      back_line.write(all + n * plane, dx + n * plane, du, plane, streamed);
    }
    if (streamed) end_streams();
  });
}

}  // namespace ghost
