// Loops that the compiler turns into vector code, once for each instruction set of x86; the best one is picked when
// the library is loaded.
//
// Products and sums are rounded one by one (no fused multiply-add), and sums run in kLanes lanes of their own, so
// that every instruction set gives the same bits.

#pragma once

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

// Without branches: 2^112 moves the exponent, and lifts subnormal numbers; those that are not finite are put right.
CLIPFAST_INLINE float to_float(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, rest = uint32_t(value.bits & 0x7fff) << 13;
  const float moved = from_bits(rest) * 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &moved, sizeof(bits));
  return from_bits(sign | (rest >= 0x0f800000 ? rest | 0x7f800000 : bits));
}

// The sum of term(i) for i < n.
template <typename Term>
CLIPFAST_INLINE float sum(int64_t n, const Term& term) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (; i < n; ++i) lanes[i % kLanes] += term(i);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

// The value nearest to d that keeps x + d in [0, 1]; NaN where x or d is.
CLIPFAST_INLINE float into_bounds(float d, float x) {
  d = d < -x ? -x : d;
  d = d > 1.0f - x ? 1.0f - x : d;
  return x != x ? x : d;
}

}  // namespace clipfast
