// Images of a batch, from files to normalised planes; called through ctypes, from any thread.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "colour.h"
#include "draws.h"
#include "jpeg.h"
#include "jpeg_check.h"
#include "keep.h"
#include "resize.h"

namespace loader {

// items.py has the same structures.
struct Settings {
  int32_t training;
  int32_t height, width;      // of what comes out
  int32_t scaled, scaled_to;  // evaluation: short side, or with scaled_to > 0 height and width
  int32_t bytes_out;          // bytes (H, W, 3) in place of floats (3, H, W)
  double scale[2], ratio[2];
  double flip, flip_vertical;
  double jitter[3];
  float mean[3], deviation[3];
};

struct Item {
  const uint8_t* data;    // null: the file at `path`; else an encoded image, or pixels
  int64_t bytes;
  uint64_t seed;
  int32_t height, width;  // above 0: `data` are RGB pixels
  int32_t place;          // in the batch
  int32_t kept;           // number under which the pixels may be kept, or -1
  int32_t status;         // comes out: 0, or 1 if somebody has to look at it
  int32_t unused;
};

namespace {

constexpr int64_t kMaxFile = int64_t{256} << 20;

// What is wanted of an image of some size: a crop of it, scaled to so much, and a part of that.
struct Plan {
  Crop crop;
  int height, width;  // of the scaled crop
  int top, left;      // of the part
  bool mirrored = false, upside_down = false;
};

Plan plan_for(const Settings& settings, int height, int width, Draws* draws) {
  Plan plan;
  if (settings.training) {
    plan.crop = random_crop(width, height, settings.scale, settings.ratio, draws);
    plan.height = settings.height;
    plan.width = settings.width;
    plan.top = plan.left = 0;
    plan.mirrored = draws->uniform(0, 1) < settings.flip;
    plan.upside_down = draws->uniform(0, 1) < settings.flip_vertical;
    return plan;
  }
  plan.crop = {0, 0, width, height};
  plan.height = plan.width = settings.scaled;
  if (settings.scaled_to > 0) {
    plan.width = settings.scaled_to;
  } else if (height < width) {  // in float, as MindSpore
    plan.width = static_cast<int>(std::floor(static_cast<float>(width) / height * settings.scaled));
  } else {
    plan.height = static_cast<int>(std::floor(static_cast<float>(height) / width * settings.scaled));
  }
  plan.top = (plan.height - settings.height) / 2;
  plan.left = (plan.width - settings.width) / 2;
  return plan;
}

// The file as bytes, or null. Never waits on a pipe or device.
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
bool scale(Next next, const Plan& plan, const Settings& settings, uint8_t* to) {
  const int width = settings.width, height = settings.height;
  const bool half = plan.crop.width == 2 * plan.width && plan.crop.height == 2 * plan.height;
  if (half) {
    std::vector<int> columns(width);
    for (int k = 0; k < width; ++k) {
      columns[k] = 2 * (plan.left + (plan.mirrored ? width - 1 - k : k));
    }
    return resize_half(next, columns, plan.top, height, plan.upside_down, to);
  }
  std::vector<Tap> columns = taps(plan.crop.width, plan.width, plan.left, width, true);
  if (plan.mirrored) std::reverse(columns.begin(), columns.end());
  const std::vector<Tap> rows = taps(plan.crop.height, plan.height, plan.top, height, false);
  return resize_bilinear(next, columns, rows, plan.upside_down, to);
}

bool from_pixels(const uint8_t* pixels, int height, int width, const Settings& settings,
                 Draws* draws, uint8_t* to) {
  const Plan plan = plan_for(settings, height, width, draws);
  const auto next = [&](int y) {
    return pixels + 3 * (static_cast<int64_t>(plan.crop.y + y) * width + plan.crop.x);
  };
  return scale(next, plan, settings, to);
}

// Decodes no more than the crop needs, row by row into the scaling.
bool from_jpeg(JpegReader* reader, const Settings& settings, Draws* draws, uint8_t* to) {
  const Plan plan = plan_for(settings, reader->height(), reader->width(), draws);
  const bool half = plan.crop.width == 2 * plan.width && plan.crop.height == 2 * plan.height;
  const auto ends = [&](int size, int scaled, int from, int count, bool columns) {
    if (half) return std::make_pair(2 * from, 2 * (from + count));
    return std::make_pair(taps(size, scaled, from, 1, columns)[0].first,
                          taps(size, scaled, from + count - 1, 1, columns)[0].second + 1);
  };
  const auto across = ends(plan.crop.width, plan.width, plan.left, settings.width, true);
  const auto down = ends(plan.crop.height, plan.height, plan.top, settings.height, false);
  int begin = 0, read = 0, at = down.first;
  const int left = plan.crop.x + across.first;
  const int wide = across.second - across.first;
  if (!reader->start(left, wide, plan.crop.y + at, &begin, &read)) return false;
  // One byte off: to an even address libjpeg-turbo stores past the caches, from where we read next.
  static thread_local std::vector<uint8_t> buffer;
  buffer.resize(3 * static_cast<size_t>(read) + 64);
  uint8_t* row = buffer.data() + 1;
  const auto next = [&](int y) -> const uint8_t* {
    for (; at <= y; ++at) {
      if (!reader->row(row)) return nullptr;
    }
    return row + 3 * (plan.crop.x - begin);
  };
  return scale(next, plan, settings, to);
}

// All pixels of an image into memory of their own, for keeping.
std::unique_ptr<Kept> whole_jpeg(JpegReader* reader, Keep* keep) {
  std::unique_ptr<Kept> image = keep->reserve(reader->height(), reader->width());
  if (!image) return nullptr;
  int begin = 0, read = 0;
  bool fine = reader->start(0, reader->width(), 0, &begin, &read);
  for (int y = 0; fine && y < image->height; ++y) {
    fine = reader->row(image->pixels.get() + 3 * static_cast<int64_t>(y) * image->width);
  }
  if (!fine) keep->give_back(std::move(image));
  return image;
}

bool scaled_image(const Settings& settings, const char* path, const Item& item, Keep* keep,
                  Draws* draws, uint8_t* to) {
  const bool keeps = keep && item.kept >= 0;
  if (keeps) {
    if (const Kept* image = keep->find(item.kept)) {
      return from_pixels(image->pixels.get(), image->height, image->width, settings, draws, to);
    }
  }
  if (item.height > 0) {
    if (keeps) keep->add(item.kept, item.data, item.height, item.width);
    return from_pixels(item.data, item.height, item.width, settings, draws, to);
  }
  const uint8_t* data = item.data;
  int64_t bytes = item.bytes;
  if (!data) {
    data = read_file(path, &bytes);
    if (!data || !is_plain_jpeg(data, bytes)) return false;
  }
  JpegReader reader;
  if (!reader.header(data, static_cast<size_t>(bytes))) return false;
  if (keeps && keep->has_room(reader.height(), reader.width())) {
    if (std::unique_ptr<Kept> whole = whole_jpeg(&reader, keep)) {
      const Kept* image = keep->put(item.kept, std::move(whole));
      return from_pixels(image->pixels.get(), image->height, image->width, settings, draws, to);
    }
    return false;
  }
  return from_jpeg(&reader, settings, draws, to);
}

}  // namespace
}  // namespace loader

