#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

enum class Interpolation { bicubic, bilinear };

// Resizes a picture, uint8 [H, W, C], to uint8 [height, width, C] with antialiasing, as Pillow does to the
// bit: across and down one after the other, by a filter that is widened to what a pixel of the result
// covers, in integers. torch's own antialiased resize differs from it by one grey level in up to six of a
// hundred values, which is as much as an attack may change.
at::Tensor resample(const at::Tensor& picture, std::int64_t height, std::int64_t width, Interpolation by);
