// Decoded images that stay in memory, as long as there is room: nothing kept is ever given up.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace loader {

struct Kept {
  int height, width;
  std::unique_ptr<uint8_t[]> pixels;  // RGB
};

// Threads may use one at the same time.
class Keep {
 public:
  Keep(int64_t images, int64_t bytes) : images_(images), room_(bytes), limit_(bytes) {}
  ~Keep() {
    for (auto& image : images_) delete image.load();
  }
  Keep(const Keep&) = delete;
  Keep& operator=(const Keep&) = delete;

  const Kept* find(int64_t number) const { return images_[number].load(std::memory_order_acquire); }
  bool has_room(int height, int width) const { return room_.load() >= size(height, width); }
  int64_t bytes() const { return limit_ - room_.load(); }

  std::unique_ptr<Kept> reserve(int height, int width) {
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
    return std::unique_ptr<Kept>(new Kept{height, width, std::move(pixels)});
  }
  void give_back(std::unique_ptr<Kept> image) { room_.fetch_add(size(image->height, image->width)); }

  const Kept* put(int64_t number, std::unique_ptr<Kept> image) {
    Kept* there = nullptr;
    if (images_[number].compare_exchange_strong(there, image.get(), std::memory_order_acq_rel)) {
      return image.release();
    }
    give_back(std::move(image));  // another thread was first
    return there;
  }
  void add(int64_t number, const uint8_t* pixels, int height, int width) {
    if (!has_room(height, width)) return;
    std::unique_ptr<Kept> image = reserve(height, width);
    if (!image) return;
    std::memcpy(image->pixels.get(), pixels, static_cast<size_t>(size(height, width)));
    put(number, std::move(image));
  }

 private:
  static int64_t size(int height, int width) { return int64_t{3} * height * width; }

  std::vector<std::atomic<Kept*>> images_;
  std::atomic<int64_t> room_;
  const int64_t limit_;
};

}  // namespace loader
