// Calls the operators of a recording (recording.py) by their names and compares what they put out
// with what was recorded: for processors that have no Python here. Exit status 0 if all agree.
//
//     replay FILE THREADS
//
// The file, in this processor's byte order: for each call the name's length and the name, the
// numbers of inputs, of outputs, and of the last inputs that are changed; then inputs, outputs and
// what the changed inputs become: each array's number of sides, sides (64 bits) and floats. All other
// numbers have 32 bits.

#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

namespace {

using Operator = int (*)(int, void**, int*, int64_t**, const char**, void*, void*);

// Of the greatest value, as in the self-test: sums are made in another order here.
constexpr float kTolerance = 5e-5f;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

void* symbol(const std::string& name) {
  void* found = dlsym(RTLD_DEFAULT, name.c_str());
  if (found == nullptr) fail("there is no operator " + name);
  return found;
}

void read(std::ifstream& file, void* to, size_t bytes) {
  if (!file.read(static_cast<char*>(to), bytes)) fail("the recording ends too early");
}

uint32_t read_number(std::ifstream& file) {
  uint32_t number;
  read(file, &number, sizeof number);
  return number;
}

struct Array {
  std::vector<int64_t> sides;
  std::vector<float> values;

  explicit Array(std::ifstream& file) {
    sides.resize(read_number(file));
    read(file, sides.data(), sides.size() * sizeof(int64_t));
    int64_t size = 1;
    for (int64_t side : sides) size *= side;
    values.resize(size);
    read(file, values.data(), size * sizeof(float));
  }
};

void replay(std::ifstream& file) {
  std::string name(read_number(file), ' ');
  read(file, &name[0], name.size());
  const uint32_t inputs = read_number(file), outputs = read_number(file);
  const uint32_t written = read_number(file);
  std::vector<Array> arrays;
  for (uint32_t i = 0; i < inputs + outputs; ++i) arrays.emplace_back(file);
  std::vector<std::vector<float>> expected;
  for (uint32_t i = inputs; i < arrays.size(); ++i) {
    expected.push_back(arrays[i].values);
    for (float& value : arrays[i].values) value = NAN;
  }
  for (uint32_t i = 0; i < written; ++i) expected.push_back(Array(file).values);
  std::vector<void*> data;
  std::vector<int> dims;
  std::vector<int64_t*> shapes;
  std::vector<const char*> types(arrays.size(), "float32");
  for (Array& a : arrays) {
    data.push_back(a.values.data());
    dims.push_back(a.sides.size());
    shapes.push_back(a.sides.data());
  }
  const auto run = reinterpret_cast<Operator>(symbol(name));
  if (run(arrays.size(), data.data(), dims.data(), shapes.data(), types.data(), nullptr, nullptr)) {
    fail(name + " refuses its arguments");
  }
  for (uint32_t i = 0; i < outputs + written; ++i) {
    const Array& found = arrays[i < outputs ? inputs + i : inputs - written + i - outputs];
    float distance = 0, greatest = 0;
    for (size_t k = 0; k < expected[i].size(); ++k) {
      const float off = std::fabs(found.values[k] - expected[i][k]);
      if (!(off <= distance)) distance = off;  // a NaN counts
      greatest = std::fmax(greatest, std::fabs(expected[i][k]));
    }
    if (!(distance <= kTolerance * greatest)) {
      fail(name + ", output " + std::to_string(i) + " is off by " + std::to_string(distance) +
           ", the greatest value is " + std::to_string(greatest));
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) fail("replay FILE THREADS");
  std::ifstream file(arguments[1], std::ios::binary);
  reinterpret_cast<void (*)(int)>(symbol("ghost_set_threads"))(std::atoi(arguments[2]));
  int calls = 0;
  for (; file.peek() != EOF; ++calls) replay(file);
  std::printf("%d calls agree\n", calls);
  return calls == 0;
}
