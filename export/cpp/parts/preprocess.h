#pragma once

#include <cstdint>
#include <filesystem>

#include "array.h"
#include "resample.h"

enum class ResizeMode { shortest, longest, squash };

// A model's evaluation transform without normalisation: `clipfast.preprocess.Preprocess`.
struct Preprocess {
  std::int64_t height;
  std::int64_t width;
  Interpolation interpolation;
  ResizeMode resize_mode;
  int fill_color;

  // A picture file's pixels: [3, height, width], RGB. Raises InputError, which names the file, for
  // what is no readable picture.
  Bytes operator()(const std::filesystem::path& path) const;

 private:
  Bytes resized(const Bytes& picture) const;
};
