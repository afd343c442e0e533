#include "picture.h"

#include "errors.h"

namespace {

// [H, W, 1] or [H, W, 3] -> [H, W, 3] or, where the orientation turns it, [W, H, 3].
Bytes upright(const Bytes& samples, int orientation) {
  const bool turned = orientation >= 5;
  const bool down = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  const bool across = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const std::int64_t height = samples.size(turned ? 1 : 0), width = samples.size(turned ? 0 : 1);
  const std::int64_t channels = samples.size(2), grey = channels == 1 ? 0 : 1;
  Bytes result({height, width, 3});
  std::uint8_t* out = result.data();
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      const std::int64_t v = down ? height - 1 - y : y, u = across ? width - 1 - x : x;
      const std::uint8_t* in = samples.row(turned ? u : v) + (turned ? v : u) * channels;
      for (std::int64_t c = 0; c < 3; ++c) {
        *out++ = in[c * grey];
      }
    }
  }
  return result;
}

// [H, W, 2] or [H, W, 4] -> [H, W, 1] or [H, W, 3].
Bytes on_white(const Bytes& samples) {
  const std::int64_t colors = samples.size(2) - 1;
  Bytes result({samples.size(0), samples.size(1), colors});
  const std::uint8_t* in = samples.data();
  std::uint8_t* out = result.data();
  for (std::int64_t i = 0; i < samples.size(0) * samples.size(1); ++i, in += colors + 1, out += colors) {
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

Bytes open_picture(const std::string& bytes) {
  if (bytes.empty()) {
    throw InputError("expected an image, got zero bytes");
  }
  const bool png = bytes.starts_with("\x89PNG\r\n\x1a\n");
  if (!png && !bytes.starts_with("\xff\xd8\xff")) {
    throw InputError("not an image that this program reads (PNG, JPEG)");
  }
  const Decoded decoded = png ? decode_png(bytes) : decode_jpeg(bytes);
  const bool alpha = decoded.samples.size(2) % 2 == 0;
  return upright(alpha ? on_white(decoded.samples) : decoded.samples, decoded.orientation);
}
