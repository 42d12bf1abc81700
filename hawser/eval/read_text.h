// eval/read_text.h - a text read from its beginning, with all in sight, through a pattern or through a cache: the nats
// of every token, and how many keys were held for them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/kv/form.h"
#include "hawser/model/decoder.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// What is seen of the tokens before: through a cache where there is one, else by the pattern.
struct Sight {
  std::optional<KvForm> kv = std::nullopt;
  LayeredPattern pattern = {};

  bool operator==(const Sight&) const = default;
};
/// The text of the cache, or of the pattern.
std::string ToString(const Sight& sight);

/// Of a text of so many tokens: those that are its prompt under a policy whose prompts are dense, the first half.
int64_t DensePrompt(const KvForm& form, int64_t tokens);

struct TextNats {
  std::vector<float> nats;      // [tokens of the text]; NaN for one that has nothing before it
  double kept = 0;              // keys held or seen, its own included: mean over tokens and layers
  std::optional<double> bytes;  // of the keys and values held, mean over tokens; none without a cache
};

class TextReader {
 public:
  /// What it is given outlives it. Errors: kUsage (what the model has not).
  TextReader(Backend* backend, const Weights& weights, const Tokenizer& tokenizer, const Sight& sight,
             BosRule bos = BosRule::kAuto);

  /// Ids that stand before each text (tok/bos.h).
  const std::vector<int32_t>& prefix() const { return prefix_; }
  Decoder* decoder() { return &decoder_; }
  /// A text by itself. Frequencies that follow the length are those of this one. Errors: kUsage for ids outside the
  /// vocabulary; kNumeric for nats that are not finite.
  TextNats Read(std::span<const int32_t> ids);

 private:
  Backend* backend_;
  Weights weights_;
  Sight sight_;
  std::vector<int32_t> prefix_;
  std::vector<uint8_t> separators_;
  Decoder decoder_;
};

}  // namespace hawser
