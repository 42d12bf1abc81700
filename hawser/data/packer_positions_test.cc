// Position maps in packed sequences: what each variant makes of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/data/loader.h"
#include "hawser/data/pack_report.h"
#include "hawser/data/packer.h"

namespace hawser {
namespace {

constexpr int32_t kMapBos = 1, kMapEos = 2, kMapText = 100, kMapStride = 1000;

Document MapDocument(int64_t id, int32_t length, std::vector<float> weights = {}) {
  Document document{.id = id, .weights = std::move(weights)};
  for (int32_t t = 0; t < length; ++t) {
    document.tokens.push_back(kMapText + static_cast<int32_t>(id) * kMapStride + t);
  }
  return document;
}

std::vector<PackedSequence> PackMapped(const PackOptions& options, const std::vector<Document>& documents,
                                       uint64_t seed, PackCounts* counts = nullptr) {
  Packer packer(options, seed);
  for (const Document& document : documents) packer.Add(document);
  packer.Finish();
  std::vector<PackedSequence> sequences;
  PackedSequence sequence;
  while (packer.Next(&sequence)) sequences.push_back(sequence);
  if (counts != nullptr) *counts = packer.counts();
  return sequences;
}

PackOptions MapOptions(const char* attention, const char* positions, int32_t length, int64_t reach) {
  PackOptions options{.length = length, .variant = ParseVariant(attention)};
  options.anchor.assign(static_cast<size_t>(options.variant.multi_bos ? 1 : options.variant.pattern.anchors), kMapBos);
  options.positions = ParsePositionMap(positions);
  options.reach = reach;
  return options;
}

// Worked example: window 8, reach 32, a first chunk of 3 tokens, skips u = 17 and v = 9.
TEST(PackedPositions, ThePublishedExampleIsOneOfTheDraws) {
  const std::vector<Document> documents = {MapDocument(0, 40)};
  const PackOptions options = MapOptions("intra", "pose:text=skip", 8, 32);
  const std::vector<int64_t> positions = {0, 1, 2, 20, 21, 22, 23, 24};
  std::vector<int32_t> tokens;
  for (const int32_t t : {0, 1, 2, 12, 13, 14, 15, 16}) tokens.push_back(kMapText + t);
  int found = 0;
  for (uint64_t seed = 0; seed < 40000 && found == 0; ++seed) {
    const PackedSequence first = PackMapped(options, documents, seed).front();
    found += first.ids == tokens && first.positions == positions;
  }
  EXPECT_EQ(found, 1);
}

TEST(PackedPositions, EveryVariantKeepsOrderAndReach) {
  Rng sizes{8};
  for (const char* attention : {"full", "intra", "intra-reset", "anchor", "anchor-reset", "multi-bos", "window=7",
                                "scope=doc anchors=2 sinks=3 window=16 sep", "scope=doc window=5 every=3 reset"}) {
    for (const char* map : {"pose", "pose:chunks=3,mask_seam_label=on", "pose:text=skip", "pose:text=skip,chunks=3",
                            "skipalign", "randpos"}) {
      const bool together = ParseVariant(attention).pattern.scope == Scope::kSequence;
      if (together && std::string(map).find("text=skip") != std::string::npos) continue;
      for (const Overflow overflow : {Overflow::kRestart, Overflow::kSplit, Overflow::kBestFit}) {
        SCOPED_TRACE(std::string(attention) + " " + map);
        constexpr int32_t kLength = 48;
        constexpr int64_t kReach = 300;
        PackOptions options = MapOptions(attention, map, kLength, kReach);
        options.overflow = overflow;
        options.eos = kMapEos;
        if (options.anchor.empty()) options.bos = kMapBos;
        options.separators.assign(kMapText + 20 * kMapStride, 0);
        std::vector<Document> documents;
        for (int64_t d = 0; d < 12; ++d) {
          const auto length = static_cast<int32_t>(1 + sizes.Below(70));
          std::vector<float> weights;
          for (int32_t t = 0; t < length; ++t) weights.push_back(t / 5 % 2 == 0 ? 0.0f : 1.0f);
          documents.push_back(MapDocument(d, length, weights));
        }
        PackOptions plain_options = options;
        plain_options.positions = {};
        PackCounts counts;
        const auto plain = PackMapped(plain_options, documents, 3), mapped = PackMapped(options, documents, 3, &counts);
        EXPECT_EQ(counts.tokens_in,
                  counts.tokens_out + counts.dropped_short + counts.dropped_between + counts.dropped_untrained);
        int64_t moved = 0;
        for (size_t i = 0; i < mapped.size(); ++i) {
          const PackedSequence& s = mapped[i];
          const int32_t anchors = options.variant.pattern.anchors;
          for (int32_t a = 0; a < anchors; ++a) EXPECT_EQ(s.positions[a], a) << "anchors stay";
          for (int32_t t = anchors + 1; t < kLength; ++t) {
            if (s.layout.IsPadding(t)) continue;
            if (together || s.layout.doc_begin[t] != t) {
              EXPECT_GT(s.positions[t], s.positions[t - 1]) << t;
            }
            EXPECT_LT(s.positions[t], kReach);
            EXPECT_GE(s.positions[t], anchors);
          }
          moved += s.mapped - s.unmoved;
          if (std::string(map).find("text=skip") != std::string::npos) continue;
          ASSERT_EQ(s.ids, plain[i].ids);
          ASSERT_EQ(s.layout.doc_begin, plain[i].layout.doc_begin);
          for (int32_t t = 0; t < kLength; ++t) {
            const bool seam = t + 1 < kLength &&
                              s.positions[t + 1] - plain[i].positions[t + 1] != s.positions[t] - plain[i].positions[t];
            if (std::string(map).find("mask") != std::string::npos) {
              if (s.targets[t] != plain[i].targets[t]) {
                EXPECT_EQ(s.targets[t], -1);
              } else if (s.targets[t] >= 0) {
                EXPECT_FALSE(seam) << "a token behind a skip is not trained on";
              }
            } else {
              ASSERT_EQ(s.targets[t], plain[i].targets[t]) << t;
            }
          }
        }
        EXPECT_GT(moved, 0);
        const auto again = PackMapped(options, documents, 3);
        for (size_t i = 0; i < mapped.size(); ++i) EXPECT_EQ(mapped[i].positions, again[i].positions);
        bool differs = false;
        const auto other = PackMapped(options, documents, 4);
        for (size_t i = 0; i < std::min(other.size(), mapped.size()); ++i) {
          differs |= mapped[i].positions != other[i].positions;
        }
        EXPECT_TRUE(differs) << "another seed draws other skips";
      }
    }
  }
}

TEST(PackedPositions, DocumentsDrawApartAndMayReachTheEnd) {
  const PackOptions options = MapOptions("anchor", "pose", 33, 1000);
  std::set<std::pair<int64_t, int64_t>> skips;
  int64_t last = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const PackedSequence s = PackMapped(options, {MapDocument(0, 16), MapDocument(1, 16)}, seed).front();
    EXPECT_EQ(s.positions[1], 1) << "a document begins where it lies";
    EXPECT_EQ(s.positions[17], 17);
    skips.insert({s.positions[16] - 16, s.positions[32] - 32});
    last = std::max({last, s.positions[16], s.positions[32]});
  }
  EXPECT_GT(skips.size(), 290u);
  EXPECT_GT(last, 980);
}

// The text that lies between chunks is left out, counted, and never taken twice.
TEST(PackedPositions, SkippedTextIsTheRestOfTheDocument) {
  for (const char* attention : {"intra", "anchor", "multi-bos"}) {
    PackOptions options = MapOptions(attention, "pose:text=skip,chunks=3", 20, 100);
    options.eos = kMapEos;
    for (uint64_t seed = 0; seed < 50; ++seed) {
      PackCounts counts;
      const auto sequences = PackMapped(options, {MapDocument(0, 400), MapDocument(1, 5)}, seed, &counts);
      std::set<int32_t> seen;
      int64_t text = 0;
      for (const PackedSequence& s : sequences) {
        for (const Segment& segment : s.segments) {
          if (segment.document < 0) continue;
          const int32_t first = segment.begin + segment.bos_tokens;
          for (int32_t t = 0; t < segment.text_tokens(); ++t) {
            const auto offset = static_cast<int32_t>(segment.source_offset) + t;
            EXPECT_EQ(s.ids[first + t], kMapText + static_cast<int32_t>(segment.document) * kMapStride + offset);
            EXPECT_TRUE(seen.insert(s.ids[first + t]).second);
            ++text;
          }
        }
      }
      EXPECT_EQ(text, counts.tokens_out);
      EXPECT_EQ(counts.tokens_in, counts.tokens_out + counts.dropped_between);
      EXPECT_GT(counts.dropped_between, 0);
    }
  }
}

TEST(PackedPositions, TextsWithoutASkipPointAreCounted) {
  PackOptions options = MapOptions("intra", "skipalign:points=outer", 32, 100);
  std::vector<float> turn(8, 1.0f), talk(8, 1.0f);
  std::fill_n(turn.begin(), 4, 0.0f);
  std::fill_n(talk.begin() + 4, 3, 0.0f);
  const auto s = PackMapped(options, {MapDocument(0, 8, turn), MapDocument(1, 8), MapDocument(2, 8, talk)}, 1).front();
  EXPECT_EQ(s.mapped, 3);
  EXPECT_EQ(s.unmoved, 2);
  for (int32_t t = 0; t < 16; ++t) EXPECT_EQ(s.positions[t], t);
  EXPECT_EQ(s.positions[19], 19);
  EXPECT_GT(s.positions[20], 20) << "before the second instruction";
}

TEST(PackedPositions, WhatCannotBeIsRefusedByName) {
  const auto refusal = [](const char* attention, const char* positions, int32_t length, int64_t reach) {
    try {
      Packer packer(MapOptions(attention, positions, length, reach));
      return std::string("taken");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return std::string(error.what());
    }
  };
  EXPECT_NE(refusal("intra", "pose", 64, 63).find("a reach of 63 for sequences of 64"), std::string::npos);
  EXPECT_NE(refusal("intra", "pose", 64, int64_t{1} << 40).find("2^31 at most"), std::string::npos);
  EXPECT_NE(refusal("intra", "pose:chunks=65", 64, 128).find("more chunks than"), std::string::npos);
  EXPECT_NE(refusal("anchor-interleaved", "randpos", 64, 128).find("anchor-interleaved has positions of its own"),
            std::string::npos);
  EXPECT_NE(refusal("full", "pose:text=skip", 64, 128).find("use intra, anchor"), std::string::npos);
  EXPECT_EQ(refusal("full", "pose", 64, 128), "taken");
}

TEST(PackedPositions, TheReportShowsTheRunsOfASequence) {
  DocumentSet documents;
  documents.Add("", MapDocument(0, 10).tokens);
  documents.Add("", MapDocument(1, 5).tokens);
  const auto measure = [&](const char* positions) {
    return MeasurePacking(documents, MapOptions("anchor", positions, 17, 100), 6);
  };
  const PackReport plain = measure("");
  ASSERT_EQ(plain.first_sequence.size(), 3u);
  EXPECT_EQ(plain.first_sequence[2].last, 15);
  EXPECT_NE(ToText(plain).find("positions      up to 15; first sequence 0 | 1-"), std::string::npos) << ToText(plain);
  const PackReport mapped = measure("pose");
  EXPECT_EQ(mapped.mapped, 2);
  EXPECT_EQ(mapped.map, "pose");
  EXPECT_GT(mapped.last_position, 15);
  EXPECT_LT(mapped.last_position, 100);
  EXPECT_EQ(mapped.first_sequence.size(), 5u);
  EXPECT_NE(ToText(mapped).find("moved by       pose: 2 of 2 texts"), std::string::npos) << ToText(mapped);
  EXPECT_EQ(ToJson(mapped)["positions"]["first_sequence"][0], nlohmann::json({0, 0, 0}));
}

// What a sequence gets depends on its number alone, not on when it is asked for.
TEST(PackedPositions, ALoaderThatSkipsDrawsTheSame) {
  DocumentSet documents;
  for (int64_t d = 0; d < 30; ++d) documents.Add("", MapDocument(d, static_cast<int32_t>(5 + 7 * d)).tokens);
  const PackOptions options = MapOptions("anchor", "pose:text=skip", 32, 512);
  Loader straight(&documents, options, 9), skipped(&documents, options, 9);
  PackedSequence a, b;
  for (int i = 0; i < 40; ++i) straight.Next(&a);
  skipped.Skip(39);
  skipped.Next(&b);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.positions, b.positions);
}

}  // namespace
}  // namespace hawser
