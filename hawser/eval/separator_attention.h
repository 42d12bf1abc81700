// eval/separator_attention.h - how much attention separators draw, layer by layer and token by token: the observation
// that SepLLM (arXiv:2412.12094, figure 1) starts from.
//   first       mass on the first token of a text, which is counted apart: it draws much whatever it is
//   separators  mass on separators
//   times       (separators / all but the first) by mass over the same by number of keys: 1 where a separator draws as
//               much as any other key that is visible with it
// Each of all keys and of far ones, outside the last `window` tokens: those that SepLLM keeps for being separators.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "hawser/eval/attention_mass.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

struct SeparatorAttention {
  /// Kinds of `mass`; from kNamed on one for each of `named`.
  static constexpr int32_t kFirst = 0, kPlain = 1, kOther = 2, kNamed = 3;

  AttentionMass mass;
  int64_t window = 0, tokens = 0, sequences = 0;
  struct Named {
    int32_t id = 0;
    std::string token;  // as Tokenizer::Display has it
  };
  std::vector<Named> named;  // the separators that come most often, most frequent first
};

struct SeparatorAttentionOptions {
  int64_t window = 64;
  int64_t top = 40;  // separators named at most; fewer where the head dimension has no room for them
  std::function<void(int64_t)> on_layer;
};

/// `sequences` have one length; `separators`: a flag for each id of the tokenizer. Errors: those of
/// MeasureAttentionMass; kUsage for ids that `separators` lacks and for head dimensions below 4.
SeparatorAttention MeasureSeparatorAttention(Backend* backend, const Weights& weights, const Tokenizer& tokenizer,
                                             const std::vector<uint8_t>& separators,
                                             std::span<const std::vector<int32_t>> sequences,
                                             const SeparatorAttentionOptions& options);

/// Masses and numbers of keys as shares of 1.
struct SeparatorShare {
  double first = 0, separators = 0, plain = 0;  // mass
  double separator_keys = 0, plain_keys = 0;
  double times() const;  // NaN where there are no separators, or nothing else
};
/// Of a layer, mean over its heads; of all layers, mean over them, for -1.
SeparatorShare LayerShare(const SeparatorAttention& attention, int32_t layer, bool far);

nlohmann::json ToJson(const SeparatorAttention& attention);
std::string ToText(const SeparatorAttention& attention);
/// Shares by layer, and below them the times.
std::string ToSvg(const SeparatorAttention& attention);

}  // namespace hawser
