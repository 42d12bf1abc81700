// T14 to T26 of AnchorAttention (arXiv:2411.13476) as in variant_training_test.cc, in bf16.
#include "hawser/testing/variant_oracle_bf16.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hawser::testing {
namespace {

using Values = std::vector<double>;

/// Documents whose tokens stand nowhere else, and the model with an embedding apart from its head.
struct GradientCase {
  static constexpr int kLayers = 2;
  // Tensors in bf16 on the way back: 3 behind the loss, 11 a layer; and forward: 14 a layer and the last norm.
  static constexpr int64_t kBackward = 3 + 11 * kLayers, kBoth = kBackward + 1 + 14 * kLayers;

  const Texts texts = {{3, 4, 5, 6}, {10, 11, 12, 13, 14}, {20, 21, 22, 23, 24, 25, 26, 27, 28}};
  ModelSpec spec = TinySpec({.vocab = kVocab, .layers = kLayers, .context = 256, .tie = false});
  ParamStore params = Cast(LoudModel(spec, 8), DType::kBF16);

  Values Gradients(Backend* backend, const Batch& batch) const {
    Decoder decoder(backend, &params);
    ParamStore grads(spec, DType::kF32);
    decoder.ForwardBackward(batch, 1.0f, Recompute::kNone, &grads);
    const float* g = grads.arena().Row<float>(0);
    return {g, g + grads.size()};
  }
  /// Gradient of the loss on `rows` alone.
  Values Of(Backend* backend, Batch batch, std::pair<int32_t, int32_t> rows) const {
    for (int32_t t = 0; t < static_cast<int32_t>(batch.ids.size()); ++t) {
      if (t < rows.first || t >= rows.second) batch.weights[static_cast<size_t>(t)] = 0.0f;
    }
    return Gradients(backend, batch);
  }
  Values Embedding(const Values& grads, int32_t id) const {
    const ParamInfo& info = params.layout().Find(Role::kEmbedding, -1);
    const auto begin = grads.begin() + info.offset + id * info.cols;
    return {begin, begin + info.cols};
  }
};

double Norm(const Values& v) { return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0)); }
double Distance(Values a, const Values& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return Norm(a);
}

TEST_F(VariantOracleBf16, T14_TheAnchorsGradientIsTheSumOverDocumentsAndOverCopies) {
  const GradientCase c;
  const PackedSequence shared = Pack(c.texts, "anchor");
  const PackedSequence copies = AtAnchorPositions(Pack(c.texts, "multi-bos"), shared);
  const Batch whole = MakeBatch({&shared, 1}, ParseVariant("anchor").pattern);
  const Values sum = c.Gradients(backend_.get(), whole);
  Values parts(sum.size());
  double size = 0, anchor_size = 0;
  for (const auto& rows : Rows(shared)) {
    const Values part = c.Of(backend_.get(), whole, rows);
    EXPECT_GT(Norm(c.Embedding(part, kBos)), 1e-3);
    for (size_t i = 0; i < parts.size(); ++i) parts[i] += part[i];
    size += Norm(part);
    anchor_size += Norm(c.Embedding(part, kBos));
  }
  const auto limit = [](int64_t stored, double of) { return GradientTolerance(DType::kBF16, stored, kVocab, of); };
  EXPECT_LE(Distance(c.Embedding(sum, kBos), c.Embedding(parts, kBos)), limit(c.kBackward, anchor_size));
  EXPECT_LE(Distance(sum, parts), limit(c.kBackward, size));
  const Values many = c.Gradients(backend_.get(), MakeBatch({&copies, 1}, ParseVariant("multi-bos").pattern));
  EXPECT_LE(Distance(c.Embedding(sum, kBos), c.Embedding(many, kBos)), limit(c.kBoth, anchor_size));
  EXPECT_LE(Distance(sum, many), limit(c.kBoth, size));
}

TEST_F(VariantOracleBf16, T15_T16_GradientsOfDocumentsReachTheAnchorAndNoOtherDocument) {
  const GradientCase c;
  for (const char* variant : kVariants) {
    if (!IsDocumentScope(variant)) continue;
    const PackedSequence packed = Pack(c.texts, variant);
    const auto rows = Rows(packed);
    for (size_t d = 0; d < c.texts.size(); ++d) {
      const Values grads = c.Of(backend_.get(), MakeBatch({&packed, 1}, ParseVariant(variant).pattern), rows[d]);
      for (size_t e = 0; e < c.texts.size(); ++e) {
        for (const int32_t id : c.texts[e]) {
          const bool asked = d == e && id != c.texts[e].back();  // the last token has no target
          EXPECT_EQ(Norm(c.Embedding(grads, id)) > 0, asked) << variant << " " << id;
        }
      }
      EXPECT_GT(Norm(c.Embedding(grads, kBos)), 0.0) << variant;
    }
  }
}

TEST_F(VariantOracleBf16, T17_LossIsTheSumOfSeparateRuns) {
  const auto score = [&](const PackedSequence& s, const char* variant) {
    std::vector<float> nll(s.ids.size());
    return low_decoder_.Score(MakeBatch({&s, 1}, ParseVariant(variant).pattern), nll.data());
  };
  for (const char* variant : kVariants) {
    if (!IsDocumentScope(variant)) continue;
    const AttnVariant v = ParseVariant(variant);
    const PackedSequence packed = Pack(texts_, variant);
    const StepStats whole = score(packed, variant);
    double at_packed = 0, natural = 0, weight = 0;
    for (size_t d = 0; d < texts_.size(); ++d) {
      const StepStats one = score(Alone(packed, v.pattern.anchors, Rows(packed)[d]), variant);
      at_packed += one.loss;
      weight += one.weight;
      natural += score(Pack({texts_[d]}, variant), variant).loss;
    }
    EXPECT_EQ(whole.weight, weight) << variant;
    const double tolerance = Apart() * std::sqrt(weight);  // rows err independently
    EXPECT_NEAR(whole.loss, at_packed, tolerance) << variant;
    if (v.reset_positions) {
      EXPECT_NEAR(whole.loss, natural, tolerance) << variant;
    }
  }
}

