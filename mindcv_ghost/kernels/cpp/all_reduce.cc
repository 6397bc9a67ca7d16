// The all-reduce among the ranks of a machine as an operator.

#include "all_reduce.h"

#include "arguments.h"

extern "C" {

// Bytes of the memory that so many ranks share.
int64_t ghost_shared_bytes(int ranks) { return ghost::RankGroup::bytes(ranks); }

// Makes this process a rank of the group that shares a file descriptor's memory; the descriptor may
// be closed afterwards. Returns 0, or 1 if the memory can't be mapped.
int ghost_join_ranks(int descriptor, int rank, int ranks) {
  ghost::RankGroup* group = ghost::RankGroup::join(descriptor, rank, ranks);
  if (group == nullptr) return 1;
  delete ghost::process_group();
  ghost::process_group() = group;
  return 0;
}

// settings (scale), n tensors of any sizes -> their sums over the ranks, multiplied by scale
int ghost_all_reduce(GHOST_PARAMETERS) {
  using ghost::Arguments;
  return ghost::run_operator(
      GHOST_ARGUMENTS, ghost::kAnyNumber, 1,
      [](Arguments* a) {
        const int tensors = (a->count() - 1) / 2;
        a->want(ghost::process_group() != nullptr);
        a->want_count(1 + 2 * tensors);
        std::vector<int64_t> sizes;
        for (int i = 1; i <= tensors && a->fit(); ++i) {
          sizes.push_back(a->size(i));
          a->want_size(tensors + i, sizes.back());
        }
        return sizes;
      },
      [](const std::vector<int64_t>& sizes, const Arguments& a) {
        const int tensors = static_cast<int>(sizes.size());
        std::vector<const float*> in;
        std::vector<float*> out;
        for (int i = 1; i <= tensors; ++i) {
          in.push_back(a[i]);
          out.push_back(a[tensors + i]);
        }
        ghost::AllReduce(ghost::process_group(), sizes, in, out, a[0][0]).run();
      });
}

}  // extern "C"
