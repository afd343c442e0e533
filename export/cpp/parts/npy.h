#pragma once

#include <filesystem>

#include "array.h"

// An array of little-endian float32 in C order, as numpy.save writes it.
//
// Raises InputError for a file that is missing, truncated, or holds anything else.
Floats load_npy(const std::filesystem::path& path);
