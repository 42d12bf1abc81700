#include "hawser/data/packer.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <span>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/base/streams.h"

namespace hawser {
namespace {

constexpr int32_t kMinChunk = 8;  // tokens of the shortest chunk of an interleaved document
constexpr int64_t kSkipped = 4;   // sequences of text between two chunks at most; of five the authors' code takes one

int32_t Size(const std::vector<int32_t>& v) { return static_cast<int32_t>(v.size()); }

/// The chunks of a segment, which end so many tokens behind its begin.
std::vector<Segment> SplitSegment(const Segment& segment, std::span<const int32_t> ends) {
  std::vector<Segment> chunks;
  const int32_t prefix = segment.bos_tokens + segment.tag_tokens;
  int32_t from = 0;
  for (const int32_t end : ends) {
    Segment chunk = segment;
    chunk.begin = chunk.place = segment.begin + from;
    chunk.length = end - from;
    chunk.chunk = static_cast<int32_t>(chunks.size());
    chunk.bos_tokens = std::clamp(segment.bos_tokens - from, 0, chunk.length);
    chunk.tag_tokens = std::clamp(prefix - from, 0, chunk.length) - chunk.bos_tokens;
    chunk.eos_tokens = end == segment.length ? segment.eos_tokens : 0;
    chunk.source_offset += std::max(0, from - prefix);
    chunks.push_back(chunk);
    from = end;
  }
  return chunks;
}

}  // namespace

PackCounts& PackCounts::operator+=(const PackCounts& other) {
  using C = PackCounts;
  for (int64_t C::*field :
       {&C::documents, &C::pieces, &C::sequences, &C::tokens_in, &C::tokens_out, &C::short_documents, &C::dropped_short,
        &C::dropped_overflow, &C::dropped_partial, &C::dropped_untrained, &C::dropped_between, &C::padding,
        &C::bos_tokens, &C::tag_tokens, &C::eos_tokens}) {
    this->*field += other.*field;
  }
  return *this;
}

int64_t PackedTokens(const PackOptions& options, int64_t text, int64_t tag) {
  const bool has_bos = options.variant.multi_bos || (options.variant.pattern.anchors == 0 && options.bos >= 0);
  const int64_t bos = !has_bos ? 0 : options.variant.multi_bos ? std::max(1, Size(options.anchor)) : 1;
  return bos + tag + text + (options.eos >= 0 ? 1 : 0);
}

/// Part of a document that a sequence takes at once.
struct Packer::Piece {
  int64_t offset = 0;            // of its first text token in the document
  int32_t text = 0;              // tokens
  int32_t size = 0;              // the same with BOS, tag and EOS, as far as there is room
  std::vector<int32_t> ends;     // of its chunks, from its first token on; one chunk ends at `size`
  std::vector<int64_t> skipped;  // [chunks] tokens of text left out before each, in all

  int64_t end() const { return offset + text + skipped.back(); }
};

struct Packer::State {
  struct Waiting {
    std::shared_ptr<const Document> document;
    Piece piece;
  };

