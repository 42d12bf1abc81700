// tok/prefix_set.h - entries by their text, of which those that a text begins with are found in one walk.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hawser {

template <class Entry, std::string Entry::*kText>
class PrefixSet {
 public:
  PrefixSet() = default;
  /// An entry with an empty text is never found; of equal texts the last one counts.
  explicit PrefixSet(std::vector<Entry> entries) : entries_(std::move(entries)) {
    std::erase_if(entries_, [](const Entry& entry) { return (entry.*kText).empty(); });
    std::reverse(entries_.begin(), entries_.end());  // the last of equals comes first, and stays
    std::ranges::stable_sort(entries_, {}, kText);
    const auto same = [](const Entry& a, const Entry& b) { return a.*kText == b.*kText; };
    entries_.erase(std::unique(entries_.begin(), entries_.end(), same), entries_.end());
    for (const Entry& entry : entries_) ++first_byte_[static_cast<unsigned char>((entry.*kText)[0]) + 1u];
    for (size_t b = 0; b < 256; ++b) first_byte_[b + 1] += first_byte_[b];
  }

  bool empty() const { return entries_.empty(); }

  /// Whether a text begins with this byte.
  bool MayBegin(char c) const {
    const auto byte = static_cast<unsigned char>(c);
    return first_byte_[byte] < first_byte_[byte + 1u];
  }

  /// visit(entry) for each whose text `text` has at `at`, below its end, the shortest first.
  template <class Visit>
  void ForEachAt(std::string_view text, size_t at, Visit&& visit) const {
    const auto byte = static_cast<unsigned char>(text[at]);
    auto begin = entries_.begin() + first_byte_[byte];
    auto end = entries_.begin() + first_byte_[byte + 1u];
    // Entries of [begin, end) share their first `depth` bytes with the text; the shortest of them stands first.
    for (size_t depth = 1; begin != end; ++depth) {
      if (((*begin).*kText).size() == depth) visit(*begin++);
      if (at + depth == text.size()) break;
      const auto next = static_cast<unsigned char>(text[at + depth]);
      const auto byte_of = [depth](const Entry& entry) { return static_cast<unsigned char>((entry.*kText)[depth]); };
      begin = std::ranges::lower_bound(begin, end, next, {}, byte_of);
      end = std::ranges::upper_bound(begin, end, next, {}, byte_of);
    }
  }

 private:
  std::vector<Entry> entries_;              // by text
  std::array<uint32_t, 257> first_byte_{};  // those that begin with byte b: [first_byte_[b], first_byte_[b + 1])
};

}  // namespace hawser
