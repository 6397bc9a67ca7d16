// Decoded images in memory. Images are added while there is room; none is ever evicted.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace loader {

struct DecodedImage {
  int height, width;
  std::unique_ptr<uint8_t[]> pixels;  // RGB
};

// Thread-safe.
class DecodedCache {
 public:
  DecodedCache(int64_t images, int64_t bytes) : images_(images), room_(bytes), limit_(bytes) {}
  ~DecodedCache() {
    for (auto& image : images_) delete image.load();
  }
  DecodedCache(const DecodedCache&) = delete;
  DecodedCache& operator=(const DecodedCache&) = delete;

  const DecodedImage* find(int64_t key) const {
    return images_[key].load(std::memory_order_acquire);
  }
  bool has_room(int height, int width) const { return room_.load() >= size(height, width); }
  int64_t bytes() const { return limit_ - room_.load(); }

  // Memory for an image, or null if there is no room. Ends with `put` or `release`.
  std::unique_ptr<DecodedImage> reserve(int height, int width) {
    const int64_t bytes = size(height, width);
    if (room_.fetch_sub(bytes) < bytes) {
      room_.fetch_add(bytes);
      return nullptr;
    }
    std::unique_ptr<uint8_t[]> pixels(new (std::nothrow) uint8_t[bytes]);
    if (!pixels) {
      room_.fetch_add(bytes);
      return nullptr;
    }
    return std::unique_ptr<DecodedImage>(new DecodedImage{height, width, std::move(pixels)});
  }
  void release(std::unique_ptr<DecodedImage> image) {
    room_.fetch_add(size(image->height, image->width));
  }

  // Stores an image; gives the stored one, which is another thread's if that was first.
  const DecodedImage* put(int64_t key, std::unique_ptr<DecodedImage> image) {
    DecodedImage* there = nullptr;
    if (images_[key].compare_exchange_strong(there, image.get(), std::memory_order_acq_rel)) {
      return image.release();
    }
    release(std::move(image));
    return there;
  }
  void add(int64_t key, const uint8_t* pixels, int height, int width) {
    if (!has_room(height, width)) return;
    std::unique_ptr<DecodedImage> image = reserve(height, width);
    if (!image) return;
    std::memcpy(image->pixels.get(), pixels, static_cast<size_t>(size(height, width)));
    put(key, std::move(image));
  }

 private:
  static int64_t size(int height, int width) { return int64_t{3} * height * width; }

  std::vector<std::atomic<DecodedImage*>> images_;
  std::atomic<int64_t> room_;
  const int64_t limit_;
};

}  // namespace loader