  std::vector<Segment> segments;  // of the sequence being filled; the anchor is put first when it is closed
  std::vector<int32_t> ids;
  std::vector<float> weights;  // of ids, from the first document on that has some; else empty
  std::deque<PackedSequence> ready;
  std::vector<Waiting> waiting;  // oldest first
  uint64_t cuts = 0;             // pieces that text was left out of, or could have been
  bool finished = false;
};

void Packer::CheckPositions() const {
  if (IsPlain(options_.positions)) return;
  const Pose* pose = std::get_if<Pose>(&options_.positions);
  const std::string text = ToString(options_.positions);
  if (options_.reach < options_.length || options_.reach > int64_t{1} << 31) {
    Fail(ErrorKind::kUsage, "positions {}: a reach of {} for sequences of {}; wanted as much or more, 2^31 at most",
         text, options_.reach, options_.length);
  }
  if (pose != nullptr && pose->chunks > options_.length) {
    Fail(ErrorKind::kUsage, "positions {}: more chunks than a sequence of {} has tokens", text, options_.length);
  }
  if (options_.variant.interleaved) {
    Fail(ErrorKind::kUsage,
         "positions {}: attention {} has positions of its own; use the variant that does not "
         "interleave",
         text, ToString(options_.variant));
  }
  if (pose != nullptr && pose->skip_text && options_.variant.pattern.scope != Scope::kDocument) {
    Fail(ErrorKind::kUsage,
         "positions {}: text is left out of documents, and attention {} takes all of a sequence as one text; use "
         "intra, anchor or another variant with scope=doc",
         text, ToString(options_.variant));
  }
}

Packer::Packer(PackOptions options, uint64_t seed)
    : options_(std::move(options)), seed_(seed), state_(std::make_unique<State>()) {
  const AttnVariant& variant = options_.variant;
  WithFrame("packing", [&] { Validate(variant); });
  CheckPositions();
  const int32_t anchors = variant.pattern.anchors;
  if (variant.multi_bos && options_.anchor.empty() && options_.bos >= 0) options_.anchor = {options_.bos};
  if (variant.multi_bos ? options_.anchor.empty() : Size(options_.anchor) != anchors) {
    Fail(ErrorKind::kUsage, "packing: attention {} has {} anchor tokens, {} anchor ids are given", ToString(variant),
         variant.multi_bos ? "one or more" : fmt::format("{}", anchors), options_.anchor.size());
  }
  if (options_.first_token_from_anchor && options_.anchor.empty()) {
    Fail(ErrorKind::kUsage, "packing: first_token_from_anchor, but attention {} has no anchor", ToString(variant));
  }
  if (options_.first_token_from_anchor && options_.loss_rows == LossRows::kAll) {
    Fail(ErrorKind::kUsage,
         "packing: with all rows in the loss the anchor predicts the token after it; "
         "first_token_from_anchor wants something else of it: choose one");
  }
  if (options_.lookahead < 1) Fail(ErrorKind::kUsage, "packing: lookahead {} is less than 1", options_.lookahead);
  if (variant.multi_bos) {
    own_bos_ = options_.anchor;
  } else if (anchors == 0 && options_.bos >= 0) {  // a shared anchor is every document's BOS
    own_bos_ = {options_.bos};
  }
  const int64_t least = int64_t{anchors} + Size(own_bos_) + 1;
  if (options_.length < least) {
    Fail(ErrorKind::kUsage, "packing: length {} leaves no room for text; at least {} tokens are needed",
         options_.length, least);
  }
  for (const int32_t id : {options_.bos, options_.eos}) {
    if (id >= 0 && !options_.separators.empty() && static_cast<size_t>(id) >= options_.separators.size()) {
      Fail(ErrorKind::kUsage, "packing: BOS or EOS id {} is outside the vocabulary of {}", id,
           options_.separators.size());
    }
  }
  for (const int32_t id : options_.anchor) {
    if (id < 0 || (!options_.separators.empty() && static_cast<size_t>(id) >= options_.separators.size())) {
      Fail(ErrorKind::kUsage, "packing: anchor id {} is not a token id", id);
    }
  }
}

Packer::~Packer() = default;

int32_t Packer::EmptyRoom() const { return options_.length - options_.variant.pattern.anchors; }
int32_t Packer::Room() const { return EmptyRoom() - Size(state_->ids); }

bool Packer::HasPrefix(int64_t offset) const { return offset == 0 || options_.overflow != Overflow::kSplit; }

int64_t Packer::PrefixTokens(const Document& document, int64_t offset) const {
  const bool prefix = HasPrefix(offset);
  return (prefix || options_.variant.multi_bos ? Size(own_bos_) : 0) +
         (prefix && options_.variant.tags ? static_cast<int64_t>(document.tag.size()) : 0);
}

void Packer::Add(const Document& document) {
  State& s = *state_;
  if (s.finished) Fail(ErrorKind::kUsage, "packing: a document was added after the last one");
  if (document.id < 0) Fail(ErrorKind::kUsage, "packing: document id {} is negative", document.id);
  const auto check = [&](const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) {
      if (id < 0 || (!options_.separators.empty() && static_cast<size_t>(id) >= options_.separators.size())) {
        Fail(ErrorKind::kUsage, "packing: document {}: {} is not a token id", document.id, id);
      }
    }
  };
  check(document.tokens);
  if (!document.weights.empty() && document.weights.size() != document.tokens.size()) {
    Fail(ErrorKind::kUsage, "packing: document {}: {} weights for {} tokens", document.id, document.weights.size(),
         document.tokens.size());
  }
  for (const float weight : document.weights) {
    if (!(weight >= 0) || !std::isfinite(weight)) {
      Fail(ErrorKind::kUsage, "packing: document {}: a loss weight of {}; wanted a finite one from 0 up", document.id,
           weight);
    }
  }
  if (options_.variant.tags) check(document.tag);
  const int64_t prefix = PrefixTokens(document, 0);
  if (prefix + 1 > EmptyRoom()) {
    Fail(ErrorKind::kUsage, "packing: document {}: a tag of {} tokens leaves no room in sequences of {}", document.id,
         document.tag.size(), options_.length);
  }
  const auto tokens = static_cast<int64_t>(document.tokens.size());
  ++counts_.documents;
  counts_.tokens_in += tokens;
  const bool has_bos = !own_bos_.empty() || !options_.anchor.empty();
  if (tokens == 0 || tokens + (has_bos ? 1 : 0) < options_.min_document) {
    ++counts_.short_documents;
    counts_.dropped_short += tokens;
    return;
  }
  if (options_.overflow == Overflow::kBestFit) return Wait(document);
  const bool fits = prefix + tokens <= EmptyRoom();
  const int64_t whole = std::min<int64_t>(prefix + tokens + (options_.eos >= 0 ? 1 : 0), EmptyRoom());
  const bool close = prefix + 1 > Room() || (options_.overflow == Overflow::kFit && fits && whole > Room());
  if (close) Close();
  for (int64_t offset = 0; offset < tokens;) {
    const Piece piece = Cut(document, offset, Room());
    Place(document, piece);
    offset = piece.end();
    if (Room() == 0) Close();
    if (options_.overflow == Overflow::kDrop) {
      counts_.dropped_overflow += tokens - offset;
      return;
    }
  }
}

