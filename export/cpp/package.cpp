#include "package.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "errors.h"

namespace fs = std::filesystem;
using torch::inductor::AOTIModelPackageLoader;

namespace {

// The model within a package: the name that torch gives the only one.
constexpr auto MODEL = "model";

// Calls torch; its errors come without the stack behind them.
template <typename Call>
auto called(const Call& call) {
  try {
    return call();
  } catch (const c10::Error& error) {
    throw std::runtime_error(error.what_without_backtrace());
  }
}

// The same, and names the file where that fails.
template <typename Call>
auto told(const fs::path& path, const char* what, const Call& call) {
  try {
    return called(call);
  } catch (const std::exception& error) {
    throw ArtifactError(path.string() + ": " + what + ": " + one_line(error.what()));
  }
}

Metadata checked_metadata(const fs::path& path, bool trust) {
  if (!trust) {
    throw ArtifactError(path.string() +
                        ": a file of this format runs its own code when it is loaded; pass --trust if you "
                        "trust where it comes from");
  }
  check_file(path);
  const auto entries = told(path, "torch cannot read it as a package", [&] {
    return AOTIModelPackageLoader::load_metadata_from_package(path.string(), MODEL);
  });
  const auto text = entries.find("clipfast"), device = entries.find("AOTI_DEVICE_KEY");
  if (text != entries.end() && (device == entries.end() || device->second != "cpu")) {
    throw ArtifactError(path.string() + ": compiled for " +
                        (device == entries.end() ? "an unknown device" : device->second) +
                        ", this program runs on the CPU");
  }
  return read_metadata(path, text == entries.end() ? std::nullopt : std::optional(text->second));
}

// Over the array's memory, which must outlive it.
template <typename T>
at::Tensor over(const Array<T>& array) {
  return at::from_blob(const_cast<T*>(array.data()), array.shape(), c10::CppTypeToScalarType<T>::value);
}

std::string dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return "float32";
    case at::kBool: return "bool";
    default: return c10::toString(tensor.scalar_type());
  }
}

}  // namespace

PackageClassifier::PackageClassifier(const fs::path& path, bool trust)
    : Classifier(path, checked_metadata(path, trust)) {
  loader_ = told(path, "torch cannot load it",
                 [&] { return std::make_unique<AOTIModelPackageLoader>(path.string(), MODEL); });
}

std::vector<Output> PackageClassifier::run(const Inputs& inputs) {
  const c10::InferenceMode inference;
  std::vector<at::Tensor> given{inputs.bytes ? over(*inputs.bytes) : over(*inputs.floats)};
  for (const auto& input : {std::cref(inputs.noise), std::cref(inputs.tau_threshold)}) {
    if (input.get()) {
      given.push_back(over(*input.get()));
    }
  }
  std::vector<Output> outputs;
  for (const at::Tensor& output : called([&] { return loader_->run(given); })) {
    const at::Tensor dense = output.contiguous();
    const std::shared_ptr<const void> data(dense.const_data_ptr(), [dense](const void*) {});
    outputs.push_back({dtype_of(dense), dense.sizes().vec(), data});
  }
  return outputs;
}