TEST_F(VariantOracleBf16, T18_PairCountersAreTheFormulas) {
  Rng rng{.seed = 4, .stream = 18};
  for (int i = 0; i < 5; ++i) {
    std::vector<int32_t> lengths(i == 0 ? 1 : 1 + rng.Below(6));
    for (int32_t& n : lengths) n = static_cast<int32_t>(rng.Below(3) == 0 ? 1 + rng.Below(2) : 1 + rng.Below(70));
    for (const char* variant : kVariants) {
      const AttnVariant v = ParseVariant(variant);
      const PackedSequence packed = Pack(RandomTexts(lengths, static_cast<uint64_t>(i)), variant);
      const int64_t want = PairsByFormula(packed, variant);
      std::vector<float> nll(packed.ids.size());
      EXPECT_EQ(low_decoder_.Score(MakeBatch({&packed, 1}, v.pattern), nll.data()).visible_pairs, want) << variant;
    }
  }
}

TEST_F(VariantOracleBf16, T19_PaddingIsInert) {
  const GradientCase c;
  for (const char* variant : kVariants) {
    const LayeredPattern pattern = ParseVariant(variant).pattern;
    const PackedSequence plain = Pack(texts_, variant), padded = Pack(texts_, variant, 7);
    const size_t n = plain.ids.size();
    std::vector<float> nll(n), with(n + 7);
    low_decoder_.Score(MakeBatch({&plain, 1}, pattern), nll.data());
    low_decoder_.Score(MakeBatch({&padded, 1}, pattern), with.data());
    for (size_t t = 0; t < n; ++t) EXPECT_NEAR(with[t], nll[t], Apart()) << variant;
    for (size_t t = n; t < n + 7; ++t) EXPECT_EQ(with[t], 0.0f) << variant;
    const PackedSequence a = Pack(c.texts, variant), b = Pack(c.texts, variant, 7);
    const Values grads = c.Gradients(backend_.get(), MakeBatch({&a, 1}, pattern));
    EXPECT_LE(Distance(grads, c.Gradients(backend_.get(), MakeBatch({&b, 1}, pattern))),
              GradientTolerance(DType::kBF16, c.kBoth, kVocab, Norm(grads)))
        << variant;
  }
}

TEST_F(VariantOracleBf16, T20_TheFirstDocumentDoesNotCountTheAnchorTwice) {
  const ParamStore flat = WithoutKeys(ExactParams());
  const ParamStore low = Cast(flat, DType::kBF16);
  Decoder decoder(backend_.get(), &low);
  const ReferenceModel twin(flat);
  const PackedSequence packed = Pack(texts_, "anchor");
  EXPECT_LE(MaxDiff(Kernels(&decoder, packed, ParseVariant("anchor").pattern), Twin(twin, packed, "anchor")),
            Tolerance());
}

TEST_F(VariantOracleBf16, T21_ScoringGivesTheLossOfTraining) { ExpectScoringGivesTheLossOfTraining(&low_decoder_); }

// Parts of a batch with unequal weights, one after the other instead of on ranks beside one another.
TEST_F(VariantOracleBf16, T22_PartsOfABatchAddUpToIt) {
  const GradientCase c;
  for (const char* variant : kVariants) {
    const LayeredPattern pattern = ParseVariant(variant).pattern;
    std::vector<PackedSequence> sequences = {Pack(c.texts, variant), Pack({c.texts[2]}, variant, 3),
                                             Pack({c.texts[1], c.texts[0]}, variant)};
    std::fill(sequences[0].weights.begin(), sequences[0].weights.begin() + 6, 0.0f);
    const Values whole = c.Gradients(backend_.get(), MakeBatch(sequences, pattern));
    Values parts(whole.size());
    double size = 0;
    for (const PackedSequence& s : sequences) {
      const Values part = c.Gradients(backend_.get(), MakeBatch({&s, 1}, pattern));
      for (size_t i = 0; i < parts.size(); ++i) parts[i] += part[i];
      size += Norm(part);
    }
    EXPECT_LE(Distance(whole, parts), GradientTolerance(DType::kBF16, c.kBoth, kVocab, size)) << variant;
  }
}

TEST_F(VariantOracleBf16, T23_BatchRowsEqualRowsRunSingly) {
  for (const char* variant : kVariants) {
    const auto [together, alone] = TogetherAndAlone(&low_decoder_, variant);
    EXPECT_LE(MaxDiff(together, alone), Apart()) << variant;
  }
}

TEST_F(VariantOracleBf16, T26_ServingEqualsTrainingWithResetAndTheFirstDocumentOtherwise) {
  for (const char* variant : {"anchor-reset", "intra-reset", "anchor", "multi-bos"}) {
    const Values trained = Low(texts_, variant);
    for (size_t d = 0; d < texts_.size(); ++d) {
      const double difference = ServedApartFrom(trained, variant, d, &low_decoder_, DType::kBF16);
      if (d == 0 || ParseVariant(variant).reset_positions) {
        EXPECT_LE(difference, Apart()) << variant << " document " << d;
      } else if (d == 2) {
        EXPECT_GT(difference, Apart()) << variant;
      }
    }
  }
}

}  // namespace
}  // namespace hawser::testing