void Packer::Wait(const Document& document) {
  const auto shared = std::make_shared<const Document>(document);
  const auto tokens = static_cast<int64_t>(document.tokens.size());
  for (int64_t offset = 0; offset < tokens;) {
    state_->waiting.push_back({shared, Cut(document, offset, EmptyRoom())});
    offset = state_->waiting.back().piece.end();
  }
  while (state_->waiting.size() > static_cast<size_t>(options_.lookahead)) FillFromWaiting();
}

void Packer::FillFromWaiting() {
  State& s = *state_;
  while (!s.waiting.empty()) {
    auto best = s.ids.empty() ? s.waiting.begin() : s.waiting.end();
    for (auto it = s.waiting.begin(); it != s.waiting.end() && !s.ids.empty(); ++it) {
      if (it->piece.size <= Room() && (best == s.waiting.end() || it->piece.size > best->piece.size)) best = it;
    }
    if (best != s.waiting.end()) {
      Place(*best->document, best->piece);
      s.waiting.erase(best);
      if (Room() > 0) continue;
    }
    Close();
    return;
  }
}

Packer::Piece Packer::Cut(const Document& document, int64_t offset, int32_t room) {
  const auto left = static_cast<int64_t>(document.tokens.size()) - offset;
  const int64_t prefix = PrefixTokens(document, offset);
  const int64_t text = std::min<int64_t>(left, room - prefix);
  const int64_t eos = options_.eos >= 0 && prefix + text < room ? 1 : 0;  // room is left only behind a document's end
  Piece piece{.offset = offset, .text = static_cast<int32_t>(text), .size = static_cast<int32_t>(prefix + text + eos)};
  const Pose* pose = std::get_if<Pose>(&options_.positions);
  if (pose == nullptr || !pose->skip_text) {
    piece.ends = {piece.size};
    piece.skipped = {0};
    return piece;
  }
  Rng rng{.seed = RandomBits(seed_, streams::kText, state_->cuts++)};
  const int32_t copies = options_.variant.multi_bos ? Size(own_bos_) : 0;
  int32_t end = copies;
  for (const int32_t chunk : DrawChunks(pose->chunks, piece.size - copies, &rng)) {
    piece.ends.push_back(end += chunk);
  }
  piece.skipped = DrawSkips(piece.ends.size(), std::min(left - text, kSkipped * options_.length), &rng);
  counts_.dropped_between += piece.skipped.back();
  return piece;
}

