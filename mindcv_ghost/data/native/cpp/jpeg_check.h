// A fast check that a JPEG is whole and ordinary: baseline, one scan, 8 bits, 1 or 3 colours.
//
// It accepts only files that end properly and whose size image_file.py accepts. It doesn't check
// tables, as jpeg_is_plain in image_file.py does. Every other file goes through the Python check.
#pragma once

#include <cstdint>
#include <cstring>

namespace loader {

constexpr int64_t kMaxPixels = 89478485;  // as image_file's MAX_PIXELS

inline bool is_plain_jpeg(const uint8_t* data, int64_t bytes) {
  if (bytes < 4 || data[0] != 0xFF || data[1] != 0xD8) return false;
  int components = 0;
  int64_t at = 2;
  while (at + 4 <= bytes && data[at] == 0xFF) {
    const int marker = data[at + 1];
    const int64_t length = data[at + 2] << 8 | data[at + 3];
    const uint8_t* body = data + at + 4;
    at += 2 + length;
    if (length < 2 || at > bytes) return false;
    if ((marker & 0xF0) == 0xE0 || marker == 0xFE || marker == 0xDB || marker == 0xC4) continue;
    if (marker == 0xDD && length == 4) continue;
    if ((marker == 0xC0 || marker == 0xC1) && components == 0 && length >= 11) {
      const int64_t height = body[1] << 8 | body[2], width = body[3] << 8 | body[4];
      components = body[5];
      if (body[0] != 8 || (components != 1 && components != 3)) return false;
      if (length != 8 + 3 * components || width == 0 || height == 0) return false;
      if (width * height > kMaxPixels) return false;
      continue;
    }
    if (marker != 0xDA || components == 0 || length != 6 + 2 * components) return false;
    if (body[0] != components) return false;
    // Inside the scan 0xFF is data if 0x00 follows, and a restart marker if 0xD0 to 0xD7 does.
    while (at + 1 < bytes) {
      const void* found = std::memchr(data + at, 0xFF, static_cast<size_t>(bytes - 1 - at));
      if (!found) return false;
      at = static_cast<const uint8_t*>(found) - data + 1;
      const int next = data[at];
      if (next != 0 && (next & 0xF8) != 0xD0) return next == 0xD9;
    }
    return false;
  }
  return false;
}

}  // namespace loader
