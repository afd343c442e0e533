#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "classifier.h"
#include "metadata.h"

// One JSON object a line for each of N images, with the fields of `clipfast classify --json`.
//
// topk: how many classes each line lists, best first, at least 1.
std::vector<std::string> json_lines(const std::vector<std::filesystem::path>& files, const Answers& answers,
                                    const Metadata& metadata, std::int64_t topk);
