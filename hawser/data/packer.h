// data/packer.h - documents into packed sequences of one length, every derived value from one segment table.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/attn/variant.h"
#include "hawser/pos/position_map.h"

namespace hawser {

/// A tokenised document without BOS or EOS.
struct Document {
  int64_t id = 0;  // of its source, for audit
  std::vector<int32_t> tokens;
  std::vector<int32_t> tag;    // tag tokens (variants with tags), may be empty
  std::vector<float> weights;  // of each token in the loss, where it is the target; empty: 1 each
};

/// One run of tokens of one document inside a sequence: BOS, tag, text, EOS, each where there is one.
struct Segment {
  static constexpr int64_t kAnchor = -1;
  static constexpr int64_t kPadding = -2;

  int64_t document = kAnchor;  // its id, or one of the two above
  int64_t source_offset = 0;   // first text token's place in its document (BOS and tag not counted)
  int32_t begin = 0;           // place in the sequence
  int32_t length = 0;          // tokens, BOS, tag and EOS included
  int32_t bos_tokens = 0;      // leading tokens that are the document's own BOS or copy of the anchor (multi-bos)
  int32_t tag_tokens = 0;      // then tag tokens, loss masked
  int32_t eos_tokens = 0;      // trailing
  int32_t chunk = 0;           // 0 begins a document of the layout; 1, 2 go on with it (interleaved, text=skip)
  int32_t place = 0;           // where it would begin if chunks lay in their shuffled order; else = begin

  int32_t text_tokens() const { return document < 0 ? 0 : length - bos_tokens - tag_tokens - eos_tokens; }
};

struct PackedSequence {
  std::vector<Segment> segments;  // the only source of what follows
  std::vector<int32_t> ids;       // [L]
  uint64_t draw = 0;              // seeds what a position map draws for it
  // [L], of each token as a target: that of its document; BOS has that of the token after it, EOS that of the one
  // before. Empty: 1 each
  std::vector<float> token_weights;
  std::vector<int64_t> positions;  // [L]
  std::vector<int32_t> targets;    // [L]; -1: none (cross-document, padding, the last token of a piece cut off)
  std::vector<float> weights;      // [L]
  int32_t mapped = 0;              // texts that were given to the position map (PackOptions::positions),
  int32_t unmoved = 0;             // and those of them that it left in place: nothing to cut at, or no room
  // Further targets of rows, in ascending order of these: first tokens that one shared anchor predicts. [E] each
  std::vector<int32_t> extra_rows, extra_targets;
  std::vector<float> extra_weights;
  TokenLayout layout;  // doc_begin, is_separator, is_padding
};

/// What happens to a document longer than the room left in a sequence. No text is lost but with kDrop.
///   kRestart  fills the room; the rest opens the next sequence as a document of its own, with BOS and tag
///   kSplit    fills the room; the rest opens the next sequence as it is, without BOS and tag (an anchor stands there
///             all the same, be it shared or copied)
///   kDrop     fills the room; the rest is discarded and counted
///   kFit      starts the next sequence if it fits in an empty one, and leaves the room to padding; else as kRestart
///   kBestFit  is kept whole if it fits in an empty sequence, else cut to whole sequences and a rest. Of `lookahead`
///             pieces that wait a sequence opens with the oldest and takes the longest that still fits until none
///             does (best-fit decreasing in a window; after arXiv:2404.10830). What room is left is padding
/// Room too small for BOS, tag and one token of text is padded; an EOS that has no room is left out.
enum class Overflow : uint8_t { kRestart, kSplit, kDrop, kFit, kBestFit };

/// Which rows have a target.
///   kDocument  those whose next token is of the same document
///   kAll       every row with a next token in the sequence, as the released AnchorAttention code averages: the anchor
///              predicts the token after it, and the last token of a document the first one of the next document,
///              which it does not see. The last row, whose next token lies in another sequence, has none
enum class LossRows : uint8_t { kDocument, kAll };

struct PackOptions {
  int32_t length = 0;  // L, tokens of a sequence
  AttnVariant variant;
  std::vector<int32_t> anchor;  // token ids of the anchor, shared or copied (multi-bos; empty: bos); else empty
  int32_t bos = -1;             // put before each document when the variant has no anchor; -1: none
  int32_t eos = -1;             // put after each document; -1: none
  int32_t min_document = 3;     // tokens, its BOS or the anchor included; shorter ones are dropped and counted
  Overflow overflow = Overflow::kRestart;
  int32_t lookahead = 512;               // pieces that wait at most, kBestFit only
  bool first_token_from_anchor = false;  // train the anchor on the first token of every document
  PositionMap positions = {};            // what the places of tokens are stretched by,
  int64_t reach = 0;                     // to positions below this, with a map only: L or more
  LossRows loss_rows = LossRows::kDocument;
  bool keep_partial = true;         // emit the last sequence padded; false: drop it and count
  std::vector<uint8_t> separators;  // [V] flags for TokenLayout; empty: none
};

/// What a document with so many tokens of text takes of an empty sequence that has room for all of it: text, EOS, tag,
/// and BOS or its copy of the anchor.
int64_t PackedTokens(const PackOptions& options, int64_t text, int64_t tag);

struct PackCounts {
  int64_t documents = 0, pieces = 0, sequences = 0;
  int64_t tokens_in = 0;          // of documents, without BOS and tags
  int64_t tokens_out = 0;         // of documents emitted
  int64_t short_documents = 0;    // documents below min_document, empty ones included
  int64_t dropped_short = 0;      // their tokens
  int64_t dropped_overflow = 0;   // tokens discarded by kDrop
  int64_t dropped_partial = 0;    // tokens of a last sequence not kept
  int64_t dropped_untrained = 0;  // tokens of sequences without a target of any weight
  int64_t dropped_between = 0;    // tokens left out between chunks (Pose::skip_text)
  int64_t padding = 0, bos_tokens = 0, tag_tokens = 0, eos_tokens = 0;

