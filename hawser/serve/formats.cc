#include "hawser/serve/formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "hawser/infer/json_schema.h"
#include "hawser/io/ordered_json.h"

namespace hawser {
namespace {

constexpr size_t kMostKnown = 32;

Grammar GrammarOf(const TextFormat& format) {
  switch (format.kind) {
    case TextFormat::Kind::kGrammar:
      return ParseGrammar(format.text);
    case TextFormat::Kind::kSchema:
      return SchemaGrammar(ParseOrderedJson(format.text));
    default:
      return JsonObjectGrammar();
  }
}

}  // namespace

std::shared_ptr<const TokenTrie> Formats::Trie() {
  std::call_once(made_trie_, [&] { trie_ = std::make_shared<TokenTrie>(tokenizer_); });
  return trie_;
}

std::shared_ptr<const Constraint> Formats::Of(const TextFormat& format) {
  if (format.kind == TextFormat::Kind::kFree) return nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find_if(known_, [&](const Known& known) {
      return known.format.kind == format.kind && known.format.text == format.text;
    });
    if (found != known_.end()) {
      known_.splice(known_.begin(), known_, found);
      return found->constraint;
    }
  }
  std::shared_ptr<const Constraint> made;
  try {
    made = std::make_shared<Constraint>(GrammarOf(format), Trie());
  } catch (const Error& error) {
    throw ApiError(400, "invalid_request_error", fmt::format("\"{}\": {}", format.param, error.what()), format.param);
  }
  const std::lock_guard lock(mutex_);
  known_.push_front({format, made});
  if (known_.size() > kMostKnown) known_.pop_back();
  return made;
}

}  // namespace hawser
