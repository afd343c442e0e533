#pragma once

#include <optional>

#include "classifier.h"

// For each line on standard input classifies the pixels once more, and prints what it took as JSON: seconds,
// and how many images were countered. Whoever writes the lines may so take turns with another program.
void bench(Classifier& classifier, const Bytes& pixels, const std::optional<Floats>& noise);
