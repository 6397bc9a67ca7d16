// An operator's arguments, as MindSpore's Custom(func_type="aot") hands them over.
#pragma once

#include <cstdint>
#include <cstring>

namespace ghost {

// All inputs, then all outputs; the first input of most holds settings, as floats. Every operator
// looks at number, type and sizes before it touches any: a wrong one would overwrite memory in
// silence. They return 0, or 1 for arguments that don't fit.
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
  // Demands; fit() tells whether all were met.
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

}  // namespace ghost

#define GHOST_ARGUMENTS                                                                       \
  int count, void **data, int *dims, int64_t **shapes, const char **types, void * /* stream */, \
      void * /* extra */
