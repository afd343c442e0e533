// y = x w^T + bias in float32, multiplied as bfloat16 on the tile units (AMX) of x86 CPUs.
//
// A float32 is the sum of three bfloat16 numbers, and six products of parts, added in float32, are as exact as
// one float32 product: those left out lie below 2^-24 of it (Henry, Tang, Heinecke, "Leveraging the bfloat16
// artificial intelligence datatype for higher-precision computations", ARITH 2019).
//
// The weight stays as it lies in memory, row by row or column by column. Each thread takes some of its rows, a
// panel of 32 at a time: while the tile units multiply one panel by all of x, the vector units split the next
// into the thread's cache, so a weight is read once for up to kBlockRows rows of x.
//
// Operands are kept as strips of 16 rows (of x or of w), a strip as tiles of 16 x 32 numbers, step by step
// along the contraction, the three parts one after the other. Within a step the numbers i and i + 16 stand
// side by side: any order will do that both operands share, and this one needs no shuffle.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <vector>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLIPFAST_HAS_TILES 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

using torch::stable::Tensor;

struct Matrix {  // row by row
  const float* data;
  int64_t rows, columns, stride;
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
constexpr int kProducts = 6;                  // of parts
constexpr int64_t kSums = kStrip * kStrip;    // numbers in a tile of the result
constexpr int64_t kBlockRows = 224;           // of x whose strips are multiplied together, and
constexpr int64_t kBlockSteps = 24;           // steps: so that they and two panels of w fit the second cache

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

// Rows first..first + 15 of m, which run along the contraction, as a strip; zeros where m ends. turned: as the
// right operand of a product, which the tile units take column by column.
template <bool turned>
void split_rows(const Matrix& m, int64_t first, int64_t step, int64_t steps, Part* out) {
  for (int64_t s = step; s < step + steps; ++s, out += kStepSize) {
    const int64_t k = s * kStep;
    const __mmask16 low = lanes(m.columns - k), high = lanes(m.columns - k - kStrip);
    __m512i tiles[kParts][kStrip];
    for (int64_t r = 0; r < kStrip; ++r) {
      const bool inside = first + r < m.rows;
      const float* const row = m.data + (inside ? first + r : 0) * m.stride + k;
      const Pair pair = split(_mm512_maskz_loadu_ps(inside ? low : 0, row),
                              _mm512_maskz_loadu_ps(inside ? high : 0, row + kStrip));
      for (int64_t p = 0; p < kParts; ++p) tiles[p][r] = pair.parts[p];
    }
    for (int64_t p = 0; p < kParts; ++p) {
      if (turned) transpose(tiles[p]);
      for (int64_t r = 0; r < kStrip; ++r) _mm512_store_si512(out + p * kTile + r * kStep, tiles[p][r]);
    }
  }
}

// Columns first..first + 15 of m, which run along the contraction, as a strip for the right of a product.
void split_columns(const Matrix& m, int64_t first, int64_t step, int64_t steps, Part* out) {
  const __mmask16 mask = lanes(m.columns - first);
  for (int64_t s = step; s < step + steps; ++s, out += kStepSize) {
    for (int64_t r = 0; r < kStrip; ++r) {
      const int64_t k = s * kStep + r;
      const bool low = k < m.rows, high = k + kStrip < m.rows;
      const float* const a = m.data + (low ? k : 0) * m.stride + first;
      const float* const b = m.data + (high ? k + kStrip : 0) * m.stride + first;
      const Pair pair =
          split(_mm512_maskz_loadu_ps(low ? mask : 0, a), _mm512_maskz_loadu_ps(high ? mask : 0, b));
      for (int64_t p = 0; p < kParts; ++p) _mm512_store_si512(out + p * kTile + r * kStep, pair.parts[p]);
    }
  }
}

// Two strips of the weight over some steps of the contraction.
struct Panel {
  int64_t row, step, steps;
  bool two;  // or one, at the weight's end
};

// Splits a whole panel while the tile units multiply another: in each of their passes over the steps a share
// of its rows, a few after each of the products of parts.
template <bool by_rows>
class Splitting {
 public:
  Splitting() = default;
  Splitting(const Matrix& w, const Panel& panel, int64_t passes, Part* out)
      : w_(w.data + (by_rows ? panel.row * w.stride + panel.step * kStep
                             : panel.step * kStep * w.stride + panel.row)),
        stride_(w.stride), steps_(panel.steps), passes_(passes), out_(out) {}

  void start(int64_t pass) {
    if (passes_ == 0) return;
    for (int p = 0; p <= kProducts; ++p) from_[p] = kRows * (pass * kProducts + p) / (passes_ * kProducts);
  }

