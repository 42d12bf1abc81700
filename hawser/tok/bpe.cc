#include "hawser/tok/bpe.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>

#include "hawser/base/error.h"

namespace hawser {

MergeTable::MergeTable(const std::vector<Merge>& merges) {
  if (merges.empty()) return;
  slots_.assign(std::bit_ceil(merges.size() + merges.size() / 3 + 1), Merge{.left = -1});
  for (const Merge& merge : merges) slots_[Slot(merge.left, merge.right)] = merge;
}

size_t MergeTable::Slot(int32_t left, int32_t right) const {
  const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  const size_t mask = slots_.size() - 1;
  size_t slot = static_cast<size_t>((key * 0x9e3779b97f4a7c15ull) >> 32) & mask;
  while (slots_[slot].left >= 0 && (slots_[slot].left != left || slots_[slot].right != right)) slot = (slot + 1) & mask;
  return slot;
}

std::vector<Merge> MergeTable::All() const {
  std::vector<Merge> merges;
  std::ranges::copy_if(slots_, std::back_inserter(merges), [](const Merge& merge) { return merge.left >= 0; });
  return merges;
}

const Merge* MergeTable::Find(int32_t left, int32_t right) const {
  if (slots_.empty()) return nullptr;
  const Merge& merge = slots_[Slot(left, right)];
  return merge.left < 0 ? nullptr : &merge;
}

void MergeTable::Apply(std::vector<int32_t>& ids, Scratch& scratch) const {
  if (ids.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    Fail(ErrorKind::kUnsupported, "{} characters with no place to cut: pass the text in parts", ids.size());
  }
  if (ids.size() < 2 || slots_.empty()) return;
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  };
  const auto offer = [&](int32_t at) {
    const int32_t next = symbols[static_cast<size_t>(at)].next;
    if (next < 0) return;
    const int32_t left = symbols[static_cast<size_t>(at)].id;
    const int32_t right = symbols[static_cast<size_t>(next)].id;
    if (const Merge* merge = Find(left, right)) heap.push_back({merge->rank, at, left, right, merge->result});
  };

  const auto count = static_cast<int32_t>(ids.size());
  symbols.clear();
  heap.clear();
  for (int32_t i = 0; i < count; ++i) {
    symbols.push_back({ids[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  }
  for (int32_t i = 0; i < count; ++i) offer(i);
  std::make_heap(heap.begin(), heap.end(), later);

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Scratch::Candidate top = heap.back();
    heap.pop_back();
    auto& symbol = symbols[static_cast<size_t>(top.at)];
    // A symbol taken into its left neighbour has id -1, so candidates that went stale name a pair that is gone.
    if (symbol.id != top.left || symbol.next < 0 || symbols[static_cast<size_t>(symbol.next)].id != top.right) continue;
    auto& gone = symbols[static_cast<size_t>(symbol.next)];
    symbol.id = top.result;
    symbol.next = gone.next;
    gone.id = -1;
    if (symbol.next >= 0) symbols[static_cast<size_t>(symbol.next)].previous = top.at;
    for (const int32_t at : {symbol.previous, top.at}) {
      const size_t before = heap.size();
      if (at >= 0) offer(at);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), later);
    }
  }
  ids.clear();
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
    ids.push_back(symbols[static_cast<size_t>(i)].id);
}

}  // namespace hawser
