// data/document_set.h - tokenised documents by number, in memory or in shards that stay in their files.
#pragma once

#include <cstdint>
#include <iterator>
#include <string>
#include <unordered_map>
#include <vector>

#include "hawser/data/packer.h"
#include "hawser/data/shards.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// Documents [begin, end) of a set, drawn in a mixture so that their tokens are weight / (sum of weights) of all.
struct MixtureSource {
  std::string name;
  double weight = 1;
  int64_t begin = 0, end = 0;
  int64_t tokens = 0;
};

class DocumentSet {
 public:
  DocumentSet() = default;
  /// Documents without a source, numbered anew.
  explicit DocumentSet(const std::vector<Document>& documents);

  /// `weights`: of each token in the loss; empty: 1 each.
  void Add(const std::string& source, std::vector<int32_t> tokens, std::vector<float> weights = {});
  void Add(TokenShard shard);
  /// What is added from here on, up to the next call, is a source of a mixture with this weight. Called before the
  /// first document or never.
  void BeginSource(std::string name, double weight);
  /// Gives every document the tokens of "source\n" as its tag. Errors: kUsage if a document has no source.
  void MakeTags(const Tokenizer& tokenizer);

  int64_t size() const { return size_; }
  int64_t tokens() const { return tokens_; }
  int64_t tokens_in_memory() const { return tokens_in_memory_; }  // those that are not in shards
  const std::vector<std::string>& sources() const { return sources_; }
  const std::vector<MixtureSource>& mixture() const { return mixture_; }  // empty: no mixture

  int64_t length(int64_t document) const;
  int32_t source(int64_t document) const;
  int64_t tag_tokens(int64_t document) const { return tags_.empty() ? 0 : std::ssize(tags_[source(document)]); }
  /// A copy, its id the number. Errors: TokenShard::Read.
  Document Get(int64_t document) const;

  /// Of the tokens, where they are divided, their weights and the tags; of a shard the hash in its header and the
  /// number of its documents. `sources`: and of what belongs to which source, where that matters (up-sampling by
  /// source).
  uint64_t Hash(bool sources = false) const;

 private:
  struct Part {  // a shard, or documents in memory where there is none
    int64_t begin = 0;
    std::vector<TokenShard> shard;
    std::vector<std::vector<int32_t>> texts;
    std::vector<std::vector<float>> weights;  // as many as texts
    std::vector<int32_t> text_sources;
    std::vector<int32_t> shard_sources;  // numbers here of the shard's sources
  };
  const Part& PartOf(int64_t document) const;
  int32_t SourceNumber(const std::string& source);
  void Count(int64_t documents, int64_t tokens);

  std::vector<Part> parts_;
  std::vector<std::string> sources_;
  std::unordered_map<std::string, int32_t> source_numbers_;
  std::vector<std::vector<int32_t>> tags_;  // by source; empty: none
  std::vector<MixtureSource> mixture_;
  int64_t size_ = 0, tokens_ = 0, tokens_in_memory_ = 0;
};

}  // namespace hawser
