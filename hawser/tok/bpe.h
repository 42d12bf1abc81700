// tok/bpe.h - byte pair encoding proper: a table of merges and the loop that applies them (arXiv:1508.07909).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hawser {

/// left right -> result; the lowest rank is applied first, equal ranks from the left.
struct Merge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t result = 0;
  uint32_t rank = 0;
};

class MergeTable {
 public:
  MergeTable() = default;
  /// A pair given twice counts as its last mention.
  explicit MergeTable(const std::vector<Merge>& merges);

  bool empty() const { return slots_.empty(); }

  /// Every merge, in no order.
  std::vector<Merge> All() const;

  /// Null where the pair does not merge.
  const Merge* Find(int32_t left, int32_t right) const;

  /// Working memory of Apply, kept by the caller between calls.
  struct Scratch {
    struct Symbol {
      int32_t id;
      int32_t previous;
      int32_t next;
    };
    struct Candidate {
      uint32_t rank;
      int32_t at;
      int32_t left;
      int32_t right;
      int32_t result;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// Merges `ids` in place until no pair of neighbours is in the table: O(n log n).
  void Apply(std::vector<int32_t>& ids, Scratch& scratch) const;

 private:
  size_t Slot(int32_t left, int32_t right) const;

  std::vector<Merge> slots_;  // open addressing, a power of two, at most 3/4 full; left < 0: free
};

}  // namespace hawser
