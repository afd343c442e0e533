#include "program.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <optional>

#include "answers.h"
#include "bench.h"
#include "errors.h"
#include "files.h"
#include "npy.h"

namespace fs = std::filesystem;

namespace {

void declare(CLI::App& app, Options& options, const Runtime& runtime) {
  const auto positive = CLI::Range(1, 1'000'000);
  app.add_option("images", options.images, "Image files (PNG, JPEG), or folders of them.")->required();
  app.add_option("--artifact", options.artifact, runtime.artifact)->required();
  runtime.declare(app);
  app.add_option("--noise", options.noise,
                 "Noise in place of fresh noise: float32 [images, 3, H, W] of numpy.save, a row for each image "
                 "in the order of the files; for artifacts of the profile lab.");
  app.add_option("--batch-size", options.batch_size, "Images that are answered at a time. [8]")
      ->check(positive);
  app.add_option("--topk", options.topk, "How many classes to list for each image. [1]")->check(positive);
  app.add_option("--threads", options.threads, "CPU threads. Default: the runtime's own choice.")
      ->check(positive);
  app.add_flag("--bench", options.bench,
               "Read the images once; then time an answer to all of them for each line on standard input.");
}

// A batch of images that could be read: their files, their pixels and their rows in the order of all files.
struct Batch {
  std::vector<fs::path> files;
  std::vector<Bytes> pixels;
  std::vector<std::int64_t> rows;
};

class Run {
 public:
  Run(const Options& options, const Runtime& runtime) : options_(options), runtime_(runtime) {
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
    const std::unique_ptr<Classifier> classifier = runtime_.load(options_);
    if (!classifier->metadata().calibrated) {
      std::cerr << "warning: tau_threshold = " << classifier->metadata().tau_threshold
                << " was not calibrated for this model; thresholds do not carry over between models. Results "
                   "say \"calibrated\": false.\n";
    }
    if (!options_.noise.empty()) {
      noise_ = load_npy(options_.noise);
      const Shape& shape = noise_->shape();
      if (shape.empty() || shape[0] != static_cast<std::int64_t>(files_.size())) {
        throw InputError(options_.noise.string() + ": expected noise for " + std::to_string(files_.size()) +
                         " images, got " + (shape.empty() ? "a number" : std::to_string(shape[0])));
      }
    }
    if (options_.bench) {
      const Batch batch = read(*classifier, 0, files_.size());
      if (skipped_ == 0) {
        bench(*classifier, stacked(batch.pixels), noise_);
      }
    } else {
      const auto size = static_cast<std::size_t>(options_.batch_size);
      for (std::size_t first = 0; first < files_.size(); first += size) {
        answer(*classifier, read(*classifier, first, std::min(first + size, files_.size())));
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

  void answer(Classifier& classifier, const Batch& batch) {
    if (batch.files.empty()) {
      return;
    }
    std::optional<Floats> noise;
    if (noise_) {
      noise = noise_->rows(batch.rows);
    }
    const Answers answers = classifier.predict(stacked(batch.pixels), noise);
    for (const std::string& line : json_lines(batch.files, answers, classifier.metadata(), options_.topk)) {
      std::cout << line << '\n';
    }
    std::cout.flush();
    answered_ += batch.files.size();
  }

  const Options& options_;
  const Runtime& runtime_;
  std::vector<fs::path> files_;
  std::optional<Floats> noise_;
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

int classify(int argc, char** argv, const Runtime& runtime) {
  keep_freed_memory();
  CLI::App app("CLIP, defended at inference against adversarial perturbations (TTC): one JSON line an image.");
  Options options;
  declare(app, options, runtime);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return fail(error.what());
  }
  try {
    return Run(options, runtime)();
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}
