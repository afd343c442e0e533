#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "classifier.h"

namespace CLI {
class App;
}

// What the user asked for.
struct Options {
  std::vector<std::filesystem::path> images;
  std::filesystem::path artifact;
  std::filesystem::path noise;
  std::int64_t batch_size = 8;
  std::int64_t topk = 1;
  int threads = 0;  // the runtime's own choice
  bool bench = false;
};

// What differs between the programs.
struct Runtime {
  std::string artifact;                   // help for that option
  std::function<void(CLI::App&)> declare;  // further options
  std::function<std::unique_ptr<Classifier>(const Options&)> load;
};

// The whole program: reads the command line, classifies image files, prints a JSON line for each. Returns the
// exit code: 1 where files could not be read, 2 for anything else that is wrong, which is told on standard
// error.
int classify(int argc, char** argv, const Runtime& runtime);
