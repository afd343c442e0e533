// scale * f / ||f|| times the class weights, without a normalised copy of f. See clipfast.ops.zero_shot_head.

#include <array>
#include <cmath>

#include "loops.h"
#include "tensors.h"

namespace clipfast {
namespace {

CLIPFAST_CLONES float length(const float* f, int64_t n) {
  return std::sqrt(sum(n, [=](int64_t i) __attribute__((always_inline)) { return f[i] * f[i]; }));
}

CLIPFAST_CLONES void multiply(float* values, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) values[i] *= factor;
}

// out = a b, by torch's own library; an error where autograd would have to follow.
void multiply_matrices(const Tensor& a, const Tensor& b, const Tensor& out) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);  // takes the handle back
}

Tensor zero_shot_head(const Tensor& embedding, const Tensor& class_weights, const Tensor& scale) {
  const char* const op = "zero_shot_head";
  STD_TORCH_CHECK(embedding.dim() == 2 && class_weights.dim() == 2,
                  "clipfast::zero_shot_head: expected an embedding [B, D] and class weights [D, C], got ",
                  embedding.dim(), " and ", class_weights.dim(), " axes");
  const int64_t images = embedding.size(0), width = embedding.size(1), classes = class_weights.size(1);
  const float* const f = floats(embedding, {images, width}, op, "the embedding");
  floats(class_weights, {width, classes}, op, "the class weights");
  const float factor = *floats(scale, {}, op, "the scale");
  Tensor logits = new_floats(embedding, {images, classes});
  multiply_matrices(embedding, class_weights, logits);
  float* const rows = results(logits);
  torch::stable::parallel_for(0, images, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float norm = length(f + i * width, width);
      multiply(rows + i * classes, classes, factor / (norm < 1e-12f ? 1e-12f : norm));
    }
  });
  return logits;
}

}  // namespace
}  // namespace clipfast

STABLE_TORCH_LIBRARY_IMPL(clipfast, CPU, m) { m.impl("zero_shot_head", TORCH_BOX(&clipfast::zero_shot_head)); }
