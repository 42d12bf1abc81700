#include "hawser/eval/retrieval.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <span>

#include "hawser/base/error.h"
#include "hawser/kv/report.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/tok/separators.h"

namespace hawser {

std::pair<double, double> RetrievalBucket::interval() const {
  if (questions == 0) return {0, 1};
  const double n = static_cast<double>(questions), share = accuracy();
  const double middle = (share + 0.5 / n) / (1 + 1 / n);
  const double half = std::sqrt(share * (1 - share) / n + 0.25 / (n * n)) / (1 + 1 / n);
  return {middle - half, middle + half};
}

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

RetrievalDocument TokenizeSynthetic(const SyntheticDocument& document, const Tokenizer& tokenizer, BosRule bos) {
  RetrievalDocument out{.ids = TextPrefix(tokenizer, bos)};
  std::vector<uint8_t> is_value(static_cast<size_t>(document.words), 0);
  for (const SyntheticQuery& query : document.queries) is_value[query.fact] = is_value[query.answer] = 1;
  struct Span {
    int32_t begin = 0, tokens = 0;
  };
  std::vector<Span> spans(is_value.size());  // of the values
  std::string pending;                       // text that is not yet tokens: each word behind a blank
  const auto flush = [&] {
    if (pending.empty()) return;
    const std::vector<int32_t> ids = tokenizer.Encode(std::string_view(pending).substr(tokenizer.adds_dummy_prefix()));
    out.ids.insert(out.ids.end(), ids.begin(), ids.end());
    pending.clear();
  };
  size_t at = 0;
  for (size_t word = 0; word < is_value.size(); ++word) {
    const size_t end = std::min(document.text.find(' ', at), document.text.size());
    if (is_value[word]) flush();
    pending += " " + document.text.substr(at, end - at);
    if (is_value[word]) {
      spans[word].begin = static_cast<int32_t>(out.ids.size());
      flush();
      spans[word].tokens = static_cast<int32_t>(out.ids.size()) - spans[word].begin;
    }
    at = end + 1;
  }
  flush();
  for (const SyntheticQuery& query : document.queries) {
    const Span fact = spans[query.fact], answer = spans[query.answer];
    out.questions.push_back({.row = answer.begin - 1, .tokens = answer.tokens, .distance = answer.begin - fact.begin});
  }
  return out;
}

RetrievalDocument MakeRetrievalDocument(uint64_t seed, uint64_t number, int64_t context, const Tokenizer& tokenizer,
                                        BosRule bos) {
  for (int64_t words = context - 1;;) {
    RetrievalDocument document =
        TokenizeSynthetic(MakeSyntheticDocument(seed, number, static_cast<int32_t>(words)), tokenizer, bos);
    const auto tokens = static_cast<int64_t>(document.ids.size());
    if (tokens <= context) return document;
    words = std::min(words - 1, words * context / tokens);
  }
}

RetrievalReport MeasureRetrieval(Backend* backend, const Weights& params, const Tokenizer& tokenizer,
                                 const std::vector<RetrievalDocument>& documents, std::string_view kv) {
  Decoder decoder(backend, params);
  const ModelSpec& spec = params.spec();
  const KvForm form = ParseKvForm(kv);
  if (form.prefill == KvPrefill::kDense) {
    Fail(ErrorKind::kUsage, "kv policy \"{}\": its prompts are dense, and a document is no prompt", kv);
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
    KvCache cache =
        NewKvCache(backend, spec, form, separators, params.dtype(), static_cast<int64_t>(document.ids.size()));
    auto question = document.questions.begin();
    int32_t known = 0;  // tokens of the answer that were found so far
    for (size_t begin = 0; begin < document.ids.size() && question != document.questions.end(); begin += run) {
      const size_t n = std::min(run, document.ids.size() - begin);
      const Mat out = logits.view().Rows(0, static_cast<int64_t>(n));
      decoder.Extend(std::span(document.ids).subspan(begin, n), &cache, out);
      for (auto at = static_cast<int32_t>(begin); at < static_cast<int32_t>(begin + n); ++at) {
        if (question == document.questions.end()) break;
        if (at < question->row) continue;
        backend->Download(out.Rows(at - static_cast<int32_t>(begin), 1), row.data());
        const auto best = std::max_element(row.begin(), row.end()) - row.begin();
        known += best == document.ids[static_cast<size_t>(at) + 1] ? 1 : 0;
        if (at + 1 < question->row + question->tokens) continue;
        const int64_t low = std::max<int64_t>(
            16, static_cast<int64_t>(std::bit_floor(static_cast<uint32_t>(std::max(question->distance, 1)))));
        RetrievalBucket& bucket = buckets[low];
        bucket.begin = low == 16 ? 1 : low;
        bucket.end = 2 * low;
        ++bucket.questions;
        bucket.correct += known == question->tokens ? 1 : 0;
        known = 0;
        ++question;
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
