#include "bench.h"

#include <ATen/Functions.h>

#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

void bench(const Classifier& classifier, const at::Tensor& pixels, const std::optional<at::Tensor>& noise) {
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    const Answers answers = classifier.predict(pixels, noise);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const nlohmann::ordered_json report{{"seconds", took.count()},
                                        {"countered", answers.countered.sum().item<std::int64_t>()}};
    std::cout << report << std::endl;
  }
}
