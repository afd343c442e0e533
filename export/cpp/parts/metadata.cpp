#include "metadata.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "errors.h"

using nlohmann::json;

namespace {

constexpr std::array READABLE_SCHEMAS{1, 2, 3, 4, 5};
constexpr std::array OUTPUTS{"logits", "undefended_logits", "drift", "countered", "delta", "embedding"};
// What answers are printed from, and what files gave before they said what they give.
constexpr std::size_t PRINTED = 4, USUAL_IN_LAB = 5;

// An object of the metadata, whose fields are asked for by name and type.
class Fields {
 public:
  Fields(const json& values, std::string prefix) : values_(values), prefix_(std::move(prefix)) {}

  const json& field(const char* name) const {
    const auto found = values_.find(name);
    if (found == values_.end()) {
      throw ArtifactError("metadata field '" + prefix_ + name + "' is missing");
    }
    return *found;
  }

  template <typename Test>
  const json& field(const char* name, const char* expected, const Test& is_so) const {
    const json& value = field(name);
    if (!is_so(value)) {
      throw ArtifactError(std::string("expected ") + expected + " as metadata field '" + prefix_ + name +
                          "', got " + shown(value));
    }
    return value;
  }

  Fields object(const char* name) const {
    const json& value = field(name, "an object", [](const json& v) { return v.is_object(); });
    return {value, prefix_ + name + "."};
  }

  bool flag(const char* name) const {
    return field(name, "true or false", [](const json& v) { return v.is_boolean(); }).get<bool>();
  }

  double number(const char* name, const char* expected, bool (*is_so)(double)) const {
    const auto test = [&](const json& v) { return v.is_number() && is_so(v.get<double>()); };
    return field(name, expected, test).get<double>();
  }

  // The value that a name stands for.
  template <typename Value>
  Value one_of(const char* name, std::initializer_list<std::pair<const char*, Value>> known) const {
    std::string expected;
    for (const auto& [text, value] : known) {
      expected += (expected.empty() ? "'" : " or '") + std::string(text) + "'";
    }
    const json& found =
        field(name, expected.c_str(), [&](const json& v) {
          return std::any_of(known.begin(), known.end(), [&](const auto& pair) { return v == pair.first; });
        });
    return std::find_if(known.begin(), known.end(), [&](const auto& pair) { return found == pair.first; })
        ->second;
  }

  void only(std::initializer_list<std::string_view> known) const {
    for (const auto& [name, value] : values_.items()) {
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        throw ArtifactError("unknown metadata field '" + prefix_ + name + "'");
      }
    }
  }

  static std::string shown(const json& value) {
    const std::string text = value.dump(-1, ' ', true);
    return text.size() <= 60 ? text : text.substr(0, 57) + "...";
  }

 private:
  const json& values_;
  std::string prefix_;
};

bool is_positive_integer(const json& value) {
  return value.is_number_unsigned() && value > 0 && value <= std::numeric_limits<std::int32_t>::max();
}

int checked_schema(const Fields& fields) {
  const json& schema =
      fields.field("schema", "an integer", [](const json& v) { return v.is_number_integer(); });
  const int newest = READABLE_SCHEMAS.back();
  if (schema > newest) {
    throw ArtifactError("its metadata has schema " + schema.dump() + ", this program reads up to " +
                        std::to_string(newest) + ": a newer one is needed");
  }
  if (std::find(READABLE_SCHEMAS.begin(), READABLE_SCHEMAS.end(), schema) == READABLE_SCHEMAS.end()) {
    throw ArtifactError("its metadata has schema " + schema.dump() + ", this program reads " +
                        json(READABLE_SCHEMAS).dump());
  }
  return schema.get<int>();
}

// Whether UTF-8 is words alone: no control character, no line of its own, nothing that turns what stands around it.
bool is_printable(const std::string& text) {
  static const std::array turns{"\u061c", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202b", "\u202c",
                                "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"};
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool second_controls = byte(i) == 0xC2 && i + 1 < text.size() && byte(i + 1) < 0xA0;  // U+0080 to U+009F
    if (byte(i) < 0x20 || byte(i) == 0x7F || second_controls) {
      return false;
    }
  }
  return std::none_of(turns.begin(), turns.end(),
                      [&](const char* turn) { return text.find(turn) != std::string::npos; });
}

