#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

using Shape = std::vector<std::int64_t>;

// As [2, 3, 4].
inline std::string shown(const Shape& shape) {
  std::string text;
  for (const std::int64_t size : shape) {
    text += (text.empty() ? "" : ", ") + std::to_string(size);
  }
  return "[" + text + "]";
}

inline std::size_t count(const Shape& shape) {
  return static_cast<std::size_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
}

// Values in C order: of the last axis side by side.
template <typename T>
class Array {
 public:
  // Zeros, where no values are given.
  explicit Array(Shape shape) : shape_(std::move(shape)), values_(count(shape_)) {}
  Array(Shape shape, std::vector<T> values) : shape_(std::move(shape)), values_(std::move(values)) {}

  const Shape& shape() const { return shape_; }
  std::int64_t size(std::size_t axis) const { return shape_[axis]; }
  std::size_t numel() const { return values_.size(); }
  T* data() { return values_.data(); }
  const T* data() const { return values_.data(); }
  T* row(std::int64_t i) { return data() + static_cast<std::size_t>(i) * row_size(); }
  const T* row(std::int64_t i) const { return data() + static_cast<std::size_t>(i) * row_size(); }

  // How many values an index of the first axis stands for.
  std::size_t row_size() const { return count({shape_.begin() + 1, shape_.end()}); }

  // The rows of these indices along the first axis.
  Array rows(const std::vector<std::int64_t>& indices) const {
    Shape shape = shape_;
    shape[0] = static_cast<std::int64_t>(indices.size());
    Array result(std::move(shape));
    T* out = result.data();
    for (const std::int64_t i : indices) {
      out = std::copy_n(row(i), row_size(), out);
    }
    return result;
  }

 private:
  Shape shape_;
  std::vector<T> values_;
};

using Bytes = Array<std::uint8_t>;
using Floats = Array<float>;

// Arrays of one shape along a new first axis; at least one of them.
template <typename T>
Array<T> stacked(const std::vector<Array<T>>& arrays) {
  Shape shape = arrays.front().shape();
  shape.insert(shape.begin(), static_cast<std::int64_t>(arrays.size()));
  Array<T> result(std::move(shape));
  T* out = result.data();
  for (const Array<T>& array : arrays) {
    out = std::copy_n(array.data(), array.numel(), out);
  }
  return result;
}
