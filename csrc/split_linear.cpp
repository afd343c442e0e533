// y = x w^T + bias in float32, multiplied as bfloat16 on the tile units (AMX) of x86 CPUs.
//
// A float32 is the sum of three bfloat16 numbers, and six products of parts, added in float32, are as exact as
// one float32 product: those left out lie below 2^-24 of it (Henry, Tang, Heinecke, "Leveraging the bfloat16
// artificial intelligence datatype for higher-precision computations", ARITH 2019).
//
// The weight lies in blocks of 32 x 32 numbers, [out / 32, in / 32, 32, 32], zeros where it ends: a page of memory
// each, read whole in either direction. Each thread takes some panels of it, the blocks that make 32 results:
// while the tile units multiply one panel by all of x, the vector units split the next into the thread's cache.
// So a weight is read once for up to kRows rows of x.
//
// Operands are kept as strips of 16 rows (of x or of w), a strip as tiles of 16 x 32 numbers, step by step
// along the contraction, the three parts one after the other. Within a step the numbers i and i + 16 stand
// side by side: any order will do that both operands share, and this one needs no shuffle.

#include <cstdlib>
#include <new>

#include "tensors.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLIPFAST_HAS_TILES 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace clipfast {
namespace {

struct Matrix {  // row by row, densely
  const float* data;
  int64_t rows, columns;
};

struct Weight {
  const float* blocks;
  int64_t out, in;  // of the product
};

#if CLIPFAST_HAS_TILES

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,amx-tile,amx-bf16")

using Part = uint16_t;  // a bfloat16

constexpr int64_t kStrip = 16;             // rows of a strip
constexpr int64_t kStep = 32;              // numbers of the contraction in a tile
constexpr int64_t kTile = kStrip * kStep;  // numbers in a tile
constexpr int64_t kParts = 3;
constexpr int64_t kStepSize = kParts * kTile;
constexpr int64_t kProducts = 6;           // of parts
constexpr int64_t kBlock = kStep * kStep;  // numbers in a block of the weight
constexpr int64_t kSums = kStrip * kStrip;  // numbers in a tile of the result
constexpr int64_t kRows = 224;             // of x that are multiplied together, and
constexpr int64_t kSteps = 16;             // steps: so that their strips and two panels fit the second cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
class Buffer {  // kept by its thread, so that no later call faults its pages in again
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  T* at_least(int64_t n) {
    if (n > size_) {
      std::free(data_);
      size_ = 0;
      data_ = static_cast<T*>(std::aligned_alloc(64, ceil_div(n * int64_t(sizeof(T)), 64) * 64));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = n;
    }
    return data_;
  }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

struct Pair {
  __m512i parts[kParts];
};

// The parts of a and b, those of a in the low half of each word. A NaN survives in the last part.
inline Pair split(__m512 a, __m512 b) {
  const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(int(0xffff0000));
  Pair pair;
  for (int64_t p = 0; p < kParts; ++p) {
    __m512i ai = _mm512_castps_si512(a), bi = _mm512_castps_si512(b);
    if (p < kParts - 1) {  // rounded to nearest; what is left after two such steps fits the third part
      ai = _mm512_and_si512(_mm512_add_epi32(ai, half), high);
      bi = _mm512_and_si512(_mm512_add_epi32(bi, half), high);
      a = _mm512_sub_ps(a, _mm512_castsi512_ps(ai));
      b = _mm512_sub_ps(b, _mm512_castsi512_ps(bi));
    }
    pair.parts[p] = _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(ai, 16), bi);
  }
  return pair;
}

inline __mmask16 lanes(int64_t n) {
  if (n <= 0) return 0;
  return n >= kStrip ? 0xffff : __mmask16((1u << n) - 1);
}

// 16 x 16 words.
inline void transpose(__m512i (&r)[kStrip]) {
  __m512i t[kStrip];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Rows first..first + 15 of m as a step of a strip, zeros where m ends. turned: as the right operand of a product,
// which the tile units take column by column.
template <bool turned>
void split_rows(const Matrix& m, int64_t first, int64_t step, Part* out) {
  const int64_t k = step * kStep;
  const __mmask16 low = lanes(m.columns - k), high = lanes(m.columns - k - kStrip);
  __m512i tiles[kParts][kStrip];
  for (int64_t r = 0; r < kStrip; ++r) {
    const bool inside = first + r < m.rows;
    const float* const row = m.data + (inside ? first + r : 0) * m.columns + k;
    const Pair pair = split(_mm512_maskz_loadu_ps(inside ? low : 0, row),
                            _mm512_maskz_loadu_ps(inside ? high : 0, row + kStrip));
    for (int64_t p = 0; p < kParts; ++p) tiles[p][r] = pair.parts[p];
  }
  for (int64_t p = 0; p < kParts; ++p) {
    if (turned) transpose(tiles[p]);
    for (int64_t r = 0; r < kStrip; ++r) _mm512_store_si512(out + p * kTile + r * kStep, tiles[p][r]);
  }
}

// The blocks of the weight that make 32 results, for some steps of the contraction.
struct Panel {
  const float* blocks;
  int64_t step, steps;
  int64_t step_stride, next;  // numbers to the block of the next step, and to the panel after this one
};

// Splits a panel into two strips, a few rows whenever asked to, as the tile units multiply another. transposed: the
// contraction runs along a block's columns, so that its rows are the strips' columns.
template <bool transposed>
class Splitting {
 public:
  Splitting() = default;

  // times: how often it will be asked.
  Splitting(const Panel& panel, int64_t times, Part* out)
      : panel_(panel), left_(panel.steps * kStep), rate_(ceil_div(left_ << kFraction, times)), out_(out) {}

  void some() {
    due_ += rate_;
    for (; due_ >= kOne && left_ > 0; due_ -= kOne) split_row();
  }

  void rest() {
    while (left_ > 0) split_row();
  }

 private:
  static constexpr int64_t kFraction = 16, kOne = 1 << kFraction;
  // Several pages are read side by side, each in order: more of memory is under way then than from one page.
  static constexpr int64_t kPages = 8, kAhead = 4;

  void split_row() {
    const int64_t step = first_ + page_;
    const float* const block = panel_.blocks + step * panel_.step_stride;
    const int64_t later = row_ + kAhead;
    const float* const ahead = block + later % kStep * kStep + (later < kStep ? 0 : panel_.next);
    _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(ahead + kStrip), _MM_HINT_T0);
    // In order of memory, but that the rows r and r + 16 go together where they are the contraction's.
    const int64_t strip = transposed ? row_ % 2 : row_ / kStrip, row = transposed ? row_ / 2 : row_ % kStrip;
    const float* const a = block + row * kStep + strip * (transposed ? kStrip : kBlock / 2);
    const Pair pair = split(_mm512_loadu_ps(a), _mm512_loadu_ps(a + (transposed ? kBlock / 2 : kStrip)));
    Part* const out = out_ + (strip * panel_.steps + step) * kStepSize + row * kStep;
    for (int64_t p = 0; p < kParts; ++p) _mm512_store_si512(out + p * kTile, pair.parts[p]);
    --left_;
    if (++page_ < std::min(kPages, panel_.steps - first_)) return;
    page_ = 0;
    if (++row_ < kStep) return;
    row_ = 0;
    first_ += kPages;
  }

  Panel panel_ = {};
  int64_t left_ = 0, rate_ = 0, due_ = 0;
  int64_t first_ = 0, page_ = 0, row_ = 0;  // the next row, of the block of step first_ + page_
  Part* out_ = nullptr;
};

void configure_tiles() {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int t = 0; t < 8; ++t) {
    config.bytes[t] = 64;
    config.rows[t] = 16;
  }
  _tile_loadconfig(&config);
}

