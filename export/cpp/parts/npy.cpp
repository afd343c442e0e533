#include "npy.h"

#include <cstring>
#include <regex>
#include <string>
#include <vector>

#include "errors.h"
#include "files.h"

Floats load_npy(const std::filesystem::path& path) {
  const std::string bytes = read_bytes(path);
  const auto expect = [&](bool is_so, const std::string& what) {
    if (!is_so) {
      throw InputError(path.string() + ": expected " + what);
    }
  };
  expect(bytes.starts_with("\x93NUMPY") && bytes.size() >= 12, "an array that numpy.save wrote");
  // Version 1 has two bytes for the length of the header, later ones four.
  const std::size_t width = bytes[6] == 1 ? 2 : 4, start = 8 + width;
  std::size_t length = 0;
  for (std::size_t i = width; i-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(bytes[8 + i]);
  }
  expect(length <= bytes.size() - start, "an array, got a truncated file");
  const std::string header = bytes.substr(start, length);
  static const std::regex form(
      R"(\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9, ]*)\), \}\s*)");
  std::smatch match;
  expect(std::regex_match(header, match, form), "little-endian float32 in C order, got the header " + header);
  Shape shape;
  const std::string sizes = match[1];
  static const std::regex number("[0-9]{1,18}");
  const std::size_t held = (bytes.size() - start - length) / sizeof(float);
  std::size_t named = 1;
  for (std::sregex_iterator it(sizes.begin(), sizes.end(), number), end; it != end; ++it) {
    shape.push_back(std::stoll(it->str()));
    const auto size = static_cast<std::size_t>(shape.back());
    expect(size == 0 || named <= held / size, "an array, got a truncated file");
    named *= size;
  }
  expect(named == held, "an array and nothing behind it");
  Floats array(shape);
  std::memcpy(array.data(), bytes.data() + start + length, held * sizeof(float));
  return array;
}
