#include "preprocess.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "errors.h"
#include "files.h"
#include "picture.h"

namespace {

// Half to even, as Python rounds.
std::int64_t rounded(double value) { return static_cast<std::int64_t>(std::nearbyint(value)); }

// Pictures are [H, W, 3] here.
Bytes resize(const Bytes& picture, std::int64_t height, std::int64_t width, Interpolation by) {
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

Bytes crop_or_pad(const Bytes& picture, std::int64_t height, std::int64_t width, int fill) {
  const std::int64_t grown_height = std::max(picture.size(0), height);
  const std::int64_t grown_width = std::max(picture.size(1), width);
  // Where the picture's first pixel lies in the result.
  const std::int64_t top = (grown_height - picture.size(0)) / 2 -
                           rounded(static_cast<double>(grown_height - height) / 2);
  const std::int64_t left = (grown_width - picture.size(1)) / 2 -
                            rounded(static_cast<double>(grown_width - width) / 2);
  Bytes result({height, width, 3});
  std::fill_n(result.data(), result.numel(), static_cast<std::uint8_t>(fill));
  const std::int64_t first = std::max<std::int64_t>(0, left);
  const std::int64_t end = std::min(width, left + picture.size(1));
  for (std::int64_t y = std::max<std::int64_t>(0, top); y < std::min(height, top + picture.size(0)); ++y) {
    std::copy_n(picture.row(y - top) + 3 * (first - left), 3 * (end - first), result.row(y) + 3 * first);
  }
  return result;
}

// [H, W, 3] -> [3, H, W].
Bytes channels_first(const Bytes& picture) {
  Bytes result({3, picture.size(0), picture.size(1)});
  const std::uint8_t* in = picture.data();
  const std::size_t area = result.row_size();
  for (std::size_t i = 0; i < area; ++i) {
    for (std::size_t c = 0; c < 3; ++c) {
      result.data()[c * area + i] = *in++;
    }
  }
  return result;
}

}  // namespace

Bytes Preprocess::operator()(const std::filesystem::path& path) const {
  const std::string bytes = read_bytes(path);
  try {
    return channels_first(resized(open_picture(bytes)));
  } catch (const InputError& error) {
    throw InputError(path.string() + ": " + error.what());
  }
}

Bytes Preprocess::resized(const Bytes& picture) const {
  const std::int64_t old_height = picture.size(0), old_width = picture.size(1);
  if (resize_mode == ResizeMode::squash) {
    return resize(picture, height, width, interpolation);
  }
  if (resize_mode == ResizeMode::shortest && height == width) {
    const auto [shorter, longer] = std::minmax(old_height, old_width);
    const auto scaled = static_cast<std::int64_t>(static_cast<double>(height * longer) /
                                                  static_cast<double>(shorter));
    const bool upended = old_width <= old_height;
    const Bytes result =
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
  const Bytes result =
      resize(picture, new_height, new_width, longest ? interpolation : Interpolation::bicubic);
  return crop_or_pad(result, height, width, longest ? fill_color : 0);
}