template <bool two_a>
inline void load_a(const Part* a0, const Part* a1) {
  _tile_loadd(4, a0, 64);
  if (two_a) _tile_loadd(5, a1, 64);
}

template <bool two_b>
inline void load_b(const Part* b0, const Part* b1) {
  _tile_loadd(6, b0, 64);
  if (two_b) _tile_loadd(7, b1, 64);
}

template <bool two_a, bool two_b>
inline void multiply_parts() {
  _tile_dpbf16ps(0, 4, 6);
  if (two_b) _tile_dpbf16ps(1, 4, 7);
  if (two_a) _tile_dpbf16ps(2, 5, 6);
  if (two_a && two_b) _tile_dpbf16ps(3, 5, 7);
}

// One or two strips of a by one or two of b: sums is [strip of a][strip of b] of 16 x 16.
template <bool two_a, bool two_b, bool transposed>
void multiply(const Part* a0, const Part* a1, const Part* b0, const Part* b1, int64_t steps, float* sums,
              bool add, Splitting<transposed>& splitting) {
  if (add) {
    _tile_loadd(0, sums, 64);
    if (two_b) _tile_loadd(1, sums + kSums, 64);
    if (two_a) _tile_loadd(2, sums + 2 * kSums, 64);
    if (two_a && two_b) _tile_loadd(3, sums + 3 * kSums, 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; ++s) {
    asm volatile("" ::: "memory");  // the intrinsics do not say that they read memory
    load_a<two_a>(a0, a1);
    load_b<two_b>(b0 + 2 * kTile, b1 + 2 * kTile);
    multiply_parts<two_a, two_b>();
    splitting.some();
    load_b<two_b>(b0 + kTile, b1 + kTile);
    multiply_parts<two_a, two_b>();
    splitting.some();
    load_a<two_a>(a0 + kTile, a1 + kTile);
    multiply_parts<two_a, two_b>();
    splitting.some();
    load_b<two_b>(b0, b1);
    multiply_parts<two_a, two_b>();
    splitting.some();
    load_a<two_a>(a0, a1);
    multiply_parts<two_a, two_b>();
    splitting.some();
    load_a<two_a>(a0 + 2 * kTile, a1 + 2 * kTile);
    multiply_parts<two_a, two_b>();
    splitting.some();
    a0 += kStepSize;
    a1 += kStepSize;
    b0 += kStepSize;
    b1 += kStepSize;
  }
  _tile_stored(0, sums, 64);
  if (two_b) _tile_stored(1, sums + kSums, 64);
  if (two_a) _tile_stored(2, sums + 2 * kSums, 64);
  if (two_a && two_b) _tile_stored(3, sums + 3 * kSums, 64);
  asm volatile("" ::: "memory");
}

// One or two strips of x by two of the weight, which is on the left where its rows run along the contraction.
template <bool two_x, bool transposed>
void multiply_strips(const Part* x, int64_t x_size, const Part* w, const Panel& panel, float* sums,
                     Splitting<transposed>& splitting) {
  const Part* const x0 = x + panel.step * kStepSize;
  const Part* const w1 = w + panel.steps * kStepSize;
  if (transposed) {
    multiply<two_x, true>(x0, x0 + x_size, w, w1, panel.steps, sums, panel.step > 0, splitting);
  } else {
    multiply<true, two_x>(w, w1, x0, x0 + x_size, panel.steps, sums, panel.step > 0, splitting);
  }
}

// A tile of sums -> y[row.., column..], with the bias. turned: the tile holds them transposed.
template <bool turned>
void store(const float* sums, const float* bias, float* y, int64_t row, int64_t rows, int64_t column,
           int64_t columns) {
  const __mmask16 mask = lanes(columns - column);
  const __m512 b = bias ? _mm512_maskz_loadu_ps(mask, bias + column) : _mm512_setzero_ps();
  __m512i r[kStrip];
  for (int64_t i = 0; i < kStrip; ++i) r[i] = _mm512_load_si512(sums + i * kStrip);
  if (turned) transpose(r);
  for (int64_t i = 0; i < std::min(kStrip, rows - row); ++i) {
    _mm512_mask_storeu_ps(y + (row + i) * columns + column, mask, _mm512_add_ps(_mm512_castsi512_ps(r[i]), b));
  }
}

// The strips of some rows of x by the panels begin..end of the weight.
template <bool transposed>
void multiply_panels(const Part* x, int64_t rows, const Weight& w, int64_t begin, int64_t end, const float* bias,
                     float* y) {
  thread_local Buffer<Part> panel_buffer;
  thread_local Buffer<float> sums_buffer;
  const int64_t steps = ceil_div(w.in, kStep), x_strips = ceil_div(rows, kStrip), passes = ceil_div(x_strips, 2);
  const int64_t x_size = steps * kStepSize, panel_size = 2 * std::min(steps, kSteps) * kStepSize;
  const int64_t sums_size = passes * 4 * kSums;
  const bool at_once = steps <= kSteps;  // or the sums of all panels wait for the next steps
  Part* const panels = panel_buffer.at_least(2 * panel_size);
  Part* const halves[] = {panels, panels + panel_size};
  float* const all_sums = sums_buffer.at_least((at_once ? 1 : end - begin) * sums_size);
  const int64_t step_stride = (transposed ? ceil_div(w.out, kStep) : 1) * kBlock;
  const int64_t panel_stride = (transposed ? 1 : steps) * kBlock;
  const auto panel_at = [&](int64_t t) {
    const int64_t step = t / (end - begin) * kSteps, first = begin + t % (end - begin);
    const float* const blocks = w.blocks + first * panel_stride + step * step_stride;
    return Panel{blocks, step, std::min(kSteps, steps - step), step_stride, panel_stride};
  };
  const int64_t count = ceil_div(steps, kSteps) * (end - begin);
  configure_tiles();
  Splitting<transposed>(panel_at(0), 1, halves[0]).rest();
  for (int64_t t = 0; t < count; ++t) {
    const Panel panel = panel_at(t);
    const Part* const split = halves[t % 2];
    Splitting<transposed> splitting;
    if (t + 1 < count) splitting = {panel_at(t + 1), passes * panel.steps * kProducts, halves[(t + 1) % 2]};
    const int64_t column = (begin + t % (end - begin)) * kStep;
    float* sums = all_sums + (at_once ? 0 : t % (end - begin)) * sums_size;
    for (int64_t strip = 0; strip < x_strips; strip += 2, sums += 4 * kSums) {
      const bool two_x = strip + 1 < x_strips;
      if (two_x) {
        multiply_strips<true>(x + strip * x_size, x_size, split, panel, sums, splitting);
      } else {
        multiply_strips<false>(x + strip * x_size, x_size, split, panel, sums, splitting);
      }
      if (panel.step + panel.steps < steps) continue;
      for (int64_t xi = 0; xi <= two_x; ++xi) {
        for (int64_t wi = 0; wi < 2; ++wi) {
          const float* const tile = sums + (transposed ? 2 * xi + wi : 2 * wi + xi) * kSums;
          store<!transposed>(tile, bias, y, (strip + xi) * kStrip, rows, column + wi * kStrip, w.out);
        }
      }
    }
  }
  _tile_release();
}

template <bool transposed>
void multiply_all(const Matrix& x, const Weight& w, const float* bias, float* y) {
  thread_local Buffer<Part> x_buffer;
  const int64_t steps = ceil_div(x.columns, kStep);
  const int64_t even = ceil_div(x.rows, ceil_div(x.rows, kRows)), some = ceil_div(even, kStrip) * kStrip;
  Part* const strips = x_buffer.at_least(some / kStrip * steps * kStepSize);
  for (int64_t first = 0; first < x.rows; first += some) {
    const Matrix part{x.data + first * x.columns, std::min(some, x.rows - first), x.columns};
    torch::stable::parallel_for(0, ceil_div(part.rows, kStrip) * steps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        split_rows<!transposed>(part, i / steps * kStrip, i % steps, strips + i * kStepSize);
      }
    });
    torch::stable::parallel_for(0, ceil_div(w.out, kStep), 1, [&](int64_t begin, int64_t end) {
      multiply_panels<transposed>(strips, part.rows, w, begin, end, bias, y + first * w.out);
    });
  }
}

