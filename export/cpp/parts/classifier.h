#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "array.h"
#include "metadata.h"

// For N images and C classes, as `clipfast.prediction.Prediction`.
struct Answers {
  Floats logits;             // [N, C], defended
  Floats undefended_logits;  // [N, C], plain CLIP's
  Floats drift;              // [N]
  Bytes countered;           // [N], 0 or 1
};

// What a file takes for n images; one of the first two is there.
struct Inputs {
  std::optional<Bytes> bytes;    // pixels [n, 3, H, W]
  std::optional<Floats> floats;  // pixels [n, 3, H, W] in [0, 1]
  std::optional<Floats> noise;   // of the same shape
  std::optional<Floats> tau_threshold;  // [n]
};

// What a file gave under a name, in its runtime's memory, which `data` keeps alive. dtype: numpy's name.
struct Output {
  std::string dtype;
  Shape shape;
  std::shared_ptr<const void> data;
};

// A defended classifier that `clipfast export` wrote, without Python; a subclass for each runtime.
class Classifier {
 public:
  Classifier(const Classifier&) = delete;
  Classifier& operator=(const Classifier&) = delete;
  virtual ~Classifier() = default;

  const Metadata& metadata() const { return metadata_; }

  // Classifies pixels, [N, 3, H, W] of the size that the metadata name, N at least 1. noise: of the pixels'
  // shape, for files that take noise; drawn anew where it is not given.
  //
  // Raises InputError for noise that the file does not take, and for answers that are not finite;
  // ArtifactError where the file fails, gives other outputs than it says, or counters by another threshold.
  Answers predict(const Bytes& pixels, const std::optional<Floats>& noise);

 protected:
  Classifier(std::filesystem::path path, Metadata metadata);

 private:
  // The file's outputs in the order of its metadata; may raise anything that is a std::exception.
  virtual std::vector<Output> run(const Inputs& inputs) = 0;

  // Raises ArtifactError where the file counters other images than those below its threshold.
  void check_gate(const Answers& answers) const;
  void check_outputs(const std::vector<Output>& outputs, std::int64_t n) const;

  std::filesystem::path path_;
  Metadata metadata_;
};

// Raises ArtifactError for a file that is missing or empty.
void check_file(const std::filesystem::path& path);

// The metadata in a file's text; raises ArtifactError, which names the file, for none and for other text.
Metadata read_metadata(const std::filesystem::path& path, const std::optional<std::string>& text);

// What another library's error says, on one line of bounded length.
std::string one_line(const std::string& message);
