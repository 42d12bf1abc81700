// eval/retrieval.h - retrieval accuracy by distance: how often the most probable next token is the one that can only be
// known from a fact stated `distance` tokens before.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/data/synthetic.h"
#include "hawser/model/params.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

struct RetrievalQuestion {
  int32_t row = 0;       // the answer is the token after this one
  int32_t answer = 0;    // token id
  int32_t distance = 0;  // tokens between the fact's value and the answer
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
};

/// A list of begin, end, questions, correct, accuracy.
nlohmann::json ToJson(const std::vector<RetrievalBucket>& buckets);

/// A synthetic document as token ids behind the tokenizer's BOS. Errors: kUsage if the tokenizer does not hold every
/// word as one piece.
RetrievalDocument TokenizeSynthetic(const SyntheticDocument& document, const Tokenizer& tokenizer);

struct RetrievalReport {
  std::vector<RetrievalBucket> buckets;
  nlohmann::json kv;  // KvReportJson and KvReportText (model/kv_report.h) of the last document
  std::string kv_text;
};

/// Runs every document through a fresh cache under `kv` (text form). Buckets have the edges 16, 32, 64, ... (powers of
/// two); empty ones are left out. Errors: kUsage (a policy with prefill=dense: a document is no prompt).
RetrievalReport MeasureRetrieval(Backend* backend, const ParamStore& params, const Tokenizer& tokenizer,
                                 const std::vector<RetrievalDocument>& documents, std::string_view kv);

}  // namespace hawser
