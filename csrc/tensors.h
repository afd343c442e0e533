// An operator's tensors: what must hold before their memory is touched.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "loops.h"

namespace clipfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Shape = std::vector<int64_t>;

inline Shape shape_of(const Tensor& tensor) { return Shape(tensor.sizes().begin(), tensor.sizes().end()); }

inline std::string text(const Shape& shape) {
  std::string sizes;
  for (const int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  return "[" + sizes + "]";
}

// The memory of a contiguous CPU tensor of one dtype and shape. op, name: for the error.
template <typename T>
const T* data(const Tensor& tensor, ScalarType dtype, const Shape& shape, const char* op, const char* name) {
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == dtype &&
                      shape_of(tensor) == shape,
                  "clipfast::", op, ": expected ", name, " as a contiguous ", dtype, " tensor ", text(shape),
                  " on a CPU, got ", tensor.scalar_type(), " ", text(shape_of(tensor)));
  return static_cast<const T*>(tensor.const_data_ptr());
}

inline const float* floats(const Tensor& tensor, const Shape& shape, const char* op, const char* name) {
  return data<float>(tensor, ScalarType::Float, shape, op, name);
}

inline Tensor new_floats(const Tensor& like, const Shape& shape) {
  return torch::stable::new_empty(like, shape, ScalarType::Float);
}

inline float* results(Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); }

// run<T>(dtype), T being how numbers of that dtype lie in memory.
template <typename Run>
auto for_dtype(ScalarType dtype, const char* op, const Run& run) {
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
                  "clipfast::", op, ": expected float32, bfloat16 or float16, got ", dtype);
  if (dtype == ScalarType::BFloat16) return run.template operator()<BFloat16>(dtype);
  if (dtype == ScalarType::Half) return run.template operator()<Half>(dtype);
  return run.template operator()<float>(dtype);
}

}  // namespace clipfast
