#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "metadata.h"

// For N images and C classes, as `clipfast.prediction.Prediction`.
struct Answers {
  at::Tensor logits;             // float32 [N, C], defended
  at::Tensor undefended_logits;  // float32 [N, C], plain CLIP's
  at::Tensor drift;              // float32 [N]
  at::Tensor countered;          // bool [N]
};

// A defended classifier that `clipfast export --format aotinductor` wrote, run without Python.
class Classifier {
 public:
  // trust: the package is a library that runs its own code when it is loaded; without trust it is not
  // opened. Raises ArtifactError without trust, and for a file that is missing, truncated, foreign, of a
  // newer schema, or compiled for another device than the CPU.
  Classifier(const std::filesystem::path& path, bool trust);

  const Metadata& metadata() const { return metadata_; }

  // Classifies pixels, uint8 [N, 3, H, W] of the size that the metadata names, N at least 1. noise: float32
  // of the pixels' shape, for packages that take noise; drawn anew where it is not given.
  //
  // Raises InputError for noise that the package does not take, and for answers that are not finite;
  // ArtifactError where the package fails, or gives other outputs than it says.
  Answers predict(const at::Tensor& pixels, const std::optional<at::Tensor>& noise) const;

 private:
  Answers run(const at::Tensor& pixels, const at::Tensor& noise) const;
  void check_outputs(const std::vector<at::Tensor>& outputs, std::int64_t n) const;

  std::filesystem::path path_;
  Metadata metadata_;
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};
