// attn/pattern.h - what a query may see: one value for full, sliding, intra-document, AnchorAttention, StreamingLLM,
// SepLLM and every mixture of them.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// kDocument: packed documents do not see each other.
enum class Scope : uint8_t { kSequence, kDocument };

/// Text form (parses back to the same value): `full`, `window=W`, `intra`, `anchor` (= scope=doc anchors=1), or raw
/// fields separated by blanks: `scope=doc anchors=1 sinks=3 window=256 sep`.
/// Sources: AnchorAttention arXiv:2411.13476 section 3; StreamingLLM arXiv:2309.17453; SepLLM arXiv:2412.12094
/// section 3.
struct AttnPattern {
  static constexpr int32_t kAll = std::numeric_limits<int32_t>::max();

  Scope scope = Scope::kSequence;
  int32_t window = kAll;    // tokens, self included: q - k < window; >= 1
  int32_t sinks = 0;        // first tokens of the scope, always visible
  bool separators = false;  // tokens flagged in TokenLayout, always visible
  int32_t anchors = 0;      // first tokens of the sequence, visible across documents

  bool operator==(const AttnPattern&) const = default;
};

/// Errors: kUsage with the unknown or contradictory field, and the nearest known one.
AttnPattern ParsePattern(std::string_view text);
std::string ToString(const AttnPattern& pattern);

/// Keys of one sequence in ascending order, and what the pattern needs to know of them. Empty vectors mean the default.
/// `index` is a key's place in the original sequence: a cache that has dropped keys has gaps in it.
struct TokenLayout {
  int32_t size = 0;
  std::vector<int32_t> doc_begin = {};     // [size] key number (not index) of the first key of its document; default 0
  std::vector<uint8_t> is_separator = {};  // [size] default 0
  std::vector<uint8_t> is_padding = {};    // [size] sees nothing, seen by nobody; default 0
  std::vector<int64_t> index = {};         // [size] strictly increasing; default 0, 1, 2, ...

  int64_t Index(int32_t k) const { return index.empty() ? k : index[k]; }
  int32_t DocBegin(int32_t k) const { return doc_begin.empty() ? 0 : doc_begin[k]; }
  bool IsSeparator(int32_t k) const { return !is_separator.empty() && is_separator[k] != 0; }
  bool IsPadding(int32_t k) const { return !is_padding.empty() && is_padding[k] != 0; }
};

/// Lengths of consecutive documents that fill [prefix, prefix + sum): `prefix` leading tokens (the anchors) form a
/// document of their own. Errors: kUsage if a length is < 1.
TokenLayout MakeLayout(int32_t prefix, const std::vector<int32_t>& document_lengths);

/// The predicate every schedule expands to, and the oracle of its tests. q and k are key numbers.
inline bool Visible(const AttnPattern& p, const TokenLayout& t, int32_t q, int32_t k) {
  if (k > q || t.IsPadding(q) || t.IsPadding(k)) return false;
  if (t.Index(k) < p.anchors) return true;
  const int32_t begin = p.scope == Scope::kDocument ? t.DocBegin(q) : 0;
  if (k < begin) return false;
  return t.Index(q) - t.Index(k) < p.window || t.Index(k) - t.Index(begin) < p.sinks ||
         (p.separators && t.IsSeparator(k));
}

}  // namespace hawser
