// data/packer.h - documents into packed sequences of one length, every derived value from one segment table.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/attn/variant.h"

namespace hawser {

/// A tokenised document without BOS or EOS.
struct Document {
  int64_t id = 0;  // of its source, for audit
  std::vector<int32_t> tokens;
  std::vector<int32_t> tag;  // tag tokens (variants with tags), may be empty
};

/// One run of tokens of one document inside a sequence.
struct Segment {
  int64_t document = -1;      // -1: the anchor; -2: padding
  int64_t source_offset = 0;  // first token's place in its document (BOS and tag not counted)
  int32_t begin = 0;          // place in the sequence
  int32_t length = 0;         // tokens, BOS and tag included
  int32_t bos_tokens = 0;     // leading tokens that are a BOS of the document's own
  int32_t tag_tokens = 0;     // then tag tokens, loss masked
};

struct PackedSequence {
  std::vector<Segment> segments;   // the only source of what follows
  std::vector<int32_t> ids;        // [L]
  std::vector<int64_t> positions;  // [L]
  std::vector<int32_t> targets;    // [L]; -1: none (cross-document, padding, the last token of a piece cut off)
  std::vector<float> weights;      // [L]
  TokenLayout layout;              // doc_begin, is_separator, is_padding
};

/// What happens to a document longer than the room left: kSplit continues it in the next sequence (as a new document),
/// kDrop discards the rest of it, kFit closes the sequence early if the document fits in an empty one.
enum class Overflow : uint8_t { kSplit, kDrop, kFit };

struct PackOptions {
  int32_t length = 0;  // L, tokens of a sequence
  AttnVariant variant;
  std::vector<int32_t> anchor;  // token ids of the shared anchor (BOS); used when the pattern has anchors
  int32_t bos = -1;             // put before each document when the pattern has no anchors; -1: none
  int32_t eos = -1;             // put after each document; -1: none
  int32_t min_document = 3;     // tokens, BOS included; shorter ones are dropped and counted
  Overflow overflow = Overflow::kSplit;
  bool first_token_from_anchor = false;  // train the anchor row on the first token of the first document
  bool keep_partial = true;              // emit the last sequence padded; false: drop it and count
  std::vector<uint8_t> separators;       // [V] flags for TokenLayout; empty: none
};

struct PackCounts {
  int64_t documents = 0, pieces = 0, sequences = 0;
  int64_t tokens_in = 0;         // of documents, without BOS and tags
  int64_t tokens_out = 0;        // of documents emitted
  int64_t dropped_short = 0;     // tokens of documents below min_document
  int64_t dropped_overflow = 0;  // tokens discarded by kDrop
  int64_t dropped_partial = 0;   // tokens of a last sequence not kept
  int64_t padding = 0, bos_tokens = 0, tag_tokens = 0;
};

/// Greedy, in order. Streaming: feed documents, take sequences. tokens_in = tokens_out + everything dropped, always.
class Packer {
 public:
  explicit Packer(PackOptions options, uint64_t seed = 0);
  ~Packer();
  void Add(const Document& document);
  /// Declares that no document follows.
  void Finish();
  bool Next(PackedSequence* out);
  const PackCounts& counts() const { return counts_; }

 private:
  struct State;
  PackOptions options_;
  PackCounts counts_;
  std::unique_ptr<State> state_;
};

}  // namespace hawser
