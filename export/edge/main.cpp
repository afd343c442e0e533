// Defended classification of image files by an .onnx file of `clipfast export`, over OpenVINO: no Python, no
// torch.

#include <CLI/CLI.hpp>
#include <memory>

#include "openvino.h"
#include "program.h"

int main(int argc, char** argv) {
  return classify(argc, argv,
                  {.artifact = "The exported classifier, an .onnx file.",
                   .declare = [](CLI::App&) {},
                   .load = [](const Options& options) {
                     return std::make_unique<OpenVinoClassifier>(options.artifact, options.threads);
                   }});
}
