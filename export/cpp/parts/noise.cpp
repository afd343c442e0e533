#include "noise.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <sstream>
#include <system_error>

#include "errors.h"

namespace {

// A generator for the standard library's distributions over the kernel's random bytes. No seed of it can
// be guessed, and there is no state to be read off the noise.
class SystemRandom {
 public:
  using result_type = std::uint32_t;
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return std::numeric_limits<result_type>::max(); }

  result_type operator()() {
    if (next_ == words_.size()) {
      refill();
    }
    return words_[next_++];
  }

 private:
  void refill() {
    auto* bytes = reinterpret_cast<char*>(words_.data());
    std::size_t done = 0;
    while (done < sizeof(words_)) {
      const ssize_t got = getrandom(bytes + done, sizeof(words_) - done, 0);
      if (got < 0 && errno != EINTR) {
        throw std::system_error(errno, std::generic_category(), "no random bytes for the noise");
      }
      done += got < 0 ? 0 : static_cast<std::size_t>(got);
    }
    next_ = 0;
  }

  std::array<std::uint32_t, 4096> words_;
  std::size_t next_ = words_.size();
};

// In l2, of the image in this row.
double length(const Floats& noise, std::int64_t row) {
  const float* values = noise.row(row);
  double sum = 0;
  for (std::size_t i = 0; i < noise.row_size(); ++i) {
    sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  return std::sqrt(sum);
}

// Of any image, in the norm; NaN where a value is NaN.
double largest(const Floats& noise, Norm norm) {
  double found = 0;
  const auto take = [&](double size) { found = std::isnan(found) || size <= found ? found : size; };
  if (norm == Norm::linf) {
    std::for_each(noise.data(), noise.data() + noise.numel(), [&](float value) { take(std::abs(value)); });
  } else {
    for (std::int64_t row = 0; row < noise.size(0); ++row) {
      take(length(noise, row));
    }
  }
  return found;
}

}  // namespace

Floats fresh_noise(std::int64_t n, const Metadata& metadata) {
  SystemRandom random;
  Floats noise({n, 3, metadata.preprocess.height, metadata.preprocess.width});
  float* values = noise.data();
  if (metadata.norm == Norm::linf) {
    const auto unit = static_cast<float>(metadata.eps * 0x1p-23);
    for (std::size_t i = 0; i < noise.numel(); ++i) {
      // The upper 24 bits, which a float holds exactly, as clipfast.inputs.philox makes numbers of them.
      values[i] = static_cast<float>(static_cast<std::int32_t>(random() >> 8) - (1 << 23)) * unit;
    }
    return noise;
  }
  std::normal_distribution<float> normal;
  std::generate_n(values, noise.numel(), [&] { return normal(random); });
  std::uniform_real_distribution<double> uniform(0, metadata.eps);
  for (std::int64_t row = 0; row < n; ++row) {
    const auto scale = static_cast<float>(uniform(random) / length(noise, row));
    std::for_each(noise.row(row), noise.row(row) + noise.row_size(), [&](float& value) { value *= scale; });
  }
  return noise;
}

void check_noise(const Floats& noise, std::int64_t n, const Metadata& metadata) {
  const Shape expected{n, 3, metadata.preprocess.height, metadata.preprocess.width};
  if (noise.shape() != expected) {
    throw InputError("expected noise of the pixels' shape " + shown(expected) + ", got " +
                     shown(noise.shape()));
  }
  const double size = largest(noise, metadata.norm);
  // One part in a million for the rounding of eps; NaN compares false.
  if (!(size <= metadata.eps * (1 + 1e-6))) {
    std::ostringstream message;
    message << "expected noise within eps = " << metadata.eps
            << (metadata.norm == Norm::linf ? " (linf)" : " (l2)") << ", got " << size;
    throw InputError(message.str());
  }
}
