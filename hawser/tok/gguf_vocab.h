// tok/gguf_vocab.h - the tokenizer inside a GGUF file (its keys `tokenizer.ggml.*`).
#pragma once

#include <memory>

#include "hawser/io/gguf.h"
#include "hawser/tok/bpe_tokenizer.h"

namespace hawser {

/// The tokenizer.json that the file holds as `tokenizer.huggingface.json`, which has to have its tokens; else the
/// `tokenizer.ggml.model` "llama" (SentencePiece-like, by scores) or "gpt2" (byte-level BPE, cut by the rule that
/// `tokenizer.ggml.pre` names), as a tokenizer.json would describe it. Null where the file has no vocabulary
/// ("no_vocab"). Errors: kFormat (lists of unequal lengths, types and ids outside, merges that are not two pieces, a
/// tokenizer.json of other tokens);
/// kUnsupported naming another model or `pre`, with the known ones.
std::unique_ptr<BpeTokenizer> GgufTokenizer(const GgufFile& file);

}  // namespace hawser