void Packer::Place(const Document& document, const Piece& piece) {
  State& s = *state_;
  Segment whole{.document = document.id, .source_offset = piece.offset, .length = piece.size};
  whole.begin = whole.place = options_.variant.pattern.anchors + Size(s.ids);
  std::vector<int32_t> prefix;
  if (HasPrefix(piece.offset) || options_.variant.multi_bos) {
    prefix = own_bos_;
    whole.bos_tokens = Size(own_bos_);
  }
  if (HasPrefix(piece.offset) && options_.variant.tags) {
    prefix.insert(prefix.end(), document.tag.begin(), document.tag.end());
    whole.tag_tokens = Size(document.tag);
  }
  whole.eos_tokens = piece.size - Size(prefix) - piece.text;
  const std::vector<Segment> chunks = SplitSegment(whole, piece.ends);
  for (size_t c = 0; c < chunks.size(); ++c) {
    Segment chunk = chunks[c];
    chunk.source_offset += piece.skipped[c];
    const auto of_prefix = prefix.begin() + std::min(Size(prefix), chunk.begin - whole.begin);
    s.ids.insert(s.ids.end(), of_prefix, of_prefix + chunk.bos_tokens + chunk.tag_tokens);
    const auto text = document.tokens.begin() + chunk.source_offset;
    s.ids.insert(s.ids.end(), text, text + chunk.text_tokens());
    s.ids.insert(s.ids.end(), chunk.eos_tokens, options_.eos);
    AddWeights(document, chunk);
    s.segments.push_back(chunk);
  }
  ++counts_.pieces;
  counts_.tokens_out += whole.text_tokens();
  counts_.bos_tokens += whole.bos_tokens;
  counts_.tag_tokens += whole.tag_tokens;
  counts_.eos_tokens += whole.eos_tokens;
}

void Packer::AddWeights(const Document& document, const Segment& segment) {
  State& s = *state_;
  if (document.weights.empty() && s.weights.empty()) return;
  s.weights.resize(s.ids.size() - static_cast<size_t>(segment.length), 1.0f);
  const int64_t text = segment.text_tokens(), end = segment.source_offset + text;
  const auto weight = [&](int64_t token) { return document.weights.empty() ? 1.0f : document.weights[token]; };
  const int32_t prefix = segment.bos_tokens + segment.tag_tokens;
  if (prefix > 0) s.weights.insert(s.weights.end(), prefix, weight(segment.source_offset));
  for (int64_t token = segment.source_offset; token < end; ++token) s.weights.push_back(weight(token));
  if (segment.eos_tokens > 0) s.weights.insert(s.weights.end(), segment.eos_tokens, weight(end - 1));
}

void Packer::Discard(int64_t* dropped) {
  State& s = *state_;
  for (const Segment& segment : s.segments) {
    *dropped += segment.text_tokens();
    if (segment.chunk == 0) --counts_.pieces;
    counts_.tokens_out -= segment.text_tokens();
    counts_.bos_tokens -= segment.bos_tokens;
    counts_.tag_tokens -= segment.tag_tokens;
    counts_.eos_tokens -= segment.eos_tokens;
  }
  s.segments.clear();
  s.ids.clear();
  s.weights.clear();
}

