// eval/read_text.h - a text read from its beginning, with all in sight, through a pattern, through a cache or behind an
// indexed prefix: the nats of every token, and how many keys were held for them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/kv/form.h"
#include "hawser/kv/keep_rule.h"
#include "hawser/kv/squeezed.h"
#include "hawser/model/decoder.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// Texts begin with a prefix that was indexed (kv/prefix_index.h), and what stands behind it reads a part of its keys.
struct IndexSight {
  std::filesystem::path file;
  KeepRule keep = {.kind = KeepRule::Kind::kShare, .value = 0.1};

  bool operator==(const IndexSight&) const = default;
};

/// What is seen of the tokens before: through a cache where there is one or an index, else by the pattern.
struct Sight {
  std::optional<KvForm> kv = std::nullopt;
  LayeredPattern pattern = {};
  std::optional<IndexSight> index = std::nullopt;

  bool operator==(const Sight&) const = default;
};
/// The text of the cache, or of the pattern.
std::string ToString(const Sight& sight);

/// Of a text of so many tokens: those that are its prompt under a policy whose prompts are dense, the first half.
int64_t DensePrompt(const KvForm& form, int64_t tokens);

struct TextNats {
  std::vector<float> nats;            // [tokens of the text]; NaN for the first FirstPredicted() of them
  double kept = 0;                    // keys held or seen, its own included: mean over tokens and layers
  std::optional<double> bytes;        // of the keys and values held, mean over tokens; none without a cache
  std::optional<double> prefix_read;  // of the keys of an indexed prefix, the part that a query reads: mean
};

class TextReader {
 public:
  /// What it is given outlives it. Errors: kUsage (what the model has not); those of OpenPrefix.
  TextReader(Backend* backend, const Weights& weights, const Tokenizer& tokenizer, const Sight& sight,
             BosRule bos = BosRule::kAuto);

  /// Ids that stand before each text (tok/bos.h).
  const std::vector<int32_t>& prefix() const { return prefix_; }
  Decoder* decoder() { return &decoder_; }
  /// Tokens at the beginning of a text that nothing is said of: one without ids before it; behind an index its prefix
  /// and the token that is read there first.
  int64_t FirstPredicted() const;
  /// PrefixName of the index; empty: none.
  std::string IndexName() const;
  /// Errors: kUsage for ids outside the vocabulary; behind an index, for a text that does not begin with its prefix
  /// and go on behind it.
  void Check(std::span<const int32_t> ids) const;
  /// A text by itself. Frequencies that follow the length are those of this one. What an index holds of it is not read
  /// again, and counts as held. Errors: those of Check; kNumeric for nats that are not finite.
  TextNats Read(std::span<const int32_t> ids);

 private:
  /// Tokens, prefix() among them, that an index holds.
  int64_t held() const { return index_ != nullptr ? index_->tokens() : 0; }
  /// The text behind prefix(), checked.
  std::vector<int32_t> Whole(std::span<const int32_t> text) const;
  void ReadThroughCache(std::span<const int32_t> ids, std::span<const int32_t> targets, float* nll, TextNats* read);

  Backend* backend_;
  Weights weights_;
  Sight sight_;
  std::vector<int32_t> prefix_;
  std::vector<uint8_t> separators_;
  std::shared_ptr<const SqueezedReader> index_;  // null: none
  Decoder decoder_;
};

}  // namespace hawser
