// One step of the counterattack: sign step (l2: a step of the gradient's direction), projection, bounds, weighted sum.
// See clipfast.ops.ascend.

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
  const float* __restrict x = b.x;
  const float* __restrict d = b.d;
  const G* __restrict gradient = b.gradient;
  const float* __restrict total = b.total;
  float* __restrict d_out = b.d_out;
  float* __restrict total_out = b.total_out;
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

// factor: of the projection into the ball.
template <typename G>
CLIPFAST_INLINE void update_l2(const Block<G>& b, int64_t n, const Step& step, float length, float factor) {
  const float size = step.step_size;
  update_any(b, n, step, [size, length, factor](float d, float g) __attribute__((always_inline)) {
    return (d + size * g / length) * factor;
  });
}

struct Sums {
  double gg = 0, dg = 0, dd = 0;
};

template <typename G>
CLIPFAST_INLINE Sums sums_of(const Block<G>& b, int64_t n) {
  const float* d = b.d;
  const G* g = b.gradient;
  return {sum(n, [=](int64_t i) __attribute__((always_inline)) { return to_float(g[i]) * to_float(g[i]); }),
          sum(n, [=](int64_t i) __attribute__((always_inline)) { return d[i] * to_float(g[i]); }),
          sum(n, [=](int64_t i) __attribute__((always_inline)) { return d[i] * d[i]; })};
}

#define CLIPFAST_FOR(G)                                                                                         \
  CLIPFAST_CLONES void linf(const Block<G>& b, int64_t n, const Step& step) { update_linf(b, n, step); }        \
  CLIPFAST_CLONES void l2(const Block<G>& b, int64_t n, const Step& step, float length, float factor) {         \
    update_l2(b, n, step, length, factor);                                                                      \
  }                                                                                                             \
  CLIPFAST_CLONES void add_sums(const Block<G>& b, int64_t n, Sums& sums) { sums = sums_of(b, n); }
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

template <typename G>
void ascend_l2(const Block<G>& all, int64_t images, int64_t size, const float* scale, const Step& step) {
  const int64_t blocks = (size + kBlock - 1) / kBlock;
  const auto place = [&](int64_t i) { return i / blocks * size + i % blocks * kBlock; };
  const auto length = [&](int64_t i) { return std::min(kBlock, size - i % blocks * kBlock); };
  std::vector<Sums> parts(images * blocks);
  for_blocks(images * blocks, [&](int64_t i) { add_sums(all.at(place(i)), length(i), parts[i]); });
  std::vector<float> lengths(images), factors(images);
  for (int64_t image = 0; image < images; ++image) {
    Sums whole;
    for (int64_t i = image * blocks; i < (image + 1) * blocks; ++i) {
      whole.gg += parts[i].gg;
      whole.dg += parts[i].dg;
      whole.dd += parts[i].dd;
    }
    // ||d + a g||^2 = dd + 2 a dg + a^2 gg, so that one pass gives both lengths.
    lengths[image] = float(std::sqrt(whole.gg)) + 1e-10f / scale[image];
    const double a = double(step.step_size) / lengths[image];
    const double square = whole.dd + 2 * a * whole.dg + a * a * whole.gg;  // below 0 by rounding alone
    const double moved = std::sqrt(square < 0 ? 0 : square);
    factors[image] = moved <= step.eps ? 1.0f : float(step.eps / moved);  // NaN stays
  }
  for_blocks(images * blocks, [&](int64_t i) {
    l2(all.at(place(i)), length(i), step, lengths[i / blocks], factors[i / blocks]);
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