  PackCounts& operator+=(const PackCounts& other);
};

/// Fills positions, targets, weights and layout from `segments` (and `ids`, for target ids and separators); nothing
/// else ever decides them.
///   positions  place + offset in the segment; with reset_positions A + (place - place of the document's first chunk)
///              + offset; 0..A-1 for the A tokens of an anchor, shared or copied. Copies take room, so text of the k-th
///              document (from 0) of a multi-bos sequence stands A k places later than behind a shared anchor.
///              With a position map all this holds of where a text begins, and the map's skips are added (DrawRuns): a
///              text is a document, or everything behind the anchors where documents see each other. Anchors stay
///   targets    the next token if it belongs to the same document and stands one position later, else -1; an anchor
///              token never predicts, but for first_token_from_anchor: then the last token of every copy predicts the
///              token after it, and that of a shared anchor the first token of every document, each an extra target.
///              LossRows::kAll: every row that is not padding predicts the token at the next place, if that is not
///              either. mask_seam_label takes the targets at the end of each run but the last
///   weights    where there is a target that is not a tag token, its weight in `token_weights` (1 without), else 0; no
///              extra target of weight 0. A BOS that is no anchor is an ordinary token. first_token_from_anchor so adds
///              the number of documents without tag, N, to the sum of weights: pieces that go on with a document in
///              another sequence are documents there
/// Paper: arXiv:2411.13476 section 3.
void DeriveFromSegments(const PackOptions& options, PackedSequence* sequence);

/// With Pose::skip_text a piece that leaves some of its document takes it from further on: before chunk i of the
/// piece v_i tokens are left out, drawn as DrawSkips does with what is left as room, four sequences of it at most. They
/// are dropped and counted.
///
/// Greedy and in order but for kBestFit. Streaming: feed documents, take sequences.
/// tokens_in = tokens_out + everything dropped, always, once Finish was called (before, documents may wait).
/// Interleaved variants cut documents of 16 tokens or more in two or three chunks (equal odds from 24 on, none shorter
/// than 8 tokens or a fifth of the document) and shuffle the chunks of all documents, each document's in its order,
/// every such order equally likely. Chunks of a document stay side by side in `ids`: only positions show the shuffle.
class Packer {
 public:
  /// Cuts, shuffles and skips depend on (seed, number of the sequence or piece) alone. Errors: kUsage (no room for a
  /// token of text, anchor ids that do not match the variant, first_token_from_anchor without an anchor, Validate of
  /// the variant; a position map that does not reach a sequence, has more chunks than it has tokens, is given to an
  /// interleaved variant, or leaves out text where documents see each other).
  explicit Packer(PackOptions options, uint64_t seed = 0);
  ~Packer();
  /// Errors: kUsage (negative document or token id, id outside `separators`, a tag that leaves no room, weights that
  /// are not one a token, finite and from 0 up, after Finish).
  void Add(const Document& document);
  /// Declares that no document follows.
  void Finish();
  /// The next whole sequence; null skips it. False: add more documents, or all is taken. Without `derive` only its
  /// segments and ids, all that one needs that waits: DeriveFromSegments makes the rest.
  bool Next(PackedSequence* out, bool derive = true);
  const PackCounts& counts() const { return counts_; }

 private:
  struct State;
  struct Piece;
  int32_t Room() const;
  int32_t EmptyRoom() const;
  bool HasPrefix(int64_t offset) const;
  int64_t PrefixTokens(const Document& document, int64_t offset) const;
  void CheckPositions() const;
  Piece Cut(const Document& document, int64_t offset, int32_t room);
  void Place(const Document& document, const Piece& piece);
  void Wait(const Document& document);
  void FillFromWaiting();
  void AddWeights(const Document& document, const Segment& segment);
  void Close();
  void Discard(int64_t* dropped);  // what is in the sequence being filled, its text counted
  void Interleave(uint64_t number, std::vector<Segment>* segments) const;

  PackOptions options_;
  std::vector<int32_t> own_bos_;  // before each document: BOS or a copy of the anchor
  uint64_t seed_;
  PackCounts counts_;
  std::unique_ptr<State> state_;
};

}  // namespace hawser
