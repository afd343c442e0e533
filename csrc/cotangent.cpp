// (f - f0) / ||f - f0||, and 2 ||f - f0||. See clipfast.ops.cotangent.

#include <cmath>
#include <limits>

#include "loops.h"
#include "tensors.h"

namespace clipfast {
namespace {

// Returns the distance.
template <typename T>
CLIPFAST_INLINE float direction(const T* f, const T* f0, int64_t n, float* out) {
  CLIPFAST_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(f[i]) - to_float(f0[i]);
  const float square = sum(n, [=](int64_t i) __attribute__((always_inline)) { return out[i] * out[i]; });
  const float tiny = std::numeric_limits<float>::min(), length = std::sqrt(square);
  const float distance = length < tiny ? tiny : length;  // NaN stays
  for (int64_t i = 0; i < n; ++i) out[i] /= distance;
  return distance;
}

CLIPFAST_CLONES float row(const float* f, const float* f0, int64_t n, float* out) { return direction(f, f0, n, out); }
CLIPFAST_CLONES float row(const BFloat16* f, const BFloat16* f0, int64_t n, float* out) {
  return direction(f, f0, n, out);
}
CLIPFAST_CLONES float row(const Half* f, const Half* f0, int64_t n, float* out) { return direction(f, f0, n, out); }

std::tuple<Tensor, Tensor> cotangent(const Tensor& embedding, const Tensor& clean) {
  const char* const op = "cotangent";
  STD_TORCH_CHECK(clean.dim() == 2, "clipfast::cotangent: expected clean [B, D], got ", clean.dim(), " axes");
  const Shape shape = shape_of(clean);
  Tensor direction = new_floats(clean, shape), scale = new_floats(clean, {shape[0]});
  float* const directions = results(direction);
  float* const scales = results(scale);
  return for_dtype(clean.scalar_type(), op, [&]<typename T>(ScalarType dtype) {
    const T* const f = data<T>(embedding, dtype, shape, op, "the embedding");
    const T* const f0 = data<T>(clean, dtype, shape, op, "clean");
    torch::stable::parallel_for(0, shape[0], 32, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = i * shape[1];
        scales[i] = 2 * row(f + at, f0 + at, shape[1], directions + at);
      }
    });
    return std::make_tuple(direction, scale);
  });
}

}  // namespace
}  // namespace clipfast

STABLE_TORCH_LIBRARY_IMPL(clipfast, CPU, m) { m.impl("cotangent", TORCH_BOX(&clipfast::cotangent)); }
