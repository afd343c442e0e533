#pragma once

#include <stdexcept>

// What was given is not what was expected; the message names both.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An exported file is not what was expected; the message names the file and the reason.
struct ArtifactError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
