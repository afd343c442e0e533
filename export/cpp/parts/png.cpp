#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "errors.h"
#include "orientation.h"
#include "picture.h"

namespace {

using Color = std::array<std::uint8_t, 3>;

class PngReader {
 public:
  explicit PngReader(const std::string& bytes) : bytes_(bytes) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw InputError("no memory left for an image");
    }
    png_set_read_fn(png_, this, on_read);
  }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  Decoded read() {
    guarded([this] { png_read_info(png_, info_); });
    const auto width = png_get_image_width(png_, info_), height = png_get_image_height(png_, info_);
    check_pixel_count(width, height);
    const int type = png_get_color_type(png_, info_), depth = png_get_bit_depth(png_, info_);
    const bool deep_grey = type == PNG_COLOR_TYPE_GRAY && depth == 16;
    const std::optional<Color> transparent = deep_grey ? std::nullopt : transparent_color(type, depth);
    guarded([&] {
      if (type == PNG_COLOR_TYPE_PALETTE) {
        png_set_palette_to_rgb(png_);
        if (png_get_valid(png_, info_, PNG_INFO_tRNS) != 0) {
          png_set_tRNS_to_alpha(png_);
        }
      } else if (depth < 8) {
        png_set_expand_gray_1_2_4_to_8(png_);
      } else if (depth == 16 && !deep_grey) {
        png_set_strip_16(png_);
      }
      png_set_interlace_handling(png_);
      png_read_update_info(png_, info_);
    });
    const std::int64_t channels = png_get_channels(png_, info_);
    Bytes samples({height, width, channels * (deep_grey ? 2 : 1)});
    std::vector<png_bytep> rows(height);
    for (std::size_t y = 0; y < height; ++y) {
      rows[y] = samples.row(static_cast<std::int64_t>(y));
    }
    guarded([&] {
      png_read_image(png_, rows.data());
      png_read_end(png_, info_);  // EXIF may stand behind the pixels
    });
    if (deep_grey) {
      samples = to_8_bits(samples, transparent_grey());
    }
    return {transparent ? with_alpha(samples, *transparent) : samples, orientation()};
  }

 private:
  // libpng reports an error by a jump to here; nothing that it passes over may need a destructor.
  template <typename Step>
  void guarded(const Step& step) {
    if (setjmp(png_jmpbuf(png_)) != 0) {
      throw InputError(std::string("broken or truncated image: ") + message_.data());
    }
    step();
  }

  static void on_error(png_structp png, png_const_charp message) {
    auto& text = static_cast<PngReader*>(png_get_error_ptr(png))->message_;
    std::strncpy(text.data(), message, text.size() - 1);
    png_longjmp(png, 1);
  }

  static void on_warning(png_structp, png_const_charp) {}

  static void on_read(png_structp png, png_bytep out, std::size_t size) {
    auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
    if (size > reader->bytes_.size() - reader->position_) {
      png_error(png, "the file ends too early");
    }
    std::memcpy(out, reader->bytes_.data() + reader->position_, size);
    reader->position_ += size;
  }

  // The one colour that a file without an alpha channel shows as transparent. Pillow compares the low
  // eight bits that the file names with the samples once they are eight bits wide, and so does this.
  std::optional<Color> transparent_color(int type, int depth) {
    png_color_16p color = nullptr;
    if (type == PNG_COLOR_TYPE_PALETTE || png_get_tRNS(png_, info_, nullptr, nullptr, &color) == 0) {
      return std::nullopt;
    }
    const auto low = [](png_uint_16 value) { return static_cast<std::uint8_t>(value & 0xFF); };
    if (type == PNG_COLOR_TYPE_GRAY) {
      const std::uint8_t grey = depth == 1 && color->gray != 0 ? 255 : low(color->gray);
      return Color{grey, grey, grey};
    }
    return Color{low(color->red), low(color->green), low(color->blue)};
  }

  // The grey of 16 bits that a file shows as transparent.
  std::optional<int> transparent_grey() {
    png_color_16p color = nullptr;
    if (png_get_tRNS(png_, info_, nullptr, nullptr, &color) == 0) {
      return std::nullopt;
    }
    return color->gray;
  }

  // [H, W, 1] of big-endian uint16 [H, W], whose bytes come as [H, W, 2]; white where it is transparent.
  static Bytes to_8_bits(const Bytes& bytes, std::optional<int> transparent) {
    Bytes grey({bytes.size(0), bytes.size(1), 1});
    const std::uint8_t* in = bytes.data();
    std::uint8_t* out = grey.data();
    for (std::size_t i = 0; i < grey.numel(); ++i) {
      const int value = in[2 * i] << 8 | in[2 * i + 1];
      out[i] = value == transparent ? 255 : static_cast<std::uint8_t>(std::nearbyint(value * (255 / 65535.0)));
    }
    return grey;
  }

  static Bytes with_alpha(const Bytes& samples, const Color& transparent) {
    const std::int64_t channels = samples.size(2);
    Bytes result({samples.size(0), samples.size(1), channels + 1});
    const std::uint8_t* in = samples.data();
    std::uint8_t* out = result.data();
    const std::int64_t area = samples.size(0) * samples.size(1);
    for (std::int64_t i = 0; i < area; ++i, in += channels, out += channels + 1) {
      std::copy_n(in, channels, out);
      out[channels] = std::equal(in, in + channels, transparent.begin()) ? 0 : 255;
    }
    return result;
  }

  int orientation() {
    png_uint_32 size = 0;
    png_bytep exif = nullptr;
    if (png_get_eXIf_1(png_, info_, &size, &exif) == 0) {
      return 1;
    }
    std::string data("Exif\0\0", 6);  // which JPEG files have before it
    data.append(reinterpret_cast<const char*>(exif), size);
    return exif_orientation(reinterpret_cast<const unsigned char*>(data.data()), data.size());
  }

  const std::string& bytes_;
  std::size_t position_ = 0;
  std::array<char, 200> message_{};
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

}  // namespace

Decoded decode_png(const std::string& bytes) { return PngReader(bytes).read(); }
