#include "classifier.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
#include "noise.h"

namespace fs = std::filesystem;
using torch::inductor::AOTIModelPackageLoader;

namespace {

// The model within a package: the name that torch gives the only one.
constexpr auto MODEL = "model";

// What torch says of an error on one line, without the stack behind it.
std::string one_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::istringstream words(torch_error != nullptr ? torch_error->what_without_backtrace() : error.what());
  std::string line;
  for (std::string word; words >> word;) {
    line += (line.empty() ? "" : " ") + word;
  }
  return line.substr(0, 400);
}

// Calls torch, and names the file where that fails.
template <typename Call>
auto told(const fs::path& path, const char* what, const Call& call) {
  try {
    return call();
  } catch (const std::exception& error) {
    throw ArtifactError(path.string() + ": " + what + ": " + one_line(error));
  }
}

void check_file(const fs::path& path, bool trust) {
  if (!trust) {
    throw ArtifactError(path.string() +
                        ": a file of this format runs its own code when it is loaded; pass --trust if you "
                        "trust where it comes from");
  }
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) {
    throw ArtifactError("cannot read " + path.string() + ": " + error.message());
  }
  if (size == 0) {
    throw ArtifactError(path.string() + ": expected an exported classifier, got zero bytes");
  }
}

Metadata checked_metadata(const fs::path& path, bool trust) {
  check_file(path, trust);
  const auto entries = told(path, "torch cannot read it as a package", [&] {
    return AOTIModelPackageLoader::load_metadata_from_package(path.string(), MODEL);
  });
  const auto text = entries.find("clipfast"), device = entries.find("AOTI_DEVICE_KEY");
  if (text == entries.end()) {
    throw ArtifactError(path.string() + ": carries no clipfast metadata, so clipfast did not export it");
  }
  if (device == entries.end() || device->second != "cpu") {
    throw ArtifactError(path.string() + ": compiled for " +
                        (device == entries.end() ? "an unknown device" : device->second) +
                        ", this program runs on the CPU");
  }
  try {
    return Metadata::from_json(text->second);
  } catch (const ArtifactError& error) {
    throw ArtifactError(path.string() + ": " + error.what());
  }
}

void check_finite(const Answers& answers) {
  const at::Tensor usable = answers.drift.isfinite()
                                .logical_and(answers.logits.isfinite().all(1))
                                .logical_and(answers.undefended_logits.isfinite().all(1));
  if (!usable.all().item<bool>()) {
    const auto row = usable.logical_not().nonzero()[0].item<std::int64_t>();
    std::ostringstream message;
    message << "expected a finite drift and logits, got drift " << answers.drift[row].item<float>()
            << " for image " << row << " of a batch: the model gives no usable embedding for it";
    throw InputError(message.str());
  }
}

// Rows first.. of a batch, filled up to `size` by copies of the last: a fixed batch takes no fewer.
at::Tensor piece(const at::Tensor& rows, std::int64_t first, std::int64_t size) {
  if (!rows.defined()) {
    return rows;
  }
  const at::Tensor index = at::arange(first, first + size).clamp_max(rows.size(0) - 1);
  return rows.index_select(0, index);
}

}  // namespace

Classifier::Classifier(const fs::path& path, bool trust)
    : path_(path), metadata_(checked_metadata(path, trust)) {
  loader_ = told(path, "torch cannot load it",
                 [&] { return std::make_unique<AOTIModelPackageLoader>(path.string(), MODEL); });
}

Answers Classifier::predict(const at::Tensor& pixels, const std::optional<at::Tensor>& noise) const {
  const c10::InferenceMode inference;
  const std::int64_t n = pixels.size(0);
  at::Tensor drawn;
  if (metadata_.takes_noise()) {
    drawn = noise ? *noise : fresh_noise(n, metadata_);
    check_noise(drawn, n, metadata_);
  } else if (noise) {
    throw InputError("noise needs a file exported with --profile lab, " + path_.string() +
                     " is of the profile serving");
  }
  const at::Tensor taken = metadata_.uint8_pixels ? pixels : pixels.to(at::kFloat).div_(255);
  const std::int64_t size = metadata_.batch.value_or(n);
  std::vector<std::vector<at::Tensor>> parts(4);
  for (std::int64_t first = 0; first < n; first += size) {
    const Answers part = run(piece(taken, first, size), piece(drawn, first, size));
    std::size_t i = 0;
    for (const at::Tensor& output : {part.logits, part.undefended_logits, part.drift, part.countered}) {
      parts[i++].push_back(output.narrow(0, 0, std::min(size, n - first)));
    }
  }
  Answers answers{at::cat(parts[0]), at::cat(parts[1]), at::cat(parts[2]), at::cat(parts[3])};
  check_finite(answers);
  return answers;
}

Answers Classifier::run(const at::Tensor& pixels, const at::Tensor& noise) const {
  std::vector<at::Tensor> inputs{pixels};
  if (metadata_.takes_noise()) {
    inputs.push_back(noise);
  }
  if (metadata_.lab) {
    inputs.push_back(at::full({pixels.size(0)}, metadata_.tau_threshold, at::kFloat));
  }
  const std::vector<at::Tensor> outputs =
      told(path_, "running it failed", [&] { return loader_->run(inputs); });
  check_outputs(outputs, pixels.size(0));
  return {outputs[0], outputs[1], outputs[2], outputs[3]};
}

void Classifier::check_outputs(const std::vector<at::Tensor>& outputs, std::int64_t n) const {
  struct Port {
    const char* name;
    at::ScalarType type;
    std::vector<std::int64_t> shape;
  };
  const auto classes = static_cast<std::int64_t>(metadata_.classnames.size());
  std::vector<Port> ports{{"logits", at::kFloat, {n, classes}},
                          {"undefended_logits", at::kFloat, {n, classes}},
                          {"drift", at::kFloat, {n}},
                          {"countered", at::kBool, {n}}};
  if (metadata_.lab) {
    ports.push_back({"delta", at::kFloat, {n, 3, metadata_.preprocess.height, metadata_.preprocess.width}});
  }
  if (outputs.size() != ports.size()) {
    throw ArtifactError(path_.string() + ": expected " + std::to_string(ports.size()) + " outputs, got " +
                        std::to_string(outputs.size()));
  }
  for (std::size_t i = 0; i < ports.size(); ++i) {
    if (outputs[i].scalar_type() != ports[i].type || outputs[i].sizes() != at::IntArrayRef(ports[i].shape)) {
      std::ostringstream message;
      message << path_.string() << ": expected " << ports[i].name << " as " << ports[i].type << " "
              << at::IntArrayRef(ports[i].shape) << ", got " << outputs[i].scalar_type() << " "
              << outputs[i].sizes();
      throw ArtifactError(message.str());
    }
  }
}
