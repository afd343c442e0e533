#pragma once

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <filesystem>
#include <memory>
#include <vector>

#include "classifier.h"

// A classifier that `clipfast export --format aotinductor` compiled.
class PackageClassifier : public Classifier {
 public:
  // trust: the package is a library that runs its own code when it is loaded; without trust it is not
  // opened. Raises ArtifactError without trust, and for a file that is missing, truncated, foreign, of a
  // newer schema, or compiled for another device than the CPU.
  PackageClassifier(const std::filesystem::path& path, bool trust);

 private:
  std::vector<Output> run(const Inputs& inputs) override;

  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};
