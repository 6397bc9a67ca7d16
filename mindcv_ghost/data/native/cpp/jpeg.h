// JPEG decoding by a libjpeg-turbo that is loaded at run time, usually the one in Pillow's wheel.
//
// Few machines have its header, but its binary interface is fixed: the declarations below are the
// common start of jpeg_decompress_struct in the interfaces of libjpeg 6.2 and 8. The library
// compares the version and size of the structure with its own and refuses others.
#pragma once

#include <dlfcn.h>

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace loader {

struct JpegError {
  void (*error_exit)(void*);
  void (*emit_message)(void*, int);
  void (*output_message)(void*);
  void (*format_message)(void*, char*);
  void (*reset)(void*);
  int code;
  char parameters[80];
  int trace_level;
  long warnings;
  const char* const* messages;
  int last_message;
  const char* const* more_messages;
  int first_more, last_more;
};

struct JpegState {
  JpegError* error;
  void* memory;
  void* progress;
  void* client;
  int is_decompressor, global_state;
  void* source;
  unsigned image_width, image_height;
  int components, jpeg_colours, output_colours;
  unsigned scale_num, scale_denom;
  double gamma;
  int buffered_image, raw_data_out, dct_method, fancy_upsampling, block_smoothing;
  int quantize, dither, two_pass, wanted_colours, one_pass_quant, external_quant, two_pass_quant;
  unsigned output_width, output_height;
  int output_colour_components, output_components, output_rows;
  int colours;
  unsigned char** colour_map;
  unsigned output_row;
  unsigned char rest[1024];
};
static_assert(sizeof(void*) != 8 || offsetof(JpegState, output_row) == 168, "libjpeg's layout");
constexpr int kRgb = 2;  // JCS_RGB

struct JpegLibrary {
  JpegError* (*std_error)(JpegError*);
  void (*create)(JpegState*, int version, size_t size);
  void (*destroy)(JpegState*);
  void (*memory_source)(JpegState*, const unsigned char*, unsigned long);
  int (*read_header)(JpegState*, int);
  int (*start)(JpegState*);
  unsigned (*read_rows)(JpegState*, unsigned char**, unsigned);
  unsigned (*skip_rows)(JpegState*, unsigned);
  void (*crop)(JpegState*, unsigned*, unsigned*);
  int version = 0;  // 0: no library
  size_t size = 0;
};

inline JpegLibrary& jpeg_library() {
  static JpegLibrary library;
  return library;
}

// Reads rows of one image. After an error a method returns false, and only the destructor may
// follow. libjpeg reports errors by longjmp, so no method has a local with a destructor.
class JpegReader {
 public:
  JpegReader() : open_(false) {
    jpeg_library().std_error(&error_);
    error_.error_exit = [](void* state) {
      std::longjmp(*static_cast<std::jmp_buf*>(static_cast<JpegState*>(state)->client), 1);
    };
    error_.emit_message = [](void*, int) {};  // damage inside a scan: decoded as far as it goes
    error_.output_message = [](void*) {};
    state_.error = &error_;
    state_.client = &jump_;
  }
  ~JpegReader() {
    if (open_) jpeg_library().destroy(&state_);
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  bool header(const uint8_t* data, size_t bytes) {
    const JpegLibrary& library = jpeg_library();
    if (setjmp(jump_)) return false;
    library.create(&state_, library.version, library.size);
    open_ = true;  // `create` keeps error and client, and clears the rest
    library.memory_source(&state_, data, static_cast<unsigned long>(bytes));
    return library.read_header(&state_, 1) == 1;
  }
  bool accepted() const { return open_; }  // whether the library accepts our structure
  int width() const { return static_cast<int>(state_.image_width); }
  int height() const { return static_cast<int>(state_.image_height); }

  // Starts reading columns [x, x + columns) of the rows from y on. Sets the first column that is
  // read, at most x, and the number of columns. Neighbouring columns are read, too, so that chroma
  // at the crop's edges is interpolated as in the whole image.
  bool start(int x, int columns, int y, int* begin, int* read) {
    const JpegLibrary& library = jpeg_library();
    if (setjmp(jump_)) return false;
    state_.output_colours = kRgb;
    if (!library.start(&state_) || state_.output_components != 3) return false;
    const int all = static_cast<int>(state_.output_width);
    unsigned first = x > kMargin ? x - kMargin : 0;
    unsigned count = (x + columns + kMargin < all ? x + columns + kMargin : all) - first;
    if (static_cast<int>(count) < all) library.crop(&state_, &first, &count);
    *begin = static_cast<int>(first);
    *read = static_cast<int>(count);
    if (y > 0 && library.skip_rows(&state_, y) != static_cast<unsigned>(y)) return false;
    return true;
  }
  bool row(uint8_t* to) {
    if (setjmp(jump_)) return false;
    return jpeg_library().read_rows(&state_, &to, 1) == 1;
  }

 private:
  static constexpr int kMargin = 2;

  JpegState state_;
  JpegError error_;
  std::jmp_buf jump_;
  bool open_;
};

// Loads a shared library as the decoder; false if it isn't libjpeg-turbo or has an unknown layout.
inline bool use_jpeg_library(const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) return false;
  JpegLibrary found;
  bool complete = true;
  const auto find = [&](auto& function, const char* name) {
    void* symbol = dlsym(handle, name);
    complete = complete && symbol != nullptr;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  find(found.std_error, "jpeg_std_error");
  find(found.create, "jpeg_CreateDecompress");
  find(found.destroy, "jpeg_destroy_decompress");
  find(found.memory_source, "jpeg_mem_src");
  find(found.read_header, "jpeg_read_header");
  find(found.start, "jpeg_start_decompress");
  find(found.read_rows, "jpeg_read_scanlines");
  find(found.skip_rows, "jpeg_skip_scanlines");  // this and the next: libjpeg-turbo since 1.5
  find(found.crop, "jpeg_crop_scanline");
  if (!complete) return false;
  const struct {
    int version;
    size_t size;
  } layouts[] = {{62, 632}, {80, 656}};
  for (const auto& layout : layouts) {
    found.version = layout.version;
    found.size = layout.size;
    jpeg_library() = found;
    const uint8_t nothing[2] = {0xFF, 0xD9};
    JpegReader reader;
    reader.header(nothing, sizeof nothing);
    if (reader.accepted()) return true;
  }
  jpeg_library() = JpegLibrary();
  return false;
}

}  // namespace loader
