// Evaluation of a network with few channels as one operator.

#include "channels_last_program.h"

extern "C" {

// program, images (N, C, H, W), parameters ... -> logits (N, classes)
int ghost_channels_last(GHOST_PARAMETERS) {
  return ghost::run_operator(
      GHOST_ARGUMENTS, ghost::kAnyNumber, 0,
      [](ghost::Arguments* a) {
        ghost::ChannelsLastProgram program(*a);
        a->want(program.fits());
        return program;
      },
      [](ghost::ChannelsLastProgram program, const ghost::Arguments&) {
        ghost::WholeScratch scratch(program.memory(), 1);
        program.run(scratch.take(program.memory()));
      });
}

}  // extern "C"
