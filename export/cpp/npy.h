#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>

// An array of little-endian float32 in C order, as numpy.save writes it: float32, of the file's shape.
//
// Raises InputError for a file that is missing, truncated, or holds anything else.
at::Tensor load_npy(const std::filesystem::path& path);
