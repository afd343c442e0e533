#pragma once

#include <filesystem>
#include <string>
#include <vector>

// A file itself, whatever its suffix, or the image files below a folder, in sorted order.
//
// Raises InputError for a path that is not there and for a folder without images.
std::vector<std::filesystem::path> image_files(const std::filesystem::path& path);

// A file's bytes. Raises InputError where it cannot be read.
std::string read_bytes(const std::filesystem::path& path);
