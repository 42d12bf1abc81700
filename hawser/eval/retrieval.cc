#include "hawser/eval/retrieval.h"

#include <algorithm>
#include <bit>
#include <map>
#include <span>

#include "hawser/base/error.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_report.h"
#include "hawser/tok/separators.h"

namespace hawser {

nlohmann::json ToJson(const std::vector<RetrievalBucket>& buckets) {
  nlohmann::json rows = nlohmann::json::array();
  for (const RetrievalBucket& bucket : buckets) {
    rows.push_back({{"begin", bucket.begin},
                    {"end", bucket.end},
                    {"questions", bucket.questions},
                    {"correct", bucket.correct},
                    {"accuracy", bucket.accuracy()}});
  }
  return rows;
}

RetrievalDocument TokenizeSynthetic(const SyntheticDocument& document, const Tokenizer& tokenizer) {
  RetrievalDocument out;
  out.ids = tokenizer.Encode(" " + document.text);
  if (static_cast<int32_t>(out.ids.size()) != document.words) {
    Fail(ErrorKind::kUsage, "the tokenizer cuts {} words in {} tokens; retrieval wants one token a word",
         document.words, out.ids.size());
  }
  const int32_t shift = tokenizer.bos() >= 0 ? 1 : 0;
  if (shift == 1) out.ids.insert(out.ids.begin(), tokenizer.bos());
  for (const SyntheticQuery& query : document.queries) {
    out.questions.push_back({.row = query.answer + shift - 1,
                             .answer = out.ids[static_cast<size_t>(query.answer + shift)],
                             .distance = query.answer - query.fact});
  }
  return out;
}

RetrievalReport MeasureRetrieval(Backend* backend, const ParamStore& params, const Tokenizer& tokenizer,
                                 const std::vector<RetrievalDocument>& documents, std::string_view kv) {
  Decoder decoder(backend, &params);
  const ModelSpec& spec = params.spec();
  const KvForm form = ParseKvForm(kv);
  if (form.prefill == KvPrefill::kDense) {
    Fail(ErrorKind::kUsage, "kv policy \"{}\": prefill=dense is for prompts, and a document is no prompt", kv);
  }
  RetrievalReport report;
  const std::vector<uint8_t> separators = ModelSeparators(&tokenizer, form.separator_set, spec.vocab);
  // Logits of a run of rows take about 8 MB.
  const size_t run =
      std::clamp<size_t>(size_t{2} << 20, 16 * static_cast<size_t>(spec.vocab), 512 * static_cast<size_t>(spec.vocab)) /
      static_cast<size_t>(spec.vocab);
  Matrix logits = backend->NewMatrix(static_cast<int64_t>(run), spec.vocab, DType::kF32);
  std::vector<float> row(static_cast<size_t>(spec.vocab));
  std::map<int64_t, RetrievalBucket> buckets;
  for (const RetrievalDocument& document : documents) {
    KvCache cache(backend, spec, form, separators, params.dtype(),
                  std::max<int64_t>(spec.context, static_cast<int64_t>(document.ids.size())));
    auto question = document.questions.begin();
    for (size_t begin = 0; begin < document.ids.size() && question != document.questions.end(); begin += run) {
      const size_t n = std::min(run, document.ids.size() - begin);
      const Mat out = logits.view().Rows(0, static_cast<int64_t>(n));
      decoder.Extend(std::span(document.ids).subspan(begin, n), &cache, out);
      for (; question != document.questions.end() && question->row < static_cast<int32_t>(begin + n); ++question) {
        backend->Download(out.Rows(question->row - static_cast<int32_t>(begin), 1), row.data());
        const int64_t low = std::max<int64_t>(
            16, static_cast<int64_t>(std::bit_floor(static_cast<uint32_t>(std::max(question->distance, 1)))));
        RetrievalBucket& bucket = buckets[low];
        bucket.begin = low == 16 ? 1 : low;
        bucket.end = 2 * low;
        ++bucket.questions;
        const auto best = std::max_element(row.begin(), row.end()) - row.begin();
        bucket.correct += best == question->answer ? 1 : 0;
      }
    }
    if (&document != &documents.back()) continue;
    report.kv = KvReportJson(cache);
    report.kv_text = KvReportText(cache);
  }
  for (const auto& [low, bucket] : buckets) report.buckets.push_back(bucket);
  return report;
}

}  // namespace hawser
