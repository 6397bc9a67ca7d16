// Calls every operator on memory of exactly the right size, on several threads, for the compiler's
// sanitizers to watch. Results have to be the same bits on any number of threads, from several
// callers at a time, and in a forked child. Exit status 0 if all is well.

#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "../../mindcv_ghost/kernels/cpp/all_reduce.h"

#define ARGUMENTS int, void **, int *, int64_t **, const char **, void *, void *
extern "C" {
void ghost_set_threads(int);
int ghost_tail(ARGUMENTS);
int ghost_tail_add(ARGUMENTS);
int ghost_tail_evaluate(ARGUMENTS);
int ghost_tail_add_evaluate(ARGUMENTS);
int ghost_tail_backward(ARGUMENTS);
int ghost_tail_add_backward(ARGUMENTS);
int ghost_stem(ARGUMENTS);
int ghost_stem_evaluate(ARGUMENTS);
int ghost_stem_backward(ARGUMENTS);
int ghost_conv(ARGUMENTS);
int ghost_conv_backward_input(ARGUMENTS);
int ghost_conv_backward_weight(ARGUMENTS);
int ghost_depthwise(ARGUMENTS);
int ghost_depthwise_backward(ARGUMENTS);
int ghost_batch_norm(ARGUMENTS);
int ghost_batch_norm_evaluate(ARGUMENTS);
int ghost_batch_norm_backward(ARGUMENTS);
int ghost_batch_norm_add(ARGUMENTS);
int ghost_batch_norm_add_evaluate(ARGUMENTS);
int ghost_batch_norm_add_backward(ARGUMENTS);
int ghost_parameter_free_shortcut(ARGUMENTS);
int ghost_parameter_free_shortcut_backward(ARGUMENTS);
int ghost_update_running_statistics(ARGUMENTS);
int ghost_mean(ARGUMENTS);
int ghost_mean_backward(ARGUMENTS);
int ghost_rescale(ARGUMENTS);
int ghost_rescale_backward(ARGUMENTS);
int ghost_cross_entropy(ARGUMENTS);
int ghost_cross_entropy_backward(ARGUMENTS);
int ghost_all_finite(ARGUMENTS);
int ghost_momentum(ARGUMENTS);
int ghost_program(ARGUMENTS);
int ghost_channels_last(ARGUMENTS);
}

namespace {

using Shape = std::vector<int64_t>;

struct Array {
  Shape shape;
  std::vector<float> values;

