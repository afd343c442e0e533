#include "noise.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <sys/random.h>

#include <array>
#include <cerrno>
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

at::Tensor lengths(const at::Tensor& noise) {
  return noise.to(at::kDouble).square().sum({1, 2, 3}).sqrt();
}

}  // namespace

at::Tensor fresh_noise(std::int64_t n, const Metadata& metadata) {
  SystemRandom random;
  at::Tensor noise = at::empty({n, 3, metadata.preprocess.height, metadata.preprocess.width});
  auto* values = noise.data_ptr<float>();
  if (metadata.norm == Norm::linf) {
    const auto unit = static_cast<float>(metadata.eps * 0x1p-23);
    for (std::int64_t i = 0; i < noise.numel(); ++i) {
      // The upper 24 bits, which a float holds exactly, as clipfast.inputs.philox makes numbers of them.
      values[i] = static_cast<float>(static_cast<std::int32_t>(random() >> 8) - (1 << 23)) * unit;
    }
    return noise;
  }
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < noise.numel(); ++i) {
    values[i] = normal(random);
  }
  std::uniform_real_distribution<double> uniform(0, metadata.eps);
  at::Tensor wanted = at::empty({n}, at::kDouble);
  for (std::int64_t i = 0; i < n; ++i) {
    wanted[i] = uniform(random);
  }
  return noise * (wanted / lengths(noise)).to(at::kFloat).view({n, 1, 1, 1});
}

void check_noise(const at::Tensor& noise, std::int64_t n, const Metadata& metadata) {
  const std::array<std::int64_t, 4> expected{n, 3, metadata.preprocess.height, metadata.preprocess.width};
  std::ostringstream message;
  if (noise.sizes() != at::IntArrayRef(expected)) {
    message << "expected noise of the pixels' shape " << at::IntArrayRef(expected) << ", got " << noise.sizes();
    throw InputError(message.str());
  }
  const bool linf = metadata.norm == Norm::linf;
  const double size = (linf ? noise.abs() : lengths(noise)).max().item<double>();
  // One part in a million for the rounding of eps; NaN compares false.
  if (!(size <= metadata.eps * (1 + 1e-6))) {
    message << "expected noise within eps = " << metadata.eps << (linf ? " (linf)" : " (l2)") << ", got "
            << size;
    throw InputError(message.str());
  }
}
