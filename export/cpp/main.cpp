// Defended classification of image files by a package that `clipfast export` compiled; no Python is run.

#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "package.h"
#include "program.h"

int main(int argc, char** argv) {
  bool trust = false;
  return classify(argc, argv,
                  {.artifact = "The exported classifier, a .pt2 file.",
                   .declare =
                       [&](CLI::App& app) {
                         app.add_flag("--trust", trust, "Run the code that the artifact brings.");
                       },
                   .load =
                       [&](const Options& options) {
                         if (options.threads > 0) {
                           at::set_num_threads(options.threads);
                         }
                         return std::make_unique<PackageClassifier>(options.artifact, trust);
                       }});
}