  explicit Array(Shape s, uint32_t seed = 0) : shape(std::move(s)) {
    int64_t size = 1;
    for (int64_t side : shape) size *= side;
    values.resize(size, NAN);
    for (float& value : values) {
      if (seed == 0) break;
      seed = seed * 1664525u + 1013904223u;
      value = 0.25f + static_cast<float>(seed >> 8) / (1u << 24);
    }
  }
};

using Operator = int (*)(ARGUMENTS);

void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

// The last `written` inputs, as the operator leaves them, and the outputs, one after the other.
std::vector<float> run(Operator f, const std::string& name, std::vector<Array> arrays,
                       const std::vector<Shape>& outputs, size_t written = 0) {
  const size_t inputs = arrays.size();
  for (const Shape& shape : outputs) arrays.emplace_back(shape);
  std::vector<void*> data;
  std::vector<int> dims;
  std::vector<int64_t*> shapes;
  std::vector<const char*> types;
  for (Array& a : arrays) {
    data.push_back(a.values.data());
    dims.push_back(a.shape.size());
    shapes.push_back(a.shape.data());
    types.push_back("float32");
  }
  if (f(arrays.size(), data.data(), dims.data(), shapes.data(), types.data(), nullptr, nullptr)) {
    fail(name + " refuses its arguments");
  }
  std::vector<float> all;
  for (size_t i = inputs - written; i < arrays.size(); ++i) {
    all.insert(all.end(), arrays[i].values.begin(), arrays[i].values.end());
  }
  for (float value : all) {
    if (!std::isfinite(value)) fail(name + " leaves something that is no number");
  }
  return all;
}

std::vector<float> operator+(std::vector<float> a, const std::vector<float>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Array settings(std::vector<float> values) {
  Array a({static_cast<int64_t>(values.size())});
  a.values = values;
  return a;
}

std::vector<float> tails(int64_t n, int64_t c, int64_t ratio, int64_t out, int64_t h, int64_t w,
                         int64_t kernel, float relus = 0, bool permuted = false) {
  const int64_t ghosts = c * (ratio - 1);
  std::vector<float> numbers = {relus, 1e-5f, 1e-5f};
  for (int64_t j = 0; permuted && j < out; ++j) numbers.push_back(c + ghosts - 1 - j);
  const Shape y = {n, out, h, w}, k = {ghosts, 1, kernel, kernel}, u = {n, c, h, w};
  const Array set = settings(numbers), shares = settings({0.1f, 0.2f});
  const Array x(u, 1), weight(k, 2), g1({c}, 3), b1({c}, 4), m1({c}, 5), v1({c}, 6);
  const Array g2({ghosts}, 7), b2({ghosts}, 8), m2({ghosts}, 9), v2({ghosts}, 10);
  const Array shortcut(y, 11), saved({2 * (c + ghosts)}, 12), dy(y, 13);
  std::vector<Array> plain = {set, x, g1, b1, weight, g2, b2}, added = plain;
  std::vector<Array> evaluated = {set, x, g1, b1, m1, v1, weight, g2, b2, m2, v2};
  std::vector<Array> evaluated_added = evaluated;
  added.push_back(shortcut);
  evaluated_added.push_back(shortcut);
  const std::vector<Shape> kept = {y, saved.shape};
  std::vector<Array> back = {set, x, g1, b1, weight, g2, b2, saved, dy}, back_added = back;
  back_added.push_back(shortcut);
  const std::vector<Shape> gradients = {u, {c}, {c}, k, {ghosts}, {ghosts}};
  std::vector<Shape> more = gradients;
  more.push_back(y);
  return run(ghost_tail, "tail", plain, kept) + run(ghost_tail_add, "tail_add", added, kept) +
         run(ghost_update_running_statistics, "move", {shares, x, saved, m1, v1, m2, v2}, {{1}}, 4) +
         run(ghost_tail_evaluate, "tail_evaluate", evaluated, {y}) +
         run(ghost_tail_add_evaluate, "tail_add_evaluate", evaluated_added, {y}) +
         run(ghost_tail_backward, "tail_backward", back, gradients) +
         run(ghost_tail_add_backward, "tail_add_backward", back_added, more);
}

std::vector<float> stems(int64_t n, int64_t c, int64_t h, int64_t w) {
  const Shape u = {n, c, h, w}, y = {n, c, (h + 1) / 2, (w + 1) / 2}, one = {c};
  const Array set = settings({1e-5f});
  const Array x(u, 1), g(one, 2), b(one, 3), m(one, 4), v(one, 5), saved({2 * c}, 6), dy(y, 7);
  return run(ghost_stem, "stem", {set, x, g, b}, {y, saved.shape}) +
         run(ghost_stem_evaluate, "stem_evaluate", {set, x, g, b, m, v}, {y}) +
         run(ghost_stem_backward, "stem_backward", {set, x, g, b, saved, dy}, {u, one, one});
}

// The weight's gradient, whose last digits depend on the number of threads, only has to be finite.
std::vector<float> convolutions(int64_t n, int64_t in, int64_t out, int64_t h, int64_t w,
                                int64_t kernel, float stride) {
  const int64_t step = static_cast<int64_t>(stride);
  const Array set = settings({stride}), x({n, in, h, w}, 1), weight({out, in, kernel, kernel}, 2);
  const Array dy({n, out, (h - 1) / step + 1, (w - 1) / step + 1}, 3);
  run(ghost_conv_backward_weight, "conv_backward_weight", {set, x, dy, weight}, {weight.shape});
  return run(ghost_conv, "conv", {set, x, weight}, {dy.shape}) +
         run(ghost_conv_backward_input, "conv_backward_input", {set, dy, weight, x}, {x.shape});
}

std::vector<float> depthwise(int64_t n, int64_t c, int64_t ratio, int64_t h, int64_t w,
                             int64_t tall, int64_t wide, float stride) {
  const int64_t step = static_cast<int64_t>(stride);
  const Array set = settings({stride}), x({n, c, h, w}, 1), weight({c * ratio, 1, tall, wide}, 2);
  const Array dy({n, c * ratio, (h - 1) / step + 1, (w - 1) / step + 1}, 3);
  return run(ghost_depthwise, "depthwise", {set, x, weight}, {dy.shape}) +
         run(ghost_depthwise_backward, "depthwise_backward", {set, x, weight, dy},
             {x.shape, weight.shape});
}

std::vector<float> norms(int64_t n, int64_t c, int64_t h, int64_t w) {
  const Shape size = {n, c, h, w}, one = {c};
  const Array set = settings({1, 1e-5f}), of_sum = settings({0, 1e-5f});
  const Array x(size, 1), dy(size, 7), saved({2 * c}, 6), shortcut(size, 8);
  const Array g(one, 2), b(one, 3), m(one, 4), v(one, 5);
  return run(ghost_batch_norm, "norm", {set, x, g, b}, {size, saved.shape}) +
         run(ghost_batch_norm_evaluate, "norm_evaluate", {set, x, g, b, m, v}, {size}) +
         run(ghost_batch_norm_backward, "norm_backward", {set, x, g, b, saved, dy}, {size, one, one}) +
         run(ghost_batch_norm_add, "norm_add", {of_sum, x, g, b, shortcut}, {size, saved.shape}) +
         run(ghost_batch_norm_add_evaluate, "norm_add_evaluate", {of_sum, x, g, b, m, v, shortcut},
             {size}) +
         run(ghost_batch_norm_add_backward, "norm_add_backward",
             {of_sum, x, g, b, saved, dy, shortcut}, {size, one, one, size});
}

std::vector<float> shortcuts(int64_t n, int64_t c, int64_t h, int64_t w, float stride,
                             float before) {
  const int64_t step = static_cast<int64_t>(stride);
  const Array set = settings({stride, before}), x({n, c, h, w}, 1);
  const Array dy({n, c + 2, (h - 1) / step + 1, (w - 1) / step + 1}, 2);
  return run(ghost_parameter_free_shortcut, "shortcut", {set, x}, {dy.shape}) +
         run(ghost_parameter_free_shortcut_backward, "shortcut_backward", {set, dy, x}, {x.shape});
}

std::vector<float> maps(int64_t n, int64_t c, int64_t h, int64_t w, int64_t rows,
                        int64_t columns) {
  const Shape size = {n, c, h, w};
  const Array x(size, 1), weight({n, c, rows, columns}, 2), dy(size, 3), mean({n, c}, 4);
  return run(ghost_mean, "mean", {x}, {mean.shape}) +
         run(ghost_mean_backward, "mean_backward", {mean, x}, {size}) +
         run(ghost_rescale, "weight", {x, weight}, {size}) +
         run(ghost_rescale_backward, "weight_backward", {x, weight, dy}, {size, weight.shape}) +
         run(ghost_all_finite, "all_finite", {x, weight, mean}, {{1}});
}

std::vector<float> losses() {
  const Array set = settings({0.1f, 1}), logits({37, 50}, 1), dloss({1}, 2);
  Array labels({37});
  for (int i = 0; i < 37; ++i) labels.values[i] = i % 9 == 8 ? -100 : i;
  return run(ghost_cross_entropy, "loss", {set, logits, labels}, {{1}}) +
         run(ghost_cross_entropy_backward, "loss_backward", {set, logits, labels, dloss},
             {logits.shape});
}

std::vector<float> optimizers() {
  const Array set = settings({1, 0, 0.5f, 0}), factor({1}, 1), rates({2}, 2), momentum({1}, 3);
  const Shape large = {3, 70001}, small = {7};
  const std::vector<Array> inputs = {
      set, factor, momentum, rates, Array(large, 4), Array(small, 5),
      Array(large, 6), Array(small, 7), Array(large, 8), Array(small, 9)};
  return run(ghost_momentum, "momentum", inputs, {{1}}, 4);
}

// A stem, a 1x1 and a 3x3 Ghost module, one with a shortcut, a strided convolution, the mean and a
// linear layer. The numbers of a step are those of Step in program.h.
std::vector<float> programs(int64_t n, int64_t in, int64_t h, int64_t w, int64_t c, int64_t odd) {
  const float e = 1e-5f, none = -1;
  const float o = odd, m = c;
  const std::vector<float> steps = {
      2, 0, 1, 0, m,  0,  none, 1,  e, 1, 2, none, 0, none, none, 0,  // stem
      1, 1, 2, 0, o,  5,  none, 6,  e, 1, 1, none, 0, 10,   11,   e,  // 1x1
      1, 2, 3, 0, 31, 15, none, 16, e, 1, 1, none, 0, 20,   21,   e,  // 3x3, a surplus ghost
      1, 3, 4, 0, m,  25, none, 26, e, 0, 1, 1,    1, 30,   31,   e,  // with a shortcut
      0, 4, 5, 0, 5,  35, none, 36, e, 0, 2, none, 0, none, none, 0,  // strided
      3, 5, 6, 0, 5,  -1, none, -1, 0, 0, 1, none, 0, none, none, 0,  // mean
      0, 6, 7, 0, 7,  40, 41,   -1, 0, 0, 1, none, 0, none, none, 0,  // linear
  };
  std::vector<Array> inputs = {settings(steps), Array({n, in, h, w}, 1)};
  const auto add = [&](Shape weight, bool norm) {
    inputs.emplace_back(weight, 2);
    for (uint32_t i = 0; norm && i < 4; ++i) inputs.emplace_back(Shape{weight[0]}, 3 + i);
  };
  const int64_t half = (c + 1) / 2, middle = (odd + 1) / 2;
  add({c, in, 7, 7}, true);
  add({middle, c, 1, 1}, true), add({middle, 1, 3, 3}, true);
  add({16, odd, 3, 3}, true), add({16, 1, 3, 3}, true);
  add({half, 31, 1, 1}, true), add({half, 1, 5, 5}, true);
  add({5, c, 3, 3}, true);
  add({7, 5}, false), inputs.emplace_back(Shape{7}, 4);
  return run(ghost_program, "program", inputs, {{n, 7}});
}

// Every kind of step of a network on channels-last maps. The numbers are those that
// channels_last_program.h reads.
std::vector<float> channels_last(int64_t n, int64_t in, int64_t h, int64_t w, int64_t channels) {
  std::vector<float> program = {7};
  std::vector<Array> parameters;
  const auto add = [&](const std::vector<int64_t>& numbers) {
    program.insert(program.end(), numbers.begin(), numbers.end());
  };
  const auto parameter = [&](Shape shape) {
    parameters.emplace_back(std::move(shape), 2 + static_cast<uint32_t>(parameters.size()));
    return static_cast<int64_t>(parameters.size()) - 1;
  };
  const auto branch = [&](const Shape& weight) {
    add({parameter(weight), weight[2], weight[3], -1, parameter({weight[0]})});
    for (int i = 0; i < 3; ++i) parameter({weight[0]});
    program.push_back(1e-5f);
  };
  const auto filter = [&](int64_t out, int64_t from, int64_t rows, int64_t columns) {
    add({1, rows, columns});
    branch({out, from, rows, columns});
  };
  const auto dense = [&](int64_t out, int64_t from) {
    const int64_t weight = parameter({out, from});
    add({weight, parameter({out})});
  };
  const int64_t half = channels / 2, odd = channels - 1;
  add({0, half, half, 2, 1, 0}), filter(channels, in, 3, 3);
  add({7, 0, 2, 8, 2, half, half - 1, 6}), filter(odd, channels, 1, 1);
  filter(odd, 1, 1, 5), filter(odd, 1, 5, 1);
  add({1, 0, half, half - 1, 1, 1, -1, 6}), filter(half, channels, 1, 1), filter(half, 1, 3, 3);
  add({3, 1, 2, 1, 3}), filter(odd, 1, 5, 5);
  add({4, 3, 2, 5, 2, 5, 1, 0, 4}), dense(5, odd);
  add({6, 4, 3}), dense(odd, 5);
  add({2, 3, 3, 3, 0, 5, -1}), filter(6, odd, 1, 1);
  add({1, 3, 3, 3, 0, 5, 5, -1}), filter(3, odd, 1, 1), filter(3, 1, 3, 3);
  add({1, 5, half, 0, 1, 1, -1, -1}), filter(half, 6, 1, 1);
  add({2, 3, 3}), branch({half, 1, 3, 3}), branch({half, 1, 1, 1});
  add({9, 1, half, half - 1, 1, 2, 0, 2}), filter(half, half, 1, 1), filter(half, 1, 3, 3);
  filter(odd, 1, 5, 5);
  add({9, 2, half, 0, 1, 1, 1, 3}), filter(half, odd, 1, 1), filter(half, 1, 5, 5);
  filter(half, 1, 3, 3);
  add({2, 3, channels, 0, 1, 0, -1}), filter(channels, half, 1, 1);
  add({4, 0, 2, 5, 2, 7, 0, 1}), dense(7, channels);
  std::vector<Array> inputs = {settings(program), Array({n, in, h, w}, 1)};
  inputs.insert(inputs.end(), parameters.begin(), parameters.end());
  return run(ghost_channels_last, "channels_last", inputs, {{n, 7}});
}

std::vector<float> layers() {
  return depthwise(5, 3, 2, 9, 7, 3, 3, 1) + depthwise(3, 2, 1, 8, 12, 5, 5, 2) +
         depthwise(70, 2, 1, 7, 7, 3, 3, 2) + depthwise(2, 3, 1, 6, 5, 1, 5, 1) +
         depthwise(2, 3, 1, 1, 4, 5, 1, 2) + depthwise(1, 2, 1, 33, 70, 7, 7, 1) +
         depthwise(2, 2, 1, 3, 2, 9, 9, 2) + depthwise(2, 2, 1, 4, 5, 1, 1, 2) +
         norms(5, 3, 7, 9) + norms(70, 2, 9, 9) + norms(1, 2, 80, 90) + norms(5, 20, 4, 4) +
         shortcuts(3, 2, 9, 7, 2, 1) + shortcuts(2, 3, 4, 4, 1, 0) + maps(3, 4, 9, 7, 4, 3) +
         maps(2, 3, 14, 28, 7, 14) + maps(2, 3, 80, 60, 1, 1) + losses() + optimizers();
}

std::vector<float> everything() {
  return tails(5, 3, 2, 6, 7, 5, 3) + tails(1, 4, 3, 11, 4, 4, 5) + tails(3, 2, 4, 7, 1, 9, 7) +
         tails(70, 2, 2, 4, 8, 8, 1) + tails(9, 7, 3, 19, 3, 5, 1) + tails(2, 2, 2, 3, 3, 2, 9) +
         tails(5, 3, 2, 6, 7, 5, 3, 2) + tails(70, 2, 3, 5, 4, 4, 3, 2, true) +
         tails(9, 7, 3, 19, 3, 5, 1, 2, true) + stems(3, 4, 9, 12) +
         stems(1, 2, 1, 1) + stems(2, 3, 8, 7) + convolutions(9, 3, 5, 4, 4, 3, 1) +
         convolutions(2, 4, 6, 20, 17, 3, 2) + convolutions(1, 3, 4, 15, 16, 7, 2) +
         convolutions(20, 7, 5, 4, 7, 1, 1) + convolutions(2, 5, 6, 33, 31, 1, 2) +
         convolutions(1, 3, 3, 1, 1, 5, 1) + convolutions(3, 20, 37, 11, 18, 3, 1) +
         convolutions(7, 16, 16, 4, 8, 3, 1) + convolutions(2, 9, 11, 11, 19, 3, 1) +
         convolutions(3, 32, 32, 7, 33, 3, 1) + convolutions(2, 3, 5, 5, 9, 3, 1) +
         convolutions(5, 9, 11, 7, 10, 3, 2) + convolutions(3, 3, 4, 1, 2, 3, 2) +
         convolutions(20, 70, 130, 4, 4, 3, 1) + convolutions(3, 70, 14, 9, 10, 3, 2) + layers() +
         programs(3, 3, 42, 31, 16, 15) + programs(1, 1, 220, 240, 66, 3) +
         programs(12, 1, 60, 72, 66, 3) + programs(3, 2, 90, 100, 16, 16) +
         programs(1, 2, 55, 56, 16, 18) + programs(1, 2, 9, 3, 3, 2) +
         channels_last(1, 3, 99, 41, 6) + channels_last(3, 2, 14, 13, 150) +
         channels_last(2, 1, 9, 9, 70) + channels_last(2, 3, 13, 10, 16) +
         channels_last(1, 2, 97, 9, 8);
}

// Three ranks, each a thread: their sums have to be those of a loop. One block isn't enough for all.
void ranks() {
  constexpr int kRanks = 3;
  const std::vector<int64_t> sizes = {1, 2, 3, 70001, ghost::RankGroup::kBlock, 64};
  std::vector<char> memory(ghost::RankGroup::bytes(kRanks) + 64);
  void* shared = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) & 63);
  std::vector<std::vector<Array>> in(kRanks), out(kRanks);
  for (int rank = 0; rank < kRanks; ++rank) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      in[rank].emplace_back(Shape{sizes[i]}, 1 + rank + kRanks * i);
      out[rank].emplace_back(Shape{sizes[i]});
    }
  }
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      ghost::RankGroup group(shared, rank, kRanks);
      std::vector<const float*> from;
      std::vector<float*> to;
      for (size_t i = 0; i < sizes.size(); ++i) {
        from.push_back(in[rank][i].values.data());
        to.push_back(out[rank][i].values.data());
      }
      for (int again = 0; again < 3; ++again) {
        ghost::AllReduce(&group, sizes, from, to, 0.5f).run();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < sizes.size(); ++i) {
    for (int64_t j = 0; j < sizes[i]; ++j) {
      const int first = sizes[i] < kRanks ? 0 : ghost::RingChunks{sizes[i], kRanks}.first_rank(j);
      float sum = 0;
      for (int k = 0; k < kRanks; ++k) sum += in[(first + k) % kRanks][i].values[j];
      for (int rank = 0; rank < kRanks; ++rank) {
        if (out[rank][i].values[j] != sum * 0.5f) fail("another sum over the ranks");
      }
    }
  }
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

int main() {
  ranks();
  const std::vector<float> expected = everything();
  for (int threads : {2, 3, 1, 4}) {
    ghost_set_threads(threads);
    for (int i = 0; i < 3; ++i) {
      if (!same(everything(), expected)) fail("another result on " + std::to_string(threads));
    }
  }
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] {
      if (!same(everything(), expected)) fail("another result with several callers");
    });
  }
  for (std::thread& caller : callers) caller.join();
#ifndef WITHOUT_FORK
  const pid_t child = fork();
  if (child == 0) _exit(same(everything(), expected) ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  if (status != 0) fail("another result in a forked child");
#endif
  return 0;
}
