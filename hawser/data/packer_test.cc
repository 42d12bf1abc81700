#include "hawser/data/packer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/testing/packed_documents.h"

namespace hawser {
namespace {

using packer_test::DocumentOf;
using packer_test::Ids;
using packer_test::kAnchor;
using packer_test::kAnchored;
using packer_test::kBos;
using packer_test::kEos;
using packer_test::kIntra;
using packer_test::kTag;
using packer_test::kThree;
using packer_test::MakeDocument;
using packer_test::OffsetOf;
using packer_test::Pack;
using packer_test::Positions;
using packer_test::Token;
using packer_test::Weights;

TEST(PackerTest, FullPutsBosBeforeEachDocumentAndTargetsStopAtItsEnd) {
  const auto out = Pack({.length = 8, .bos = kBos}, kThree);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0].ids, (Ids{kBos, 100, 101, 102, kBos, 2100, 2101, 0}));
  EXPECT_EQ(out[0].positions, (Positions{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(out[0].targets, (Ids{100, 101, 102, -1, 2100, 2101, -1, -1}));
  EXPECT_EQ(out[0].weights, (Weights{1, 1, 1, 0, 1, 1, 0, 0}));
  EXPECT_EQ(out[0].layout.doc_begin, (Ids{0, 0, 0, 0, 4, 4, 4, 7}));
  EXPECT_EQ(out[0].layout.is_padding, (std::vector<uint8_t>{0, 0, 0, 0, 0, 0, 0, 1}));
  EXPECT_EQ(out[1].ids, (Ids{kBos, 4100, 4101, 4102, 4103, 0, 0, 0}));
}

TEST(PackerTest, IntraResetRestartsPositions) {
  const auto out = Pack({.length = 8, .variant = {.pattern = kIntra, .reset_positions = true}, .bos = kBos}, kThree);
  EXPECT_EQ(out[0].positions, (Positions{0, 1, 2, 3, 0, 1, 2, 0}));
}

TEST(PackerTest, AnchorStandsOnceAtTheStart) {
  PackOptions options{.length = 8, .variant = {.pattern = kAnchored}, .anchor = {kAnchor}, .bos = kBos};
  auto out = Pack(options, kThree);
  EXPECT_EQ(out[0].ids, (Ids{kAnchor, 100, 101, 102, 2100, 2101, 4100, 4101}));
  EXPECT_EQ(out[0].positions, (Positions{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(out[0].targets, (Ids{-1, 101, 102, -1, 2101, -1, 4101, -1}));
  EXPECT_EQ(out[0].layout.doc_begin, (Ids{0, 1, 1, 1, 4, 4, 6, 6}));
  EXPECT_EQ(out[1].ids, (Ids{kAnchor, 4102, 4103, 0, 0, 0, 0, 0}));
  EXPECT_EQ(out[1].segments[1].source_offset, 2);

  options.first_token_from_anchor = true;
  out = Pack(options, kThree);
  EXPECT_EQ(out[0].targets, (Ids{-1, 101, 102, -1, 2101, -1, 4101, -1}));
  EXPECT_EQ(out[0].weights, (Weights{0, 1, 1, 0, 1, 0, 1, 0}));
  EXPECT_EQ(out[0].extra_rows, (Ids{0, 0, 0}));
  EXPECT_EQ(out[0].extra_targets, (Ids{100, 2100, 4100}));
  EXPECT_EQ(out[0].extra_weights, (Weights{1, 1, 1}));
  EXPECT_EQ(out[1].extra_targets, (Ids{4102})) << "a piece is a document where it stands";

  options.variant.reset_positions = true;
  EXPECT_EQ(Pack(options, kThree)[0].positions, (Positions{0, 1, 2, 3, 1, 2, 1, 2}));
}

TEST(PackerTest, SeveralAnchorTokens) {
  const auto out =
      Pack({.length = 7,
            .variant = {.pattern = AttnPattern{.scope = Scope::kDocument, .anchors = 2}, .reset_positions = true},
            .anchor = {8, 9}},
           kThree);
  EXPECT_EQ(out[0].ids, (Ids{8, 9, 100, 101, 102, 2100, 2101}));
  EXPECT_EQ(out[0].positions, (Positions{0, 1, 2, 3, 4, 2, 3}));
  EXPECT_EQ(out[0].targets, (Ids{-1, -1, 101, 102, -1, 2101, -1}));
  EXPECT_EQ(out[0].layout.doc_begin, (Ids{0, 0, 2, 2, 2, 5, 5}));
}

TEST(PackerTest, TagsAreReadNotTrainedOn) {
  const auto out = Pack({.length = 9, .variant = {.pattern = kIntra, .tags = true}, .bos = kBos},
                        {MakeDocument(0, 3, 2), MakeDocument(1, 9, 1)});
  EXPECT_EQ(out[0].ids, (Ids{kBos, kTag, kTag + 1, 100, 101, 102, kBos, kTag, 2100}));
  EXPECT_EQ(out[0].targets, (Ids{kTag, kTag + 1, 100, 101, 102, -1, kTag, 2100, -1}));
  EXPECT_EQ(out[0].weights, (Weights{0, 0, 1, 1, 1, 0, 0, 1, 0}));
  EXPECT_EQ(out[1].ids, (Ids{kBos, kTag, 2101, 2102, 2103, 2104, 2105, 2106, 2107})) << "a piece repeats the tag";
}

TEST(PackerTest, EosIsPredictedAtTheRealEndOnly) {
  const auto out = Pack({.length = 6, .variant = {.pattern = kIntra}, .eos = kEos}, {MakeDocument(0, 8)});
  EXPECT_EQ(out[0].targets, (Ids{101, 102, 103, 104, 105, -1})) << "cut off: no target for the last token";
  EXPECT_EQ(out[1].ids, (Ids{106, 107, kEos, kEos, kEos, kEos}));
  EXPECT_EQ(out[1].targets, (Ids{107, kEos, -1, -1, -1, -1}));
  EXPECT_EQ(out[1].layout.is_padding, (std::vector<uint8_t>{0, 0, 0, 1, 1, 1}));
}

TEST(PackerTest, EosWithoutRoomIsLeftOut) {
  PackCounts counts;
  const auto out = Pack({.length = 6, .eos = kEos}, {MakeDocument(0, 6)}, &counts);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].ids, (Ids{100, 101, 102, 103, 104, 105}));
  EXPECT_EQ(counts.eos_tokens, 0);
}

TEST(PackerTest, DocumentThatIsTheWholeSequenceIsFullCausal) {
  const auto out = Pack({.length = 6, .variant = {.pattern = kAnchored}, .anchor = {kAnchor}}, {MakeDocument(0, 5)});
  ASSERT_EQ(out.size(), 1u);
  for (int32_t q = 0; q < 6; ++q) {
    for (int32_t k = 0; k <= q; ++k) EXPECT_TRUE(Visible(kAnchored, out[0].layout, q, k));
  }
  EXPECT_EQ(out[0].targets, (Ids{-1, 101, 102, 103, 104, -1}));
}

TEST(PackerTest, AnchorIdInsideTextIsAnOrdinaryToken) {
  const auto out = Pack({.length = 5, .variant = {.pattern = kAnchored}, .anchor = {kAnchor}},
                        {{.id = 0, .tokens = {kAnchor, kAnchor, 60, kAnchor}}});
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].ids, (Ids{kAnchor, kAnchor, kAnchor, 60, kAnchor}));
  EXPECT_EQ(out[0].targets, (Ids{-1, kAnchor, 60, kAnchor, -1}));
  EXPECT_EQ(out[0].layout.doc_begin, (Ids{0, 1, 1, 1, 1}));
}

TEST(PackerTest, ShortAndEmptyDocumentsAreDroppedAndCounted) {
  const std::vector<Document> documents = {MakeDocument(0, 0), MakeDocument(1, 1), MakeDocument(2, 2),
                                           MakeDocument(3, 3)};
  PackCounts counts;
  Pack({.length = 16}, documents, &counts);
  EXPECT_EQ(counts.dropped_short, 3) << "without BOS the least is three tokens of text";
  Pack({.length = 16, .bos = kBos}, documents, &counts);
  EXPECT_EQ(counts.dropped_short, 1) << "BOS counts";
  Pack({.length = 16, .variant = {.pattern = kAnchored}, .anchor = {kAnchor}}, documents, &counts);
  EXPECT_EQ(counts.dropped_short, 1) << "so does the anchor";
  const auto out = Pack({.length = 16, .bos = kBos, .min_document = 0}, documents, &counts);
  EXPECT_EQ(counts.dropped_short, 0);
  EXPECT_EQ(counts.pieces, 3) << "an empty document never makes a segment";
  EXPECT_EQ(out[0].targets[1], -1) << "one token without EOS has nothing to predict";
  EXPECT_TRUE(Pack({.length = 16, .bos = kBos}, {MakeDocument(0, 0)}).empty());
}

TEST(PackerTest, SeparatorsFollowTheIds) {
  std::vector<uint8_t> flags(3000, 0);
  flags[101] = flags[2100] = 1;
  const auto out = Pack({.length = 6, .bos = kBos, .separators = flags}, {MakeDocument(0, 3), MakeDocument(1, 5)});
  EXPECT_EQ(out[0].layout.is_separator, (std::vector<uint8_t>{0, 0, 1, 0, 0, 1}));
}

TEST(PackerTest, BadOptionsAndDocumentsAreRefused) {
  const auto kind = [](auto&& body) {
    try {
      body();
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kInternal;
  };
  using enum ErrorKind;
  EXPECT_EQ(kind([] { Packer({.length = 0}); }), kUsage);
  EXPECT_EQ(kind([] { Packer({.length = 1, .bos = kBos}); }), kUsage);
  EXPECT_EQ(kind([] { Packer({.length = 8, .variant = {.pattern = kAnchored}}); }), kUsage);
  EXPECT_EQ(kind([] { Packer({.length = 8, .variant = {.pattern = kAnchored}, .anchor = {-1}}); }), kUsage);
  EXPECT_EQ(kind([] { Packer({.length = 8, .variant = {.pattern = kIntra}, .anchor = {1}}); }), kUsage);
  EXPECT_EQ(kind([] { Packer({.length = 8, .variant = {.pattern = kIntra, .multi_bos = true}}); }), kUsage);
  EXPECT_EQ(kind([] { Packer({.length = 8, .bos = kBos, .first_token_from_anchor = true}); }), kUsage);
  EXPECT_EQ(kind([] { Packer({.length = 8, .variant = {.reset_positions = true}, .bos = kBos}); }), kUsage);
  EXPECT_EQ(kind([] { Packer({.length = 8, .bos = kBos, .lookahead = 0}); }), kUsage);
  Packer packer({.length = 4, .variant = {.tags = true}, .bos = kBos, .separators = std::vector<uint8_t>(200, 0)});
  EXPECT_EQ(kind([&] { packer.Add({.id = -2, .tokens = {1, 2, 3}}); }), kUsage);
  EXPECT_EQ(kind([&] { packer.Add({.tokens = {1, -2, 3}}); }), kUsage);
  EXPECT_EQ(kind([&] { packer.Add({.tokens = {1, 200, 3}}); }), kUsage);
  EXPECT_EQ(kind([&] { packer.Add({.tokens = {1, 2, 3}, .tag = {5, 6, 7}}); }), kUsage);
  packer.Finish();
  EXPECT_EQ(kind([&] { packer.Add(MakeDocument(0, 3)); }), kUsage);
}

TEST(PackerTest, BestFitOpensWithTheOldestAndTakesTheLongestThatFits) {
  const std::vector<Document> documents = {MakeDocument(0, 5), MakeDocument(1, 6), MakeDocument(2, 2),
                                           MakeDocument(3, 4), MakeDocument(4, 3), MakeDocument(5, 17)};
  const auto order = [&](int32_t lookahead) {
    std::vector<std::vector<int64_t>> sequences;
    for (const PackedSequence& s :
         Pack({.length = 8, .min_document = 1, .overflow = Overflow::kBestFit, .lookahead = lookahead}, documents)) {
      sequences.emplace_back();
      for (const Segment& segment : s.segments) {
        if (segment.document >= 0) sequences.back().push_back(segment.document);
      }
    }
    return sequences;
  };
  EXPECT_EQ(order(100), (std::vector<std::vector<int64_t>>{{0, 4}, {1, 2}, {3, 5}, {5}, {5}}));
  // Three wait: 4 comes too late for 0.
  EXPECT_EQ(order(3), (std::vector<std::vector<int64_t>>{{0, 2}, {1, 5}, {3, 4}, {5}, {5}}));
}

TEST(PackerTest, BestFitPadsLessThanFit) {
  std::vector<Document> documents;
  Rng rng{.seed = 3, .stream = 1};
  for (int64_t d = 0; d < 400; ++d) documents.push_back(MakeDocument(d, static_cast<int32_t>(3 + rng.Below(90))));
  PackCounts fit, best;
  PackOptions options{.length = 128, .variant = {.pattern = kAnchored}, .anchor = {kAnchor}};
  options.overflow = Overflow::kFit;
  Pack(options, documents, &fit);
  options.overflow = Overflow::kBestFit;
  Pack(options, documents, &best);
  EXPECT_EQ(best.tokens_out, fit.tokens_out);
  EXPECT_LT(5 * best.padding, fit.padding);
}

TEST(PackerTest, SplitGoesOnAsItIsAndRestartBeginsADocument) {
  PackOptions options{.length = 6, .variant = {.pattern = kIntra, .tags = true}, .bos = kBos};
  const std::vector<Document> documents = {MakeDocument(0, 7, 1)};
  EXPECT_EQ(Pack(options, documents)[1].ids, (Ids{kBos, kTag, 104, 105, 106, 0}));
  options.overflow = Overflow::kSplit;
  const auto out = Pack(options, documents);
  EXPECT_EQ(out[1].ids, (Ids{104, 105, 106, 0, 0, 0}));
  EXPECT_EQ(out[1].targets, (Ids{105, 106, -1, -1, -1, -1}));
  EXPECT_EQ(out[1].segments[0].source_offset, 4);
  options.variant.multi_bos = true;
  EXPECT_EQ(Pack(options, documents)[1].ids, (Ids{kBos, 104, 105, 106, 0, 0})) << "a copy of the anchor all the same";
}

TEST(PackerTest, MultiBosCopiesTheAnchorAtPositionZero) {
  PackOptions options{.length = 9, .variant = {.pattern = kIntra, .multi_bos = true}, .bos = kBos};
  auto out = Pack(options, kThree);
  EXPECT_EQ(out[0].ids, (Ids{kBos, 100, 101, 102, kBos, 2100, 2101, kBos, 4100}));
  EXPECT_EQ(out[0].positions, (Positions{0, 1, 2, 3, 0, 5, 6, 0, 8})) << "copies take room";
  EXPECT_EQ(out[0].targets, (Ids{-1, 101, 102, -1, -1, 2101, -1, -1, -1}));
  EXPECT_EQ(out[0].layout.doc_begin, (Ids{0, 0, 0, 0, 4, 4, 4, 7, 7}));
  options.first_token_from_anchor = true;
  EXPECT_EQ(Pack(options, kThree)[0].targets, (Ids{100, 101, 102, -1, 2100, 2101, -1, 4100, -1}));
  options.anchor = {8, 9};
  out = Pack(options, kThree);
  EXPECT_EQ(out[0].ids, (Ids{8, 9, 100, 101, 102, 8, 9, 2100, 2101}));
  EXPECT_EQ(out[0].positions, (Positions{0, 1, 2, 3, 4, 0, 1, 7, 8}));
  EXPECT_EQ(out[0].targets, (Ids{-1, 100, 101, 102, -1, -1, 2100, 2101, -1}));
  // Text of document k stands k copies later than behind a shared anchor.
  const auto single = Pack({.length = 9, .variant = {.pattern = kAnchored}, .anchor = {kBos}}, kThree)[0];
  EXPECT_EQ(single.positions[4], 4);
}

TEST(PackerTest, DropKeepsTheStartOfADocumentAndDiscardsItsRest) {
  PackCounts counts;
  const auto out = Pack({.length = 5, .overflow = Overflow::kDrop}, {MakeDocument(0, 3), MakeDocument(1, 6)}, &counts);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].ids, (Ids{100, 101, 102, 2100, 2101}));
  EXPECT_EQ(counts.dropped_overflow, 4);
}

TEST(PackerTest, InterleavedChunksAreShuffledInBoundsAndByTheSeed) {
  std::vector<Document> documents;
  for (int64_t d = 0; d < 40; ++d) documents.push_back(MakeDocument(d, static_cast<int32_t>(10 + 7 * d)));
  const PackOptions options{.length = 512, .variant = {.pattern = kAnchored, .interleaved = true}, .anchor = {kAnchor}};
  const auto out = Pack(options, documents);
  std::set<int32_t> parts_seen;
  bool second_before_first = false;  // a second chunk that comes before some other document's first
  for (const PackedSequence& s : out) {
    std::map<int64_t, std::vector<Segment>> chunks;
    for (const Segment& segment : s.segments) {
      if (segment.document >= 0) chunks[segment.document].push_back(segment);
    }
    int32_t last_first_place = 0, first_second_place = options.length;
    for (const auto& [document, list] : chunks) {
      int32_t total = 0;
      for (const Segment& chunk : list) total += chunk.length;
      parts_seen.insert(static_cast<int32_t>(list.size()));
      EXPECT_EQ(list.size() == 1, total < 16);
      for (size_t i = 0; i < list.size(); ++i) {
        EXPECT_EQ(list[i].chunk, static_cast<int32_t>(i));
        if (list.size() == 1) continue;
        EXPECT_GE(list[i].length, std::max(8, total / 5));
        if (i > 0) {
          EXPECT_GE(list[i].place, list[i - 1].place + list[i - 1].length);
        }
      }
      last_first_place = std::max(last_first_place, list[0].place);
      if (list.size() > 1) first_second_place = std::min(first_second_place, list[1].place);
    }
    second_before_first = second_before_first || first_second_place < last_first_place;
  }
  EXPECT_EQ(parts_seen, (std::set<int32_t>{1, 2, 3}));
  EXPECT_TRUE(second_before_first);
  const auto same = Pack(options, documents), other = Pack(options, documents, nullptr, 8);
  EXPECT_EQ(same[1].positions, out[1].positions);
  EXPECT_NE(other[1].positions, out[1].positions);
  EXPECT_EQ(other[1].ids, out[1].ids) << "the shuffle shows in positions only";
}

TEST(PackerTest, AllRowsPredictWhatStandsAtTheNextPlace) {
  PackOptions options{.length = 8, .variant = {.pattern = kAnchored}, .anchor = {kAnchor}, .bos = kBos};
  options.loss_rows = LossRows::kAll;
  auto out = Pack(options, kThree);
  ASSERT_EQ(out[0].ids, (Ids{kAnchor, 100, 101, 102, 2100, 2101, 4100, 4101}));
  EXPECT_EQ(out[0].targets, (Ids{100, 101, 102, 2100, 2101, 4100, 4101, -1}));
  EXPECT_EQ(out[0].weights, (Weights{1, 1, 1, 1, 1, 1, 1, 0}));
  EXPECT_TRUE(out[0].extra_rows.empty());
  EXPECT_EQ(out[1].targets, (Ids{4102, 4103, -1, -1, -1, -1, -1, -1})) << "padding is no target";
  options.first_token_from_anchor = true;
  EXPECT_THROW(Packer{options}, Error);

  // Copies of the anchor are predicted, and predict; a document without an anchor has BOS.
  out = Pack({.length = 9, .variant = {.pattern = kIntra, .multi_bos = true}, .bos = kBos, .loss_rows = LossRows::kAll},
             kThree);
  ASSERT_EQ(out[0].ids, (Ids{kBos, 100, 101, 102, kBos, 2100, 2101, kBos, 4100}));
  EXPECT_EQ(out[0].targets, (Ids{100, 101, 102, kBos, 2100, 2101, kBos, 4100, -1}));

  // Names of sources are read, not learned.
  out = Pack(
      {.length = 10, .variant = {.pattern = kAnchored, .tags = true}, .anchor = {kAnchor}, .loss_rows = LossRows::kAll},
      {MakeDocument(0, 2, 1), MakeDocument(1, 2, 2)});
  EXPECT_EQ(out[0].ids, (Ids{kAnchor, kTag, 100, 101, kTag, kTag + 1, 2100, 2101, 0, 0}));
  EXPECT_EQ(out[0].weights, (Weights{0, 1, 1, 0, 0, 1, 1, 0, 0, 0}));
}

TEST(PackerTest, AllRowsOfShuffledChunksFollowTheirPlaces) {
  PackOptions options{.length = 96, .variant = {.pattern = kAnchored, .interleaved = true}, .anchor = {kAnchor}};
  options.loss_rows = LossRows::kAll;
  const auto out = Pack(options, {MakeDocument(0, 40), MakeDocument(1, 30), MakeDocument(2, 25)});
  std::map<int64_t, int32_t> at;  // id by place
  for (size_t i = 0; i < out[0].ids.size(); ++i) at[out[0].positions[i]] = out[0].ids[i];
  ASSERT_EQ(at.size(), 96u);
  for (size_t i = 0; i < out[0].ids.size(); ++i) {
    const int64_t place = out[0].positions[i];
    EXPECT_EQ(out[0].targets[i], place == 95 ? -1 : at[place + 1]);
    EXPECT_EQ(out[0].weights[i], place == 95 ? 0.0f : 1.0f);
  }
}

TEST(PackerTest, WeightsOfTokensGoWithThemAsTargets) {
  // Token t of a document has the weight t / 2; unweighted documents have 1; EOS has that of the token before it.
  Rng rng{3};
  for (const auto overflow : {Overflow::kRestart, Overflow::kSplit, Overflow::kBestFit}) {
    for (const bool interleaved : {false, true}) {
      PackOptions options{.length = 64,
                          .variant = {.pattern = kAnchored, .interleaved = interleaved},
                          .anchor = {kAnchor},
                          .eos = kEos,
                          .overflow = overflow,
                          .first_token_from_anchor = true};
      std::vector<Document> documents, plain;
      for (int64_t d = 0; d < 20; ++d) {
        plain.push_back(MakeDocument(d, static_cast<int32_t>(3 + rng.Below(90))));
        documents.push_back(plain.back());
        if (d % 3 == 0) continue;
        for (size_t t = 0; t < plain.back().tokens.size(); ++t) documents.back().weights.push_back(0.5f * t);
      }
      const auto weight = [](int64_t document, int64_t offset) {
        return document % 3 == 0 ? 1.0f : 0.5f * static_cast<float>(offset);
      };
      const auto out = Pack(options, documents), without = Pack(options, plain);
      ASSERT_EQ(out.size(), without.size());
      for (size_t s = 0; s < out.size(); ++s) {
        EXPECT_EQ(out[s].ids, without[s].ids);
        EXPECT_EQ(out[s].targets, without[s].targets);
        for (size_t i = 0; i < out[s].ids.size(); ++i) {
          const int32_t target = out[s].targets[i];
          if (target < 0) continue;
          const int32_t token = target == kEos ? out[s].ids[i] : target;
          EXPECT_EQ(out[s].weights[i], weight(DocumentOf(token), OffsetOf(token)));
        }
        for (size_t e = 0; e < out[s].extra_rows.size(); ++e) {
          const int32_t target = out[s].extra_targets[e];
          EXPECT_EQ(out[s].extra_weights[e], weight(DocumentOf(target), OffsetOf(target)));
          EXPECT_GT(out[s].extra_weights[e], 0);
        }
      }
    }
  }
}

TEST(PackerTest, SequencesWithoutAnythingToTrainOnAreCountedAndLeftOut) {
  Document prompt = MakeDocument(0, 40);
  prompt.weights.assign(40, 0.0f);
  prompt.weights.back() = 1.0f;
  PackCounts counts;
  const auto out = Pack({.length = 9, .bos = kBos}, {prompt}, &counts);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].segments[0].source_offset, 32);
  EXPECT_EQ(counts.dropped_untrained, 32);
  EXPECT_EQ(counts.tokens_in, counts.tokens_out + counts.dropped_untrained);
  EXPECT_EQ(counts.pieces, 1);
  EXPECT_EQ(counts.bos_tokens, 1);
  prompt.weights.pop_back();
  EXPECT_THROW(Pack({.length = 9, .bos = kBos}, {prompt}), Error);
  prompt.weights.push_back(-1);
  EXPECT_THROW(Pack({.length = 9, .bos = kBos}, {prompt}), Error);
}

}  // namespace
}  // namespace hawser
