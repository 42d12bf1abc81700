// eval/key_tokens.h - which tokens of a text hang on its far beginning, as a judge finds (arXiv:2410.23771): as bytes
// of the text, so that any tokenizer can use them, and in a file, so that the judge reads once.
//
//   A token is key where nats_short - nats_long > alpha and nats_long < -beta: a long context makes it likely.
//
// The file: a line of JSON that says who judged and how, then one for each document,
//   {"name": "book.txt", "bytes": 30213, "hash": "...", "tokens": 8192, "judged": 3072, "keys": 51, "spans": [[a, b],
//   ...]}
// where the judge read the first `bytes` of the text, `judged` tokens have a long context, and `spans` are the bytes of
// key tokens, those that touch together.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/data/corpus.h"
#include "hawser/eval/read_text.h"
#include "hawser/eval/short_context.h"
#include "hawser/eval/token_spans.h"

namespace hawser {

struct KeyRule {
  ShortContext context;
  double alpha = 2;  // nats that the long context saves
  double beta = -2;  // the token's log-probability behind it
  int64_t length =
      32768;  // of a document the first so many tokens of the judge are read, what stands before it included

  bool operator==(const KeyRule&) const = default;
};

struct KeyDocument {
  std::string name;
  int64_t bytes = 0;   // of the text that were read
  std::string hash;    // of these bytes
  int64_t tokens = 0;  // of the judge
  int64_t judged = 0;  // of these, have a short context that is not all there is
  int64_t keys = 0;    // of these, are key
  std::vector<ByteSpan> spans;

  bool operator==(const KeyDocument&) const = default;
};

/// Who judged: "model", "fingerprint", "dtype", "rope", "bos".
using JudgeNames = std::map<std::string, std::string>;

struct KeyTokens {
  KeyRule rule;
  JudgeNames judge;
  std::vector<KeyDocument> documents;

  /// Everything that the choice of tokens hangs on, on one line: figures of different ones cannot be compared.
  std::string Identity() const;
  int64_t keys() const;
};

/// `judge` reads each text twice: as a whole and in short contexts. `who`: what KeyTokens::judge is to say. Errors:
/// kUsage where no text is long enough, and where no token is key.
KeyTokens JudgeKeyTokens(TextReader* judge, const Tokenizer& tokenizer, std::span<const TextDocument> documents,
                         const KeyRule& rule, int64_t batch_tokens, const JudgeNames& who);

/// The part of a text that was judged. Errors: kUsage where it is another text.
std::string_view JudgedText(const KeyDocument& keys, const TextDocument& document);

void SaveKeyTokens(const KeyTokens& keys, const std::filesystem::path& file);
/// Errors: kIo, kFormat naming file and line.
KeyTokens LoadKeyTokens(const std::filesystem::path& file);
/// Keys of the first `documents` are enough. Errors: kUsage naming the first document that was not judged.
void CheckKeysFit(const KeyTokens& keys, std::span<const TextDocument> documents);

}  // namespace hawser
