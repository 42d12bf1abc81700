#include "hawser/eval/read_text.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hawser/base/error.h"
#include "hawser/eval/with_prefix.h"
#include "hawser/infer/squeeze.h"
#include "hawser/kv/report.h"
#include "hawser/model/kv_shape.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

/// Tokens of a pass through a cache at most.
constexpr int64_t kReadPass = 32768;

}  // namespace

int64_t DensePrompt(const KvForm& form, int64_t tokens) { return form.prefill == KvPrefill::kDense ? tokens / 2 : 0; }

std::string ToString(const Sight& sight) { return sight.kv ? ToString(*sight.kv) : ToString(sight.pattern); }

TextReader::TextReader(Backend* backend, const Weights& weights, const Tokenizer& tokenizer, const Sight& sight,
                       BosRule bos)
    : backend_(backend),
      weights_(weights),
      sight_(sight),
      prefix_(TextPrefix(tokenizer, bos)),
      decoder_(backend, weights) {
  const int32_t vocab = weights.spec().vocab;
  if (sight_.index) {
    index_ = OpenPrefix(backend, weights, sight_.index->file, /*declared_length=*/0, sight_.index->keep);
    if (!sight_.kv) sight_.kv = KvForm();
  }
  if (sight_.kv) {
    separators_ = ModelSeparators(&tokenizer, sight_.kv->separator_set, vocab);
  } else if (sight_.pattern.separators) {
    separators_ = ModelSeparators(&tokenizer, sight_.pattern.separator_set, vocab);
  }
}

std::string TextReader::IndexName() const { return index_ == nullptr ? "" : PrefixName(index_->index()); }

int64_t TextReader::FirstPredicted() const { return std::max<int64_t>(0, held() + 1 - std::ssize(prefix_)); }

std::vector<int32_t> TextReader::Whole(std::span<const int32_t> text) const {
  std::vector<int32_t> ids = prefix_;
  ids.insert(ids.end(), text.begin(), text.end());
  const int32_t vocab = weights_.spec().vocab;
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab) continue;
    Fail(ErrorKind::kUsage, "token id {} is outside the model's vocabulary of {}; is it the model's tokenizer?", id,
         vocab);
  }
  if (index_ == nullptr) return ids;
  const std::span<const int32_t> read = std::span(ids).first(ids.size() - std::min<size_t>(1, ids.size()));
  CheckBeginsWith(index_->index().ids, read, "what is read of a text",
                  "hawser index MODEL --prefix FILE --max-tokens N indexes the first N tokens of a text; one that is "
                  "cut (--context) may be shorter");
  return ids;
}

void TextReader::Check(std::span<const int32_t> ids) const { Whole(ids); }

void TextReader::ReadThroughCache(std::span<const int32_t> ids, std::span<const int32_t> targets, float* nll,
                                  TextNats* read) {
  const auto rows = static_cast<int64_t>(ids.size());
  KvCache cache =
      NewKvCache(backend_, weights_.spec(), *sight_.kv, separators_, weights_.dtype(), index_ == nullptr ? rows : 0);
  if (index_ != nullptr) cache.Follow(std::make_shared<SqueezedReader>(*index_));
  const int64_t prompt = DensePrompt(*sight_.kv, rows);
  if (prompt > 0) cache.BeginPrefill(prompt);
  for (int64_t at = held(); at < rows;) {
    const int64_t n = std::min(kReadPass, (at < prompt ? prompt : rows) - at);
    decoder_.ExtendScore(std::span(ids).subspan(at, n), std::span(targets).subspan(at, n), &cache, nll + at);
    at += n;
    if (at == prompt) cache.EndPrefill();
  }
  const double own_keys = cache.usage().mean, own_bytes = KvReportJson(cache).value("mean_bytes", 0.0);
  // The keys of the prefix, over all tokens: token t of its own had t + 1 of them, those behind it have all.
  const auto all = static_cast<double>(rows), first = static_cast<double>(held());
  const double behind = (all - first) / all, of_prefix = first * ((first + 1) / 2 / all + behind);
  read->kept = of_prefix + behind * own_keys;
  read->bytes = behind * own_bytes;
  if (index_ == nullptr) return;
  *read->bytes += of_prefix * static_cast<double>(index_->index().bytes()) / first;
  read->prefix_read = cache.prefix()->usage(/*prompt=*/false).keys_per_query() / first;
}

TextNats TextReader::Read(std::span<const int32_t> text) {
  std::vector<int32_t> ids = Whole(text);
  TextNats read{.nats = std::vector<float>(text.size(), std::numeric_limits<float>::quiet_NaN()), .bytes = {}};
  if (ids.size() < 2) return read;

  const auto rows = static_cast<int64_t>(ids.size()) - 1;  // the last token is predicted and not read
  std::vector<int32_t> targets(ids.begin() + 1, ids.end());
  for (size_t i = 0; i + 1 < prefix_.size(); ++i) targets[i] = -1;
  ids.pop_back();
  std::vector<float> nll(ids.size());
  if (sight_.kv) {
    ReadThroughCache(ids, targets, nll.data(), &read);
  } else {
    Batch batch{.pattern = sight_.pattern};
    Batch::Sequence sequence{.begin = 0, .layout = {.size = static_cast<int32_t>(rows)}};
    for (int64_t row = 0; row < rows; ++row) {
      batch.positions.push_back(row);
      batch.weights.push_back(targets[row] < 0 ? 0.0f : 1.0f);
      if (!separators_.empty()) sequence.layout.is_separator.push_back(separators_[ids[row]]);
    }
    batch.ids = ids;
    batch.targets = targets;
    batch.sequences.push_back(std::move(sequence));
    const StepStats stats = decoder_.Score(batch, nll.data());
    read.kept = static_cast<double>(stats.visible_pairs) / static_cast<double>(rows);
  }
  for (auto t = static_cast<size_t>(FirstPredicted()); t < text.size(); ++t) {
    const float nats = nll[t + prefix_.size() - 1];
    if (!std::isfinite(nats)) {
      Fail(ErrorKind::kNumeric, "the model gives {} nats for token {} at position {}; its weights may be damaged", nats,
           text[t], t);
    }
    read.nats[t] = nats;
  }
  return read;
}

}  // namespace hawser