  void run(int product, int64_t step) {
    if (step >= steps_) return;
    const int64_t share = from_[kProducts] - from_[0];
    for (int64_t i = from_[product]; i < from_[product + 1]; ++i) {
      const bool within = step + kAhead < steps_;
      const float* const later = at(within ? step + kAhead : step + kAhead - steps_, within ? i : i + share);
      _mm_prefetch(reinterpret_cast<const char*>(later), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(later + second()), _MM_HINT_T0);
      const float* const a = at(step, i);
      const Pair pair = split(_mm512_loadu_ps(a), _mm512_loadu_ps(a + second()));
      const int64_t strip = by_rows ? i / kStrip : i % 2, row = by_rows ? i % kStrip : i / 2;
      Part* const out = out_ + (strip * steps_ + step) * kStepSize + row * kStep;
      for (int64_t p = 0; p < kParts; ++p) _mm512_store_si512(out + p * kTile, pair.parts[p]);
    }
  }

 private:
  static constexpr int64_t kRows = 2 * kStrip, kAhead = 2;

  int64_t second() const { return by_rows ? kStrip : kStrip * stride_; }

  const float* at(int64_t step, int64_t i) const {
    if (by_rows) return w_ + i * stride_ + step * kStep;
    return w_ + (step * kStep + i % kRows / 2) * stride_ + i % 2 * kStrip + i / kRows * kRows;
  }

