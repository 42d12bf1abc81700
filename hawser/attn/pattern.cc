#include "hawser/attn/pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>

#include "hawser/base/error.h"
#include "hawser/base/form.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"

namespace hawser {

template <>
struct EnumNames<Scope> {
  static constexpr std::array<std::string_view, 2> kNames = {"seq", "doc"};
};

namespace {

constexpr std::string_view kWhat = "attention pattern";
constexpr int32_t kMostLayers = 4096;  // of any model

/// The fields of a text form as they stand there.
struct PatternFields {
  Scope scope = Scope::kSequence;
  int32_t anchors = 0, sinks = 0, every = 0;
  std::string window = "all", separators = {}, full_layers = {};

  template <class Visitor>
  void Fields(Visitor&& v) {
    constexpr double kMost = AttnPattern::kAll;
    v(scope, {"scope"});
    v(anchors, {"anchors", "", 0, kMost});
    v(sinks, {"sinks", "", 0, kMost});
    v(window, {"window"});
    v(every, {"every", "", 1, kMost});
    v(separators, {"sep"});
    v(full_layers, {"full-layers"});
  }
};

/// Words that say what some fields are.
struct PatternName {
  std::string_view name;
  std::array<std::string_view, 2> fields;
};
constexpr PatternName kNames[] = {{"full", {"scope=seq", "window=all"}},
                                  {"intra", {"scope=doc"}},
                                  {"anchor", {"scope=doc", "anchors=1"}},
                                  {"sep", {"sep=text"}}};

/// Whether a word, alone or behind a name, says how documents are laid out for training (attn/variant.h).
bool OfTraining(std::string_view word) {
  constexpr std::string_view kWords[] = {"reset", "tag", "interleaved", "multi-bos"};
  const auto begins = [&](std::string_view name) {
    return word.starts_with(name) && (word.size() == name.size() || word[name.size()] == '-');
  };
  const bool named = std::ranges::any_of(kNames, [&](const PatternName& of) { return begins(of.name); });
  return std::ranges::any_of(kWords, [&](std::string_view flag) {
    return begins(flag) || (named && word.ends_with(flag) && word[word.size() - flag.size() - 1] == '-');
  });
}

/// The fields of a text, names written out. Errors: kUsage for a word that is neither a name nor a field.
std::vector<std::string_view> FieldsOf(std::string_view text) {
  std::vector<std::string_view> parts;
  for (const std::string_view word : SplitWords(text)) {
    const auto* named = std::ranges::find(kNames, word, &PatternName::name);
    if (named == std::end(kNames)) {
      parts.push_back(word);
      continue;
    }
    for (const std::string_view field : named->fields) {
      if (!field.empty()) parts.push_back(field);
    }
  }
  if (parts.empty()) Fail(ErrorKind::kUsage, "{}: empty text; the pattern without limits is 'full'", kWhat);
  FormLister fields;
  PatternFields().Fields(fields);
  std::vector<std::string_view> known;
  for (const PatternName& named : kNames) known.push_back(named.name);
  for (const std::string_view key : fields.keys()) {
    if (std::ranges::find(known, key) == known.end()) known.push_back(key);
  }
  for (const std::string_view part : parts) {
    if (part.find('=') != part.npos || std::ranges::find(fields.keys(), part) != fields.keys().end()) continue;
    if (OfTraining(part)) {
      Fail(ErrorKind::kUsage,
           "{} '{}': '{}' says how documents are laid out for training; a text is read under a pattern alone, such as "
           "full or window=256",
           kWhat, text, part);
    }
    Fail(ErrorKind::kUsage, "{} '{}': unknown '{}'{}", kWhat, text, part, SuggestName(part, known));
  }
  return parts;
}

int32_t ParseWindow(std::string_view text, std::string_view window) {
  if (window == "all") return AttnPattern::kAll;
  const std::optional<int64_t> tokens = ParseSize(window);
  if (tokens && *tokens >= 1 && *tokens <= AttnPattern::kAll) return static_cast<int32_t>(*tokens);
  Fail(ErrorKind::kUsage, "{} '{}': window='{}'; wanted a whole number of tokens, 1 or more, or all", kWhat, text,
       window);
}

std::string WindowText(int32_t window) { return window == AttnPattern::kAll ? "all" : fmt::format("{}", window); }

/// The text after `sep=`, checked as far as it can be without a tokenizer.
std::string ParseSeparatorForm(std::string_view text, const std::string& form) {
  if (form.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789+-") != form.npos) {
    Fail(ErrorKind::kUsage, "{} '{}': sep='{}'; wanted sep=text, a preset (sep=neox-20) or ids (sep=13+11)", kWhat,
         text, form);
  }
  return form == "text" ? "" : form;
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

AttnPattern LayeredPattern::OfLayer(int32_t layer, int32_t layers) const {
  AttnPattern of = *this;
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

LayeredPattern LayeredPattern::OfFirstLayers(int32_t count, int32_t layers) const {
  if (!layered()) return *this;
  LayeredPattern of(static_cast<const AttnPattern&>(*this));
  of.window = kAll;
  for (int32_t layer = 0; layer < count; ++layer) of.layer_windows.push_back(OfLayer(layer, layers).window);
  return of;
}

LayerPatterns PatternsOfLayers(const LayeredPattern& pattern, int32_t layers, const LayeredPattern& own) {
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

LayeredPattern ParseLayeredPattern(std::string_view text) {
  PatternFields fields;
  FormReader reader(kWhat, text, FieldsOf(text));
  fields.Fields(reader);
  reader.Finish();
  LayeredPattern pattern(AttnPattern{.scope = fields.scope,
                                     .sinks = fields.sinks,
                                     .separators = !fields.separators.empty(),
                                     .anchors = fields.anchors,
                                     .every = fields.every});
  pattern.separator_set = ParseSeparatorForm(text, fields.separators);
  std::vector<int32_t> windows;
  for (const std::string_view window : SplitAt(fields.window, '+')) windows.push_back(ParseWindow(text, window));
  if (windows.size() == 1) {
    pattern.window = windows.front();
  } else {
    pattern.layer_windows = std::move(windows);
  }
  if (reader.Given("full-layers")) {
    pattern.full_layers = WithFrame(kWhat, [&] { return ParseLayerList(fields.full_layers); });
  }
  return pattern;
}

AttnPattern ParsePattern(std::string_view text) {
  const LayeredPattern pattern = ParseLayeredPattern(text);
  if (pattern.layered()) Fail(ErrorKind::kUsage, "{} '{}': wanted that of one layer, without lists", kWhat, text);
  return pattern.OfLayer(0, 1);
}

std::string ToString(const LayeredPattern& pattern) {
  PatternFields fields{.scope = pattern.scope,
                       .anchors = pattern.anchors,
                       .sinks = pattern.sinks,
                       .every = pattern.every,
                       .window = WindowText(pattern.window),
                       .full_layers = fmt::format("{}", fmt::join(pattern.full_layers, "+"))};
  if (pattern.separators) fields.separators = pattern.separator_set.empty() ? "text" : pattern.separator_set;
  for (size_t i = 0; i < pattern.layer_windows.size(); ++i) {
    if (i == 0)
      fields.window.clear();
    else
      fields.window += '+';
    fields.window += WindowText(pattern.layer_windows[i]);
  }
  PatternFields full;
  FormPrinter given, usual;
  fields.Fields(given);
  full.Fields(usual);
  std::vector<std::string> items = form::Items(given, usual);
  if (items.empty()) return "full";
  const std::string text = fmt::format("{}", fmt::join(items, " "));
  if (text == "scope=doc") return "intra";
  if (text == "scope=doc anchors=1") return "anchor";
  std::ranges::replace(items, std::string("sep=text"), std::string("sep"));
  return fmt::format("{}", fmt::join(items, " "));
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
