#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "preprocess.h"

enum class Norm { linf, l2 };

// What a package says about itself, as far as answering needs it: see `clipfast.artifacts.metadata`.
struct Metadata {
  bool lab;                           // the profile that takes noise and thresholds, and gives delta
  bool fixed_noise;                   // static: noise is an input in every profile
  std::optional<std::int64_t> batch;  // none is any
  bool uint8_pixels;                  // else float32 in [0, 1]
  std::vector<std::string> outputs;   // by name, in the file's order
  std::optional<std::int64_t> width;  // of embeddings
  std::vector<std::string> classnames;
  double eps;  // budget of the noise in [0, 1] pixel units, in the norm
  Norm norm;
  double tau_threshold;
  bool calibrated;
  Preprocess preprocess;

  bool takes_noise() const { return lab || fixed_noise; }

  // Reads the JSON text that `clipfast export` wrote, of the current schema or an older one.
  //
  // Raises ArtifactError, which names the field, for no JSON, another schema, and for fields that are
  // missing, of another type or of a value that this program does not know.
  static Metadata from_json(const std::string& text);
};
