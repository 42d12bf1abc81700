// eval/retrieval.h - retrieval accuracy by distance: how often the most probable next tokens are those that can only be
// known from a fact stated `distance` tokens before.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/data/synthetic.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// Right where each token of the answer is the most probable one behind those before it, as greedy decoding has it.
struct RetrievalQuestion {
  int32_t row = 0;       // the answer begins after this token
  int32_t tokens = 1;    // of the answer: ids [row + 1, row + 1 + tokens)
  int32_t distance = 0;  // tokens from the fact's value to the answer
};

struct RetrievalDocument {
  std::vector<int32_t> ids;
  std::vector<RetrievalQuestion> questions;  // ascending rows
};

struct RetrievalBucket {
  int64_t begin = 0, end = 0;  // distances [begin, end)
  int64_t questions = 0;
  int64_t correct = 0;

  double accuracy() const { return questions > 0 ? static_cast<double>(correct) / static_cast<double>(questions) : 0; }
  /// accuracy() less and plus one standard error (Wilson's interval, which stays within 0 and 1).
  std::pair<double, double> interval() const;
};

/// A list of begin, end, questions, correct, accuracy.
nlohmann::json ToJson(const std::vector<RetrievalBucket>& buckets);

/// A synthetic document as token ids behind TextPrefix. The text is cut before and behind every answer and
/// every fact's value, so that each is a span of whole tokens under any tokenizer.
RetrievalDocument TokenizeSynthetic(const SyntheticDocument& document, const Tokenizer& tokenizer,
                                    BosRule bos = BosRule::kAuto);

/// Document `number` of a seed, as long as fits in `context` tokens: one of context - 1 words where each is a token,
/// else of fewer. It may be too short for any question.
RetrievalDocument MakeRetrievalDocument(uint64_t seed, uint64_t number, int64_t context, const Tokenizer& tokenizer,
                                        BosRule bos = BosRule::kAuto);

struct RetrievalReport {
  std::vector<RetrievalBucket> buckets;
  nlohmann::json kv;  // KvReportJson and KvReportText (kv/report.h) of the last document
  std::string kv_text;
};

/// Runs every document through a fresh cache under `kv` (text form). Buckets have the edges 16, 32, 64, ... (powers of
/// two); empty ones are left out. Errors: kUsage (a policy with prefill=dense: a document is no prompt).
RetrievalReport MeasureRetrieval(Backend* backend, const Weights& params, const Tokenizer& tokenizer,
                                 const std::vector<RetrievalDocument>& documents, std::string_view kv);

}  // namespace hawser