std::vector<std::string> outputs_of(const Fields& fields, int schema, bool lab) {
  if (schema < 4) {
    return {OUTPUTS.begin(), OUTPUTS.begin() + (lab ? USUAL_IN_LAB : PRINTED)};
  }
  const json& names = fields.field("outputs", "a list of known outputs", [](const json& v) {
    return v.is_array() && std::all_of(v.begin(), v.end(), [](const json& name) {
             return std::find(OUTPUTS.begin(), OUTPUTS.end(), name) != OUTPUTS.end();
           });
  });
  std::vector<std::string> outputs;
  for (std::size_t i = 0; i < OUTPUTS.size(); ++i) {
    if (std::find(names.begin(), names.end(), OUTPUTS[i]) != names.end()) {
      outputs.emplace_back(OUTPUTS[i]);
    } else if (i < PRINTED) {
      throw ArtifactError("exported without the output " + std::string(OUTPUTS[i]) +
                          ", which this program's answers tell");
    }
  }
  return outputs;
}

std::optional<std::int64_t> width_of(const Fields& fields, int schema) {
  if (schema < 4) {
    return std::nullopt;
  }
  const json& width = fields.field("width", "a positive integer or null", [](const json& v) {
    return v.is_null() || is_positive_integer(v);
  });
  return width.is_null() ? std::nullopt : std::optional(width.get<std::int64_t>());
}

Preprocess preprocess_of(const Fields& fields) {
  fields.only({"size", "interpolation", "resize_mode", "fill_color", "color_order", "range"});
  fields.field("color_order", "'RGB'", [](const json& v) { return v == "RGB"; });
  fields.field("range", "[0, 1]", [](const json& v) { return v == json({0, 1}); });
  const json& size = fields.field("size", "a list of two positive integers", [](const json& v) {
    return v.is_array() && v.size() == 2 && is_positive_integer(v[0]) && is_positive_integer(v[1]);
  });
  const json& fill = fields.field("fill_color", "an integer from 0 to 255", [](const json& v) {
    return v.is_number_unsigned() && v <= 255;
  });
  return {
      .height = size[0].get<std::int64_t>(),
      .width = size[1].get<std::int64_t>(),
      .interpolation = fields.one_of<Interpolation>(
          "interpolation", {{"bicubic", Interpolation::bicubic}, {"bilinear", Interpolation::bilinear}}),
      .resize_mode = fields.one_of<ResizeMode>("resize_mode", {{"shortest", ResizeMode::shortest},
                                                               {"longest", ResizeMode::longest},
                                                               {"squash", ResizeMode::squash}}),
      .fill_color = fill.get<int>(),
  };
}

}  // namespace

Metadata Metadata::from_json(const std::string& text) {
  const json values = json::parse(text, nullptr, false);
  if (values.is_discarded()) {
    throw ArtifactError("its metadata is no JSON");
  }
  if (!values.is_object()) {
    throw ArtifactError("its metadata is no JSON object, but " + Fields::shown(values));
  }
  const Fields fields(values, "");
  const int schema = checked_schema(fields);
  const Fields config = fields.object("config");
  const json& batch = fields.field("batch", "a positive integer or null", [](const json& v) {
    return v.is_null() || is_positive_integer(v);
  });
  const json& names =
      fields.field("classnames", "a list of one string or more, without control characters", [](const json& v) {
        return v.is_array() && !v.empty() && std::all_of(v.begin(), v.end(), [](const json& name) {
                 return name.is_string() && is_printable(name.get<std::string>());
               });
      });
  const bool lab = fields.one_of<bool>("profile", {{"serving", false}, {"lab", true}});
  return {
      .lab = lab,
      .fixed_noise = fields.flag("static"),
      .batch = batch.is_null() ? std::nullopt : std::optional(batch.get<std::int64_t>()),
      .uint8_pixels = fields.one_of<bool>("pixels", {{"float32", false}, {"uint8", true}}),
      .outputs = outputs_of(fields, schema, lab),
      .width = width_of(fields, schema),
      .classnames = names.get<std::vector<std::string>>(),
      .eps = config.number("eps", "a positive number", [](double v) { return v > 0 && std::isfinite(v); }),
      .norm = config.one_of<Norm>("norm", {{"linf", Norm::linf}, {"l2", Norm::l2}}),
      .tau_threshold = config.number("tau_threshold", "a number of at least 0",
                                     [](double v) { return v >= 0 && std::isfinite(v); }),
      .calibrated = fields.flag("calibrated"),
      .preprocess = preprocess_of(fields.object("preprocess")),
  };
}
