// Runs the library under a sanitizer: DRIVER LIBJPEG IMAGE...; no output and status 0 if all is well.
//
// Two threads make all images, whole and cut, in training and evaluation, in many sizes, from files
// and from memory, with and without a cache of decoded images.

#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

#include "../../mindcv_ghost/data/native/cpp/entry.cc"

namespace {

std::vector<uint8_t> contents(const char* path) {
  std::vector<uint8_t> bytes;
  if (FILE* file = std::fopen(path, "rb")) {
    for (int c; (c = std::fgetc(file)) != EOF;) bytes.push_back(static_cast<uint8_t>(c));
    std::fclose(file);
  }
  return bytes;
}

void drive(const std::vector<const char*>& paths, void* cache, int thread) {
  for (int size : {1, 7, 32, 65}) {
    for (int training : {0, 1}) {
      loader::Settings settings{};
      settings.training = training;
      settings.height = size;
      settings.width = size + (training ? 3 : 0);
      settings.resize_height = size + 5;
      settings.scale[0] = 0.05;
      settings.scale[1] = 1;
      settings.ratio[0] = 0.5;
      settings.ratio[1] = 2;
      settings.hflip = settings.vflip = 0.5;
      settings.jitter[0] = settings.jitter[1] = settings.jitter[2] = 0.5;
      for (int c = 0; c < 3; ++c) settings.std[c] = 1;
      settings.bytes_out = size == 7;
      const int count = static_cast<int>(paths.size());
      const size_t samples = 3 * static_cast<size_t>(settings.height) * settings.width;
      for (void* memory : {static_cast<void*>(nullptr), cache}) {
        std::unique_ptr<float[]> out(new float[samples * count]);
        std::vector<loader::Item> items(count);
        for (int k = 0; k < count; ++k) {
          items[k] = loader::Item{};
          items[k].seed = 1000 * thread + 10 * size + k;
          items[k].position = k;
          items[k].cache_key = memory ? k : -1;
        }
        loader_images(&settings, paths.data(), items.data(), count, out.get(), memory);
        if (settings.bytes_out) {
          loader_normalize(&settings, reinterpret_cast<uint8_t*>(out.get()), out.get() + samples);
        }
      }
      for (const char* path : paths) {
        const std::vector<uint8_t> whole = contents(path);
        for (int cut = 0; cut < 12; ++cut) {
          // Memory of exactly the cut's length, so that reading past its end is found.
          const size_t length = whole.size() * (cut + 1) / 12;
          std::unique_ptr<uint8_t[]> part(new uint8_t[length]);
          std::memcpy(part.get(), whole.data(), length);
          loader_is_plain_jpeg(part.get(), static_cast<int64_t>(length));
          loader::Item item{};
          item.data = part.get();
          item.bytes = static_cast<int64_t>(length);
          item.cache_key = -1;
          item.seed = cut;
          const char* none = nullptr;
          std::unique_ptr<float[]> out(new float[samples]);
          loader_images(&settings, &none, &item, 1, out.get(), nullptr);
        }
      }
    }
  }
}

// Images in memory, in memory of exactly their size: planes, pixels, and one channel three times.
void drive_arrays() {
  const int64_t strides[][3] = {{35, 7, 1}, {1, 21, 3}, {0, 7, 1}};
  const int sizes[] = {105, 105, 35};
  for (int kind = 0; kind < 3; ++kind) {
    for (int padding : {0, 2, 9}) {
      loader::ArraySettings settings{3, 5, 7, padding, {}, 0.5};
      std::copy_n(strides[kind], 3, settings.strides);
      const std::vector<uint8_t> image(sizes[kind], 3);
      const std::vector<const uint8_t*> images(20, image.data());
      std::vector<uint64_t> seeds(20);
      for (size_t k = 0; k < seeds.size(); ++k) seeds[k] = k;
      std::vector<float> table(3 * 256), out(20 * 105);
      loader_arrays(&settings, images.data(), seeds.data(), 20, table.data(), out.data());
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3 || loader_use_jpeg(arguments[1]) != 0) return 2;
  drive_arrays();
  const std::vector<const char*> paths(arguments + 2, arguments + count);
  for (int64_t room : {int64_t{0}, int64_t{9000}, int64_t{1} << 30}) {
    void* cache = loader_new_cache(static_cast<int64_t>(paths.size()), room);
    std::thread other([&] { drive(paths, cache, 1); });
    drive(paths, cache, 0);
    other.join();
    if (loader_cache_bytes(cache) > room) return 3;
    loader_delete_cache(cache);
  }
  return 0;
}
