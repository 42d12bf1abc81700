// tok/gguf_vocab_writer.h - a tokenizer as GGUF files hold it (tok/gguf_vocab.h reads them).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hawser/io/gguf_writer.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

struct GgufVocab {
  std::vector<GgufField> fields;
  std::vector<std::string> unsaid;  // what no key can say, for people
};

/// The keys `tokenizer.*` of a tokenizer: tokens (ids without one up to `rows` are padding), their types, merges or
/// scores, special ids, the rule that cuts text, the chat template, and the whole tokenizer.json. `ends`: the ids that
/// end a text, the EOS first; at most three can be said. Errors: kUnsupported naming the part of the tokenizer that
/// readers of these files would do otherwise; kUsage for a tokenizer of more than `rows` ids.
GgufVocab MakeGgufVocab(const Tokenizer& tokenizer, int64_t rows, const std::vector<int32_t>& ends);

}  // namespace hawser
