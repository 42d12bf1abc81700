// eval/tune_kv.h - a window for each layer out of a calibration text, for a budget of keys.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hawser/data/corpus.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

struct TuneKvOptions {
  double budget = 0.4;           // share of the keys that full attention keeps, mean over layers and tokens
  int64_t context = 0;           // tokens of a window of text; 0: the model's own
  int64_t max_tokens = 32768;    // of the calibration text, and as many of the held-out text
  int32_t sinks = 3;             // a of sep:a,n
  std::string separator_set;     // tok/separators.h
  BosRule bos = BosRule::kAuto;  // as of PplOptions
};

struct KvChoice {
  std::vector<int32_t> windows;   // [L]; AttnPattern::kAll: everything
  double ratio = 0;               // of keys seen over those of full attention, on the held-out text
  double nll = 0, tuned_nll = 0;  // nats a token on the held-out and on the calibration text

  std::string Kv(int32_t sinks, const std::string& separator_set) const;  // text form of the cache policy
};

struct TuneKvReport {
  int64_t context = 0, tokens = 0;        // of the calibration text
  std::vector<int32_t> candidates;        // ascending windows, kAll last
  std::vector<std::vector<double>> cost;  // [L][candidates] nats a token that this window costs in this layer alone
  KvChoice full, fixed, adaptive;
};

/// Every layer alone is given each candidate window (powers of two, and all) of the pattern "sinks separators window",
/// all others seeing everything; from windows that see everything the step that costs least loss for each key saved is
/// taken until the budget holds. `fixed`: the largest single window within the budget. The first half of each document
/// calibrates, the second half is what the choices are judged by. Errors: kUsage (budget outside (0, 1], one that no
/// window meets, texts too short).
TuneKvReport TuneKv(Backend* backend, const Weights& params, const Tokenizer& tokenizer,
                    const std::vector<TextDocument>& documents, const TuneKvOptions& options);

}  // namespace hawser
