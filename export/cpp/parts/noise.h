#pragma once

#include <cstdint>

#include "array.h"
#include "metadata.h"

// Noise that was never drawn, [n, 3, H, W]: U(-eps, eps) per pixel, or in l2 a normal direction of a
// length of U(0, eps). Every number comes from the operating system's cryptographic generator.
//
// Raises std::system_error where the operating system gives none.
Floats fresh_noise(std::int64_t n, const Metadata& metadata);

// Raises InputError for noise that is not [n, 3, H, W] within eps.
void check_noise(const Floats& noise, std::int64_t n, const Metadata& metadata);