  const float* w_ = nullptr;
  int64_t stride_ = 0, steps_ = 0, passes_ = 0;
  Part* out_ = nullptr;
  int64_t from_[kProducts + 1] = {};
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
template <bool two_a, bool two_b, bool by_rows>
void multiply(const Part* a0, const Part* a1, const Part* b0, const Part* b1, int64_t steps, float* sums,
              bool add, Splitting<by_rows>& splitting) {
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
    splitting.run(0, s);
    load_b<two_b>(b0 + kTile, b1 + kTile);
    multiply_parts<two_a, two_b>();
    splitting.run(1, s);
    load_a<two_a>(a0 + kTile, a1 + kTile);
    multiply_parts<two_a, two_b>();
    splitting.run(2, s);
    load_b<two_b>(b0, b1);
    multiply_parts<two_a, two_b>();
    splitting.run(3, s);
    load_a<two_a>(a0, a1);
    multiply_parts<two_a, two_b>();
    splitting.run(4, s);
    load_a<two_a>(a0 + 2 * kTile, a1 + 2 * kTile);
    multiply_parts<two_a, two_b>();
    splitting.run(5, s);
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

template <bool by_rows>
void multiply(const Part* a0, const Part* a1, const Part* b0, const Part* b1, int64_t steps, float* sums,
              bool add, Splitting<by_rows>& splitting, bool two_a, bool two_b) {
  if (two_a && two_b) return multiply<true, true>(a0, a1, b0, b1, steps, sums, add, splitting);
  if (two_a) return multiply<true, false>(a0, a1, b0, b1, steps, sums, add, splitting);
  if (two_b) return multiply<false, true>(a0, a1, b0, b1, steps, sums, add, splitting);
  return multiply<false, false>(a0, a1, b0, b1, steps, sums, add, splitting);
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

// The strips of a block of x by rows begin..end of the weight, counted in panels.
template <bool by_rows>
void multiply_panels(const Part* x, int64_t rows, int64_t steps, const Matrix& w, int64_t begin, int64_t end,
                     const float* bias, float* y) {
  thread_local Buffer<Part> panel_buffer;
  thread_local Buffer<float> sums_buffer;
  const int64_t out = by_rows ? w.rows : w.columns, contraction = by_rows ? w.columns : w.rows;
  const int64_t x_strips = ceil_div(rows, kStrip), w_strips = ceil_div(out, kStrip);
  const int64_t passes = ceil_div(x_strips, 2), strip_size = steps * kStepSize;
  const int64_t panel_size = 2 * std::min(steps, kBlockSteps) * kStepSize, sums_size = passes * 4 * kSums;
  const bool at_once = steps <= kBlockSteps;  // or the sums of all panels wait for the next steps
  Part* const panels = panel_buffer.at_least(2 * panel_size);
  float* const sums = sums_buffer.at_least((at_once ? 1 : end - begin) * sums_size);
  const auto panel_at = [&](int64_t t) {
    const int64_t step = t / (end - begin) * kBlockSteps, strip = 2 * (begin + t % (end - begin));
    return Panel{strip * kStrip, step, std::min(kBlockSteps, steps - step), strip + 1 < w_strips};
  };
  const auto split_now = [&](const Panel& panel, Part* to) {
    for (int64_t i = 0; i <= panel.two; ++i, to += panel.steps * kStepSize) {
      if (by_rows) {
        split_rows<false>(w, panel.row + i * kStrip, panel.step, panel.steps, to);
      } else {
        split_columns(w, panel.row + i * kStrip, panel.step, panel.steps, to);
      }
    }
  };
  configure_tiles();
  split_now(panel_at(0), panels);
  const int64_t count = ceil_div(steps, kBlockSteps) * (end - begin);
  for (int64_t t = 0; t < count; ++t) {
    const Panel panel = panel_at(t);
    const Part* const w0 = panels + t % 2 * panel_size;
    const Part* const w1 = w0 + panel.steps * kStepSize;
    Splitting<by_rows> splitting;
    if (t + 1 < count) {
      const Panel next = panel_at(t + 1);
      Part* const to = panels + (t + 1) % 2 * panel_size;
      const bool whole = next.row + 2 * kStrip <= out && contraction % kStep == 0;
      if (whole && next.steps <= panel.steps) {
        splitting = {w, next, passes, to};
      } else {
        split_now(next, to);
      }
    }
    float* tiles = sums + (at_once ? 0 : t % (end - begin)) * sums_size;
    for (int64_t pass = 0; pass < passes; ++pass, tiles += 4 * kSums) {
      const int64_t strip = 2 * pass;
      const bool two_x = strip + 1 < x_strips;
      const Part* const x0 = x + strip * strip_size + panel.step * kStepSize;
      const Part* const x1 = x0 + strip_size;
      splitting.start(pass);
      if (by_rows) {
        multiply(w0, w1, x0, x1, panel.steps, tiles, panel.step > 0, splitting, panel.two, two_x);
      } else {
        multiply(x0, x1, w0, w1, panel.steps, tiles, panel.step > 0, splitting, two_x, panel.two);
      }
      if (panel.step + panel.steps < steps) continue;
      for (int64_t xi = 0; xi <= two_x; ++xi) {
        for (int64_t wi = 0; wi <= panel.two; ++wi) {
          const float* const tile = tiles + (by_rows ? 2 * wi + xi : 2 * xi + wi) * kSums;
          store<by_rows>(tile, bias, y, (strip + xi) * kStrip, rows, panel.row + wi * kStrip, out);
        }
      }
    }
  }
  _tile_release();
}

// by_rows: w is the weight [out, in]; otherwise its transpose.
template <bool by_rows>
void multiply_all(const Matrix& x, const Matrix& w, const float* bias, float* y) {
  thread_local Buffer<Part> x_buffer;
  const int64_t out = by_rows ? w.rows : w.columns, steps = ceil_div(x.columns, kStep);
  const int64_t even_rows = ceil_div(x.rows, ceil_div(x.rows, kBlockRows));
  const int64_t block_rows = ceil_div(even_rows, kStrip) * kStrip;
  Part* const strips = x_buffer.at_least(block_rows / kStrip * steps * kStepSize);
  for (int64_t first = 0; first < x.rows; first += block_rows) {
    const Matrix block{x.data + first * x.stride, std::min(block_rows, x.rows - first), x.columns, x.stride};
    torch::stable::parallel_for(0, ceil_div(block.rows, kStrip) * steps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        split_rows<by_rows>(block, i / steps * kStrip, i % steps, 1, strips + i * kStepSize);
      }
    });
    torch::stable::parallel_for(0, ceil_div(out, 2 * kStrip), 1, [&](int64_t begin, int64_t end) {
      multiply_panels<by_rows>(strips, block.rows, steps, w, begin, end, bias, y + first * out);
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

template <bool by_rows>
void multiply_all(const Matrix&, const Matrix&, const float*, float*) {}

#endif

const float* floats(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == torch::headeronly::ScalarType::Float,
                  "clipfast::split_linear: expected ", name, " as a float32 tensor on a CPU");
  return static_cast<const float*>(tensor.data_ptr());
}

Tensor split_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  STD_TORCH_CHECK(has_tiles(), "clipfast::split_linear: this CPU, or this build, has no bfloat16 tiles (AMX)");
  STD_TORCH_CHECK(weight.dim() == 2 && x.dim() >= 1, "clipfast::split_linear: expected x [..., in] and weight ",
                  "[out, in], got ", x.dim(), " and ", weight.dim(), " dimensions");
  const int64_t out = weight.size(0), in = weight.size(1);
  STD_TORCH_CHECK(x.size(x.dim() - 1) == in, "clipfast::split_linear: expected x with ", in,
                  " columns, as the weight has, got ", x.size(x.dim() - 1));
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == out),
                  "clipfast::split_linear: expected a bias of length ", out);
  STD_TORCH_CHECK(!bias || bias->is_contiguous(), "clipfast::split_linear: expected a contiguous bias");
  const bool by_rows = weight.stride(1) == 1 && weight.stride(0) >= in;
  STD_TORCH_CHECK(by_rows || (weight.stride(0) == 1 && weight.stride(1) >= out),
                  "clipfast::split_linear: expected a weight that is dense by rows or by columns, got strides ",
                  weight.stride(0), " and ", weight.stride(1));
  const Tensor rows = torch::stable::contiguous(x);
  const float* const b = bias ? floats(*bias, "the bias") : nullptr;
  const Matrix left{floats(rows, "x"), in == 0 ? 0 : x.numel() / in, in, in};
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = out;
  Tensor y = torch::stable::new_empty(x, shape);
  if (y.numel() == 0) return y;
  STD_TORCH_CHECK(in > 0, "clipfast::split_linear: expected at least one column");
  float* const result = static_cast<float*>(y.data_ptr());
  const float* const w = floats(weight, "the weight");
  if (by_rows) {
    multiply_all<true>(left, {w, out, in, weight.stride(0)}, b, result);
  } else {
    multiply_all<false>(left, {w, in, out, weight.stride(1)}, b, result);
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(clipfast, CPU, m) { m.impl("split_linear", TORCH_BOX(&split_linear)); }