extern "C" {

// Takes the libjpeg-turbo at a path; 0 if it serves.
int loader_use_jpeg(const char* path) { return loader::use_jpeg_library(path) ? 0 : 1; }

int loader_is_plain_jpeg(const uint8_t* data, int64_t bytes) {
  return loader::is_plain_jpeg(data, bytes);
}

void* loader_keep(int64_t images, int64_t bytes) {
  return new (std::nothrow) loader::Keep(images, bytes);
}
void loader_forget(void* keep) { delete static_cast<loader::Keep*>(keep); }
int64_t loader_kept_bytes(void* keep) { return static_cast<loader::Keep*>(keep)->bytes(); }

// Makes `count` images; `out` is the batch's memory. Gives how many somebody has to look at.
int loader_images(const loader::Settings* settings, const char* const* paths, loader::Item* items,
                  int32_t count, void* out, void* keep) {
  static thread_local std::vector<uint8_t> picture;
  const int64_t pixels = static_cast<int64_t>(settings->height) * settings->width;
  int left = 0;
  for (int32_t k = 0; k < count; ++k) {
    loader::Item& item = items[k];
    item.status = 1;
    try {
      picture.resize(4 * static_cast<size_t>(pixels));
      loader::Draws draws(item.seed);
      if (loader::scaled_image(*settings, paths[k], item, static_cast<loader::Keep*>(keep), &draws,
                               picture.data())) {
        const double* jitter = settings->jitter;
        if (settings->training && (jitter[0] > 0 || jitter[1] > 0 || jitter[2] > 0)) {
          loader::jitter_colours(picture.data(), pixels, jitter, &draws);
        }
        if (settings->bytes_out) {
          uint8_t* to = static_cast<uint8_t*>(out) + 3 * pixels * item.place;
          for (int64_t p = 0; p < pixels; ++p) {
            for (int c = 0; c < 3; ++c) to[3 * p + c] = picture[4 * p + c];
          }
        } else {
          loader::to_planes(picture.data(), pixels, settings->mean, settings->deviation,
                            static_cast<float*>(out) + 3 * pixels * item.place);
        }
        item.status = 0;
      }
    } catch (const std::bad_alloc&) {  // the long way says what is too large
    }
    left += item.status;
  }
  return left;
}

// Normalises one picture of bytes (H, W, 3) into floats (3, H, W).
void loader_planes(const loader::Settings* settings, const uint8_t* bytes, float* out) {
  const int64_t pixels = static_cast<int64_t>(settings->height) * settings->width;
  for (int c = 0; c < 3; ++c) {
    const float mean = settings->mean[c], deviation = settings->deviation[c];
    for (int64_t p = 0; p < pixels; ++p) out[c * pixels + p] = (bytes[3 * p + c] - mean) / deviation;
  }
}
}
