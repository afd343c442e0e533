#pragma once

#include <cstddef>

// The orientation that EXIF data ("Exif\0\0" and a TIFF header) tells, from 1 (upright) to 8; 1 for none.
int exif_orientation(const unsigned char* data, std::size_t size);
