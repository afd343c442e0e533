#include "resample.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

// Weights are integers of this many fractional bits: a sum of products with bytes then fits 32 bits.
constexpr int FRACTION = 22;

double cubic(double x) {  // Keys' kernel with a = -1/2
  x = std::abs(x);
  if (x < 1) {
    return (1.5 * x - 2.5) * x * x + 1;
  }
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

double triangle(double x) { return std::max(0.0, 1 - std::abs(x)); }

// The pixels first, first + 1, ... that one pixel of the result is made of.
struct Window {
  std::int64_t first;
  std::vector<std::int32_t> weights;
};

std::vector<Window> windows(std::int64_t from, std::int64_t to, Interpolation by) {
  const auto kernel = by == Interpolation::bicubic ? cubic : triangle;
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double widened = std::max(1.0, scale);
  const double reach = (by == Interpolation::bicubic ? 2.0 : 1.0) * widened;
  std::vector<Window> result(static_cast<std::size_t>(to));
  std::vector<double> weights;
  for (std::size_t i = 0; i < result.size(); ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(center - reach + 0.5));
    const auto end = std::min(from, static_cast<std::int64_t>(center + reach + 0.5));
    weights.clear();
    double sum = 0;
    for (std::int64_t x = first; x < end; ++x) {
      weights.push_back(kernel((static_cast<double>(x) - center + 0.5) * (1 / widened)));
      sum += weights.back();
    }
    result[i].first = first;
    for (const double weight : weights) {
      result[i].weights.push_back(static_cast<std::int32_t>(std::round(weight / sum * (1 << FRACTION))));
    }
  }
  return result;
}

// Bytes [outer, from, inner] -> [outer, to, inner].
void along_middle(const std::uint8_t* in, std::uint8_t* out, std::int64_t outer, std::int64_t from,
                  std::int64_t to, std::int64_t inner, Interpolation by) {
  const std::vector<Window> all = windows(from, to, by);
  std::vector<std::int32_t> sums(static_cast<std::size_t>(inner));
  for (std::int64_t o = 0; o < outer; ++o, in += from * inner) {
    for (const Window& window : all) {
      std::fill(sums.begin(), sums.end(), 1 << (FRACTION - 1));
      const std::uint8_t* pixel = in + window.first * inner;
      for (const std::int32_t weight : window.weights) {
        for (std::int32_t& sum : sums) {
          sum += weight * *pixel++;
        }
      }
      for (const std::int32_t sum : sums) {
        *out++ = static_cast<std::uint8_t>(std::clamp(sum >> FRACTION, 0, 255));
      }
    }
  }
}

Bytes across(const Bytes& picture, std::int64_t width, Interpolation by) {
  const std::int64_t height = picture.size(0), old_width = picture.size(1), channels = picture.size(2);
  if (old_width == width) {
    return picture;
  }
  Bytes result({height, width, channels});
  along_middle(picture.data(), result.data(), height, old_width, width, channels, by);
  return result;
}

Bytes down(const Bytes& picture, std::int64_t height, Interpolation by) {
  const std::int64_t old_height = picture.size(0), width = picture.size(1), channels = picture.size(2);
  if (old_height == height) {
    return picture;
  }
  Bytes result({height, width, channels});
  along_middle(picture.data(), result.data(), 1, old_height, height, width * channels, by);
  return result;
}

}  // namespace

Bytes resample(const Bytes& picture, std::int64_t height, std::int64_t width, Interpolation by) {
  // The order shows, as numbers are rounded between the two; this is how Pillow 13 chooses
  // it. Earlier ones choose otherwise.
  const std::int64_t lost_rows = picture.size(0) - height, lost_columns = picture.size(1) - width;
  if (lost_rows > 0 && lost_rows > 2 * lost_columns) {
    return across(down(picture, height, by), width, by);
  }
  return down(across(picture, width, by), height, by);
}
