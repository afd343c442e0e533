#include "answers.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <nlohmann/json.hpp>

using nlohmann::ordered_json;

std::vector<std::string> json_lines(const std::vector<std::filesystem::path>& files, const Answers& answers,
                                    const Metadata& metadata, std::int64_t topk) {
  const auto& names = metadata.classnames;
  const at::Tensor probabilities = answers.logits.softmax(1);
  // Stable, so that the first of equal classes is the same as in Python.
  const at::Tensor order = std::get<1>(probabilities.sort(/*stable=*/true, /*dim=*/1, /*descending=*/true));
  const at::Tensor labels = answers.logits.argmax(1), undefended = answers.undefended_logits.argmax(1);
  const auto listed = std::min(topk, static_cast<std::int64_t>(names.size()));
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    ordered_json best = ordered_json::array();
    for (std::int64_t k = 0; k < listed; ++k) {
      const auto index = order[row][k].item<std::int64_t>();
      best.push_back({{"class", names[static_cast<std::size_t>(index)]},
                      {"probability", static_cast<double>(probabilities[row][index].item<float>())}});
    }
    const auto label = labels[row].item<std::int64_t>(), without = undefended[row].item<std::int64_t>();
    const ordered_json line{
        {"image", files[i].string()},
        {"class", best[0]["class"]},
        {"probability", best[0]["probability"]},
        {"topk", best},
        {"drift", static_cast<double>(answers.drift[row].item<float>())},
        {"countered", answers.countered[row].item<bool>()},
        {"changed", label != without},
        {"undefended_class", names[static_cast<std::size_t>(without)]},
        {"calibrated", metadata.calibrated},
    };
    // A file's name may be no UTF-8.
    lines.push_back(line.dump(-1, ' ', true, ordered_json::error_handler_t::replace));
  }
  return lines;
}
