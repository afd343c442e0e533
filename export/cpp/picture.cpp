#include "picture.h"

#include <ATen/ops/empty.h>

#include "errors.h"

namespace {

at::Tensor upright(const at::Tensor& samples, int orientation) {
  switch (orientation) {
    case 2: return samples.flip({1});
    case 3: return samples.flip({0, 1});
    case 4: return samples.flip({0});
    case 5: return samples.transpose(0, 1);
    case 6: return samples.transpose(0, 1).flip({1});
    case 7: return samples.transpose(0, 1).flip({0, 1});
    case 8: return samples.transpose(0, 1).flip({0});
    default: return samples;
  }
}

// uint8 [H, W, 2] or [H, W, 4] -> [H, W, 1] or [H, W, 3].
at::Tensor on_white(const at::Tensor& samples) {
  const std::int64_t colors = samples.size(2) - 1;
  at::Tensor result = at::empty({samples.size(0), samples.size(1), colors}, at::kByte);
  const auto* in = samples.const_data_ptr<std::uint8_t>();
  auto* out = result.data_ptr<std::uint8_t>();
  for (std::int64_t i = 0; i < samples.numel(); i += colors + 1, in += colors + 1, out += colors) {
    const int alpha = in[colors];
    for (std::int64_t c = 0; c < colors; ++c) {
      out[c] = static_cast<std::uint8_t>((in[c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
  }
  return result;
}

}  // namespace

void check_pixel_count(std::int64_t width, std::int64_t height) {
  if (width * height > MAX_IMAGE_PIXELS) {
    throw InputError("expected at most " + std::to_string(MAX_IMAGE_PIXELS) +
                     " pixels, got more: a decompression bomb?");
  }
}

at::Tensor open_picture(const std::string& bytes) {
  if (bytes.empty()) {
    throw InputError("expected an image, got zero bytes");
  }
  const bool png = bytes.starts_with("\x89PNG\r\n\x1a\n");
  if (!png && !bytes.starts_with("\xff\xd8\xff")) {
    throw InputError("not an image that this program reads (PNG, JPEG)");
  }
  const Decoded decoded = png ? decode_png(bytes) : decode_jpeg(bytes);
  const bool alpha = decoded.samples.size(2) % 2 == 0;
  const at::Tensor samples = alpha ? on_white(decoded.samples) : decoded.samples;
  return upright(samples.expand({-1, -1, 3}), decoded.orientation).contiguous();
}