void Packer::Close() {
  State& s = *state_;
  if (s.segments.empty()) return;
  const int32_t anchors = options_.variant.pattern.anchors;
  if (!s.weights.empty() && std::all_of(s.weights.begin(), s.weights.end(), [](float w) { return w == 0; })) {
    return Discard(&counts_.dropped_untrained);
  }
  if (options_.variant.interleaved) Interleave(static_cast<uint64_t>(counts_.sequences), &s.segments);
  if (const int32_t room = Room(); room > 0) {
    const int32_t begin = options_.length - room;
    s.segments.push_back({.document = Segment::kPadding, .begin = begin, .length = room, .place = begin});
    s.ids.insert(s.ids.end(), room, options_.eos >= 0 ? options_.eos : 0);
    counts_.padding += room;
  }
  if (anchors > 0) {
    s.segments.insert(s.segments.begin(), {.document = Segment::kAnchor, .length = anchors});
    s.ids.insert(s.ids.begin(), options_.anchor.begin(), options_.anchor.end());
  }
  if (!s.weights.empty()) {
    s.weights.insert(s.weights.begin(), static_cast<size_t>(anchors), 1.0f);
    s.weights.resize(s.ids.size(), 0.0f);  // padding
  }
  s.ready.push_back({.segments = std::move(s.segments),
                     .ids = std::move(s.ids),
                     .draw = RandomBits(seed_, streams::kPositions, static_cast<uint64_t>(counts_.sequences)),
                     .token_weights = std::move(s.weights)});
  ++counts_.sequences;
  s.segments.clear();
  s.ids.clear();
  s.weights.clear();
}

void Packer::Interleave(uint64_t number, std::vector<Segment>* segments) const {
  Rng rng{.seed = seed_, .stream = streams::Sequence(number)};
  std::vector<Segment> chunks;
  std::vector<int32_t> order;        // of documents, one entry a chunk
  std::vector<int32_t> first_chunk;  // [documents]
  for (const Segment& segment : *segments) {
    const int32_t lead = options_.variant.multi_bos ? segment.bos_tokens : 0;  // stays with the first chunk
    const int32_t n = segment.length - lead;
    const int32_t shortest = std::max(kMinChunk, n / 5);
    int32_t parts = n < 2 * kMinChunk ? 1 : 2;
    if (n >= 3 * kMinChunk) parts += static_cast<int32_t>(rng.Below(2));
    int32_t cuts[4] = {0, n, n, n};
    if (parts > 1) {
      const auto slack = static_cast<uint64_t>(n - parts * shortest) + 1;
      for (int32_t c = 1; c < parts; ++c) cuts[c] = static_cast<int32_t>(rng.Below(slack));
      if (parts == 3 && cuts[1] > cuts[2]) std::swap(cuts[1], cuts[2]);
      for (int32_t c = 1; c < parts; ++c) cuts[c] += c * shortest;
    }
    for (int32_t c = 1; c <= parts; ++c) cuts[c] += lead;
    first_chunk.push_back(static_cast<int32_t>(chunks.size()));
    for (const Segment& chunk : SplitSegment(segment, std::span(cuts).subspan(1, static_cast<size_t>(parts)))) {
      order.push_back(Size(first_chunk) - 1);
      chunks.push_back(chunk);
    }
  }
  for (uint64_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
  int32_t place = segments->front().begin;
  for (const int32_t document : order) {
    Segment& chunk = chunks[first_chunk[document]++];
    chunk.place = place;
    place += chunk.length;
  }
  *segments = std::move(chunks);
}

void Packer::Finish() {
  State& s = *state_;
  if (std::exchange(s.finished, true)) return;
  while (!s.waiting.empty()) FillFromWaiting();
  if (s.segments.empty()) return;
  if (options_.keep_partial) {
    Close();
    return;
  }
  Discard(&counts_.dropped_partial);
}

bool Packer::Next(PackedSequence* out, bool derive) {
  State& s = *state_;
  if (s.ready.empty()) return false;
  if (out != nullptr) {
    *out = std::move(s.ready.front());
    if (derive) DeriveFromSegments(options_, out);
  }
  s.ready.pop_front();
  return true;
}

}  // namespace hawser
