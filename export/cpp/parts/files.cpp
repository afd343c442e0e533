#include "files.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>
#include <system_error>

#include "errors.h"

namespace fs = std::filesystem;

namespace {

// Of the pictures that `clipfast classify` reads or tells of. Those that this program does not read are found
// too, and reported when they are opened: a picture that nobody mentions would pass for one without an answer.
constexpr std::array SUFFIXES{
    ".png",  ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".dib",
    ".tif",  ".tiff", ".jp2", ".j2k",  ".jpc", ".jpf",  ".jpx",  ".j2c",  ".ppm",   ".pgm", ".pbm", ".pnm",
    ".pfm",  ".tga",  ".icb", ".vda",  ".vst", ".ico",  ".pcx",  ".sgi",  ".rgb",   ".rgba", ".bw",
    ".heic", ".heif", ".jxl", ".psd",  ".svg", ".dng",  ".cr2",  ".cr3",  ".nef",   ".arw",  ".raf", ".exr"};

bool is_image(const fs::path& path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return std::any_of(SUFFIXES.begin(), SUFFIXES.end(),
                     [&](std::string_view known) { return suffix == known; });
}

}  // namespace

std::vector<fs::path> image_files(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw InputError("no such file or folder: " + path.string());
  }
  if (!fs::is_directory(path)) {
    return {path};
  }
  std::vector<fs::path> found;
  try {
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      const bool leads_nowhere = entry.is_symlink(error) && !entry.exists(error);
      if ((entry.is_regular_file(error) || leads_nowhere) && is_image(entry.path())) {
        found.push_back(entry.path());
      }
    }
  } catch (const fs::filesystem_error& failure) {
    throw InputError("cannot read " + path.string() + ": " + failure.code().message());
  }
  if (found.empty()) {
    throw InputError("expected image files in the folder " + path.string() + ", found none");
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw InputError("cannot read " + path.string() + ": " + std::strerror(errno));
  }
  try {
    return {std::istreambuf_iterator<char>(file), {}};
  } catch (const std::ios_base::failure&) {
    throw InputError("cannot read " + path.string() + ": reading it failed");
  }
}
