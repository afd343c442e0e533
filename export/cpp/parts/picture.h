#pragma once

#include <cstdint>
#include <string>

#include "array.h"

// A file that claims more is taken for a decompression bomb, as by `clipfast.preprocess`.
constexpr std::int64_t MAX_IMAGE_PIXELS = 89'478'485;

// A decoded file as it lies in it. samples: [H, W, C], C of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
// alpha). orientation: EXIF's, 1 to 8.
struct Decoded {
  Bytes samples;
  int orientation;
};

// Of the bytes of a PNG or a JPEG file. Raise InputError for a broken, truncated or too large one.
Decoded decode_png(const std::string& bytes);
Decoded decode_jpeg(const std::string& bytes);

// Raises InputError for a picture larger than MAX_IMAGE_PIXELS.
void check_pixel_count(std::int64_t width, std::int64_t height);

// A picture file's bytes as an upright picture, [H, W, 3], RGB; transparent parts show white.
//
// Raises InputError for what is no readable PNG or JPEG file.
Bytes open_picture(const std::string& bytes);
