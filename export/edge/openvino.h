#pragma once

#include <filesystem>
#include <openvino/runtime/infer_request.hpp>
#include <vector>

#include "classifier.h"

// A classifier that `clipfast export` wrote as ONNX, over OpenVINO's CPU plugin, in float32.
class OpenVinoClassifier : public Classifier {
 public:
  // threads: 0 is OpenVINO's choice. Raises ArtifactError for a file that is missing, truncated, foreign, of
  // a newer schema, or that OpenVINO cannot compile.
  OpenVinoClassifier(const std::filesystem::path& path, int threads);

 private:
  struct Compiled;
  static Compiled compile(const std::filesystem::path& path, int threads);
  OpenVinoClassifier(const std::filesystem::path& path, Compiled compiled);

  std::vector<Output> run(const Inputs& inputs) override;

  ov::InferRequest request_;
};
