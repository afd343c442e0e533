// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed and
// counted as clipfast.inputs.philox says.

#pragma once

#include <cstdint>

#include "loops.h"

namespace clipfast {

// Counters that are taken together: a loop that the compiler does not unroll, for only then does it see that the
// products are of 32 bits each.
constexpr int64_t kCounters = 32;

// The four words of each of the counters (first + i, image, stream, 0), i < kCounters.
CLIPFAST_INLINE void philox(uint64_t seed, uint32_t image, uint32_t stream, uint32_t first,
                            uint32_t (&words)[4][kCounters]) {
  uint32_t c0[kCounters], c1[kCounters], c2[kCounters], c3[kCounters];
  for (int64_t i = 0; i < kCounters; ++i) {
    c0[i] = first + uint32_t(i);
    c1[i] = image;
    c2[i] = stream;
    c3[i] = 0;
  }
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
    for (int64_t i = 0; i < kCounters; ++i) {
      const uint64_t p0 = uint64_t(c0[i]) * 0xD2511F53, p1 = uint64_t(c2[i]) * 0xCD9E8D57;
      c0[i] = uint32_t(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = uint32_t(p1);
      c2[i] = uint32_t(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = uint32_t(p0);
    }
  }
  for (int64_t i = 0; i < kCounters; ++i) {
    words[0][i] = c0[i];
    words[1][i] = c1[i];
    words[2][i] = c2[i];
    words[3][i] = c3[i];
  }
}

}  // namespace clipfast
