// The oracles T14 to T26 of AnchorAttention and its variants (arXiv:2411.13476): gradients, losses, counters, padding,
// batches and serving. T1 to T13 are in variant_oracle_test.cc.
#include "hawser/testing/variant_oracle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hawser::testing {
namespace {

/// Documents whose tokens stand nowhere else, and the model with an embedding apart from its head.
struct GradientCase {
  const Texts texts = {{3, 4, 5, 6}, {10, 11, 12, 13, 14}, {20, 21, 22, 23, 24, 25, 26, 27, 28}};
  ModelSpec spec = TinySpec({.vocab = kVocab, .layers = 2, .context = 256, .tie = false});
  ParamStore params = LoudModel(spec, 8);

  std::vector<float> Gradients(Backend* backend, const Batch& batch) const {
    Decoder decoder(backend, &params);
    ParamStore grads(spec, DType::kF32);
    decoder.ForwardBackward(batch, 1.0f, Recompute::kNone, &grads);
    const float* g = grads.arena().Row<float>(0);
    return {g, g + grads.size()};
  }
  const float* EmbeddingRow(const std::vector<float>& grads, int32_t id) const {
    const ParamInfo& info = params.layout().Find(Role::kEmbedding, -1);
    return grads.data() + info.offset + id * info.cols;
  }
  double Norm(const std::vector<float>& grads, int32_t id) const {
    const float* row = EmbeddingRow(grads, id);
    return std::sqrt(std::inner_product(row, row + spec.width, row, 0.0));
  }
};

TEST_F(VariantOracle, T14_TheAnchorsGradientIsTheSumOverDocumentsAndOverCopies) {
  GradientCase c;
  const PackedSequence shared = Pack(c.texts, "anchor");
  const PackedSequence copies = AtAnchorPositions(Pack(c.texts, "multi-bos"), shared);
  const LayeredPattern anchor = ParseVariant("anchor").pattern, intra = ParseVariant("multi-bos").pattern;
  const Batch whole = MakeBatch({{shared}}, anchor);
  const std::vector<float> sum = c.Gradients(backend_.get(), whole);
  std::vector<double> parts(c.spec.width, 0.0);
  for (const auto& rows : Rows(shared)) {
    Batch part = whole;
    for (int32_t t = 0; t < static_cast<int32_t>(part.ids.size()); ++t) {
      if (t < rows.first || t >= rows.second) part.weights[t] = 0.0f;
    }
    const std::vector<float> grads = c.Gradients(backend_.get(), part);
    EXPECT_GT(c.Norm(grads, kBos), 1e-3);
    for (int32_t i = 0; i < c.spec.width; ++i) parts[i] += c.EmbeddingRow(grads, kBos)[i];
  }
  for (int32_t i = 0; i < c.spec.width; ++i) EXPECT_NEAR(c.EmbeddingRow(sum, kBos)[i], parts[i], 1e-4);
  // Copies, each with its own gradient, add up to the same for this and every other parameter.
  const std::vector<float> many = c.Gradients(backend_.get(), MakeBatch({{copies}}, intra));
  for (size_t i = 0; i < sum.size(); ++i) ASSERT_NEAR(many[i], sum[i], 2e-4 * (1 + std::abs(sum[i]))) << i;

  // The twin by central differences: shared and copied anchor alike, and the kernels too.
  ReferenceModel twin(c.params);
  const auto loss = [&](const PackedSequence& s, const LayeredPattern& pattern) {
    const ReferenceModel::Output out = twin.Forward(s.ids, s.positions, s.layout, pattern);
    double total = 0;
    for (size_t t = 0; t < s.ids.size(); ++t) {
      if (s.targets[t] >= 0) total += s.weights[t] * ReferenceModel::Nll(out.logits[t], s.targets[t]);
    }
    return total;
  };
  const ParamInfo& embedding = c.params.layout().Find(Role::kEmbedding, -1);
  for (int32_t i = 0; i < c.spec.width; i += 5) {
    double& w = twin.arena()[embedding.offset + kBos * embedding.cols + i];
    const auto difference = [&](const PackedSequence& s, const LayeredPattern& pattern) {
      const double kept = w, step = 1e-5;
      w = kept + step;
      const double up = loss(s, pattern);
      w = kept - step;
      const double down = loss(s, pattern);
      w = kept;
      return (up - down) / (2 * step);
    };
    const double one = difference(shared, anchor);
    EXPECT_NEAR(difference(copies, intra), one, 1e-6);
    EXPECT_NEAR(c.EmbeddingRow(sum, kBos)[i], one, 2e-4 * (1 + std::abs(one)));
  }
}

TEST_F(VariantOracle, T15_T16_GradientsOfDocumentsReachTheAnchorAndNoOtherDocument) {
  const GradientCase c;
  for (const char* variant : kVariants) {
    if (!IsDocumentScope(variant)) continue;
    const AttnVariant v = ParseVariant(variant);
    const PackedSequence packed = Pack(c.texts, variant);
    const auto rows = Rows(packed);
    for (size_t d = 0; d < c.texts.size(); ++d) {
      Batch batch = MakeBatch({{packed}}, v.pattern);
      for (int32_t t = 0; t < static_cast<int32_t>(batch.ids.size()); ++t) {
        if (t < rows[d].first || t >= rows[d].second) batch.weights[t] = 0.0f;
      }
      const std::vector<float> grads = c.Gradients(backend_.get(), batch);
      for (size_t e = 0; e < c.texts.size(); ++e) {
        for (const int32_t id : c.texts[e]) {
          const bool asked = d == e && id != c.texts[e].back();  // the last token has no target
          EXPECT_EQ(c.Norm(grads, id) > 0, asked) << variant << " " << id;
        }
      }
      EXPECT_GT(c.Norm(grads, kBos), 0.0) << variant;  // though no loss stands on the anchor
    }
  }
}

TEST_F(VariantOracle, T17_LossIsTheSumOfSeparateRuns) {
  const auto score = [&](const PackedSequence& s, const LayeredPattern& pattern) {
    std::vector<float> nll(s.ids.size());
    return decoder_.Score(MakeBatch({{s}}, pattern), nll.data());
  };
  for (const char* variant : kVariants) {
    if (!IsDocumentScope(variant)) continue;
    const AttnVariant v = ParseVariant(variant);
    const PackedSequence packed = Pack(texts_, variant);
    const StepStats whole = score(packed, v.pattern);
    double at_packed = 0, natural = 0, weight = 0;
    for (size_t d = 0; d < texts_.size(); ++d) {
      const StepStats one = score(Alone(packed, v.pattern.anchors, Rows(packed)[d]), v.pattern);
      at_packed += one.loss;
      weight += one.weight;
      natural += score(Pack({texts_[d]}, variant), v.pattern).loss;
    }
    EXPECT_EQ(whole.weight, weight) << variant;
    EXPECT_NEAR(whole.loss, at_packed, 1e-5 * whole.loss) << variant;
    if (v.reset_positions) {
      EXPECT_NEAR(whole.loss, natural, 1e-5 * whole.loss) << variant;
    }
    double twin = 0;
    const ReferenceModel::Output out = twin_.Forward(packed.ids, packed.positions, packed.layout, v.pattern);
    for (size_t t = 0; t < packed.ids.size(); ++t) {
      if (packed.targets[t] >= 0) twin += packed.weights[t] * ReferenceModel::Nll(out.logits[t], packed.targets[t]);
    }
    EXPECT_NEAR(whole.loss, twin, 1e-4 * twin) << variant;
  }
}

TEST_F(VariantOracle, T18_PairCountersAreTheFormulas) {
  Rng rng{.seed = 4, .stream = 18};
  for (int i = 0; i < 25; ++i) {
    std::vector<int32_t> lengths(i % 5 == 0 ? 1 : 1 + rng.Below(6));  // N = 1: the document is the whole context
    for (int32_t& n : lengths) n = static_cast<int32_t>(rng.Below(3) == 0 ? 1 + rng.Below(2) : 1 + rng.Below(70));
    const Texts texts = RandomTexts(lengths, static_cast<uint64_t>(i));
    for (const char* variant : kVariants) {
      const AttnVariant v = ParseVariant(variant);
      const PackedSequence packed = Pack(texts, variant);
      const auto length = static_cast<int64_t>(packed.ids.size());
      const int64_t want = PairsByFormula(packed, variant);
      std::vector<float> nll(packed.ids.size());
      const StepStats stats = decoder_.Score(MakeBatch({{packed}}, v.pattern), nll.data());
      EXPECT_EQ(stats.visible_pairs, want) << variant;
      EXPECT_EQ(stats.causal_pairs, length * (length + 1) / 2) << variant;
    }
  }
}

TEST_F(VariantOracle, T19_PaddingIsInertAndEveryOtherRowSeesItself) {
  for (const char* variant : kVariants) {
    const LayeredPattern pattern = ParseVariant(variant).pattern;
    const PackedSequence plain = Pack(texts_, variant), padded = Pack(texts_, variant, 7);
    const size_t n = plain.ids.size();
    ASSERT_EQ(padded.ids.size(), n + 7);
    for (int32_t q = 0; q < padded.layout.size; ++q) {
      EXPECT_EQ(Visible(pattern.OfLayer(0, spec_.layers), padded.layout, q, q), q < static_cast<int32_t>(n)) << variant;
    }
    std::vector<float> nll(n), with(n + 7);
    decoder_.Score(MakeBatch({{plain}}, pattern), nll.data());
    decoder_.Score(MakeBatch({{padded}}, pattern), with.data());
    for (size_t t = 0; t < n; ++t) EXPECT_NEAR(with[t], nll[t], 1e-5 * (1 + nll[t])) << variant;
    for (size_t t = n; t < n + 7; ++t) EXPECT_EQ(with[t], 0.0f) << variant;
    ParamStore a(spec_, DType::kF32), b(spec_, DType::kF32);
    decoder_.ForwardBackward(MakeBatch({{plain}}, pattern), 1.0f, Recompute::kNone, &a);
    decoder_.ForwardBackward(MakeBatch({{padded}}, pattern), 1.0f, Recompute::kNone, &b);
    for (int64_t i = 0; i < a.size(); ++i) {
      ASSERT_NEAR(a.arena().Row<float>(0)[i], b.arena().Row<float>(0)[i], 1e-4) << variant << " " << i;
    }
  }
}

TEST_F(VariantOracle, T20_TheFirstDocumentDoesNotCountTheAnchorTwice) {
  // The twin has no anchor piece to fold.
  const ParamStore flat = WithoutKeys(LoudModel(spec_, 5));
  Decoder decoder(backend_.get(), &flat);
  const ReferenceModel twin(flat);
  const PackedSequence packed = Pack(texts_, "anchor");
  const LayeredPattern pattern = ParseVariant("anchor").pattern;
  const Values got = Kernels(&decoder, packed, pattern);
  const ReferenceModel::Output want = twin.Forward(packed.ids, packed.positions, packed.layout, pattern);
  for (size_t t = 0; t < got.size(); ++t) {
    EXPECT_NEAR(got[t], ReferenceModel::Nll(want.logits[t], TargetOf(packed.ids[t])), 2e-4) << t;
  }
}

TEST_F(VariantOracle, T21_ScoringGivesTheLossOfTraining) { ExpectScoringGivesTheLossOfTraining(&decoder_); }

TEST_F(VariantOracle, T23_BatchRowsEqualRowsRunSingly) {
  for (const char* variant : kVariants) {
    const auto [together, alone] = TogetherAndAlone(&decoder_, variant);
    ASSERT_EQ(together.size(), alone.size());
    for (size_t t = 0; t < alone.size(); ++t) {
      EXPECT_NEAR(together[t], alone[t], 1e-5 * std::max(1.0, alone[t])) << variant;
    }
  }
}

TEST_F(VariantOracle, T26_ServingEqualsTrainingWithResetAndTheFirstDocumentOtherwise) {
  for (const char* variant : {"anchor-reset", "intra-reset", "anchor", "multi-bos"}) {
    const Values trained = Nll(Engines()[1], texts_, variant);
    for (size_t d = 0; d < texts_.size(); ++d) {
      const double difference = ServedApartFrom(trained, variant, d, &decoder_, DType::kF32);
      if (d == 0 || ParseVariant(variant).reset_positions) {
        EXPECT_LE(difference, 2e-4) << variant << " document " << d;
      } else if (d == 2) {
        EXPECT_GT(difference, kVisible) << variant;
      }
    }
  }
}

}  // namespace
}  // namespace hawser::testing
