// One step of the counterattack: sign step (l2: a step of the gradient's direction), projection, bounds, weighted sum.
// See clipfast.ops.ascend.

#include <array>
#include <cmath>

#include "loops.h"
#include "tensors.h"

namespace clipfast {
namespace {

constexpr int64_t kBlock = 8192;  // numbers

struct Step {
  float weight_before, weight, eps, step_size;
};

// The numbers first..first + n of every tensor. total: null at the first step. d_out: null at the last.
template <typename G>
struct Block {
  const float *x, *d;
  const G* gradient;
  const float* total;
  float *d_out, *total_out;

  CLIPFAST_INLINE Block at(int64_t i) const {
    return {x + i, d + i, gradient + i, total ? total + i : nullptr, d_out ? d_out + i : nullptr, total_out + i};
  }
};

template <bool begins, bool ends, typename G, typename Move>
CLIPFAST_INLINE void update(const Block<G>& b, int64_t n, const Step& step, const Move& move) {
  const auto [x, d, gradient, total, d_out, total_out] = b;
  CLIPFAST_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    const float moved = into_bounds(move(d[i], to_float(gradient[i])), x[i]);
    const float before = begins ? step.weight_before * d[i] : total[i];
    if (!ends) d_out[i] = moved;
    total_out[i] = before + step.weight * moved;
  }
}

template <typename G, typename Move>
CLIPFAST_INLINE void update_any(const Block<G>& b, int64_t n, const Step& step, const Move& move) {
  if (b.total) {
    b.d_out ? update<false, false>(b, n, step, move) : update<false, true>(b, n, step, move);
  } else {
    b.d_out ? update<true, false>(b, n, step, move) : update<true, true>(b, n, step, move);
  }
}

template <typename G>
CLIPFAST_INLINE void update_linf(const Block<G>& b, int64_t n, const Step& step) {
  const float size = step.step_size, eps = step.eps;
  update_any(b, n, step, [size, eps](float d, float g) __attribute__((always_inline)) {
    float moved = d + (g > 0 ? size : g < 0 ? -size : 0.0f);
    moved = moved < -eps ? -eps : moved;
    moved = moved > eps ? eps : moved;
    return g != g ? g : moved;
  });
}

// a: the step over the gradient's length. factor: of the projection into the ball.
template <typename G>
CLIPFAST_INLINE void update_l2(const Block<G>& b, int64_t n, const Step& step, float a, float factor) {
  update_any(b, n, step, [a, factor](float d, float g) __attribute__((always_inline)) {
    return (d + a * g) * factor;
  });
}

struct Sums {
  double gg = 0, dg = 0, dd = 0;
};

template <typename G>
CLIPFAST_INLINE Sums sums_of(const Block<G>& b, int64_t n) {
  const auto products = sums<3>(n, [d = b.d, g = b.gradient](int64_t i) __attribute__((always_inline)) {
    const float gi = to_float(g[i]);
    return std::array{gi * gi, d[i] * gi, d[i] * d[i]};
  });
  return {products[0], products[1], products[2]};
}

#define CLIPFAST_FOR(G)                                                                                         \
  CLIPFAST_CLONES void linf(const Block<G>& b, int64_t n, const Step& step) { update_linf(b, n, step); }        \
  CLIPFAST_CLONES void l2(const Block<G>& b, int64_t n, const Step& step, float a, float factor) {              \
    update_l2(b, n, step, a, factor);                                                                           \
  }                                                                                                             \
  CLIPFAST_CLONES void add_up(const Block<G>& b, int64_t n, Sums& result) { result = sums_of(b, n); }
CLIPFAST_FOR(float)
CLIPFAST_FOR(BFloat16)
CLIPFAST_FOR(Half)
#undef CLIPFAST_FOR

template <typename Run>
void for_blocks(int64_t count, const Run& run) {
  torch::stable::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run(i);
  });
}

template <typename G>
void ascend_linf(const Block<G>& all, int64_t n, const Step& step) {
  for_blocks((n + kBlock - 1) / kBlock, [&](int64_t i) {
    linf(all.at(i * kBlock), std::min(kBlock, n - i * kBlock), step);
  });
}

// An image at a time, whose d and gradient the cache then still holds at the second pass.
template <typename G>
void ascend_l2(const Block<G>& all, int64_t images, int64_t size, const float* scale, const Step& step) {
  const int64_t blocks = (size + kBlock - 1) / kBlock;
  const auto one = [&](int64_t image) {
    const auto at = [&](int64_t i) { return all.at(image * size + i * kBlock); };
    const auto length = [&](int64_t i) { return std::min(kBlock, size - i * kBlock); };
    std::vector<Sums> parts(blocks);
    for_blocks(blocks, [&](int64_t i) { add_up(at(i), length(i), parts[i]); });
    Sums whole;
    for (const Sums& part : parts) {
      whole.gg += part.gg;
      whole.dg += part.dg;
      whole.dd += part.dd;
    }
    // ||d + a g||^2 = dd + 2 a dg + a^2 gg, so that one pass gives both lengths.
    const double a = step.step_size / (std::sqrt(whole.gg) + 1e-10 / scale[image]);
    const double square = whole.dd + 2 * a * whole.dg + a * a * whole.gg;  // below 0 by rounding alone
    const double moved = std::sqrt(square < 0 ? 0 : square);
    const float factor = moved <= step.eps ? 1.0f : float(step.eps / moved);  // NaN stays
    for_blocks(blocks, [&](int64_t i) { l2(at(i), length(i), step, float(a), factor); });
  };
  torch::stable::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) one(image);
  });
}

template <typename G>
void run(const Block<G>& all, int64_t images, int64_t size, const float* scale, const Step& step) {
  if (scale) {
    ascend_l2(all, images, size, scale, step);
  } else {
    ascend_linf(all, images * size, step);
  }
}

std::tuple<Tensor, Tensor> ascend(const Tensor& x, const Tensor& d, const Tensor& gradient,
                                  const std::optional<Tensor>& total, const std::optional<Tensor>& scale,
                                  double weight_before, double weight, double eps, double step_size, bool is_l2,
                                  bool last) {
  const char* const op = "ascend";
  const Shape shape = shape_of(x);
  STD_TORCH_CHECK(x.dim() >= 2, "clipfast::ascend: expected x [B, ...], got ", x.dim(), " axes");
  STD_TORCH_CHECK(scale.has_value() == is_l2, "clipfast::ascend: expected a scale for l2, and for l2 alone");
  const float* const xs = floats(x, shape, op, "x");
  const float* const ds = floats(d, shape, op, "d");
  const float* const totals = total ? floats(*total, shape, op, "total") : nullptr;
  const float* const scales = scale ? floats(*scale, {shape[0]}, op, "scale") : nullptr;
  const Step step{float(weight_before), float(weight), float(eps), float(step_size)};
  return for_dtype(gradient.scalar_type(), op, [&]<typename G>(ScalarType dtype) {
    const G* const gradients = data<G>(gradient, dtype, shape, op, "the gradient");
    Tensor moved = new_floats(x, last ? Shape{0} : shape), sum = new_floats(x, shape);
    const Block<G> all{xs, ds, gradients, totals, last ? nullptr : results(moved), results(sum)};
    if (x.numel() > 0) run(all, shape[0], x.numel() / shape[0], scales, step);
    return std::make_tuple(moved, sum);
  });
}

}  // namespace
}  // namespace clipfast

STABLE_TORCH_LIBRARY_IMPL(clipfast, CPU, m) { m.impl("ascend", TORCH_BOX(&clipfast::ascend)); }
