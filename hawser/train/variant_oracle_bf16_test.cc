// T1 to T13 of AnchorAttention (arXiv:2411.13476) as in variant_oracle_test.cc, in bf16.
#include "hawser/testing/variant_oracle_bf16.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace hawser::testing {
namespace {

TEST_F(VariantOracleBf16, KernelsAreWithinTheirRoundingsOfTheTwin) {
  const ReferenceModel twin(ExactParams());
  for (const char* variant : kVariants) {
    const PackedSequence s = Pack(texts_, variant);
    EXPECT_LE(MaxDiff(Low(s, variant), Twin(twin, s, variant)), Tolerance()) << variant;
  }
  EXPECT_GT(Tolerance(), 0.0);
  EXPECT_LT(Tolerance(), 0.5) << "the tolerance tells nothing apart";
}

TEST_F(VariantOracleBf16, T1_PackedEqualsSeparateRunsAtThePackedPositions) {
  for (const char* variant : kVariants) {
    if (!IsDocumentScope(variant)) continue;
    const int32_t anchors = ParseVariant(variant).pattern.anchors;
    PackedSequence packed = Pack(texts_, variant);
    for (const bool any_positions : {false, true}) {
      if (any_positions) {
        for (size_t t = 0; t < packed.ids.size(); ++t) {
          packed.positions[t] = static_cast<int64_t>(RandomBits(9, 1, t) % 256);
        }
      }
      const Values whole = Low(packed, variant);
      for (const auto& rows : Rows(packed)) {
        const Values alone = Low(Alone(packed, anchors, rows), variant);
        EXPECT_LE(MaxDiff(whole, alone, rows.first, anchors, rows.second - rows.first), Apart()) << variant;
      }
    }
  }
}

TEST_F(VariantOracleBf16, T2_NaturalPositionsServeResetPackingOnly) {
  for (const char* variant : {"anchor-reset", "intra-reset", "anchor", "multi-bos"}) {
    const auto rows = Rows(Pack(texts_, variant));
    const Values whole = Low(texts_, variant);
    for (const int32_t d : {0, 2}) {
      const auto [begin, end] = rows[d];
      const double difference =
          MaxDiff(whole, Low({texts_[d]}, variant), begin, ParseVariant(variant).pattern.anchors, end - begin);
      if (d == 0 || ParseVariant(variant).reset_positions) {
        EXPECT_LE(difference, Apart()) << variant;
      } else {
        EXPECT_GT(difference, Apart()) << variant;
      }
    }
  }
}

TEST_F(VariantOracleBf16, T3_ContinuousEqualsResetUpToRounding) {
  const double difference = MaxDiff(Low(texts_, "intra"), Low(texts_, "intra-reset"));
  EXPECT_GT(difference, 0.0) << "never bitwise in 16 bits";
  EXPECT_LE(difference, Apart());
}

TEST_F(VariantOracleBf16, T4_ContinuousEqualsResetBehindAnAnchorInTheFirstDocumentOnly) {
  const Values anchor = Low(texts_, "anchor"), reset = Low(texts_, "anchor-reset");
  const auto first = static_cast<int32_t>(1 + texts_[0].size());
  EXPECT_EQ(MaxDiff(anchor, reset, 0, 0, first), 0.0) << "the same positions";
  EXPECT_GT(MaxDiff(anchor, reset), Apart());
}

TEST_F(VariantOracleBf16, T5_PermutingDocuments) {
  const Texts permuted = {texts_[2], texts_[3], texts_[0], texts_[1]};
  for (const char* variant : {"intra", "intra-reset", "anchor-reset", "anchor", "multi-bos"}) {
    const auto [begin, end] = Rows(Pack(texts_, variant))[2];
    const double difference = MaxDiff(Low(texts_, variant), Low(permuted, variant), begin,
                                      ParseVariant(variant).pattern.anchors, end - begin);
    if (std::string_view(variant) == "anchor" || std::string_view(variant) == "multi-bos") {
      EXPECT_GT(difference, Apart()) << variant;
    } else {
      EXPECT_LE(difference, Apart()) << variant;
    }
  }
}

TEST_F(VariantOracleBf16, T6_T7_CopiesOfTheAnchorEqualOneAtEqualPositionsOnly) {
  const PackedSequence shared = Pack(texts_, "anchor"), own = Pack(texts_, "multi-bos");
  const Values a = Low(shared, "anchor"), b = Low(AtAnchorPositions(own, shared), "multi-bos");
  const Values c = Low(own, "multi-bos");
  const auto one = Rows(shared), many = Rows(own);
  for (size_t d = 0; d < texts_.size(); ++d) {
    EXPECT_EQ(b[many[d].first], b[0]) << "copies are one";
    EXPECT_NEAR(b[0], a[0], Apart());
    const int32_t n = one[d].second - one[d].first;
    EXPECT_LE(MaxDiff(a, b, one[d].first, many[d].first + 1, n), Apart());
    if (d == 0) {
      EXPECT_LE(MaxDiff(a, c, one[d].first, many[d].first + 1, n), Apart());
    }
    if (d == 2) {
      EXPECT_GT(MaxDiff(a, c, one[d].first, many[d].first + 1, n), Apart());
    }
  }
}

TEST_F(VariantOracleBf16, T8_EditingADocumentChangesNothingOutsideIt) {
  Texts edited = texts_;
  for (int32_t& id : edited[0]) id = 3 + (id + 11) % (kVocab - 3);
  for (const char* variant : kVariants) {
    const int32_t rest = Rows(Pack(texts_, variant))[1].first, anchors = ParseVariant(variant).pattern.anchors;
    const Values before = Low(texts_, variant), after = Low(edited, variant);
    const double difference = MaxDiff(before, after, rest, rest, static_cast<int32_t>(before.size()) - rest);
    if (IsDocumentScope(variant)) {
      EXPECT_EQ(difference, 0.0) << variant;
      EXPECT_EQ(MaxDiff(before, after, 0, 0, anchors), 0.0) << variant << ": the anchor";
    } else {
      EXPECT_GT(difference, Apart()) << variant;
    }
  }
}

TEST_F(VariantOracleBf16, T9_T10_ShiftingPositions) {
  for (const char* variant : kVariants) {
    const AttnVariant v = ParseVariant(variant);
    const PackedSequence packed = Pack(texts_, variant);
    const Shifted shifted(packed, v);
    const Values base = Low(packed, variant);
    EXPECT_LE(MaxDiff(base, Low(shifted.all, variant)), Apart()) << variant;
    const double moved = MaxDiff(base, Low(shifted.others, variant));
    if (v.multi_bos || v.pattern.anchors > 0) {
      EXPECT_GT(moved, Apart()) << variant;
    } else {
      EXPECT_LE(moved, Apart()) << variant;
    }
  }
}

TEST_F(VariantOracleBf16, T11_OneDocumentBehindTheAnchorIsFullAttention) {
  const Values full = Low({texts_[2]}, "full");
  for (const char* variant : {"anchor", "multi-bos", "anchor-reset", "intra"}) {
    EXPECT_LE(MaxDiff(Low({texts_[2]}, variant), full), Apart()) << variant;
  }
}

TEST_F(VariantOracleBf16, T12_TheAnchorDependsOnNothing) {
  for (const char* variant : {"anchor", "anchor-reset", "anchor-tag", "anchor-interleaved"}) {
    PackedSequence other = Pack({texts_[3], texts_[0]}, variant);
    for (int64_t& position : other.positions) position += 77;
    // Alone among its keys, its attention is its value whatever the rotations.
    EXPECT_EQ(Low(Pack(texts_, variant), variant)[0], Low(other, variant)[0]) << variant;
  }
}

TEST_F(VariantOracleBf16, T13_InterleavedEqualsASeparateRunAtTheGappedPositionsNotTheUnsplitDocument) {
  for (const char* variant : {"intra-interleaved", "anchor-interleaved"}) {
    const int32_t anchors = ParseVariant(variant).pattern.anchors;
    const PackedSequence packed = Pack(texts_, variant);
    const Values whole = Low(packed, variant);
    double unsplit = 0;
    for (const auto& rows : Rows(packed)) {
      const int32_t n = rows.second - rows.first;
      PackedSequence alone = Alone(packed, anchors, rows);
      EXPECT_LE(MaxDiff(whole, Low(alone, variant), rows.first, anchors, n), Apart());
      std::iota(alone.positions.begin(), alone.positions.end(), int64_t{0});
      unsplit = std::max(unsplit, MaxDiff(whole, Low(alone, variant), rows.first, anchors, n));
    }
    EXPECT_GT(unsplit, Apart()) << variant;
  }
}

}  // namespace
}  // namespace hawser::testing
