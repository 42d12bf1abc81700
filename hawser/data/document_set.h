// data/document_set.h - tokenised documents by number, in memory or in shards that stay in their files.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "hawser/data/packer.h"
#include "hawser/data/shards.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

class DocumentSet {
 public:
  DocumentSet() = default;
  /// Documents without a source, numbered anew.
  explicit DocumentSet(const std::vector<Document>& documents);

  void Add(const std::string& source, std::vector<int32_t> tokens);
  void Add(TokenShard shard);
  /// Gives every document the tokens of "source\n" as its tag. Errors: kUsage if a document has no source.
  void MakeTags(const Tokenizer& tokenizer);

  int64_t size() const { return size_; }
  int64_t tokens() const { return tokens_; }
  int64_t tokens_in_memory() const { return tokens_in_memory_; }  // those that are not in shards
  const std::vector<std::string>& sources() const { return sources_; }

  int64_t length(int64_t document) const;
  int32_t source(int64_t document) const;
  /// A copy, its id the number. Errors: TokenShard::Read.
  Document Get(int64_t document) const;

  /// Of the tokens, where they are divided, and the tags; of a shard the hash in its header and the number of its
  /// documents. `sources`: and of what belongs to which source, where that matters (up-sampling by source).
  uint64_t Hash(bool sources = false) const;

 private:
  struct Part {  // a shard, or documents in memory where there is none
    int64_t begin = 0;
    std::vector<TokenShard> shard;
    std::vector<std::vector<int32_t>> texts;
    std::vector<int32_t> text_sources;
    std::vector<int32_t> shard_sources;  // numbers here of the shard's sources
  };
  const Part& PartOf(int64_t document) const;
  int32_t SourceNumber(const std::string& source);

  std::vector<Part> parts_;
  std::vector<std::string> sources_;
  std::unordered_map<std::string, int32_t> source_numbers_;
  std::vector<std::vector<int32_t>> tags_;  // by source; empty: none
  int64_t size_ = 0, tokens_ = 0, tokens_in_memory_ = 0;
};

}  // namespace hawser
