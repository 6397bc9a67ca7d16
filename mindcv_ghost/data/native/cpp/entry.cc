// Makes the images of a batch, from file to normalised floats. Called through ctypes, from any
// thread.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <new>

#include "array_images.h"
#include "colour.h"
#include "decoded_cache.h"
#include "jpeg.h"
#include "jpeg_check.h"
#include "resize.h"
#include "rng.h"

namespace loader {

// images.py has the same structures.
struct Settings {
  int32_t training;
  int32_t height, width;                // of the output
  int32_t resize_height, resize_width;  // evaluation; width 0: the height is that of the short side
  int32_t bytes_out;                    // output bytes (H, W, 3) instead of floats (3, H, W)
  double scale[2], ratio[2];
  double hflip, vflip;  // probabilities
  double jitter[3];
  float mean[3], std[3];
};

struct Item {
  const uint8_t* data;    // null: read the file at `path`; else an encoded image, or pixels
  int64_t bytes;
  uint64_t seed;
  int32_t height, width;  // above 0: `data` are RGB pixels
  int32_t position;       // in the batch
  int32_t cache_key;      // key of the decoded pixels in the cache, or -1
  int32_t status;         // output: 0, or 1 if the image wasn't made
  int32_t padding;
};

namespace {

constexpr int64_t kMaxFile = int64_t{256} << 20;
constexpr int kMaxAspect = 100;  // as image_file's MAX_ASPECT

// The pixels to cut at either end of a side, so that it is kMaxAspect times the other at most.
int cut(int64_t side, int64_t other) {
  return static_cast<int>(side > kMaxAspect * other ? (side - kMaxAspect * other) / 2 : 0);
}

// What to do with an image: crop it, resize the crop, and output a part of that.
struct Plan {
  Crop crop;
  int height, width;  // of the resized crop
  int top, left;      // of the output in it
  bool hflip = false, vflip = false;
};

Plan plan_for(const Settings& settings, int height, int width, Rng* rng) {
  Plan plan;
  if (settings.training) {
    plan.crop = random_crop(width, height, settings.scale, settings.ratio, rng);
    plan.height = settings.height;
    plan.width = settings.width;
    plan.top = plan.left = 0;
    plan.hflip = rng->uniform(0, 1) < settings.hflip;
    plan.vflip = rng->uniform(0, 1) < settings.vflip;
    return plan;
  }
  plan.crop = {0, 0, width, height};
  plan.height = plan.width = settings.resize_height;
  if (settings.resize_width > 0) {
    plan.width = settings.resize_width;
  } else {
    const int x = cut(width, height), y = cut(height, width);
    plan.crop = {x, y, width - 2 * x, height - 2 * y};
    const float wide = static_cast<float>(plan.crop.width);  // in float, as MindSpore
    const float high = static_cast<float>(plan.crop.height);
    if (high < wide) {
      plan.width = static_cast<int>(std::floor(wide / high * plan.height));
    } else {
      plan.height = static_cast<int>(std::floor(high / wide * plan.width));
    }
  }
  plan.top = (plan.height - settings.height) / 2;
  plan.left = (plan.width - settings.width) / 2;
  return plan;
}

// Reads a whole file into the thread's buffer, or returns null. Never blocks on a pipe or device.
const uint8_t* read_file(const char* path, int64_t* bytes) {
  static thread_local std::vector<uint8_t> buffer;
  const int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) return nullptr;
  struct stat status;
  int64_t got = -1;
  if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size <= kMaxFile) {
    if (buffer.size() > (64u << 20) || buffer.size() < static_cast<size_t>(status.st_size)) {
      buffer = std::vector<uint8_t>(static_cast<size_t>(status.st_size) + 1);
    }
    got = 0;
    while (got < status.st_size) {
      const ssize_t more = read(file, buffer.data() + got, status.st_size - got);
      if (more <= 0) break;
      got += more;
    }
    if (got != status.st_size) got = -1;
  }
  close(file);
  *bytes = got;
  return got > 0 ? buffer.data() : nullptr;
}

