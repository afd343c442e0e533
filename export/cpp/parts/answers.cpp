#include "answers.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

using nlohmann::ordered_json;

namespace {

std::size_t best_of(const float* values, std::size_t n) {
  return static_cast<std::size_t>(std::max_element(values, values + n) - values);
}

std::vector<float> softmax(const float* logits, std::size_t n) {
  const float highest = *std::max_element(logits, logits + n);
  std::vector<float> powers(n);
  std::transform(logits, logits + n, powers.begin(), [&](float logit) { return std::exp(logit - highest); });
  const float sum = std::accumulate(powers.begin(), powers.end(), 0.0F);
  std::for_each(powers.begin(), powers.end(), [&](float& power) { power /= sum; });
  return powers;
}

// Indices, the largest value's first. Stable, so that the first of equal classes is the same as in Python.
std::vector<std::size_t> descending(const std::vector<float>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
  return order;
}

}  // namespace

std::vector<std::string> json_lines(const std::vector<std::filesystem::path>& files, const Answers& answers,
                                    const Metadata& metadata, std::int64_t topk) {
  const auto& names = metadata.classnames;
  const std::size_t classes = names.size(), listed = std::min(static_cast<std::size_t>(topk), classes);
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    const std::vector<float> probabilities = softmax(answers.logits.row(row), classes);
    const std::vector<std::size_t> order = descending(probabilities);
    ordered_json best = ordered_json::array();
    for (std::size_t k = 0; k < listed; ++k) {
      best.push_back({{"class", names[order[k]]},
                      {"probability", static_cast<double>(probabilities[order[k]])}});
    }
    const std::size_t label = best_of(answers.logits.row(row), classes);
    const std::size_t without = best_of(answers.undefended_logits.row(row), classes);
    const ordered_json line{
        {"image", files[i].string()},
        {"class", best[0]["class"]},
        {"probability", best[0]["probability"]},
        {"topk", best},
        {"drift", static_cast<double>(*answers.drift.row(row))},
        {"countered", *answers.countered.row(row) != 0},
        {"changed", label != without},
        {"undefended_class", names[without]},
        {"calibrated", metadata.calibrated},
    };
    // A file's name may be no UTF-8.
    lines.push_back(line.dump(-1, ' ', true, ordered_json::error_handler_t::replace));
  }
  return lines;
}
