// Defended classification of image files by a package that `clipfast export` compiled; no Python is run.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "answers.h"
#include "bench.h"
#include "classifier.h"
#include "errors.h"
#include "files.h"
#include "npy.h"

namespace fs = std::filesystem;

namespace {

struct Options {
  std::vector<fs::path> images;
  fs::path artifact;
  bool trust = false;
  fs::path noise;
  std::int64_t batch_size = 8;
  std::int64_t topk = 1;
  int threads = 0;
  bool bench = false;
};

void declare(CLI::App& app, Options& options) {
  const auto positive = CLI::Range(1, 1'000'000);
  app.add_option("images", options.images, "Image files (PNG, JPEG), or folders of them.")->required();
  app.add_option("--artifact", options.artifact, "The exported classifier, a .pt2 file.")->required();
  app.add_flag("--trust", options.trust, "Run the code that the artifact brings.");
  app.add_option("--noise", options.noise,
                 "Noise in place of fresh noise: float32 [images, 3, H, W] of numpy.save, a row for each image "
                 "in the order of the files; for artifacts of the profile lab.");
  app.add_option("--batch-size", options.batch_size, "Images that are answered at a time. [8]")->check(positive);
  app.add_option("--topk", options.topk, "How many classes to list for each image. [1]")->check(positive);
  app.add_option("--threads", options.threads, "CPU threads. Default: torch's own choice.")->check(positive);
  app.add_flag("--bench", options.bench,
               "Read the images once; then time an answer to all of them for each line on standard input.");
}

// A batch of images that could be read: their files, their pixels and their rows in the order of all files.
struct Batch {
  std::vector<fs::path> files;
  std::vector<at::Tensor> pixels;
  std::vector<std::int64_t> rows;
};

class Run {
 public:
  explicit Run(const Options& options) : options_(options) {
    for (const fs::path& path : options.images) {
      try {
        const auto found = image_files(path);
        files_.insert(files_.end(), found.begin(), found.end());
      } catch (const InputError& error) {
        skip(error);
      }
    }
  }

  int operator()() {
    if (files_.empty()) {
      return 1;
    }
    const Classifier classifier(options_.artifact, options_.trust);
    if (!classifier.metadata().calibrated) {
      std::cerr << "warning: tau_threshold = " << classifier.metadata().tau_threshold
                << " was not calibrated for this model; thresholds do not carry over between models. Results "
                   "say \"calibrated\": false.\n";
    }
    if (!options_.noise.empty()) {
      noise_ = load_npy(options_.noise);
      if (noise_->dim() == 0 || noise_->size(0) != static_cast<std::int64_t>(files_.size())) {
        throw InputError(options_.noise.string() + ": expected noise for " + std::to_string(files_.size()) +
                         " images, got " + (noise_->dim() == 0 ? "a number" : std::to_string(noise_->size(0))));
      }
    }
    if (options_.bench) {
      const Batch batch = read(classifier, 0, files_.size());
      if (skipped_ == 0) {
        bench(classifier, at::stack(batch.pixels), noise_);
      }
    } else {
      const auto size = static_cast<std::size_t>(options_.batch_size);
      for (std::size_t first = 0; first < files_.size(); first += size) {
        answer(classifier, read(classifier, first, std::min(first + size, files_.size())));
      }
    }
    if (skipped_ == 0) {
      return 0;
    }
    std::cerr << skipped_ << " of " << answered_ + skipped_ << " inputs could not be read\n";
    return 1;
  }

 private:
  void skip(const InputError& error) {
    std::cerr << "skipped " << error.what() << std::endl;
    ++skipped_;
  }

  Batch read(const Classifier& classifier, std::size_t first, std::size_t end) {
    Batch batch;
    for (std::size_t row = first; row < end; ++row) {
      try {
        batch.pixels.push_back(classifier.metadata().preprocess(files_[row]));
      } catch (const InputError& error) {
        skip(error);
        continue;
      }
      batch.files.push_back(files_[row]);
      batch.rows.push_back(static_cast<std::int64_t>(row));
    }
    return batch;
  }

  void answer(const Classifier& classifier, const Batch& batch) {
    if (batch.files.empty()) {
      return;
    }
    std::optional<at::Tensor> noise;
    if (noise_) {
      noise = noise_->index_select(0, at::tensor(batch.rows));
    }
    const Answers answers = classifier.predict(at::stack(batch.pixels), noise);
    for (const std::string& line : json_lines(batch.files, answers, classifier.metadata(), options_.topk)) {
      std::cout << line << '\n';
    }
    std::cout.flush();
    answered_ += batch.files.size();
  }

  const Options& options_;
  std::vector<fs::path> files_;
  std::optional<at::Tensor> noise_;
  std::size_t answered_ = 0;
  std::size_t skipped_ = 0;
};

// By default glibc hands a batch's buffers back to the system after each answer, and the next one has all of
// their pages mapped anew: nearly a third of the time of a small model
// (benchmarks/README.md).
void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int BYTES = 1 << 30;
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, BYTES);
  mallopt(M_TOP_PAD, BYTES / 8);
#endif
}

int fail(const std::string& message) {
  std::cerr << "error: " << message << '\n';
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  CLI::App app("CLIP, defended at inference against adversarial perturbations (TTC): one JSON line an image.");
  Options options;
  declare(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return fail(error.what());
  }
  try {
    if (options.threads > 0) {
      at::set_num_threads(options.threads);
    }
    const c10::InferenceMode inference;
    return Run(options)();
  } catch (const c10::Error& error) {
    return fail(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}