template <class Next>
bool resize(Next next, const Plan& plan, const Settings& settings, uint8_t* to) {
  const int width = settings.width, height = settings.height;
  const bool half = plan.crop.width == 2 * plan.width && plan.crop.height == 2 * plan.height;
  if (half) {
    std::vector<int> columns(width);
    for (int k = 0; k < width; ++k) {
      columns[k] = 2 * (plan.left + (plan.hflip ? width - 1 - k : k));
    }
    return resize_half(next, columns, plan.top, height, plan.vflip, to);
  }
  std::vector<Tap> columns = taps(plan.crop.width, plan.width, plan.left, width, true);
  if (plan.hflip) std::reverse(columns.begin(), columns.end());
  const std::vector<Tap> rows = taps(plan.crop.height, plan.height, plan.top, height, false);
  return resize_bilinear(next, columns, rows, plan.vflip, to);
}

bool from_pixels(const uint8_t* pixels, int height, int width, const Settings& settings,
                 Rng* rng, uint8_t* to) {
  const Plan plan = plan_for(settings, height, width, rng);
  const auto next = [&](int y) {
    return pixels + 3 * (static_cast<int64_t>(plan.crop.y + y) * width + plan.crop.x);
  };
  return resize(next, plan, settings, to);
}

// Decodes no more than the crop needs, and resizes row by row.
bool from_jpeg(JpegReader* reader, const Settings& settings, Rng* rng, uint8_t* to) {
  const Plan plan = plan_for(settings, reader->height(), reader->width(), rng);
  const bool half = plan.crop.width == 2 * plan.width && plan.crop.height == 2 * plan.height;
  const auto ends = [&](int size, int resized, int from, int count, bool columns) {
    if (half) return std::make_pair(2 * from, 2 * (from + count));
    return std::make_pair(taps(size, resized, from, 1, columns)[0].first,
                          taps(size, resized, from + count - 1, 1, columns)[0].second + 1);
  };
  const auto across = ends(plan.crop.width, plan.width, plan.left, settings.width, true);
  const auto down = ends(plan.crop.height, plan.height, plan.top, settings.height, false);
  int begin = 0, read = 0, at = down.first;
  const int left = plan.crop.x + across.first;
  const int wide = across.second - across.first;
  if (!reader->start(left, wide, plan.crop.y + at, &begin, &read)) return false;
  // An odd address: at an even one libjpeg-turbo stores past the caches, and we read it next.
  static thread_local std::vector<uint8_t> buffer;
  buffer.resize(3 * static_cast<size_t>(read) + 64);
  uint8_t* row = buffer.data() + 1;
  const auto next = [&](int y) -> const uint8_t* {
    for (; at <= y; ++at) {
      if (!reader->row(row)) return nullptr;
    }
    return row + 3 * (plan.crop.x - begin);
  };
  return resize(next, plan, settings, to);
}

// Decodes a whole image into memory of the cache.
std::unique_ptr<DecodedImage> whole_jpeg(JpegReader* reader, DecodedCache* cache) {
  std::unique_ptr<DecodedImage> image = cache->reserve(reader->height(), reader->width());
  if (!image) return nullptr;
  int begin = 0, read = 0;
  bool ok = reader->start(0, reader->width(), 0, &begin, &read);
  for (int y = 0; ok && y < image->height; ++y) {
    ok = reader->row(image->pixels.get() + 3 * static_cast<int64_t>(y) * image->width);
  }
  if (!ok) cache->release(std::move(image));
  return image;
}

