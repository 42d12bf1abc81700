#include "hawser/tok/pre_tokenizer.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "hawser/base/depth.h"
#include "hawser/base/error.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/normalizer.h"
#include "hawser/tok/regex.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior ParseBehavior(const std::string& name) {
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  Fail(ErrorKind::kFormat, "split behavior \"{}\" is unknown", name);
}

/// Cuts `text` in matches and the stretches between them (`invert` swaps the two) and hands on what `behavior` makes
/// of that row: neighbours are joined or matches dropped.
void Split(const Regex& pattern, Behavior behavior, bool invert, std::string_view text, TextPlace place,
           const PreTokenizer::Sink& sink) {
  size_t begin = 0;  // the piece being built is [begin, end)
  size_t end = 0;
  bool open_is_match = false;
  const auto flush = [&] {
    if (end > begin) sink(text.substr(begin, end - begin), begin == 0 ? place : TextPlace::kInside);
    begin = end;
  };
  const auto take = [&](size_t to, bool match) {
    bool join = false;
    switch (behavior) {
      case Behavior::kRemoved:
      case Behavior::kIsolated:
        break;
      case Behavior::kMergedWithPrevious:
        join = match && !open_is_match;
        break;
      case Behavior::kMergedWithNext:
        join = !match && open_is_match;
        break;
      case Behavior::kContiguous:
        join = match == open_is_match;
        break;
    }
    if (!join) flush();
    open_is_match = match;
    end = to;
    if (behavior == Behavior::kRemoved && match) begin = end;
  };
  size_t done = 0;
  pattern.ForEachMatch(text, [&](size_t from, size_t to) {
    if (from > done) take(from, invert);
    take(to, !invert);
    done = to;
  });
  if (done < text.size()) take(text.size(), invert);
  flush();
}

}  // namespace

PreTokenizer::PreTokenizer(const nlohmann::json& json) {
  Add(json, 0);
  if (leaves_bytes_) steps_.pop_back();
}

void PreTokenizer::Add(const nlohmann::json& json, int depth) {
  if (json.is_null()) return;
  CheckDepth(depth, "pre_tokenizer");
  CheckDepth(static_cast<int>(steps_.size()), "pre_tokenizer");  // each step calls the next
  const auto add_split = [this](Regex pattern, Behavior behavior, bool invert) {
    steps_.emplace_back(
        [pattern = std::move(pattern), behavior, invert](std::string_view text, TextPlace place, const Sink& sink) {
          Split(pattern, behavior, invert, text, place, sink);
        });
  };
  const auto type = json.at("type").get<std::string>();
  leaves_bytes_ = leaves_bytes_ && type == "Sequence";
  if (type == "Sequence") {
    for (const auto& part : json.at("pretokenizers")) Add(part, depth + 1);
  } else if (type == "ByteLevel") {
    if (json.value("add_prefix_space", true)) {
      steps_.emplace_back([](std::string_view text, TextPlace place, const Sink& sink) {
        const bool wanted = !text.starts_with(' ') && place != TextPlace::kGoesOn;
        wanted ? sink(" " + std::string(text), place) : sink(text, place);
      });
    }
    if (json.value("use_regex", true)) add_split(Regex(kGpt2Pattern), Behavior::kIsolated, false);
    steps_.emplace_back([](std::string_view text, TextPlace place, const Sink& sink) {
      std::string mapped;
      AppendByteLevel(text, mapped);
      sink(mapped, place);
    });
    byte_level_ = leaves_bytes_ = true;
  } else if (type == "Split") {
    add_split(PatternOf(json), ParseBehavior(json.at("behavior").get<std::string>()), json.value("invert", false));
  } else if (type == "Metaspace") {
    const auto mark = json.at("replacement").get<std::string>();
    if (!IsOneCharacter(mark)) Fail(ErrorKind::kFormat, "Metaspace: its replacement \"{}\" is not one character", mark);
    const auto scheme =
        json.value("prepend_scheme", json.value("add_prefix_space", true) ? std::string("always") : "never");
    steps_.emplace_back([mark, scheme](std::string_view text, TextPlace place, const Sink& sink) {
      std::string marked;
      for (const char c : text) c == ' ' ? marked += mark : marked += c;
      const bool wanted =
          (scheme == "always" && place != TextPlace::kGoesOn) || (scheme == "first" && place == TextPlace::kStart);
      if (wanted && !marked.starts_with(mark)) marked.insert(0, mark);
      sink(marked, place);
    });
    if (json.value("split", true)) add_split(Regex(QuoteRegex(mark)), Behavior::kMergedWithNext, false);
  } else if (type == "Digits") {
    add_split(Regex(json.value("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)"), Behavior::kIsolated, false);
  } else if (type == "Punctuation") {
    add_split(Regex(R"([\p{P}$+<=>^`|~])"), ParseBehavior(json.value("behavior", std::string("Isolated"))), false);
  } else if (type == "Whitespace") {
    // Words of UTS #18, which are not those of other splits.
    constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d})";
    add_split(Regex(fmt::format("[{0}]+|[^{0}\\s]+", kWord)), Behavior::kRemoved, true);
  } else if (type == "WhitespaceSplit") {
    add_split(Regex(R"(\s)"), Behavior::kRemoved, false);
  } else {
    Fail(ErrorKind::kUnsupported, "pre_tokenizer \"{}\" is not supported", type);
  }
}

void PreTokenizer::Run(size_t step, std::string_view text, TextPlace place, const Sink& sink) const {
  if (text.empty()) return;
  if (step == steps_.size()) {
    sink(text, place);
    return;
  }
  steps_[step](text, place, [&](std::string_view piece, TextPlace at) { Run(step + 1, piece, at, sink); });
}

}  // namespace hawser
