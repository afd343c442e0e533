#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdint>
#include <cstdio>  // before jpeglib.h, which needs it
#include <cstring>
#include <string>

#include <jpeglib.h>

#include <jerror.h>

#include "errors.h"
#include "orientation.h"
#include "picture.h"

namespace {

constexpr int APP1 = JPEG_APP0 + 1;
// Each costs as much as a picture of its size; encoders write some ten.
constexpr int MOST_SCANS = 100;

class JpegReader {
 public:
  explicit JpegReader(const std::string& bytes) {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = on_error;
    errors_.emit_message = on_message;
    info_.client_data = this;
    guarded([&] {
      jpeg_create_decompress(&info_);
      jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
      jpeg_save_markers(&info_, APP1, 0xFFFF);
    });
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&info_); }

  Decoded read() {
    guarded([this] { jpeg_read_header(&info_, TRUE); });
    check_pixel_count(info_.image_width, info_.image_height);
    const int orientation = exif();
    guarded([this] { jpeg_start_decompress(&info_); });
    Bytes samples({info_.output_height, info_.output_width, info_.output_components});
    guarded([&] {
      while (info_.output_scanline < info_.output_height) {
        JSAMPROW row = samples.row(info_.output_scanline);
        jpeg_read_scanlines(&info_, &row, 1);
      }
      jpeg_finish_decompress(&info_);
    });
    return {info_.out_color_space == JCS_CMYK ? from_cmyk(samples) : samples, orientation};
  }

 private:
  // libjpeg reports an error by a jump to here; nothing that it passes over may need a destructor.
  template <typename Step>
  void guarded(const Step& step) {
    if (setjmp(jump_) != 0) {
      throw InputError(std::string("broken or truncated image: ") + message_.data());
    }
    step();
  }

  static void on_error(j_common_ptr info) {
    auto* reader = static_cast<JpegReader*>(info->client_data);
    info->err->format_message(info, reader->message_.data());
    std::longjmp(reader->jump_, 1);
  }

  // What libjpeg only warns of, and then goes on with grey: that the file is over.
  static void on_message(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) {
      on_error(info);
    }
  }

  int exif() const {
    for (auto* marker = info_.marker_list; marker != nullptr; marker = marker->next) {
      if (marker->data_length >= 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0) {
        return exif_orientation(marker->data, marker->data_length);
      }
    }
    return 1;
  }

  // As Pillow takes it: inverted, as Adobe writes it, and without a colour profile.
  static Bytes from_cmyk(const Bytes& samples) {
    Bytes rgb({samples.size(0), samples.size(1), 3});
    const std::uint8_t* in = samples.data();
    std::uint8_t* out = rgb.data();
    for (std::size_t i = 0; i < samples.numel(); i += 4, in += 4, out += 3) {
      for (int c = 0; c < 3; ++c) {
        const int ink = (255 - in[c]) * in[3] + 128;
        out[c] = static_cast<std::uint8_t>(std::max(0, in[3] - (((ink >> 8) + ink) >> 8)));
      }
    }
    return rgb;
  }

  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  std::jmp_buf jump_{};
  std::array<char, JMSG_LENGTH_MAX> message_{};
};

}  // namespace

Decoded decode_jpeg(const std::string& bytes) {
  int scans = 0;
  for (std::size_t at = 0; (at = bytes.find("\xff\xda", at)) != std::string::npos; at += 2) {
    if (++scans > MOST_SCANS) {
      throw InputError("expected at most " + std::to_string(MOST_SCANS) + " scans, got more: made to take long?");
    }
  }
  return JpegReader(bytes).read();
}