bool resized_image(const Settings& settings, const char* path, const Item& item,
                   DecodedCache* cache, Rng* rng, uint8_t* to) {
  const bool caches = cache && item.cache_key >= 0;
  if (caches) {
    if (const DecodedImage* image = cache->find(item.cache_key)) {
      return from_pixels(image->pixels.get(), image->height, image->width, settings, rng, to);
    }
  }
  if (item.height > 0) {
    if (caches) cache->add(item.cache_key, item.data, item.height, item.width);
    return from_pixels(item.data, item.height, item.width, settings, rng, to);
  }
  const uint8_t* data = item.data;
  int64_t bytes = item.bytes;
  if (!data) {
    data = read_file(path, &bytes);
    if (!data || !is_plain_jpeg(data, bytes)) return false;
  }
  JpegReader reader;
  if (!reader.header(data, static_cast<size_t>(bytes))) return false;
  if (caches && cache->has_room(reader.height(), reader.width())) {
    if (std::unique_ptr<DecodedImage> whole = whole_jpeg(&reader, cache)) {
      const DecodedImage* image = cache->put(item.cache_key, std::move(whole));
      return from_pixels(image->pixels.get(), image->height, image->width, settings, rng, to);
    }
    return false;
  }
  return from_jpeg(&reader, settings, rng, to);
}

}  // namespace
}  // namespace loader

extern "C" {

// Loads the libjpeg-turbo at a path; 0 if it can be used.
int loader_use_jpeg(const char* path) { return loader::use_jpeg_library(path) ? 0 : 1; }

int loader_is_plain_jpeg(const uint8_t* data, int64_t bytes) {
  return loader::is_plain_jpeg(data, bytes);
}

// Null if there is no memory for it.
void* loader_new_cache(int64_t images, int64_t bytes) {
  try {
    return new loader::DecodedCache(images, bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void loader_delete_cache(void* cache) { delete static_cast<loader::DecodedCache*>(cache); }
int64_t loader_cache_bytes(void* cache) {
  return static_cast<loader::DecodedCache*>(cache)->bytes();
}

// Makes `count` images in `out`, the batch's memory. Returns how many weren't made: their status is
// 1, and the caller decodes them or reports what is wrong.
int loader_images(const loader::Settings* settings, const char* const* paths, loader::Item* items,
                  int32_t count, void* out, void* cache) {
  static thread_local std::vector<uint8_t> image;
  const int64_t pixels = static_cast<int64_t>(settings->height) * settings->width;
  int left = 0;
  for (int32_t k = 0; k < count; ++k) {
    loader::Item& item = items[k];
    item.status = 1;
    try {
      image.resize(4 * static_cast<size_t>(pixels));
      loader::Rng rng(item.seed);
      if (loader::resized_image(*settings, paths[k], item,
                                static_cast<loader::DecodedCache*>(cache), &rng, image.data())) {
        const double* jitter = settings->jitter;
        if (settings->training && (jitter[0] > 0 || jitter[1] > 0 || jitter[2] > 0)) {
          loader::jitter_colours(image.data(), pixels, jitter, &rng);
        }
        if (settings->bytes_out) {
          uint8_t* to = static_cast<uint8_t*>(out) + 3 * pixels * item.position;
          for (int64_t p = 0; p < pixels; ++p) {
            for (int c = 0; c < 3; ++c) to[3 * p + c] = image[4 * p + c];
          }
        } else {
          loader::normalize(image.data(), pixels, settings->mean, settings->std,
                            static_cast<float*>(out) + 3 * pixels * item.position);
        }
        item.status = 0;
      }
    } catch (const std::bad_alloc&) {  // the caller's check says what is too large
    }
    left += item.status;
  }
  return left;
}

// Makes `count` images of arrays in memory in `out`, one after the other.
void loader_arrays(const loader::ArraySettings* settings, const uint8_t* const* images,
                   const uint64_t* seeds, int32_t count, const float* table, float* out) {
  const int64_t values = int64_t{1} * settings->channels * settings->height * settings->width;
  for (int32_t k = 0; k < count; ++k) {
    loader::array_image(*settings, images[k], seeds[k], table, out + k * values);
  }
}

// Normalises one image of bytes (H, W, 3) into floats (3, H, W).
void loader_normalize(const loader::Settings* settings, const uint8_t* bytes, float* out) {
  const int64_t pixels = static_cast<int64_t>(settings->height) * settings->width;
  for (int c = 0; c < 3; ++c) {
    const float mean = settings->mean[c], std = settings->std[c];
    for (int64_t p = 0; p < pixels; ++p) out[c * pixels + p] = (bytes[3 * p + c] - mean) / std;
  }
}
}
