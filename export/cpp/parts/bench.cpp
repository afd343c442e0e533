#include "bench.h"

#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

void bench(Classifier& classifier, const Bytes& pixels, const std::optional<Floats>& noise) {
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    const Answers answers = classifier.predict(pixels, noise);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const std::uint8_t* flags = answers.countered.data();
    const int countered = std::accumulate(flags, flags + answers.countered.numel(), 0);
    const nlohmann::ordered_json report{{"seconds", took.count()}, {"countered", countered}};
    std::cout << report << std::endl;
  }
}
