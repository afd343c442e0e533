// Pixels and noise, the caller's or drawn here, as the encoder lays them out. See clipfast.ops.perturb.
//
// A row of an image at a time passes through the nearest cache: drawn, clamped, and copied into its patches.

#include <cmath>
#include <limits>

#include "loops.h"
#include "philox.h"
#include "tensors.h"

namespace clipfast {
namespace {

CLIPFAST_INLINE float to_unit(uint8_t value) { return float(value) / 255.0f; }

template <typename P>
CLIPFAST_INLINE float to_unit(P pixel) {
  const float value = to_float(pixel);
  return value >= 0 && value <= 1 ? value : std::numeric_limits<float>::quiet_NaN();
}

template <typename P>
CLIPFAST_INLINE void start(const P* pixels, const float* noise, int64_t n, float* x, float* d) {
  CLIPFAST_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    const float value = to_unit(pixels[i]);
    x[i] = value;
    d[i] = into_bounds(noise[i], value);
  }
}

CLIPFAST_CLONES void row(const uint8_t* p, const float* noise, int64_t n, float* x, float* d) {
  start(p, noise, n, x, d);
}
CLIPFAST_CLONES void row(const float* p, const float* noise, int64_t n, float* x, float* d) {
  start(p, noise, n, x, d);
}
CLIPFAST_CLONES void row(const BFloat16* p, const float* noise, int64_t n, float* x, float* d) {
  start(p, noise, n, x, d);
}
CLIPFAST_CLONES void row(const Half* p, const float* noise, int64_t n, float* x, float* d) {
  start(p, noise, n, x, d);
}

// The draws of U(-eps, eps) of 4 * counters pixels, from the counter `first` on. factor: eps * 2^-23.
CLIPFAST_CLONES void draw_linf(uint64_t seed, uint32_t image, uint32_t first, int64_t counters, float factor,
                               float* values) {
  uint32_t words[4][kCounters];
  for (int64_t i = 0; i < counters; i += kCounters, values += 4 * kCounters) {
    philox(seed, image, 0, first + uint32_t(i), words);
    for (int64_t j = 0; j < kCounters; ++j) {
      for (int64_t lane = 0; lane < 4; ++lane) {
        values[4 * j + lane] = float(int32_t(words[lane][j] >> 8) - (1 << 23)) * factor;
      }
    }
  }
}

// Normal draws of them (Box-Muller).
void draw_normal(uint64_t seed, uint32_t image, uint32_t first, int64_t counters, float* values) {
  uint32_t words[4][kCounters];
  for (int64_t i = 0; i < counters; i += kCounters, values += 4 * kCounters) {
    philox(seed, image, 0, first + uint32_t(i), words);
    for (int64_t j = 0; j < kCounters; ++j) {
      for (int64_t lane = 0; lane < 4; lane += 2) {
        const float one = float((words[lane][j] >> 8) + 1) * 0x1p-24f;  // (0, 1], so that its log is finite
        const float length = std::sqrt(-2 * std::log(one));
        const float angle = 6.28318530717958647692f * (float(words[lane + 1][j] >> 8) * 0x1p-24f);
        values[4 * j + lane] = length * std::cos(angle);
        values[4 * j + lane + 1] = length * std::sin(angle);
      }
    }
  }
}

CLIPFAST_CLONES float squares(const float* values, int64_t n) {
  return sum(n, [=](int64_t i) __attribute__((always_inline)) { return values[i] * values[i]; });
}

CLIPFAST_CLONES void scale_into_bounds(const float* x, float factor, int64_t n, float* d) {
  CLIPFAST_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) d[i] = into_bounds(d[i] * factor, x[i]);
}

struct Images {
  int64_t count, height, width, patch_height, patch_width;

  int64_t rows() const { return count * 3 * height; }
  int64_t size() const { return 3 * height * width; }

  // Where the first pixel of a row lies in the layout [count, patches, 3, patch_height, patch_width]; the next
  // patch of the row follows after `stride` numbers.
  int64_t place(int64_t row) const {
    const int64_t image = row / (3 * height), channel = row / height % 3, y = row % height;
    return image * size() + y / patch_height * (width / patch_width) * stride() +
           (channel * patch_height + y % patch_height) * patch_width;
  }
  int64_t stride() const { return 3 * patch_height * patch_width; }
};

struct Draw {
  const float* noise;  // or null, and
  const int64_t *seeds, *images;
  float eps;
  bool l2;
};

