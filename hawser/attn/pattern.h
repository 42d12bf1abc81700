// attn/pattern.h - what a query may see: one value for full, sliding, intra-document, AnchorAttention, StreamingLLM,
// SepLLM and every mixture of them.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hawser {

/// kDocument: packed documents do not see each other.
enum class Scope : uint8_t { kSequence, kDocument };

/// What the queries of one layer see. `every=5` pins each fifth token (FixLLM). Sources: AnchorAttention
/// arXiv:2411.13476 section 3; StreamingLLM arXiv:2309.17453; SepLLM arXiv:2412.12094 section 3 and (every) appendix I.
struct AttnPattern {
  static constexpr int32_t kAll = std::numeric_limits<int32_t>::max();

  Scope scope = Scope::kSequence;
  int32_t window = kAll;           // tokens, self included: q - k < window; >= 1
  int32_t sinks = 0;               // first tokens of the scope, always visible
  bool separators = false;         // tokens flagged in TokenLayout, always visible
  int32_t anchors = 0;             // first tokens of the sequence, visible across documents
  int32_t every = 0;               // of the tokens of the scope after its sinks each every-th, always visible; 0: none
  std::string separator_set = {};  // the form after `sep=`; empty: the text rule

  bool operator==(const AttnPattern&) const = default;

  /// True if a key at this place of its scope (from 0) is visible to every later query of the scope.
  bool Pins(int64_t place, bool separator) const {
    return place < sinks || (every > 0 && (place - sinks + 1) % every == 0) || (separators && separator);
  }
};

/// What each layer of a model sees: one pattern, but for the windows and the layers that are listed. It is no pattern
/// of one layer, and passes for none.
struct LayeredPattern : private AttnPattern {
  LayeredPattern() = default;
  LayeredPattern(AttnPattern all) : AttnPattern(std::move(all)) {}  // NOLINT: the same in all layers

  using AttnPattern::anchors, AttnPattern::every, AttnPattern::scope, AttnPattern::separator_set,
      AttnPattern::separators, AttnPattern::sinks, AttnPattern::window;
  std::vector<int32_t> layer_windows = {};  // one a layer, then `window` is kAll; empty: `window` in all of them
  std::vector<int32_t> full_layers = {};    // window, sinks, every and separators mean nothing to them

  bool operator==(const LayeredPattern&) const = default;
  friend bool operator==(const LayeredPattern& a, const AttnPattern& b) { return a == LayeredPattern(b); }

  /// Whether layers may differ.
  bool layered() const { return !layer_windows.empty() || !full_layers.empty(); }
  /// What one layer of a model with `layers` sees. Errors: kUsage if this is meant for another number of layers.
  AttnPattern OfLayer(int32_t layer, int32_t layers) const;
  /// For a model of `count` layers that see what the first `count` of `layers` see. Errors: OfLayer.
  LayeredPattern OfFirstLayers(int32_t count, int32_t layers) const;
};

/// The patterns that the layers of a model have, each once, and the place of each layer's among them.
struct LayerPatterns {
  std::vector<AttnPattern> distinct;
  std::vector<size_t> of_layer;  // [layers]
};
/// `own`: the windows that the model has itself, which narrow those of the pattern layer by layer. Errors: OfLayer.
LayerPatterns PatternsOfLayers(const LayeredPattern& pattern, int32_t layers, const LayeredPattern& own = {});

/// Text form (parses back to the same value): `full`, `window=W`, `intra`, `anchor` (= scope=doc anchors=1), or raw
/// fields separated by blanks: `scope=doc anchors=1 sinks=3 window=256 sep full-layers=0+31`. A window may be given for
/// every layer, `window=all+64+64+256`, and full-layers names the layers (from 0; negative: from the last) that see all
/// of their scope. `sep=FORM` says which tokens separate (tok/separators.h). Errors: kUsage with the unknown or
/// contradictory field, and the nearest known one.
LayeredPattern ParseLayeredPattern(std::string_view text);
std::string ToString(const LayeredPattern& pattern);
/// The same of one layer. Errors: kUsage for lists of layers.
AttnPattern ParsePattern(std::string_view text);

/// `0+31`, `0+1+-2+-1`: sorted, each once, within [-4096, 4095]. Errors: kUsage. IsFullLayer resolves negative numbers;
/// errors: kUsage for a layer that the model has not.
std::vector<int32_t> ParseLayerList(std::string_view text);
bool IsFullLayer(const std::vector<int32_t>& full_layers, int32_t layer, int32_t layers);

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

/// Of key k in its scope, whose first key is `begin`. A sequence begins at index 0, whether that key is here or not.
inline int64_t PlaceInScope(const AttnPattern& p, const TokenLayout& t, int32_t begin, int32_t k) {
  return p.scope == Scope::kDocument ? t.Index(k) - t.Index(begin) : t.Index(k);
}

/// The predicate every schedule expands to, and the oracle of its tests. q and k are key numbers.
inline bool Visible(const AttnPattern& p, const TokenLayout& t, int32_t q, int32_t k) {
  if (k > q || t.IsPadding(q) || t.IsPadding(k)) return false;
  if (t.Index(k) < p.anchors) return true;
  const int32_t begin = p.scope == Scope::kDocument ? t.DocBegin(q) : 0;
  if (k < begin) return false;
  return t.Index(q) - t.Index(k) < p.window || p.Pins(PlaceInScope(p, t, begin, k), t.IsSeparator(k));
}

}  // namespace hawser
