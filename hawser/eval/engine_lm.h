// eval/engine_lm.h - the engine behind Lm: likelihoods in packed passes that compute a shared context once, or through
// a cache under a policy; texts for many prompts a step.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "hawser/attn/pattern.h"
#include "hawser/eval/lm.h"
#include "hawser/kv/form.h"
#include "hawser/kv/squeezed.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

struct EngineLmOptions {
  std::optional<KvForm> kv = std::nullopt;                 // none: what the model itself keeps
  std::optional<LayeredPattern> attention = std::nullopt;  // not with kv
  int64_t max_length = 0;                                  // 0: the model's context
  /// An indexed prefix that every prompt begins with, or null. It is not read again; likelihoods come through caches.
  std::shared_ptr<const SqueezedReader> prefix = nullptr;
  BosRule bos = BosRule::kAuto;
  bool chat = false;
  int64_t batch_tokens = 4096;  // rows of a packed pass; a longer sequence goes alone
  int32_t streams = 24;         // prompts continued at once at most
  bool share = true;            // false: every text is computed from its beginning
};

class EngineLm : public Lm {
 public:
  /// What it is given outlives it. Errors: kUsage (both kv and attention, a pattern that no cache has, chat without a
  /// template), those of KvCache::CheckFollow.
  EngineLm(Backend* backend, const Weights& weights, const Tokenizer& tokenizer, const EngineLmOptions& options);
  ~EngineLm() override;

  /// Errors: also those of with_prefix.h.
  void Answer(std::span<const LmRequest> requests, const std::vector<bool>& known, const AnswerSink& sink) override;
  int64_t max_length() const override;
  std::string Shown(const LmRequest& request) const override;
  nlohmann::json Describe() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The cache in which a stream sees what `pattern` lets one sequence see. Errors: kUsage where there is none.
KvForm FormOfPattern(const LayeredPattern& pattern);

}  // namespace hawser
