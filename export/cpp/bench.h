#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "classifier.h"

// For each line on standard input classifies the pixels once more, and prints what it took as JSON: seconds,
// and how many images were countered. Whoever writes the lines may so take turns with another program.
void bench(const Classifier& classifier, const at::Tensor& pixels, const std::optional<at::Tensor>& noise);
