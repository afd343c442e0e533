#include "preprocess.h"

#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "errors.h"
#include "files.h"
#include "picture.h"

namespace {

// Half to even, as Python rounds.
std::int64_t rounded(double value) { return static_cast<std::int64_t>(std::nearbyint(value)); }

// Pictures are uint8 [H, W, 3] here.
at::Tensor resize(const at::Tensor& picture, std::int64_t height, std::int64_t width, Interpolation by) {
  const std::int64_t old_height = picture.size(0), old_width = picture.size(1);
  if (old_height == height && old_width == width) {
    return picture;
  }
  // Of floats, as the product of integers might overflow.
  if (static_cast<double>(height) * static_cast<double>(width) > MAX_IMAGE_PIXELS) {
    throw InputError("expected an image that can be resized, got " + std::to_string(old_width) + " x " +
                     std::to_string(old_height) + ": too long and narrow, it would become " +
                     std::to_string(width) + " x " + std::to_string(height));
  }
  return resample(picture, height, width, by);
}

at::Tensor crop_or_pad(const at::Tensor& picture, std::int64_t height, std::int64_t width, int fill) {
  const std::int64_t grown_height = std::max(picture.size(0), height);
  const std::int64_t grown_width = std::max(picture.size(1), width);
  at::Tensor grown = at::full({grown_height, grown_width, 3}, fill, at::kByte);
  grown.narrow(0, (grown_height - picture.size(0)) / 2, picture.size(0))
      .narrow(1, (grown_width - picture.size(1)) / 2, picture.size(1))
      .copy_(picture);
  const double top = static_cast<double>(grown_height - height) / 2;
  const double left = static_cast<double>(grown_width - width) / 2;
  return grown.narrow(0, rounded(top), height).narrow(1, rounded(left), width);
}

}  // namespace

at::Tensor Preprocess::operator()(const std::filesystem::path& path) const {
  const std::string bytes = read_bytes(path);
  try {
    return resized(open_picture(bytes)).permute({2, 0, 1}).contiguous();
  } catch (const InputError& error) {
    throw InputError(path.string() + ": " + error.what());
  }
}

at::Tensor Preprocess::resized(const at::Tensor& picture) const {
  const std::int64_t old_height = picture.size(0), old_width = picture.size(1);
  if (resize_mode == ResizeMode::squash) {
    return resize(picture, height, width, interpolation);
  }
  if (resize_mode == ResizeMode::shortest && height == width) {
    const auto [shorter, longer] = std::minmax(old_height, old_width);
    const auto scaled = static_cast<std::int64_t>(static_cast<double>(height * longer) /
                                                  static_cast<double>(shorter));
    const bool upended = old_width <= old_height;
    const at::Tensor result =
        resize(picture, upended ? scaled : height, upended ? height : scaled, interpolation);
    return crop_or_pad(result, height, width, 0);
  }
  const bool longest = resize_mode == ResizeMode::longest;
  const double down = static_cast<double>(old_height) / static_cast<double>(height);
  const double across = static_cast<double>(old_width) / static_cast<double>(width);
  const double ratio = longest ? std::max(down, across) : std::min(down, across);
  const auto new_height = std::max<std::int64_t>(1, rounded(static_cast<double>(old_height) / ratio));
  const auto new_width = std::max<std::int64_t>(1, rounded(static_cast<double>(old_width) / ratio));
  // open_clip resizes to a non-square "shortest" target by bicubic, whatever the setting.
  const at::Tensor result =
      resize(picture, new_height, new_width, longest ? interpolation : Interpolation::bicubic);
  return crop_or_pad(result, height, width, longest ? fill_color : 0);
}
