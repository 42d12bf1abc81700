// Sequences of random documents under random options, against what they must be.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "hawser/base/rng.h"
#include "hawser/testing/packed_documents.h"

namespace hawser {
namespace {

using packer_test::DocumentOf;
using packer_test::Ids;
using packer_test::kAnchor;
using packer_test::kBos;
using packer_test::kEos;
using packer_test::kTag;
using packer_test::kText;
using packer_test::MakeDocument;
using packer_test::OffsetOf;
using packer_test::Pack;
using packer_test::Token;
using packer_test::Weights;

struct Case {
  PackOptions options;
  std::vector<Document> documents;
  std::string name;
};

Case RandomCase(uint64_t number) {
  Rng rng{.seed = 42, .stream = number};
  Case c;
  PackOptions& o = c.options;
  const auto anchors = static_cast<int32_t>(rng.Below(3));
  o.variant.multi_bos = anchors > 0 && rng.Below(2) != 0;
  const bool documents = o.variant.multi_bos || rng.Below(3) != 0;
  o.variant.pattern = AttnPattern{.scope = documents ? Scope::kDocument : Scope::kSequence,
                                  .anchors = o.variant.multi_bos ? 0 : anchors};
  o.variant.reset_positions = documents && !o.variant.multi_bos && rng.Below(2) != 0;
  o.variant.tags = rng.Below(3) == 0;
  o.variant.interleaved = documents && rng.Below(3) == 0;
  for (int32_t a = 0; a < anchors; ++a) o.anchor.push_back(kAnchor + a);
  o.bos = rng.Below(2) != 0 ? kBos : -1;
  o.eos = rng.Below(2) != 0 ? kEos : -1;
  o.min_document = static_cast<int32_t>(rng.Below(5));
  o.overflow = static_cast<Overflow>(rng.Below(5));
  o.lookahead = static_cast<int32_t>(1 + rng.Below(10));
  o.first_token_from_anchor = anchors > 0 && rng.Below(2) != 0;
  o.keep_partial = rng.Below(2) != 0;
  o.length = static_cast<int32_t>(6 + rng.Below(rng.Below(2) != 0 ? 6 : 120));
  const uint64_t longest = rng.Below(2) != 0 ? 8 : 200;
  const uint64_t count = rng.Below(30);
  for (uint64_t d = 0; d < count; ++d) {
    c.documents.push_back(MakeDocument(static_cast<int64_t>(d), static_cast<int32_t>(rng.Below(longest)),
                                       static_cast<int32_t>(rng.Below(3))));
  }
  c.name = "case " + std::to_string(number);
  return c;
}

// What a sequence must be, told from its ids alone: runs of one document's tokens, each with its own prefix.
void CheckSequence(const Case& c, const PackedSequence& s, std::set<std::pair<int64_t, int64_t>>* seen) {
  const PackOptions& o = c.options;
  const int32_t length = o.length, anchors = o.variant.pattern.anchors;
  const bool multi_bos = o.variant.multi_bos;
  const Ids own_bos = multi_bos ? o.anchor : anchors == 0 && o.bos >= 0 ? Ids{o.bos} : Ids{};
  ASSERT_EQ(static_cast<int32_t>(s.ids.size()), length);
  int32_t used = length;
  while (!s.layout.is_padding.empty() && used > 0 && s.layout.is_padding[used - 1] != 0) --used;
  for (int32_t i = 0; i < used; ++i) ASSERT_FALSE(s.layout.IsPadding(i));
  for (int32_t i = 0; i < anchors; ++i) {
    EXPECT_EQ(s.ids[i], o.anchor[i]);
    EXPECT_EQ(s.positions[i], i);
    EXPECT_EQ(s.layout.DocBegin(i), 0);
    EXPECT_EQ(s.targets[i], -1);
    EXPECT_EQ(s.weights[i], 0.0f);
  }
  Ids first_tokens;          // of documents without tag
  double anchor_weight = 0;  // of what anchors predict
  std::vector<int64_t> all_positions;
  for (int32_t begin = anchors; begin < used;) {
    int32_t i = begin;
    while (i < used && s.ids[i] < kTag) ++i;
    const Ids found_bos(s.ids.begin() + begin, s.ids.begin() + i);
    const int32_t copies = multi_bos ? i - begin : 0;
    const int32_t tag_begin = i;
    while (i < used && s.ids[i] >= kTag && s.ids[i] < kText) ++i;
    const int32_t tag_end = i;
    ASSERT_LT(i, used);
    const int64_t document = DocumentOf(s.ids[i]);
    ASSERT_GE(document, 0) << "a piece has at least one token of text";
    const Document& source = c.documents[document];
    int64_t offset = OffsetOf(s.ids[i]);
    const bool again = offset > 0, as_it_is = again && o.overflow == Overflow::kSplit;
    EXPECT_EQ(found_bos, as_it_is && !multi_bos ? Ids{} : own_bos);
    EXPECT_EQ(Ids(s.ids.begin() + tag_begin, s.ids.begin() + tag_end),
              o.variant.tags && !as_it_is ? source.tag : Ids{});
    while (i < used && DocumentOf(s.ids[i]) == document && OffsetOf(s.ids[i]) == offset) {
      EXPECT_TRUE(seen->emplace(document, offset).second) << "a token is emitted once";
      ++i;
      ++offset;
    }
    const bool whole = offset == static_cast<int64_t>(source.tokens.size());
    if (again && o.overflow != Overflow::kBestFit) {
      EXPECT_EQ(begin, anchors) << "a piece that goes on opens its sequence";
    }
    if (i < used && s.ids[i] == kEos) {
      EXPECT_TRUE(whole && o.eos >= 0);
      ++i;
    } else {
      EXPECT_TRUE(!whole || o.eos < 0 || i == length) << "EOS is left out only where there is no room";
    }
    if (!whole) {
      EXPECT_EQ(i, length);
    }
    for (int32_t t = begin; t < i; ++t) {
      EXPECT_EQ(s.layout.DocBegin(t), begin);
      const bool copy = t - begin < copies;
      if (copy) {
        EXPECT_EQ(s.positions[t], t - begin);
      } else if (!o.variant.interleaved) {
        EXPECT_EQ(s.positions[t], o.variant.reset_positions ? anchors + t - begin : t);
      }
      if (t > begin) {
        EXPECT_GT(s.positions[t], s.positions[t - 1]);
      }
      if (!copy) all_positions.push_back(s.positions[t]);
      const bool next_stands_next = s.positions[t + 1 < i ? t + 1 : t] == s.positions[t] + 1;
      const bool target = t + 1 < i && (copy ? o.first_token_from_anchor && t + 1 == begin + copies : next_stands_next);
      EXPECT_EQ(s.targets[t], target ? s.ids[t + 1] : -1) << "row " << t;
      const bool tag_next = t + 1 >= tag_begin && t + 1 < tag_end;
      EXPECT_EQ(s.weights[t], target && !tag_next ? 1.0f : 0.0f) << "row " << t;
      if (copy) anchor_weight += s.weights[t];
    }
    if (tag_begin == tag_end) first_tokens.push_back(s.ids[tag_begin]);
    begin = i;
  }
  const bool shared = o.first_token_from_anchor && anchors > 0;
  EXPECT_EQ(s.extra_targets, shared ? first_tokens : Ids{});
  EXPECT_EQ(s.extra_rows, Ids(s.extra_targets.size(), anchors - 1));
  EXPECT_EQ(s.extra_weights, Weights(s.extra_targets.size(), 1.0f));
  for (const float weight : s.extra_weights) anchor_weight += weight;
  EXPECT_EQ(anchor_weight, o.first_token_from_anchor ? static_cast<double>(first_tokens.size()) : 0.0);
  for (int32_t i = used; i < length; ++i) {
    EXPECT_EQ(s.targets[i], -1);
    EXPECT_EQ(s.weights[i], 0.0f);
    EXPECT_EQ(s.layout.DocBegin(i), used) << "padding is a document of its own";
    EXPECT_GE(s.positions[i], 0);
    EXPECT_LT(s.positions[i], length);
  }
  if (o.variant.interleaved && multi_bos) {
    const std::set<int64_t> places(all_positions.begin(), all_positions.end());
    EXPECT_EQ(places.size(), all_positions.size()) << "no place is taken twice";
  } else if (o.variant.interleaved && !o.variant.reset_positions) {
    std::sort(all_positions.begin(), all_positions.end());
    for (int32_t i = anchors; i < used; ++i) EXPECT_EQ(all_positions[i - anchors], i) << "every place is taken once";
  }
}

TEST(PackerTest, T25_RandomCorporaConserveTokensAndAgreeWithTheNaiveReading) {
  for (uint64_t number = 0; number < 3000; ++number) {
    const Case c = RandomCase(number);
    SCOPED_TRACE(c.name);
    PackCounts counts;
    const auto out = Pack(c.options, c.documents, &counts);
    std::set<std::pair<int64_t, int64_t>> seen;
    int64_t segment_text = 0, padding = 0, slots = 0;
    for (const PackedSequence& s : out) {
      CheckSequence(c, s, &seen);
      slots += c.options.length;
      for (const Segment& segment : s.segments) {
        segment_text += segment.text_tokens();
        if (segment.document == Segment::kPadding) padding += segment.length;
        if (segment.document >= 0 && segment.text_tokens() > 0) {
          const int32_t first = segment.begin + segment.bos_tokens + segment.tag_tokens;
          EXPECT_EQ(s.ids[first], Token(segment.document, segment.source_offset));
        }
      }
    }
    int64_t input = 0, expected_short = 0;
    const bool has_bos = c.options.bos >= 0 || !c.options.anchor.empty();
    for (const Document& d : c.documents) {
      const auto n = static_cast<int64_t>(d.tokens.size());
      input += n;
      if (n + (has_bos ? 1 : 0) < c.options.min_document) expected_short += n;
    }
    EXPECT_EQ(counts.documents, static_cast<int64_t>(c.documents.size()));
    EXPECT_EQ(counts.tokens_in, input);
    EXPECT_EQ(counts.tokens_out, static_cast<int64_t>(seen.size()));
    EXPECT_EQ(counts.tokens_out, segment_text);
    EXPECT_EQ(counts.dropped_short, expected_short);
    EXPECT_EQ(input, counts.tokens_out + counts.dropped_short + counts.dropped_overflow + counts.dropped_partial);
    EXPECT_EQ(counts.padding, padding);
    EXPECT_EQ(counts.sequences, static_cast<int64_t>(out.size()));
    EXPECT_EQ(slots, counts.tokens_out + counts.bos_tokens + counts.tag_tokens + counts.eos_tokens + counts.padding +
                         counts.sequences * c.options.variant.pattern.anchors);
    if (c.options.overflow != Overflow::kDrop) {
      EXPECT_EQ(counts.dropped_overflow, 0);
    }
    if (c.options.keep_partial) {
      EXPECT_EQ(counts.dropped_partial, 0);
    }
    if (HasFailure()) return;
  }
}

TEST(PackerTest, ResetAfterInterleavingMovesEachDocumentAsAWhole) {
  for (uint64_t number = 0; number < 500; ++number) {
    Case c = RandomCase(number);
    if (c.options.variant.multi_bos) continue;
    c.options.variant.pattern.scope = Scope::kDocument;
    c.options.variant.interleaved = true;
    c.options.variant.reset_positions = false;
    const auto continuous = Pack(c.options, c.documents);
    c.options.variant.reset_positions = true;
    const auto reset = Pack(c.options, c.documents);
    for (size_t s = 0; s < reset.size(); ++s) {
      for (int32_t i = c.options.variant.pattern.anchors; i < c.options.length; ++i) {
        ASSERT_EQ(reset[s].positions[i] - c.options.variant.pattern.anchors,
                  continuous[s].positions[i] - continuous[s].positions[continuous[s].layout.DocBegin(i)]);
      }
      ASSERT_EQ(reset[s].targets, continuous[s].targets);
    }
  }
}

TEST(PackerTest, FitAndBestFitNeverCutADocumentThatFitsInAnEmptySequence) {
  for (uint64_t number = 0; number < 1000; ++number) {
    Case c = RandomCase(number);
    c.options.overflow = number % 2 == 0 ? Overflow::kFit : Overflow::kBestFit;
    c.options.variant.interleaved = false;
    std::map<int64_t, int> pieces;
    for (const PackedSequence& s : Pack(c.options, c.documents)) {
      for (const Segment& segment : s.segments) ++pieces[segment.document];
    }
    for (const Document& d : c.documents) {
      const size_t bos = c.options.anchor.empty() ? c.options.bos >= 0 : c.options.anchor.size();
      const size_t prefix = bos + (c.options.variant.tags ? d.tag.size() : 0);
      if (prefix + d.tokens.size() <= static_cast<size_t>(c.options.length)) {
        EXPECT_LE(pieces[d.id], 1);
      }
    }
  }
}

}  // namespace
}  // namespace hawser
