// Matrix products: oneDNN's where MindSpore has loaded it, else a small blocked one.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ghost {

// A matrix whose rows begin `step` values apart; transposed: read it by columns.
struct Matrix {
  const float* data;
  int64_t step;
  bool transposed;

  float at(int64_t row, int64_t column) const {
    return transposed ? data[column * step + row] : data[row * step + column];
  }
};

// C (rows, columns) = A (rows, depth) * B (depth, columns), or added to C. On one thread.
//
// Blocks of B are copied so that the inner loop goes through memory in order, and serves four rows
// of A at a time.
inline void blocked_gemm(Matrix a, Matrix b, float* c, int64_t c_step, int64_t rows,
                         int64_t columns, int64_t depth, bool add) {
  constexpr int64_t kDepth = 64, kColumns = 256, kRows = 4;
  float block[kDepth * kColumns];
  if (!add) {
    for (int64_t i = 0; i < rows; ++i) std::memset(c + i * c_step, 0, columns * sizeof(float));
  }
  for (int64_t j0 = 0; j0 < columns; j0 += kColumns) {
    const int64_t width = std::min(kColumns, columns - j0);
    for (int64_t k0 = 0; k0 < depth; k0 += kDepth) {
      const int64_t deep = std::min(kDepth, depth - k0);
      for (int64_t k = 0; k < deep; ++k) {
        for (int64_t j = 0; j < width; ++j) block[k * kColumns + j] = b.at(k0 + k, j0 + j);
      }
      for (int64_t i0 = 0; i0 < rows; i0 += kRows) {
        const int64_t high = std::min(kRows, rows - i0);
        if (high < kRows) {
          for (int64_t i = i0; i < rows; ++i) {
            float* __restrict out = c + i * c_step + j0;
            for (int64_t k = 0; k < deep; ++k) {
              const float factor = a.at(i, k0 + k);
              for (int64_t j = 0; j < width; ++j) out[j] += factor * block[k * kColumns + j];
            }
          }
          continue;
        }
        float* __restrict c0 = c + i0 * c_step + j0;
        float* __restrict c1 = c0 + c_step;
        float* __restrict c2 = c1 + c_step;
        float* __restrict c3 = c2 + c_step;
        for (int64_t k = 0; k < deep; ++k) {
          const float a0 = a.at(i0, k0 + k), a1 = a.at(i0 + 1, k0 + k), a2 = a.at(i0 + 2, k0 + k),
                      a3 = a.at(i0 + 3, k0 + k);
          const float* row = block + k * kColumns;
          for (int64_t j = 0; j < width; ++j) {
            const float v = row[j];
            c0[j] += a0 * v;
            c1[j] += a1 * v;
            c2[j] += a2 * v;
            c3[j] += a3 * v;
          }
        }
      }
    }
  }
}

// dnnl_sgemm of oneDNN's C interface; row-major, alpha and beta as in BLAS.
using Sgemm = int (*)(char, char, int64_t, int64_t, int64_t, float, const float*, int64_t,
                      const float*, int64_t, float, float*, int64_t);

inline Sgemm& onednn() {
  static Sgemm sgemm = nullptr;
  return sgemm;
}

// Looks for oneDNN among the libraries that the process has loaded; false if it isn't there.
inline bool find_onednn(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
  onednn() = handle == nullptr ? nullptr : reinterpret_cast<Sgemm>(dlsym(handle, "dnnl_sgemm"));
  return onednn() != nullptr;
}

inline void gemm(Matrix a, Matrix b, float* c, int64_t c_step, int64_t rows, int64_t columns,
                 int64_t depth, bool add) {
  const Sgemm sgemm = onednn();
  if (sgemm == nullptr || sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', rows, columns,
                                depth, 1, a.data, a.step, b.data, b.step, add ? 1 : 0, c,
                                c_step) != 0) {
    blocked_gemm(a, b, c, c_step, rows, columns, depth, add);
  }
}

}  // namespace ghost
