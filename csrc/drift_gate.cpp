// tau = ||f(x + d0) - f(x)|| / ||f(x)||, and whether it is below the threshold. See clipfast.ops.drift_gate.

#include <cmath>

#include "loops.h"
#include "tensors.h"

namespace clipfast {
namespace {

template <typename T>
CLIPFAST_INLINE float drift(const T* clean, const T* noisy, int64_t n) {
  const float moved = sum(n, [=](int64_t i) __attribute__((always_inline)) {
    const float difference = to_float(noisy[i]) - to_float(clean[i]);
    return difference * difference;
  });
  const float length = sum(n, [=](int64_t i) __attribute__((always_inline)) {
    return to_float(clean[i]) * to_float(clean[i]);
  });
  return std::sqrt(moved) / std::sqrt(length);
}

CLIPFAST_CLONES float row(const float* clean, const float* noisy, int64_t n) { return drift(clean, noisy, n); }
CLIPFAST_CLONES float row(const BFloat16* clean, const BFloat16* noisy, int64_t n) { return drift(clean, noisy, n); }
CLIPFAST_CLONES float row(const Half* clean, const Half* noisy, int64_t n) { return drift(clean, noisy, n); }

std::tuple<Tensor, Tensor> drift_gate(const Tensor& clean, const Tensor& noisy, const Tensor& threshold) {
  const char* const op = "drift_gate";
  STD_TORCH_CHECK(clean.dim() == 2, "clipfast::drift_gate: expected clean [B, D], got ", clean.dim(), " axes");
  const Shape shape = shape_of(clean);
  const bool one_each = threshold.dim() > 0;
  const float* const limits = floats(threshold, one_each ? Shape{shape[0]} : Shape{}, op, "the threshold");
  Tensor tau = new_floats(clean, {shape[0]});
  Tensor countered = torch::stable::new_empty(clean, {shape[0]}, ScalarType::Bool);
  float* const taus = results(tau);
  bool* const flags = static_cast<bool*>(countered.mutable_data_ptr());
  return for_dtype(clean.scalar_type(), op, [&]<typename T>(ScalarType dtype) {
    const T* const f0 = data<T>(clean, dtype, shape, op, "clean");
    const T* const f = data<T>(noisy, dtype, shape, op, "noisy");
    torch::stable::parallel_for(0, shape[0], 32, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        taus[i] = row(f0 + i * shape[1], f + i * shape[1], shape[1]);
        flags[i] = taus[i] < limits[one_each ? i : 0];  // false for NaN
      }
    });
    return std::make_tuple(tau, countered);
  });
}

}  // namespace
}  // namespace clipfast

STABLE_TORCH_LIBRARY_IMPL(clipfast, CPU, m) { m.impl("drift_gate", TORCH_BOX(&clipfast::drift_gate)); }