// The noise of a row, drawn into `buffer` where it is not given; in l2 not scaled yet.
const float* noise_of(const Draw& draw, const Images& all, int64_t row, std::vector<float>& buffer) {
  if (draw.noise) return draw.noise + row * all.width;
  const int64_t image = row / (3 * all.height), begin = row % (3 * all.height) * all.width;
  const int64_t first = begin / 4, counters = (begin + all.width + 3) / 4 - first;
  buffer.resize(4 * (counters + kCounters));  // the last counters are drawn together, needed or not
  const auto seed = uint64_t(draw.seeds[image]);
  const auto index = uint32_t(draw.images[image]);
  if (draw.l2) {
    draw_normal(seed, index, uint32_t(first), counters, buffer.data());
  } else {
    draw_linf(seed, index, uint32_t(first), counters, draw.eps * 0x1p-23f, buffer.data());
  }
  return buffer.data() + begin % 4;
}

template <typename P>
void start_rows(const P* pixels, const Draw& draw, const Images& all, float* x, float* d) {
  const bool scaled = !draw.noise && draw.l2;
  std::vector<float> lengths(scaled ? all.rows() : 0);  // squared
  torch::stable::parallel_for(0, all.rows(), 16, [&](int64_t begin, int64_t end) {
    std::vector<float> drawn, xs(all.width), ds(all.width);
    for (int64_t i = begin; i < end; ++i) {
      const float* const noise = noise_of(draw, all, i, drawn);
      row(pixels + i * all.width, noise, all.width, xs.data(), ds.data());
      if (scaled) lengths[i] = squares(noise, all.width);
      int64_t to = all.place(i);
      for (int64_t from = 0; from < all.width; from += all.patch_width, to += all.stride()) {
        std::memcpy(x + to, xs.data() + from, all.patch_width * sizeof(float));
        std::memcpy(d + to, (scaled ? noise : ds.data()) + from, all.patch_width * sizeof(float));
      }
    }
  });
  if (!scaled) return;
  for (int64_t image = 0; image < all.count; ++image) {
    uint32_t words[4][kCounters];
    philox(uint64_t(draw.seeds[image]), uint32_t(draw.images[image]), 1, 0, words);
    const double radius = draw.eps * (words[0][0] >> 8) * 0x1p-24;
    double square = 0;
    for (int64_t i = 0; i < 3 * all.height; ++i) square += lengths[image * 3 * all.height + i];
    const float factor = float(radius / std::sqrt(square));
    torch::stable::parallel_for(0, all.size(), 1 << 14, [&](int64_t begin, int64_t end) {
      const int64_t at = image * all.size() + begin;
      scale_into_bounds(x + at, factor, end - begin, d + at);
    });
  }
}

std::tuple<Tensor, Tensor> perturb(const Tensor& pixels, const std::optional<Tensor>& noise,
                                   const std::optional<Tensor>& seeds, const std::optional<Tensor>& images,
                                   double eps, int64_t patch_height, int64_t patch_width, bool l2) {
  const char* const op = "perturb";
  const Shape shape = shape_of(pixels);
  STD_TORCH_CHECK(shape.size() == 4 && shape[1] == 3, "clipfast::perturb: expected pixels [B, 3, H, W], got ",
                  shape.size(), " axes");
  STD_TORCH_CHECK(noise ? !seeds && !images : seeds && images,
                  "clipfast::perturb: expected noise, or seeds and images");
  const bool patched = patch_height != 0;
  const int64_t height = shape[2], width = shape[3];
  STD_TORCH_CHECK(!patched || (patch_height > 0 && patch_width > 0 && height % patch_height == 0 &&
                               width % patch_width == 0),
                  "clipfast::perturb: expected patches that divide ", height, " x ", width, " pixels, got ",
                  patch_height, " x ", patch_width);
  // An image that is not cut is a patch of its own.
  const Images all{shape[0], height, width, patched ? patch_height : height, patched ? patch_width : width};
  Draw draw{nullptr, nullptr, nullptr, float(eps), l2};
  if (noise) {
    draw.noise = floats(*noise, shape, op, "the noise");
  } else {
    draw.seeds = data<int64_t>(*seeds, ScalarType::Long, {shape[0]}, op, "the seeds");
    draw.images = data<int64_t>(*images, ScalarType::Long, {shape[0]}, op, "the images");
  }
  const Shape layout =
      patched ? Shape{shape[0], height / patch_height * (width / patch_width), all.stride()} : shape;
  Tensor x = new_floats(pixels, layout), d = new_floats(pixels, layout);
  const auto run = [&]<typename P>(ScalarType dtype) {
    const P* const values = data<P>(pixels, dtype, shape, op, "pixels");
    if (pixels.numel() > 0) start_rows(values, draw, all, results(x), results(d));
    return std::make_tuple(x, d);
  };
  if (pixels.scalar_type() == ScalarType::Byte) return run.operator()<uint8_t>(ScalarType::Byte);
  return for_dtype(pixels.scalar_type(), op, run);
}

}  // namespace
}  // namespace clipfast

STABLE_TORCH_LIBRARY_IMPL(clipfast, CPU, m) { m.impl("perturb", TORCH_BOX(&clipfast::perturb)); }
