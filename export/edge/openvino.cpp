#include "openvino.h"

#include <cstdint>
#include <openvino/op/random_uniform.hpp>
#include <openvino/op/util/multi_subgraph_base.hpp>
#include <openvino/openvino.hpp>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "errors.h"

namespace fs = std::filesystem;

struct OpenVinoClassifier::Compiled {
  Metadata metadata;
  ov::InferRequest request;
};

namespace {

// Seeds what draws noise from the operating system; OpenVINO would choose a seed of its own.
void seed(const ov::Model& model) {
  std::random_device random;
  for (const auto& node : model.get_ops()) {
    if (const auto drawn = ov::as_type_ptr<ov::op::v8::RandomUniform>(node)) {
      drawn->set_global_seed(1 + random() % 0x7FFF'FFFFU);
    }
    if (const auto branches = ov::as_type_ptr<ov::op::util::MultiSubGraphOp>(node)) {
      for (const auto& body : branches->get_functions()) {
        seed(*body);
      }
    }
  }
}

// What the file carries under clipfast's key: OpenVINO keeps an ONNX file's metadata in "framework".
std::optional<std::string> metadata_text(const ov::Model& model) {
  if (!model.has_rt_info("framework", "clipfast")) {
    return std::nullopt;
  }
  return model.get_rt_info<std::string>("framework", "clipfast");
}

// Over the array's memory, which must outlive it.
template <typename T>
ov::Tensor over(const Array<T>& array) {
  const ov::Shape shape(array.shape().begin(), array.shape().end());
  return {ov::element::from<T>(), shape, const_cast<T*>(array.data())};
}

std::string dtype_of(const ov::element::Type& type) {
  if (type == ov::element::f32) {
    return "float32";
  }
  return type == ov::element::boolean ? "bool" : type.get_type_name();
}

}  // namespace

OpenVinoClassifier::Compiled OpenVinoClassifier::compile(const fs::path& path, int threads) {
  check_file(path);
  ov::Core core;
  std::shared_ptr<ov::Model> model;
  try {
    model = core.read_model(path.string());
  } catch (const std::exception& error) {
    throw ArtifactError(path.string() + ": openvino cannot read it: " + one_line(error.what()));
  }
  Metadata metadata = read_metadata(path, metadata_text(*model));
  seed(*model);
  // In bfloat16, which it chooses by itself where the CPU has it, the gate would be another.
  // SNIPPETS_MODE: see clipfast/artifacts/sessions/openvino_runtime.py.
  ov::AnyMap settings{{"SNIPPETS_MODE", "DISABLE"},
                      ov::hint::inference_precision(ov::element::f32),
                      ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
  if (threads > 0) {
    settings.insert(ov::inference_num_threads(threads));
  }
  try {
    return {std::move(metadata), core.compile_model(model, "CPU", settings).create_infer_request()};
  } catch (const std::exception& error) {
    throw ArtifactError(path.string() + ": openvino cannot compile it: " + one_line(error.what()));
  }
}

OpenVinoClassifier::OpenVinoClassifier(const fs::path& path, int threads)
    : OpenVinoClassifier(path, compile(path, threads)) {}

OpenVinoClassifier::OpenVinoClassifier(const fs::path& path, Compiled compiled)
    : Classifier(path, std::move(compiled.metadata)), request_(std::move(compiled.request)) {}

std::vector<Output> OpenVinoClassifier::run(const Inputs& inputs) {
  request_.set_tensor("pixels", inputs.bytes ? over(*inputs.bytes) : over(*inputs.floats));
  if (inputs.noise) {
    request_.set_tensor("noise", over(*inputs.noise));
  }
  if (inputs.tau_threshold) {
    request_.set_tensor("tau_threshold", over(*inputs.tau_threshold));
  }
  request_.infer();
  std::vector<Output> outputs;
  for (const std::string& name : metadata().outputs) {
    const ov::Tensor tensor = request_.get_tensor(name);
    const std::shared_ptr<const void> data(tensor.data(), [tensor](const void*) {});
    const ov::Shape& shape = tensor.get_shape();
    outputs.push_back({dtype_of(tensor.get_element_type()), Shape(shape.begin(), shape.end()), data});
  }
  return outputs;
}
