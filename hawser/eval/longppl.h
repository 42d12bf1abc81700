// eval/longppl.h - LongPPL (arXiv:2410.23771): perplexity over the tokens that hang on far text, which a judge chose.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hawser/data/corpus.h"
#include "hawser/eval/key_tokens.h"
#include "hawser/eval/read_text.h"

namespace hawser {

/// Nats summed over tokens.
struct NatsSum {
  int64_t tokens = 0;
  double nats = 0, squares = 0;

  void Add(double value) { ++tokens, nats += value, squares += value * value; }
  void Add(const NatsSum& other) { tokens += other.tokens, nats += other.nats, squares += other.squares; }
  double ppl() const;         // NaN without tokens
  double stderr_ppl() const;  // sqrt(variance / (n - 1)) * ppl, the variance over tokens; NaN below two
};

struct LongPplDocument {
  std::string name;
  NatsSum all, key;  // of the tokens of the model that are predicted
};

struct LongPplReport {
  std::string identity;                // of the key tokens
  int64_t judged = 0, judge_keys = 0;  // tokens of the judge
  std::vector<LongPplDocument> documents;
  double kept = 0;                    // keys, mean over all tokens read
  std::optional<double> prefix_read;  // of an indexed prefix, the part of its keys that a query reads
  double seconds = 0;

  /// Over all documents: each token counts the same, however documents are divided.
  NatsSum all() const;
  NatsSum key() const;
  NatsSum other() const;  // all but key
};

/// [tokens of the model]: 1 where a token lies inside the key bytes of `keys`.
std::vector<uint8_t> KeyTokensOf(const KeyDocument& keys, const Tokenizer& tokenizer, std::string_view text,
                                 std::span<const int32_t> ids);

/// `reader` reads what was judged of each document from its beginning. Errors: CheckKeysFit; kUsage where no token of
/// the model lies inside a key one.
LongPplReport MeasureLongPpl(TextReader* reader, const Tokenizer& tokenizer, std::span<const TextDocument> documents,
                             const KeyTokens& keys);

nlohmann::json ToJson(const LongPplReport& report);
std::string ToText(const LongPplReport& report);

}  // namespace hawser