#pragma GCC pop_options

// Whether the CPU has bfloat16 tiles and Linux lets this process use them.
bool has_tiles() {
  static const bool has = [] {
    constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24;  // of leaf 7's edx
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2)
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBf16) && (d & kTiles) &&
           __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
}

#else

bool has_tiles() { return false; }

template <bool transposed>
void multiply_all(const Matrix&, const Weight&, const float*, float*) {}

#endif

Tensor split_linear(const Tensor& x, const Tensor& blocks, const std::optional<Tensor>& bias, int64_t out,
                    bool transposed) {
  STD_TORCH_CHECK(has_tiles(), "clipfast::split_linear: this CPU, or this build, has no bfloat16 tiles (AMX)");
  STD_TORCH_CHECK(x.dim() >= 1 && out >= 1 && blocks.dim() == 4 && blocks.size(2) == 32 && blocks.size(3) == 32,
                  "clipfast::split_linear: expected x [..., in], a weight in blocks of 32 x 32, and out >= 1");
  const int64_t in = x.size(x.dim() - 1);
  STD_TORCH_CHECK(in >= 1 && blocks.size(transposed) == (out + 31) / 32 && blocks.size(!transposed) == (in + 31) / 32,
                  "clipfast::split_linear: expected the blocks of a weight of ", in, " columns and ", out,
                  " rows", transposed ? ", transposed" : "", ", got ", blocks.size(0), " x ", blocks.size(1), " blocks");
  const char* const op = "split_linear";
  const Tensor rows = torch::stable::contiguous(x);
  const Matrix left{floats(rows, shape_of(x), op, "x"), x.numel() / in, in};
  const Weight weight{floats(blocks, shape_of(blocks), op, "the blocks"), out, in};
  const float* const b = bias ? floats(*bias, {out}, op, "the bias") : nullptr;
  Shape shape = shape_of(x);
  shape.back() = out;
  Tensor y = new_floats(x, shape);
  float* const result = results(y);
  if (left.rows == 0) return y;
  if (transposed) {
    multiply_all<true>(left, weight, b, result);
  } else {
    multiply_all<false>(left, weight, b, result);
  }
  return y;
}

}  // namespace
}  // namespace clipfast

STABLE_TORCH_LIBRARY_IMPL(clipfast, CPU, m) { m.impl("split_linear", TORCH_BOX(&clipfast::split_linear)); }
