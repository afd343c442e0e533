// What libFuzzer makes up, read as an array, a picture or metadata. SECURITY.md says how it is built and run.
//
//   clipfast-fuzz CORPUS [-runs=N ...]     options are libFuzzer's
//
// The first byte chooses the reader. A reader may refuse an input by InputError or ArtifactError. Any other
// exception ends the run, and so does whatever the sanitizers find.

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "errors.h"
#include "metadata.h"
#include "npy.h"
#include "picture.h"

namespace {

const std::filesystem::path& scratch() {
  static const auto path =
      std::filesystem::temp_directory_path() / ("clipfast-fuzz-" + std::to_string(getpid()) + ".npy");
  static const int removed_at_exit = std::atexit([] { std::filesystem::remove(scratch()); });
  static_cast<void>(removed_at_exit);
  return path;
}

void read(char reader, const std::string& bytes) {
  switch (reader) {
    case 'm':
      Metadata::from_json(bytes);
      return;
    case 'p':
      open_picture(bytes);
      return;
    default:
      std::ofstream(scratch(), std::ios::binary) << bytes;
      load_npy(scratch());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  try {
    read(static_cast<char>(data[0]), {reinterpret_cast<const char*>(data) + 1, size - 1});
  } catch (const InputError&) {
  } catch (const ArtifactError&) {
  }
  return 0;
}
