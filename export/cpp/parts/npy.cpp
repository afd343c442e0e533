#include "npy.h"

#include <algorithm>
#include <string>
#include <vector>

#include "errors.h"
#include "files.h"

namespace {

constexpr std::size_t MOST_DIMENSIONS = 32;  // numpy has no more

}  // namespace

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
  const std::string before = "{'descr': '<f4', 'fortran_order': False, 'shape': (", after = "), }";
  const std::size_t end = header.find(after);
  expect(header.starts_with(before) && end != std::string::npos &&
             header.find_first_not_of(" \n", end + after.size()) == std::string::npos,
         "little-endian float32 in C order, got the header " + header.substr(0, 200));
  const std::string sizes = header.substr(before.size(), end - before.size());
  expect(sizes.find_first_not_of("0123456789, ") == std::string::npos, "a shape of numbers, got " + sizes.substr(0, 200));
  Shape shape;
  const std::size_t held = (bytes.size() - start - length) / sizeof(float);
  std::size_t named = 1;
  for (std::size_t at = 0; (at = sizes.find_first_of("0123456789", at)) != std::string::npos;) {
    const std::size_t digits = std::min(sizes.find_first_not_of("0123456789", at), sizes.size()) - at;
    expect(digits <= 18 && shape.size() < MOST_DIMENSIONS, "an array, got a truncated file");
    shape.push_back(std::stoll(sizes.substr(at, digits)));
    at += digits;
    const auto size = static_cast<std::size_t>(shape.back());
    expect(size == 0 || named <= held / size, "an array, got a truncated file");
    named *= size;
  }
  const std::size_t size = named * sizeof(float);
  expect(size == bytes.size() - start - length, "an array and nothing behind it");
  Floats array(shape);
  std::copy_n(bytes.data() + start + length, size, reinterpret_cast<char*>(array.data()));
  return array;
}
