#pragma once

#include <cstdint>

#include "array.h"

enum class Interpolation { bicubic, bilinear };

// Resizes a picture, [H, W, C], to [height, width, C] with antialiasing, as Pillow does to the bit: across
// and down one after the other, by a filter that is widened to what a pixel of the result covers, in
// integers. Others' antialiased resizing differs from it by a grey level here and there, which is as much as
// an attack may change.
Bytes resample(const Bytes& picture, std::int64_t height, std::int64_t width, Interpolation by);
