#include "hawser/attn/pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "hawser/base/error.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

enum Field : unsigned { kScope = 1, kWindow = 2, kSinks = 4, kSep = 8, kAnchors = 16, kEvery = 32, kFullLayers = 64 };

constexpr int32_t kMostLayers = 4096;  // of any model

int32_t ParseCount(std::string_view word, std::string_view value, int32_t least) {
  const std::optional<int64_t> count = ParseSize(value);
  if (!count || *count < least || *count > std::numeric_limits<int32_t>::max()) {
    Fail(ErrorKind::kUsage, "attention pattern: '{}': wanted a whole number of tokens, {} or more", word, least);
  }
  return static_cast<int32_t>(*count);
}

int32_t ParseWindow(std::string_view word, std::string_view value) {
  return value == "all" ? AttnPattern::kAll : ParseCount(word, value, 1);
}

std::string WindowText(int32_t window) { return window == AttnPattern::kAll ? "all" : fmt::format("{}", window); }

/// The text after `sep=`, checked as far as it can be without a tokenizer.
std::string ParseSeparatorForm(std::string_view word, std::string_view value) {
  const bool plain = value.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789+-") == value.npos;
  if (value.empty() || !plain) {
    Fail(ErrorKind::kUsage, "attention pattern: '{}': wanted sep=text, a preset (sep=neox-20) or ids (sep=13+11)",
         word);
  }
  return std::string(value == "text" ? "" : value);
}

}  // namespace

std::vector<int32_t> ParseLayerList(std::string_view text) {
  std::vector<int32_t> layers;
  for (const std::string_view part : SplitAt(text, '+')) {
    const auto layer = ParseNumber<int32_t>(part);
    if (!layer || *layer < -kMostLayers || *layer >= kMostLayers) {
      Fail(ErrorKind::kUsage, "full-layers={}: wanted numbers of layers, {} to {}, joined by +, found '{}'", text,
           -kMostLayers, kMostLayers - 1, part);
    }
    layers.push_back(*layer);
  }
  std::ranges::sort(layers);
  if (std::ranges::adjacent_find(layers) != layers.end()) {
    Fail(ErrorKind::kUsage, "full-layers={}: wanted numbers of layers, each one once", text);
  }
  return layers;
}

bool IsFullLayer(const std::vector<int32_t>& full_layers, int32_t layer, int32_t layers) {
  bool is_full = false;
  for (const int32_t full : full_layers) {
    if (full >= layers || full < -layers) {
      Fail(ErrorKind::kUsage, "full-layers: the model has {} layers, 0 to {}; found {}", layers, layers - 1, full);
    }
    is_full = is_full || layer == (full < 0 ? full + layers : full);
  }
  return is_full;
}

AttnPattern AttnPattern::OfLayer(int32_t layer, int32_t layers) const {
  AttnPattern of = *this;
  of.layer_windows.clear();
  of.full_layers.clear();
  if (!layer_windows.empty()) {
    if (static_cast<int32_t>(layer_windows.size()) != layers) {
      Fail(ErrorKind::kUsage, "attention pattern: {} windows for {} layers; give one, or one for each layer",
           layer_windows.size(), layers);
    }
    of.window = layer_windows[static_cast<size_t>(layer)];
  }
  if (IsFullLayer(full_layers, layer, layers) || (!layer_windows.empty() && of.window == kAll)) {
    of.window = kAll;
    of.sinks = of.every = 0;
    of.separators = false;
    of.separator_set.clear();
  }
  return of;
}

AttnPattern AttnPattern::OfFirstLayers(int32_t count, int32_t layers) const {
  if (!layered()) return *this;
  AttnPattern of = *this;
  of.window = kAll;
  of.layer_windows.clear();
  of.full_layers.clear();
  for (int32_t layer = 0; layer < count; ++layer) of.layer_windows.push_back(OfLayer(layer, layers).window);
  return of;
}

LayerPatterns PatternsOfLayers(const AttnPattern& pattern, int32_t layers, const AttnPattern& own) {
  LayerPatterns patterns;
  for (int32_t layer = 0; layer < layers; ++layer) {
    AttnPattern of = pattern.OfLayer(layer, layers);
    of.window = std::min(of.window, own.OfLayer(layer, layers).window);
    const auto same = std::find(patterns.distinct.begin(), patterns.distinct.end(), of);
    patterns.of_layer.push_back(static_cast<size_t>(same - patterns.distinct.begin()));
    if (same == patterns.distinct.end()) patterns.distinct.push_back(std::move(of));
  }
  return patterns;
}

