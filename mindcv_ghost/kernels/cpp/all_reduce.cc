// The all-reduce among the ranks of a machine as an operator.

#include "all_reduce.h"

#include <sys/mman.h>

#include <memory>

#include "arguments.h"

namespace {

// The group of this process; null before it has joined one.
std::unique_ptr<ghost::RankGroup> process_group;

}  // namespace

extern "C" {

// Bytes of the memory that so many ranks share.
int64_t ghost_shared_bytes(int ranks) { return ghost::RankGroup::bytes(ranks); }

// Makes this process a rank of the group that shares a file descriptor's memory; the descriptor may
// be closed afterwards. Returns 0, or 1 if the memory can't be mapped.
int ghost_join_ranks(int descriptor, int rank, int ranks) {
  using ghost::RankGroup;
  if (rank < 0 || rank >= ranks || ranks > RankGroup::kMostRanks) return 1;
  const size_t bytes = RankGroup::bytes(ranks);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) return 1;
  process_group = std::make_unique<RankGroup>(memory, rank, ranks);  // an earlier one stays mapped
  return 0;
}

// settings (scale), n tensors of any sizes -> their sums over the ranks, multiplied by scale
int ghost_all_reduce(GHOST_PARAMETERS) {
  using ghost::Arguments;
  return ghost::run_operator(
      GHOST_ARGUMENTS, ghost::kAnyNumber, 1,
      [](Arguments* a) {
        const int tensors = (a->count() - 1) / 2;
        a->want(process_group != nullptr);
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
        ghost::AllReduce(process_group.get(), sizes, in, out, a[0][0]).run();
      });
}

}  // extern "C"
