#include "classifier.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <sstream>
#include <system_error>
#include <utility>

#include "errors.h"
#include "noise.h"

namespace fs = std::filesystem;

namespace {

Floats as_unit(const Bytes& pixels) {
  Floats result(pixels.shape());
  std::transform(pixels.data(), pixels.data() + pixels.numel(), result.data(),
                 [](std::uint8_t level) { return static_cast<float>(level) / 255.0F; });
  return result;
}

// Rows first.. of a batch of n, filled up to `size` by the last: a fixed batch takes no fewer.
std::vector<std::int64_t> piece(std::int64_t first, std::int64_t size, std::int64_t n) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(size));
  std::iota(rows.begin(), rows.end(), first);
  std::for_each(rows.begin(), rows.end(), [&](std::int64_t& row) { row = std::min(row, n - 1); });
  return rows;
}

bool is_finite(const Floats& values, std::int64_t row) {
  const float* first = values.row(row);
  return std::all_of(first, first + values.row_size(), [](float value) { return std::isfinite(value); });
}

void check_finite(const Answers& answers) {
  for (std::int64_t row = 0; row < answers.drift.size(0); ++row) {
    if (!is_finite(answers.drift, row) || !is_finite(answers.logits, row) ||
        !is_finite(answers.undefended_logits, row)) {
      std::ostringstream message;
      message << "expected a finite drift and logits, got drift " << *answers.drift.row(row) << " for image "
              << row << " of a batch: the model gives no usable embedding for it";
      throw InputError(message.str());
    }
  }
}

// Puts an output's rows for the images first.. into the answer for all of them.
template <typename T>
void put(Array<T>& answer, const Output& output, std::int64_t first, std::int64_t rows) {
  std::copy_n(static_cast<const T*>(output.data.get()), static_cast<std::size_t>(rows) * answer.row_size(),
              answer.row(first));
}

}  // namespace

Classifier::Classifier(fs::path path, Metadata metadata)
    : path_(std::move(path)), metadata_(std::move(metadata)) {}

Answers Classifier::predict(const Bytes& pixels, const std::optional<Floats>& noise) {
  const std::int64_t n = pixels.size(0);
  std::optional<Floats> drawn;
  if (metadata_.takes_noise()) {
    drawn = noise ? *noise : fresh_noise(n, metadata_);
    check_noise(*drawn, n, metadata_);
  } else if (noise) {
    throw InputError("noise needs a file exported with --profile lab, " + path_.string() +
                     " is of the profile serving");
  }
  const auto classes = static_cast<std::int64_t>(metadata_.classnames.size());
  Answers answers{Floats({n, classes}), Floats({n, classes}), Floats({n}), Bytes({n})};
  const std::int64_t size = metadata_.batch.value_or(n);
  for (std::int64_t first = 0; first < n; first += size) {
    const std::vector<std::int64_t> rows = piece(first, size, n);
    Inputs inputs;
    if (metadata_.uint8_pixels) {
      inputs.bytes = pixels.rows(rows);
    } else {
      inputs.floats = as_unit(pixels.rows(rows));
    }
    if (drawn) {
      inputs.noise = drawn->rows(rows);
    }
    if (metadata_.lab) {
      const auto threshold = static_cast<float>(metadata_.tau_threshold);
      inputs.tau_threshold = Floats({size}, std::vector<float>(rows.size(), threshold));
    }
    std::vector<Output> outputs;
    try {
      outputs = run(inputs);
    } catch (const std::exception& error) {
      throw ArtifactError(path_.string() + ": running it failed: " + one_line(error.what()));
    }
    check_outputs(outputs, size);
    const std::int64_t kept = std::min(size, n - first);
    // These are the first of any file's.
    put(answers.logits, outputs[0], first, kept);
    put(answers.undefended_logits, outputs[1], first, kept);
    put(answers.drift, outputs[2], first, kept);
    put(answers.countered, outputs[3], first, kept);
  }
  check_finite(answers);
  check_gate(answers);
  return answers;
}

void Classifier::check_gate(const Answers& answers) const {
  const auto threshold = static_cast<float>(metadata_.tau_threshold);
  for (std::int64_t row = 0; row < answers.drift.size(0); ++row) {
    const float drift = *answers.drift.row(row);
    const bool countered = *answers.countered.row(row) != 0;
    if (countered != (drift < threshold)) {
      std::ostringstream message;
      message << path_.string() << ": its metadata and its graph have other thresholds: an image of drift " << drift
              << " was " << (countered ? "" : "not ") << "countered, the threshold is " << threshold;
      throw ArtifactError(message.str());
    }
  }
}

void Classifier::check_outputs(const std::vector<Output>& outputs, std::int64_t n) const {
  const auto classes = static_cast<std::int64_t>(metadata_.classnames.size());
  const std::map<std::string, Shape> shapes{
      {"logits", {n, classes}},
      {"undefended_logits", {n, classes}},
      {"drift", {n}},
      {"countered", {n}},
      {"delta", {n, 3, metadata_.preprocess.height, metadata_.preprocess.width}},
      {"embedding", {n, metadata_.width.value_or(0)}},
  };
  const std::vector<std::string>& names = metadata_.outputs;
  if (outputs.size() != names.size()) {
    throw ArtifactError(path_.string() + ": expected " + std::to_string(names.size()) + " outputs, got " +
                        std::to_string(outputs.size()));
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string dtype = names[i] == "countered" ? "bool" : "float32";
    const Shape& shape = shapes.at(names[i]);
    if (outputs[i].dtype != dtype || outputs[i].shape != shape) {
      throw ArtifactError(path_.string() + ": expected " + names[i] + " as " + dtype + " " + shown(shape) +
                          ", got " + outputs[i].dtype + " " + shown(outputs[i].shape));
    }
  }
}

void check_file(const fs::path& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) {
    throw ArtifactError("cannot read " + path.string() + ": " + error.message());
  }
  if (size == 0) {
    throw ArtifactError(path.string() + ": expected an exported classifier, got zero bytes");
  }
}

Metadata read_metadata(const fs::path& path, const std::optional<std::string>& text) {
  if (!text) {
    throw ArtifactError(path.string() + ": carries no clipfast metadata, so clipfast did not export it");
  }
  try {
    return Metadata::from_json(*text);
  } catch (const ArtifactError& error) {
    throw ArtifactError(path.string() + ": " + error.what());
  }
}

std::string one_line(const std::string& message) {
  std::istringstream words(message);
  std::string line;
  for (std::string word; words >> word;) {
    line += (line.empty() ? "" : " ") + word;
  }
  return line.substr(0, 400);
}