AttnPattern ParsePattern(std::string_view text) {
  AttnPattern pattern;
  unsigned given = 0;
  const std::vector<std::string_view> words = SplitWords(text);
  if (words.empty()) Fail(ErrorKind::kUsage, "attention pattern: empty text; the pattern without limits is 'full'");
  for (std::string_view word : words) {
    const size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    const bool bare = equals == word.npos;
    const std::string_view value = bare ? std::string_view() : word.substr(equals + 1);
    unsigned sets = 0;
    if (bare && name == "full") {
      sets = kScope | kWindow;
    } else if (bare && name == "intra") {
      sets = kScope;
      pattern.scope = Scope::kDocument;
    } else if (bare && name == "anchor") {
      sets = kScope | kAnchors;
      pattern.scope = Scope::kDocument;
      pattern.anchors = 1;
    } else if (bare && name == "sep") {
      sets = kSep;
      pattern.separators = true;
    } else if (name == "scope") {
      sets = kScope;
      if (value != "doc" && value != "seq") {
        Fail(ErrorKind::kUsage, "attention pattern: '{}': wanted scope=doc or scope=seq", word);
      }
      pattern.scope = value == "doc" ? Scope::kDocument : Scope::kSequence;
    } else if (!bare && name == "sep") {
      sets = kSep;
      pattern.separators = true;
      pattern.separator_set = ParseSeparatorForm(word, value);
    } else if (name == "window") {
      sets = kWindow;
      const std::vector<std::string_view> parts = SplitAt(value, '+');
      if (parts.size() < 2) {
        pattern.window = ParseWindow(word, value);
      } else {
        for (const std::string_view part : parts) pattern.layer_windows.push_back(ParseWindow(word, part));
      }
    } else if (name == "full-layers") {
      sets = kFullLayers;
      pattern.full_layers = ParseLayerList(value);
    } else if (name == "every") {
      sets = kEvery;
      pattern.every = ParseCount(word, value, 1);
    } else if (name == "sinks") {
      sets = kSinks;
      pattern.sinks = ParseCount(word, value, 0);
    } else if (name == "anchors") {
      sets = kAnchors;
      pattern.anchors = ParseCount(word, value, 0);
    } else {
      Fail(ErrorKind::kUsage, "attention pattern: unknown '{}'{}", word,
           SuggestName(name, {"full", "intra", "anchor", "scope", "window", "full-layers", "sinks", "anchors", "sep",
                              "every"}));
    }
    if (given & sets)
      Fail(ErrorKind::kUsage, "attention pattern: '{}' sets a field that '{}' has set before", word, text);
    given |= sets;
  }
  return pattern;
}

std::string ToString(const AttnPattern& pattern) {
  const auto is = [&](const AttnPattern& named) { return pattern == named; };
  if (is({})) return "full";
  if (is({.scope = Scope::kDocument})) return "intra";
  if (is({.scope = Scope::kDocument, .anchors = 1})) return "anchor";
  std::string text;
  if (pattern.scope == Scope::kDocument) text += " scope=doc";
  if (pattern.anchors != 0) text += fmt::format(" anchors={}", pattern.anchors);
  if (pattern.sinks != 0) text += fmt::format(" sinks={}", pattern.sinks);
  if (pattern.window != AttnPattern::kAll) text += fmt::format(" window={}", pattern.window);
  if (!pattern.layer_windows.empty()) {
    text += " window=";
    for (size_t i = 0; i < pattern.layer_windows.size(); ++i) {
      text += (i > 0 ? "+" : "") + WindowText(pattern.layer_windows[i]);
    }
  }
  if (pattern.every != 0) text += fmt::format(" every={}", pattern.every);
  if (pattern.separators) text += pattern.separator_set.empty() ? " sep" : " sep=" + pattern.separator_set;
  if (!pattern.full_layers.empty()) text += fmt::format(" full-layers={}", fmt::join(pattern.full_layers, "+"));
  return text.substr(1);
}

TokenLayout MakeLayout(int32_t prefix, const std::vector<int32_t>& document_lengths) {
  if (prefix < 0) Fail(ErrorKind::kUsage, "token layout: {} leading tokens; wanted 0 or more", prefix);
  int64_t size = prefix;
  for (size_t d = 0; d < document_lengths.size(); ++d) {
    if (document_lengths[d] < 1) {
      Fail(ErrorKind::kUsage, "token layout: document {} has {} tokens; wanted 1 or more", d, document_lengths[d]);
    }
    size += document_lengths[d];
    if (size > AttnPattern::kAll) Fail(ErrorKind::kUsage, "token layout: more than {} tokens", AttnPattern::kAll);
  }
  TokenLayout layout;
  layout.size = static_cast<int32_t>(size);
  layout.doc_begin.reserve(size);
  layout.doc_begin.assign(prefix, 0);
  for (int32_t length : document_lengths) {
    layout.doc_begin.insert(layout.doc_begin.end(), length, static_cast<int32_t>(layout.doc_begin.size()));
  }
  return layout;
}

}  // namespace hawser
