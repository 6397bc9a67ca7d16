// Random numbers of one training image, from its seed alone, and its random crop.
#pragma once

#include <cmath>
#include <cstdint>

namespace loader {

// SplitMix64 (Steele, Lea, Flood, 2014).
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double uniform(double low, double high) {  // [low, high)
    return low + (high - low) * (static_cast<double>(bits() >> 11) * 0x1p-53);
  }
  int below(int count) { return static_cast<int>(uniform(0, count)); }

 private:
  uint64_t state_;
};

struct Crop {
  int x, y, width, height;
};

// A crop of random area and aspect ratio, as MindSpore's RandomResizedCrop draws it.
inline Crop random_crop(int width, int height, const double scale[2], const double ratio[2],
                        Rng* rng) {
  const double area = static_cast<double>(width) * height;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double part = rng->uniform(scale[0], scale[1]);
    const double aspect = std::exp(rng->uniform(std::log(ratio[0]), std::log(ratio[1])));
    const double wide = std::round(std::sqrt(area * part * aspect));
    const double high = std::round(wide / aspect);
    if (wide > width || high > height || wide < 1 || high < 1) continue;
    const int w = static_cast<int>(wide), h = static_cast<int>(high);
    const int x = rng->below(width - w + 1);
    return {x, rng->below(height - h + 1), w, h};
  }
  const double aspect = static_cast<double>(width) / height;
  int w = width, h = height;
  if (aspect < ratio[0]) {
    h = static_cast<int>(std::round(w / ratio[0]));
  } else if (aspect > ratio[1]) {
    w = static_cast<int>(std::round(h * ratio[1]));
  }
  w = w < 1 ? 1 : w;
  h = h < 1 ? 1 : h;
  return {(width - w) / 2, (height - h) / 2, w, h};
}

}  // namespace loader
