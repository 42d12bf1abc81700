// What a packed sequence is beside its ids, all of it from its segments.
#include <algorithm>
#include <utility>
#include <variant>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/base/streams.h"
#include "hawser/data/packer.h"

namespace hawser {
namespace {

/// In the loss, of the token at `row`, which lies in `segment`.
float TokenWeight(const PackedSequence& s, const Segment& segment, int32_t row) {
  const int32_t tag = segment.begin + segment.bos_tokens;
  if (row >= tag && row < tag + segment.tag_tokens) return 0.0f;
  return s.token_weights.empty() ? 1.0f : s.token_weights[row];
}

/// A text of a sequence: rows [begin, end), in the chunks that it was cut into.
struct TextRows {
  int32_t begin = 0, end = 0;
  std::vector<int32_t> chunks;  // lengths
};

/// What a position map is given: documents, or all of them as one text where they see each other.
std::vector<TextRows> TextsToMap(const PackOptions& options, const PackedSequence& s) {
  std::vector<TextRows> texts;
  const bool apart = options.variant.pattern.scope == Scope::kDocument;
  for (const Segment& segment : s.segments) {
    if (segment.document < 0) continue;
    const int32_t end = segment.begin + segment.length;
    const int32_t copies = options.variant.multi_bos ? segment.bos_tokens : 0;  // they stay at their positions
    if (texts.empty() || (apart && segment.chunk == 0)) {
      texts.push_back({segment.begin + copies, end, {segment.length - copies}});
    } else {
      texts.back().end = end;
      if (apart) texts.back().chunks.push_back(segment.length);
    }
  }
  return texts;
}

std::vector<TextBlock> BlocksOf(const PackOptions& options, const PackedSequence& s, const TextRows& text) {
  std::vector<TextBlock> blocks;
  if (std::holds_alternative<SkipAlign>(options.positions)) {
    for (int32_t i = text.begin; i < text.end; ++i) {
      const bool trained = s.token_weights.empty() || s.token_weights[i] > 0;
      if (blocks.empty() || blocks.back().trained != trained) blocks.push_back({0, trained});
      ++blocks.back().tokens;
    }
  } else if (text.chunks.size() > 1) {
    for (const int32_t length : text.chunks) blocks.push_back({length});
  } else {
    blocks.push_back({text.end - text.begin});
  }
  return blocks;
}

/// Moves texts as the map draws it, from positions without one.
void MapPositions(const PackOptions& options, PackedSequence* sequence) {
  const Pose* pose = std::get_if<Pose>(&options.positions);
  PackedSequence& s = *sequence;
  for (const TextRows& text : TextsToMap(options, s)) {
    Rng rng{.seed = s.draw, .stream = streams::Text(text.begin)};
    const int64_t room = options.reach - s.positions[text.begin] - (text.end - text.begin);
    int32_t row = text.begin;
    bool moved = false;
    for (const PlacedRun& run : DrawRuns(options.positions, BlocksOf(options, s, text), room, &rng)) {
      if (pose != nullptr && pose->mask_seam_label && row > text.begin) {
        s.targets[row - 1] = -1;
        s.weights[row - 1] = 0;
      }
      for (const int32_t end = row + run.tokens; row < end; ++row) s.positions[row] += run.skip;
      moved |= run.skip > 0;
    }
    ++s.mapped;
    if (!moved) ++s.unmoved;
  }
}

/// Targets and weights of LossRows::kAll.
void TargetEveryRow(PackedSequence* sequence) {
  PackedSequence& s = *sequence;
  std::vector<const Segment*> in_place;
  for (const Segment& segment : s.segments) {
    if (segment.document != Segment::kPadding) in_place.push_back(&segment);
  }
  std::sort(in_place.begin(), in_place.end(), [](const Segment* a, const Segment* b) { return a->place < b->place; });
  int32_t row = -1;  // the one whose next token comes
  for (const Segment* segment : in_place) {
    for (int32_t i = segment->begin; i < segment->begin + segment->length; ++i) {
      if (row >= 0) {
        s.targets[row] = s.ids[i];
        s.weights[row] = TokenWeight(s, *segment, i);
      }
      row = i;
    }
  }
}

}  // namespace

void DeriveFromSegments(const PackOptions& options, PackedSequence* sequence) {
  PackedSequence& s = *sequence;
  const auto length = static_cast<int32_t>(s.ids.size());
  const int32_t anchors = options.variant.pattern.anchors;
  s.positions.resize(length);
  s.targets.assign(length, -1);
  s.weights.assign(length, 0.0f);
  s.extra_rows.clear();
  s.extra_targets.clear();
  s.extra_weights.clear();
  s.mapped = s.unmoved = 0;
  s.layout = {};
  s.layout.size = length;
  s.layout.doc_begin.resize(length);
  int32_t doc_begin = 0, doc_place = 0, next = 0;
  const Segment* before = nullptr;
  for (const Segment& segment : s.segments) {
    HAWSER_CHECK(segment.begin == next && segment.length > 0 && segment.length <= length - next);
    if (segment.chunk == 0) {
      doc_begin = segment.begin;
      doc_place = segment.place;
    }
    const bool anchor = segment.document == Segment::kAnchor;
    const int64_t first_position =
        options.variant.reset_positions && !anchor ? anchors + (segment.place - doc_place) : segment.place;
    const auto set_target = [&](int32_t row) {  // the token after `row` lies in this segment
      s.targets[row] = s.ids[row + 1];
      s.weights[row] = TokenWeight(s, segment, row + 1);
    };
    next = segment.begin + segment.length;
    const int32_t copies = options.variant.multi_bos ? segment.bos_tokens : 0;  // of anchor tokens
    for (int32_t i = segment.begin; i < next; ++i) {
      const int32_t offset = i - segment.begin;
      s.positions[i] = offset < copies ? offset : first_position + offset;
      s.layout.doc_begin[i] = doc_begin;
      const bool predicts = offset >= copies || (offset + 1 == copies && options.first_token_from_anchor);
      if (segment.document >= 0 && i + 1 < next && predicts) set_target(i);
    }
    if (segment.document == Segment::kPadding) {
      s.layout.is_padding.resize(length, 0);
      std::fill(s.layout.is_padding.begin() + segment.begin, s.layout.is_padding.begin() + next, uint8_t{1});
    } else if (before != nullptr && segment.document >= 0) {
      const bool next_chunk = segment.chunk > 0 && segment.place == before->place + before->length;
      if (next_chunk) set_target(segment.begin - 1);
    }
    const bool begins_document = segment.document >= 0 && segment.chunk == 0;
    if (options.first_token_from_anchor && anchors > 0 && begins_document && segment.tag_tokens == 0) {
      if (const float weight = TokenWeight(s, segment, segment.begin); weight > 0) {
        s.extra_rows.push_back(anchors - 1);
        s.extra_targets.push_back(s.ids[segment.begin]);
        s.extra_weights.push_back(weight);
      }
    }
    before = &segment;
  }
  HAWSER_CHECK(next == length);
  if (options.loss_rows == LossRows::kAll) TargetEveryRow(&s);
  if (!IsPlain(options.positions)) MapPositions(options, &s);
  if (!options.separators.empty()) {
    s.layout.is_separator.resize(length);
    for (int32_t i = 0; i < length; ++i) s.layout.is_separator[i] = options.separators[s.ids[i]];
  }
}

}  // namespace hawser
