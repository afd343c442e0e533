// For the tests: what the programs do before a model answers, by itself, as raw bytes on standard output.
//
//   clipfast-parts pixels METADATA.json FILE...   uint8 [N, 3, H, W]
//   clipfast-parts noise METADATA.json N          float32 [N, 3, H, W]

#include <exception>
#include <iostream>
#include <string>

#include "files.h"
#include "metadata.h"
#include "noise.h"

namespace {

template <typename T>
void write(const Array<T>& array) {
  std::cout.write(reinterpret_cast<const char*>(array.data()),
                  static_cast<std::streamsize>(array.numel() * sizeof(T)));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "expected pixels or noise, METADATA.json, and files or a number\n";
    return 2;
  }
  try {
    const Metadata metadata = Metadata::from_json(read_bytes(argv[2]));
    if (std::string(argv[1]) == "noise") {
      write(fresh_noise(std::stoll(argv[3]), metadata));
      return 0;
    }
    for (int i = 3; i < argc; ++i) {
      write(metadata.preprocess(argv[i]));
    }
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
