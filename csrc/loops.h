// Loops that the compiler turns into vector code, once for each instruction set of x86; the best one is picked when
// the library is loaded.
//
// Products and sums are rounded one by one (no fused multiply-add), and sums run in kLanes lanes of their own, so
// that every instruction set gives the same bits.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#if !(defined(__x86_64__) && defined(__linux__) && defined(__GNUC__))
#define CLIPFAST_CLONES
#elif defined(__clang__) || __GNUC__ < 12  // which do not know the levels by name
#define CLIPFAST_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLIPFAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
#define CLIPFAST_INLINE inline __attribute__((always_inline))

// Before a loop whose tensors do not overlap: of more than a few the compiler would not find out by itself.
#if defined(__clang__)
#define CLIPFAST_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define CLIPFAST_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace clipfast {

constexpr int64_t kLanes = 16;

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

CLIPFAST_INLINE float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

CLIPFAST_INLINE float to_float(float value) { return value; }

CLIPFAST_INLINE float to_float(BFloat16 value) { return from_bits(uint32_t(value.bits) << 16); }

// Without branches. A subnormal number is the fraction of one just above 2^-14.
CLIPFAST_INLINE float to_float(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, rest = uint32_t(value.bits & 0x7fff) << 13;
  const float normal = from_bits(rest + (112u << 23)), subnormal = from_bits(rest + (113u << 23)) - 0x1p-14f;
  const float size = rest < (1u << 23) ? subnormal : normal;
  uint32_t bits;
  std::memcpy(&bits, &size, sizeof(bits));
  return from_bits(sign | (rest >= 0x0f800000 ? rest | 0x7f800000 : bits));
}

// The sums of the `count` numbers that terms(i) gives, over i < n.
template <size_t count, typename Terms>
CLIPFAST_INLINE std::array<float, count> sums(int64_t n, const Terms& terms) {
  float lanes[count][kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const std::array<float, count> some = terms(i + lane);
      for (size_t k = 0; k < count; ++k) lanes[k][lane] += some[k];
    }
  }
  for (; i < n; ++i) {
    const std::array<float, count> some = terms(i);
    for (size_t k = 0; k < count; ++k) lanes[k][i % kLanes] += some[k];
  }
  std::array<float, count> results;
  for (size_t k = 0; k < count; ++k) {
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
      for (int64_t lane = 0; lane < width; ++lane) lanes[k][lane] += lanes[k][lane + width];
    }
    results[k] = lanes[k][0];
  }
  return results;
}

// The sum of term(i) over i < n.
template <typename Term>
CLIPFAST_INLINE float sum(int64_t n, const Term& term) {
  return sums<1>(n, [&](int64_t i) __attribute__((always_inline)) { return std::array{term(i)}; })[0];
}

// The value nearest to d that keeps x + d in [0, 1]; NaN where x or d is.
CLIPFAST_INLINE float into_bounds(float d, float x) {
  d = d < -x ? -x : d;
  d = d > 1.0f - x ? 1.0f - x : d;
  return x != x ? x : d;
}

}  // namespace clipfast
