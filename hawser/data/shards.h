// data/shards.h - tokenised documents in a file that is mapped, not read: corpora larger than memory. A `.tokens` file
// holds, little-endian:
//   0   8 bytes  "HAWTOKS1", or "HAWTOKS2" with loss weights
//   8   u32      bytes of a token id, 2 or 4        12  u32  checksum of all but the ids, 0: not known
//   16  u64      documents N                        24  u64  tokens T
//   32  u64      ids are below it                   40  u64  fingerprint of the tokenizer, 0: not known
//   48  u64      Hash64 of the token bytes          56  u64  bytes of the names at the end
//   64  T ids, without BOS and EOS, and zeros up to a multiple of 8
//       f32[T]   HAWTOKS2: loss weight of each token, from 0 up; and zeros up to a multiple of 8
//       u64[N]   where each document ends, in tokens; it begins where the one before ends
//       u32[N]   the number of each document's source
//       names of the sources: a JSON list of strings
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "hawser/base/file.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// Changes with any id's text, never 0.
uint64_t TokenizerFingerprint(const Tokenizer& tokenizer);

class TokenShard {
 public:
  /// Checks the header, every size, the document index and both checksums, reading the file once; ids against the
  /// vocabulary when they are read. Errors: kIo, kFormat naming the file.
  explicit TokenShard(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  int64_t size() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  int64_t vocab() const { return vocab_; }
  uint64_t fingerprint() const { return fingerprint_; }
  uint64_t hash() const { return hash_; }  // of the ids, and of all the rest where that holds weights
  const std::vector<std::string>& sources() const { return sources_; }

  int64_t length(int64_t document) const { return End(document) - Begin(document); }
  int32_t source(int64_t document) const;
  /// Errors: kFormat naming file, document and token, for an id outside the vocabulary.
  std::vector<int32_t> Read(int64_t document) const;
  /// Of each token of the document in the loss; empty: 1 each. Errors: kFormat for one that is negative or not finite.
  std::vector<float> Weights(int64_t document) const;

 private:
  int64_t Begin(int64_t document) const { return document == 0 ? 0 : End(document - 1); }
  int64_t End(int64_t document) const;

  std::filesystem::path path_;
  MappedFile file_;
  int32_t width_ = 0;
  bool weighted_ = false;
  int64_t documents_ = 0, tokens_ = 0, vocab_ = 0;
  uint64_t fingerprint_ = 0, hash_ = 0;
  size_t weights_at_ = 0, ends_at_ = 0, sources_at_ = 0;
  std::vector<std::string> sources_;
};

/// True where a ShardWriter is at work in `folder`, or was stopped there: what it holds is a part.
bool IsUnfinishedShards(const std::filesystem::path& folder);

/// Errors: kFormat naming the folder if it is one.
void CheckFinished(const std::filesystem::path& folder);

/// Writes documents to FOLDER/00000.tokens, 00001.tokens, ..., a new file whenever one holds `shard_tokens` or more.
/// The file FOLDER/tokens.unfinished is there until all are written. What a writer that was stopped left there is
/// removed. Ids take 2 bytes where the vocabulary allows it. Holds one shard in memory.
class ShardWriter {
 public:
  ShardWriter(std::filesystem::path folder, const Tokenizer& tokenizer, int64_t shard_tokens);

  void Add(const std::string& source, const std::vector<int32_t>& tokens, const std::vector<float>& weights = {});
  /// Writes the last file. Nothing may follow.
  void Finish();

  const std::vector<std::filesystem::path>& files() const { return files_; }
  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }

 private:
  void Write();

  std::filesystem::path folder_;
  int64_t vocab_, shard_tokens_;
  uint64_t fingerprint_;
  int64_t documents_ = 0, tokens_ = 0;
  std::vector<int32_t> ids_;
  std::vector<float> weights_;  // from the first document of the file on that has some; else empty
  std::vector<uint64_t> ends_;
  std::vector<uint32_t> document_sources_;
  std::vector<std::string> sources_;
  std::unordered_map<std::string, uint32_t> source_numbers_;
  std::vector<std::filesystem::path> files_;
};

}  // namespace hawser
