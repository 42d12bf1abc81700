// The oracles T1 to T13 of AnchorAttention and its variants (arXiv:2411.13476): what a token sees and where it stands,
// each on the f64 twin and on the kernels, over sequences as the packer makes them. T14 to T26 are in
// variant_training_test.cc, those of the attention op in cpu/attention_masks_test.cc, T18 on random layouts in
// attn/schedule_test.cc, T24 in pos/scheme_test.cc and cpu/layers_test.cc, T25 in data/packer_test.cc, T27 in
// eval/drift_test.cc and eval/rope_vectors_test.cc; those in bf16 in the files of the same names with _bf16.
#include "hawser/testing/variant_oracle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string_view>

namespace hawser::testing {
namespace {

TEST_F(VariantOracle, T1_PackedEqualsSeparateRunsAtThePackedPositions) {
  for (const char* variant : kVariants) {
    if (!IsDocumentScope(variant)) continue;
    const LayeredPattern pattern = ParseVariant(variant).pattern;
    PackedSequence packed = Pack(texts_, variant);
    for (const bool any_positions : {false, true}) {
      if (any_positions) {
        for (size_t t = 0; t < packed.ids.size(); ++t) {
          packed.positions[t] = static_cast<int64_t>(RandomBits(9, 1, t) % 256);
        }
      }
      for (const Engine& engine : Engines()) {
        const Values whole = engine.nll(packed, pattern);
        for (const auto& rows : Rows(packed)) {
          const Values alone = engine.nll(Alone(packed, pattern.anchors, rows), pattern);
          EXPECT_LE(MaxDiff(whole, alone, rows.first, pattern.anchors, rows.second - rows.first), engine.tolerance)
              << variant << " " << engine.name;
        }
      }
    }
  }
}

TEST_F(VariantOracle, T2_NaturalPositionsServeResetPackingOnly) {
  for (const char* variant : {"anchor-reset", "intra-reset", "anchor", "multi-bos"}) {
    const auto rows = Rows(Pack(texts_, variant));
    for (const Engine& engine : Engines()) {
      const Values whole = Nll(engine, texts_, variant);
      for (const int32_t d : {0, 2}) {
        const Values alone = Nll(engine, {texts_[d]}, variant);
        const auto [begin, end] = rows[d];
        const double difference = MaxDiff(whole, alone, begin, ParseVariant(variant).pattern.anchors, end - begin);
        if (d == 0 || ParseVariant(variant).reset_positions) {
          EXPECT_LE(difference, engine.tolerance) << variant << " " << engine.name;
        } else {
          EXPECT_GT(difference, kVisible) << variant << " " << engine.name;  // the anchor stands further away
        }
      }
    }
  }
}

TEST_F(VariantOracle, T3_ContinuousEqualsResetWithoutAnAnchor) {
  for (const Engine& engine : Engines()) {
    const Values intra = Nll(engine, texts_, "intra"), reset = Nll(engine, texts_, "intra-reset");
    EXPECT_LE(MaxDiff(intra, reset, 0, 0, static_cast<int32_t>(intra.size())), engine.tolerance) << engine.name;
  }
  // In 16 bits rounding tells them apart, by no more than bf16 is apart from f32 anyway.
  const ParamStore low = Cast(params_, DType::kBF16);
  Decoder decoder(backend_.get(), &low);
  const LayeredPattern pattern = ParseVariant("intra").pattern;
  const Values exact = Nll(Engines()[0], texts_, "intra");
  const Values intra = Kernels(&decoder, Pack(texts_, "intra"), pattern);
  const Values reset = Kernels(&decoder, Pack(texts_, "intra-reset"), pattern);
  const auto n = static_cast<int32_t>(intra.size());
  EXPECT_GT(MaxDiff(intra, reset, 0, 0, n), 0.0);
  EXPECT_LT(MaxDiff(intra, reset, 0, 0, n), 2 * MaxDiff(intra, exact, 0, 0, n));
}

TEST_F(VariantOracle, T4_ContinuousEqualsResetBehindAnAnchorInTheFirstDocumentOnly) {
  for (const Engine& engine : Engines()) {
    const Values anchor = Nll(engine, texts_, "anchor"), reset = Nll(engine, texts_, "anchor-reset");
    const auto first = static_cast<int32_t>(1 + texts_[0].size());
    EXPECT_LE(MaxDiff(anchor, reset, 0, 0, first), engine.tolerance) << engine.name;
    EXPECT_GT(MaxDiff(anchor, reset, first, first, static_cast<int32_t>(anchor.size()) - first), kVisible);
  }
}

TEST_F(VariantOracle, T5_PermutingDocuments) {
  const Texts permuted = {texts_[2], texts_[3], texts_[0], texts_[1]};
  for (const char* variant : {"intra", "intra-reset", "anchor-reset", "anchor", "multi-bos"}) {
    const auto [begin, end] = Rows(Pack(texts_, variant))[2];
    const bool moves = std::string_view(variant) == "anchor" || std::string_view(variant) == "multi-bos";
    for (const Engine& engine : Engines()) {
      const double difference = MaxDiff(Nll(engine, texts_, variant), Nll(engine, permuted, variant), begin,
                                        ParseVariant(variant).pattern.anchors, end - begin);
      if (moves) {
        EXPECT_GT(difference, kVisible) << variant << " " << engine.name;
      } else {
        EXPECT_LE(difference, engine.tolerance) << variant << " " << engine.name;
      }
    }
  }
}

TEST_F(VariantOracle, T6_CopiesOfTheAnchorEqualOneAtEqualPositions) {
  const PackedSequence shared = Pack(texts_, "anchor"), copies = AtAnchorPositions(Pack(texts_, "multi-bos"), shared);
  const LayeredPattern anchor = ParseVariant("anchor").pattern, intra = ParseVariant("multi-bos").pattern;
  const auto one = Rows(shared), many = Rows(copies);
  for (const Engine& engine : Engines()) {
    const Values a = engine.nll(shared, anchor), b = engine.nll(copies, intra);
    for (size_t d = 0; d < texts_.size(); ++d) {
      EXPECT_NEAR(b[many[d].first], a[0], engine.tolerance) << engine.name;
      const int32_t n = one[d].second - one[d].first;
      EXPECT_LE(MaxDiff(a, b, one[d].first, many[d].first + 1, n), engine.tolerance) << engine.name;
    }
  }
  const auto a = twin_.Forward(shared.ids, shared.positions, shared.layout, anchor);
  const auto b = twin_.Forward(copies.ids, copies.positions, copies.layout, intra);
  for (size_t layer = 0; layer < a.hidden.size(); ++layer) {
    for (const auto& rows : many) EXPECT_EQ(b.hidden[layer][rows.first], a.hidden[layer][0]) << "layer " << layer;
  }
}

TEST_F(VariantOracle, T7_CopiesOfTheAnchorDifferFromOneAtTheirOwnPositions) {
  const PackedSequence shared = Pack(texts_, "anchor"), copies = Pack(texts_, "multi-bos");
  const auto one = Rows(shared), many = Rows(copies);
  for (size_t d = 0; d < texts_.size(); ++d) {  // copies of the documents up to d take room
    EXPECT_EQ(copies.positions[many[d].first + 1], shared.positions[one[d].first] + static_cast<int64_t>(d));
  }
  for (const Engine& engine : Engines()) {
    const Values a = Nll(engine, texts_, "anchor"), b = Nll(engine, texts_, "multi-bos");
    const auto length = [&](size_t d) { return one[d].second - one[d].first; };
    EXPECT_LE(MaxDiff(a, b, one[0].first, many[0].first + 1, length(0)), engine.tolerance);
    EXPECT_GT(MaxDiff(a, b, one[2].first, many[2].first + 1, length(2)), kVisible) << engine.name;
  }
}

TEST_F(VariantOracle, T8_EditingADocumentChangesNothingOutsideIt) {
  Texts edited = texts_;
  for (int32_t& id : edited[0]) id = 3 + (id + 11) % (kVocab - 3);
  for (const char* variant : kVariants) {
    const auto rows = Rows(Pack(texts_, variant));
    for (const Engine& engine : Engines()) {
      const Values before = Nll(engine, texts_, variant), after = Nll(engine, edited, variant);
      const int32_t rest = rows[1].first;
      const double difference = MaxDiff(before, after, rest, rest, static_cast<int32_t>(before.size()) - rest);
      if (IsDocumentScope(variant)) {
        EXPECT_EQ(difference, 0.0) << variant << " " << engine.name;
        const int32_t anchors = ParseVariant(variant).pattern.anchors;
        EXPECT_EQ(MaxDiff(before, after, 0, 0, anchors), 0.0) << variant << ": the anchor";
      } else {
        EXPECT_GT(difference, kVisible) << variant << " " << engine.name;
      }
    }
  }
}

TEST_F(VariantOracle, T9_T10_ShiftingPositions) {
  for (const char* variant : kVariants) {
    const AttnVariant v = ParseVariant(variant);
    const PackedSequence packed = Pack(texts_, variant);
    const Shifted shifted(packed, v);
    const auto n = static_cast<int32_t>(packed.ids.size());
    for (const Engine& engine : Engines()) {
      // The phases of the twin are f64 products with positions.
      const double tolerance = std::max(engine.tolerance, 1e-8);
      const Values base = engine.nll(packed, v.pattern);
      EXPECT_LE(MaxDiff(base, engine.nll(shifted.all, v.pattern), 0, 0, n), tolerance) << variant << " " << engine.name;
      const double moved = MaxDiff(base, engine.nll(shifted.others, v.pattern), 0, 0, n);
      if (v.multi_bos || v.pattern.anchors > 0) {
        EXPECT_GT(moved, kVisible) << variant << " " << engine.name;
      } else {
        EXPECT_LE(moved, tolerance) << variant << " " << engine.name;
      }
    }
  }
}

TEST_F(VariantOracle, T11_OneDocumentBehindTheAnchorIsFullAttention) {
  for (const char* variant : {"anchor", "multi-bos", "anchor-reset", "intra"}) {
    const PackedSequence packed = Pack({texts_[2]}, variant), full = Pack({texts_[2]}, "full");
    EXPECT_EQ(packed.ids, full.ids);
    EXPECT_EQ(packed.positions, full.positions);
    for (const Engine& engine : Engines()) {
      // Bitwise for the twin; kernels fold the anchor in first, another order of the same sum.
      EXPECT_LE(MaxDiff(engine.nll(packed, ParseVariant(variant).pattern), engine.nll(full, {}), 0, 0,
                        static_cast<int32_t>(full.ids.size())),
                engine.name == "twin" ? 0.0 : engine.tolerance)
          << variant;
    }
  }
}

TEST_F(VariantOracle, T12_TheAnchorDependsOnNothing) {
  for (const char* variant : {"anchor", "anchor-reset", "anchor-tag", "anchor-interleaved"}) {
    const LayeredPattern pattern = ParseVariant(variant).pattern;
    const PackedSequence packed = Pack(texts_, variant);
    PackedSequence other = Pack({texts_[3], texts_[0]}, variant);
    for (int64_t& position : other.positions) position += 77;
    const auto a = twin_.Forward(packed.ids, packed.positions, packed.layout, pattern);
    const auto b = twin_.Forward(other.ids, other.positions, other.layout, pattern);
    const auto c = twin_.Forward({kBos}, {0}, MakeLayout(1, {}), pattern);
    for (size_t layer = 0; layer < a.hidden.size(); ++layer) {
      EXPECT_EQ(a.hidden[layer][0], b.hidden[layer][0]) << variant;
      EXPECT_EQ(a.hidden[layer][0], c.hidden[layer][0]) << variant;
    }
    const Engine kernels = Engines()[0];
    EXPECT_NEAR(kernels.nll(packed, pattern)[0], kernels.nll(other, pattern)[0], kernels.tolerance);
  }
}

TEST_F(VariantOracle, T13_InterleavedEqualsASeparateRunAtTheGappedPositionsNotTheUnsplitDocument) {
  for (const char* variant : {"intra-interleaved", "anchor-interleaved"}) {
    const LayeredPattern pattern = ParseVariant(variant).pattern;
    const PackedSequence packed = Pack(texts_, variant);
    int64_t chunks = 0;
    for (const Segment& segment : packed.segments) chunks += segment.chunk > 0;
    ASSERT_GE(chunks, 3);
    for (const Engine& engine : Engines()) {
      const Values whole = engine.nll(packed, pattern);
      double unsplit_difference = 0;
      for (const auto& rows : Rows(packed)) {
        const int32_t n = rows.second - rows.first;
        PackedSequence alone = Alone(packed, pattern.anchors, rows);
        EXPECT_LE(MaxDiff(whole, engine.nll(alone, pattern), rows.first, pattern.anchors, n), engine.tolerance);
        std::iota(alone.positions.begin(), alone.positions.end(), int64_t{0});
        const Values unsplit = engine.nll(alone, pattern);
        unsplit_difference = std::max(unsplit_difference, MaxDiff(whole, unsplit, rows.first, pattern.anchors, n));
      }
      EXPECT_GT(unsplit_difference, kVisible) << variant << " " << engine.name;
    }
  }
}

}  // namespace
}  // namespace hawser::testing
