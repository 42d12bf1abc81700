// eval/focus_lm.h - FocusLLM's reading (infer/focus.h) behind Lm: each request by itself.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <vector>

#include "hawser/eval/lm.h"
#include "hawser/infer/focus.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

struct FocusLmOptions {
  FocusOptions focus;
  int64_t max_length = 0;  // 0: what fits (FocusReach)
  BosRule bos = BosRule::kAuto;
  bool chat = false;
};

class FocusLm : public Lm {
 public:
  /// What it is given outlives it. `candidates`: WithCandidates of `weights`. Errors: those of FocusStream; kUsage for
  /// chat without a template, a longest input that does not fit.
  FocusLm(Backend* backend, const Weights& weights, const Weights& candidates, const Tokenizer& tokenizer,
          const FocusLmOptions& options);
  ~FocusLm() override;

  /// Errors: also kUnsupported for kRolling: its windows begin with one token, and have no memory.
  void Answer(std::span<const LmRequest> requests, const std::vector<bool>& known, const AnswerSink& sink) override;
  int64_t max_length() const override;
  std::string Shown(const LmRequest& request) const override;
  nlohmann::json Describe() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hawser
