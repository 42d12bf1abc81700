#include "hawser/data/document_set.h"

#include <algorithm>
#include <span>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"

namespace hawser {

DocumentSet::DocumentSet(const std::vector<Document>& documents) {
  for (const Document& document : documents) Add("", document.tokens, document.weights);
}

int32_t DocumentSet::SourceNumber(const std::string& source) {
  const auto [found, is_new] = source_numbers_.try_emplace(source, static_cast<int32_t>(sources_.size()));
  if (is_new) sources_.push_back(source);
  return found->second;
}

void DocumentSet::BeginSource(std::string name, double weight) {
  HAWSER_CHECK(size_ == 0 || !mixture_.empty());
  mixture_.push_back({.name = std::move(name), .weight = weight, .begin = size_, .end = size_});
}

void DocumentSet::Count(int64_t documents, int64_t tokens) {
  size_ += documents;
  tokens_ += tokens;
  if (mixture_.empty()) return;
  mixture_.back().end = size_;
  mixture_.back().tokens += tokens;
}

void DocumentSet::Add(const std::string& source, std::vector<int32_t> tokens, std::vector<float> weights) {
  if (parts_.empty() || !parts_.back().shard.empty()) parts_.push_back({.begin = size_});
  Part& part = parts_.back();
  part.text_sources.push_back(SourceNumber(source));
  const auto size = static_cast<int64_t>(tokens.size());
  tokens_in_memory_ += size;
  part.texts.push_back(std::move(tokens));
  part.weights.push_back(std::move(weights));
  Count(1, size);
}

void DocumentSet::Add(TokenShard shard) {
  Part& part = parts_.emplace_back(Part{.begin = size_});
  for (const std::string& source : shard.sources()) part.shard_sources.push_back(SourceNumber(source));
  Count(shard.size(), shard.tokens());
  part.shard.push_back(std::move(shard));
}

void DocumentSet::MakeTags(const Tokenizer& tokenizer) {
  const auto unnamed = std::find(sources_.begin(), sources_.end(), "");
  for (int64_t d = 0; unnamed != sources_.end() && d < size_; ++d) {
    if (source(d) != unnamed - sources_.begin()) continue;
    Fail(ErrorKind::kUsage,
         "tags name sources, and document {} has none: give lines of .jsonl files a \"source\", or use attention "
         "without -tag",
         d);
  }
  tags_.clear();
  for (const std::string& source : sources_) tags_.push_back(tokenizer.Encode(source + "\n"));
}

const DocumentSet::Part& DocumentSet::PartOf(int64_t document) const {
  HAWSER_CHECK(document >= 0 && document < size_);
  const auto after = std::upper_bound(parts_.begin(), parts_.end(), document,
                                      [](int64_t d, const Part& part) { return d < part.begin; });
  return *(after - 1);
}

int64_t DocumentSet::length(int64_t document) const {
  const Part& part = PartOf(document);
  const int64_t d = document - part.begin;
  return part.shard.empty() ? static_cast<int64_t>(part.texts[d].size()) : part.shard[0].length(d);
}

int32_t DocumentSet::source(int64_t document) const {
  const Part& part = PartOf(document);
  const int64_t d = document - part.begin;
  return part.shard.empty() ? part.text_sources[d] : part.shard_sources[part.shard[0].source(d)];
}

Document DocumentSet::Get(int64_t document) const {
  const Part& part = PartOf(document);
  const int64_t d = document - part.begin;
  return {.id = document,
          .tokens = part.shard.empty() ? part.texts[d] : part.shard[0].Read(d),
          .tag = tags_.empty() ? std::vector<int32_t>{} : tags_[source(document)],
          .weights = part.shard.empty() ? part.weights[d] : part.shard[0].Weights(d)};
}

uint64_t DocumentSet::Hash(bool sources) const {
  uint64_t hash = static_cast<uint64_t>(size_);
  for (const Part& part : parts_) {
    for (const TokenShard& shard : part.shard) {
      const uint64_t words[] = {shard.hash(), static_cast<uint64_t>(shard.size())};
      hash = Hash64(std::as_bytes(std::span(words)), hash);
    }
    for (const std::vector<int32_t>& text : part.texts) hash = Hash64(std::as_bytes(std::span(text)), hash);
    for (const std::vector<float>& weights : part.weights) {
      if (!weights.empty()) hash = Hash64(std::as_bytes(std::span(weights)), hash);
    }
  }
  for (const MixtureSource& source : mixture_) {
    const int64_t range[] = {source.begin, source.end};
    hash = Hash64(std::as_bytes(std::span(range)), hash);
  }
  for (const std::vector<int32_t>& tag : tags_) hash = Hash64(std::as_bytes(std::span(tag)), hash);
  for (int64_t d = 0; sources && d < size_; ++d) {
    const int32_t number[] = {source(d)};
    hash = Hash64(std::as_bytes(std::span(number)), hash);
  }
  return hash;
}

}  // namespace hawser
