// An operator's arguments, as MindSpore's Custom(func_type="aot") passes them.
#pragma once

#include <cstdint>
#include <cstring>

namespace ghost {

// All inputs, then all outputs; the first input of most operators holds settings, as floats.
class Arguments {
 public:
  Arguments(int count, void** data, int* dims, int64_t** shapes, const char** types)
      : count_(count), data_(data), dims_(dims), shapes_(shapes), fit_(true) {
    for (int i = 0; i < count; ++i) fit_ = fit_ && std::strcmp(types[i], "float32") == 0;
  }

  int count() const { return count_; }
  float* operator[](int i) const { return static_cast<float*>(data_[i]); }
  int64_t dim(int i, int axis) const { return axis < dims_[i] ? shapes_[i][axis] : 0; }
  int64_t size(int i) const {
    int64_t product = 1;
    for (int axis = 0; axis < dims_[i]; ++axis) product *= shapes_[i][axis];
    return product;
  }
  // Requirements; fit() tells whether all are met.
  void want_count(int count) { fit_ = fit_ && count_ == count; }
  void want_size(int i, int64_t size) { fit_ = fit_ && i < count_ && this->size(i) == size; }
  void want_sizes(int first, int count, int64_t size) {
    for (int i = first; i < first + count; ++i) want_size(i, size);
  }
  void want(bool condition) { fit_ = fit_ && condition; }
  bool fit() const { return fit_; }

 private:
  int count_;
  void** data_;
  int* dims_;
  int64_t** shapes_;
  bool fit_;
};

// Checks an operator's arguments, then computes. Wrong sizes would corrupt memory silently, so
// nothing is written before all sizes have been checked. Returns 0, or 1 for wrong arguments.
//
// `arrays` is the number of inputs and outputs, or kAnyNumber; `settings` the number of values in
// the first one, or 0 if it holds no settings. check(Arguments*) adds requirements and returns the
// shapes; compute(shapes, arguments) runs if all requirements are met.
constexpr int kAnyNumber = -1;

template <typename Check, typename Compute>
int run_operator(Arguments a, int arrays, int settings, const Check& check,
                 const Compute& compute) {
  if (arrays != kAnyNumber) a.want_count(arrays);
  if (a.fit() && settings > 0) a.want_size(0, settings);
  if (!a.fit()) return 1;
  const auto shape = check(&a);
  if (!a.fit()) return 1;
  compute(shape, a);
  return 0;
}

}  // namespace ghost

// The parameters of a function that MindSpore calls (the last two are unused), and those that
// Arguments takes.
#define GHOST_PARAMETERS \
  int count, void **data, int *dims, int64_t **shapes, const char **types, void *, void *
#define GHOST_ARGUMENTS ghost::Arguments(count, data, dims, shapes, types)
