// The oracles T1 to T26 of AnchorAttention and its variants (arXiv:2411.13476), each on the f64 twin and on the
// kernels, over sequences as the packer makes them. T18 on random layouts is in attn/schedule_test.cc, T15 and T20 of
// the attention op in cpu/attention_test.cc, T24 in pos/scheme_test.cc and cpu/layers_test.cc, T25 in
// data/packer_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "hawser/base/rng.h"
#include "hawser/data/packer.h"
#include "hawser/device/registry.h"
#include "hawser/model/decoder.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/trainer.h"

namespace hawser {
namespace {

using testing::ReferenceModel;
using Texts = std::vector<std::vector<int32_t>>;

constexpr int32_t kBos = 1, kTagId = 2, kVocab = 64;
constexpr const char* kVariants[] = {"full",      "intra",         "intra-reset",       "intra-tag",
                                     "anchor",    "anchor-reset",  "anchor-tag",        "intra-interleaved",
                                     "multi-bos", "multi-bos-tag", "anchor-interleaved"};

bool IsDocumentScope(const char* variant) { return ParseVariant(variant).pattern.scope == Scope::kDocument; }

/// Every text once, in order, packed into one sequence; `padding` tokens after it.
PackedSequence Pack(const Texts& texts, const AttnVariant& variant, int32_t padding = 0) {
  PackOptions options{.variant = variant, .bos = kBos, .min_document = 0};
  options.anchor.assign(variant.multi_bos ? 1 : static_cast<size_t>(variant.pattern.anchors), kBos);
  options.length = padding + variant.pattern.anchors;
  for (const auto& text : texts) {
    options.length += static_cast<int32_t>(text.size()) + (variant.pattern.anchors == 0) + 2 * variant.tags;
  }
  Packer packer(options, 3);
  for (size_t d = 0; d < texts.size(); ++d) {
    packer.Add({.id = static_cast<int64_t>(d), .tokens = texts[d], .tag = {kTagId, kTagId}});
  }
  packer.Finish();
  PackedSequence sequence;
  EXPECT_TRUE(packer.Next(&sequence));
  EXPECT_EQ(packer.counts().sequences, 1);
  return sequence;
}
PackedSequence Pack(const Texts& texts, const char* variant, int32_t padding = 0) {
  return Pack(texts, ParseVariant(variant), padding);
}

/// Rows [begin, end) of each document, its chunks together.
std::vector<std::pair<int32_t, int32_t>> Rows(const PackedSequence& s) {
  std::vector<std::pair<int32_t, int32_t>> rows;
  for (const Segment& segment : s.segments) {
    if (segment.document < 0) continue;
    if (segment.chunk == 0) rows.emplace_back(segment.begin, segment.begin);
    rows.back().second = segment.begin + segment.length;
  }
  return rows;
}

/// The anchor, if the sequence has one, and rows [begin, end) at the positions they have in `s`.
PackedSequence Alone(const PackedSequence& s, int32_t anchors, std::pair<int32_t, int32_t> rows) {
  PackedSequence out;
  const auto take = [&](const auto& from, auto& to) {
    to.assign(from.begin(), from.begin() + anchors);
    to.insert(to.end(), from.begin() + rows.first, from.begin() + rows.second);
  };
  take(s.ids, out.ids);
  take(s.positions, out.positions);
  take(s.targets, out.targets);
  take(s.weights, out.weights);
  out.layout = MakeLayout(anchors, {rows.second - rows.first});
  return out;
}

class VariantOracle : public ::testing::Test {
 protected:
  using Values = std::vector<double>;
  struct Engine {
    std::string name;
    std::function<Values(const PackedSequence&, const AttnPattern&)> nll;  // of TargetOf(id), a row
    double tolerance;
  };

  /// What is asked of a row depends on its token alone, so that it moves with it.
  static int32_t TargetOf(int32_t id) { return (id * 7 + 3) % kVocab; }

  static Batch Asked(const std::vector<PackedSequence>& sequences, const AttnPattern& pattern) {
    Batch batch = MakeBatch(sequences, pattern);
    for (size_t t = 0; t < batch.ids.size(); ++t) {
      batch.targets[t] = TargetOf(batch.ids[t]);
      batch.weights[t] = 1.0f;
    }
    return batch;
  }
  Values Kernels(Decoder* decoder, const PackedSequence& s, const AttnPattern& pattern) {
    std::vector<float> nll(s.ids.size());
    decoder->Score(Asked({s}, pattern), nll.data());
    return {nll.begin(), nll.end()};
  }
  std::vector<Engine> Engines() {
    return {{"kernels", [this](const auto& s, const auto& p) { return Kernels(&decoder_, s, p); }, 2e-4},
            {"twin",
             [this](const auto& s, const auto& p) {
               const ReferenceModel::Output out = twin_.Forward(s.ids, s.positions, s.layout, p);
               Values nll;
               for (size_t t = 0; t < s.ids.size(); ++t) {
                 nll.push_back(ReferenceModel::Nll(out.logits[t], TargetOf(s.ids[t])));
               }
               return nll;
             },
             1e-9}};
  }
  Values Nll(const Engine& engine, const Texts& texts, const char* variant) {
    return engine.nll(Pack(texts, variant), ParseVariant(variant).pattern);
  }

  static double MaxDiff(const Values& a, const Values& b, int32_t a0, int32_t b0, int32_t n) {
    double worst = 0;
    for (int32_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(a.at(a0 + i) - b.at(b0 + i)));
    return worst;
  }

  static Texts RandomTexts(const std::vector<int32_t>& lengths, uint64_t seed) {
    Rng rng{seed, 1};
    Texts texts;
    for (const int32_t n : lengths) {
      texts.emplace_back();
      for (int32_t t = 0; t < n; ++t) texts.back().push_back(static_cast<int32_t>(3 + rng.Below(kVocab - 3)));
    }
    return texts;
  }

  ModelSpec spec_ = TinySpec({.vocab = kVocab, .layers = 3, .context = 256, .tie = true});
  ParamStore params_ = LoudModel(spec_, 5);
  ReferenceModel twin_{params_};
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
  const Texts texts_ = RandomTexts({18, 1, 29, 16}, 1);
  // What a visible change looks like: far above the tolerance of either engine.
  static constexpr double kVisible = 0.02;
};

TEST_F(VariantOracle, T1_PackedEqualsSeparateRunsAtThePackedPositions) {
  for (const char* variant : kVariants) {
    if (!IsDocumentScope(variant)) continue;
    const AttnPattern pattern = ParseVariant(variant).pattern;
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
  const AttnPattern pattern = ParseVariant("intra").pattern;
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

/// A multi-bos sequence whose text stands where it stands behind a shared anchor.
PackedSequence AtAnchorPositions(PackedSequence copies, const PackedSequence& shared) {
  size_t from = 1;
  for (const Segment& segment : copies.segments) {
    for (int32_t t = segment.bos_tokens; t < segment.length; ++t) {
      copies.positions[segment.begin + t] = shared.positions[from++];
    }
  }
  return copies;
}

TEST_F(VariantOracle, T6_CopiesOfTheAnchorEqualOneAtEqualPositions) {
  const PackedSequence shared = Pack(texts_, "anchor"), copies = AtAnchorPositions(Pack(texts_, "multi-bos"), shared);
  const AttnPattern anchor = ParseVariant("anchor").pattern, intra = ParseVariant("multi-bos").pattern;
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
    PackedSequence all = packed, others = packed;
    for (const Segment& segment : packed.segments) {
      for (int32_t t = 0; t < segment.length; ++t) {
        const bool anchor = segment.document == Segment::kAnchor || (v.multi_bos && t < segment.bos_tokens);
        all.positions[segment.begin + t] += 1000;
        others.positions[segment.begin + t] += anchor ? 0 : 1000;
      }
    }
    const auto n = static_cast<int32_t>(packed.ids.size());
    for (const Engine& engine : Engines()) {
      // The phases of the twin are f64 products with positions.
      const double tolerance = std::max(engine.tolerance, 1e-8);
      const Values base = engine.nll(packed, v.pattern);
      EXPECT_LE(MaxDiff(base, engine.nll(all, v.pattern), 0, 0, n), tolerance) << variant << " " << engine.name;
      const double moved = MaxDiff(base, engine.nll(others, v.pattern), 0, 0, n);
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
    const AttnPattern pattern = ParseVariant(variant).pattern;
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
    const AttnPattern pattern = ParseVariant(variant).pattern;
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
  const AttnPattern anchor = ParseVariant("anchor").pattern, intra = ParseVariant("multi-bos").pattern;
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
  const auto loss = [&](const PackedSequence& s, const AttnPattern& pattern) {
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
    const auto difference = [&](const PackedSequence& s, const AttnPattern& pattern) {
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
  const auto score = [&](const PackedSequence& s, const AttnPattern& pattern) {
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
      int64_t want = length * (length + 1) / 2;
      if (IsDocumentScope(variant)) {
        want = v.pattern.anchors > 0 ? length : 0;
        for (const auto& [begin, end] : Rows(packed)) want += int64_t{end - begin} * (end - begin + 1) / 2;
      }
      std::vector<float> nll(packed.ids.size());
      const StepStats stats = decoder_.Score(MakeBatch({{packed}}, v.pattern), nll.data());
      EXPECT_EQ(stats.visible_pairs, want) << variant;
      EXPECT_EQ(stats.causal_pairs, length * (length + 1) / 2) << variant;
    }
  }
}

TEST_F(VariantOracle, T19_PaddingIsInertAndEveryOtherRowSeesItself) {
  for (const char* variant : kVariants) {
    const AttnPattern pattern = ParseVariant(variant).pattern;
    const PackedSequence plain = Pack(texts_, variant), padded = Pack(texts_, variant, 7);
    const size_t n = plain.ids.size();
    ASSERT_EQ(padded.ids.size(), n + 7);
    for (int32_t q = 0; q < padded.layout.size; ++q) {
      EXPECT_EQ(Visible(pattern, padded.layout, q, q), q < static_cast<int32_t>(n)) << variant;
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
  // With all weights of keys zero a row is the mean of the values that it sees: the twin has no anchor piece to fold.
  ParamStore flat = LoudModel(spec_, 5);
  for (const ParamInfo& info : flat.layout().params()) {
    if (info.role != Role::kKey) continue;
    const Mat w = flat.Get(info.role, info.layer);
    std::fill_n(w.Row<float>(0), w.rows * w.cols, 0.0f);
  }
  Decoder decoder(backend_.get(), &flat);
  const ReferenceModel twin(flat);
  const PackedSequence packed = Pack(texts_, "anchor");
  const AttnPattern pattern = ParseVariant("anchor").pattern;
  const Values got = Kernels(&decoder, packed, pattern);
  const ReferenceModel::Output want = twin.Forward(packed.ids, packed.positions, packed.layout, pattern);
  for (size_t t = 0; t < got.size(); ++t) {
    EXPECT_NEAR(got[t], ReferenceModel::Nll(want.logits[t], TargetOf(packed.ids[t])), 2e-4) << t;
  }
}

TEST_F(VariantOracle, T21_ScoringGivesTheLossOfTraining) {
  for (const char* variant : kVariants) {
    const Batch batch = MakeBatch({{Pack(texts_, variant)}}, ParseVariant(variant).pattern);
    std::vector<float> nll(batch.ids.size());
    const StepStats scored = decoder_.Score(batch, nll.data());
    for (const Recompute recompute : {Recompute::kNone, Recompute::kLayer}) {
      ParamStore grads(spec_, DType::kF32);
      EXPECT_EQ(scored.loss, decoder_.ForwardBackward(batch, 1.0f, recompute, &grads).loss) << variant;
    }
  }
}

TEST_F(VariantOracle, T23_BatchRowsEqualRowsRunSingly) {
  for (const char* variant : kVariants) {
    const AttnPattern pattern = ParseVariant(variant).pattern;
    const std::vector<PackedSequence> rows = {Pack(texts_, variant), Pack({texts_[3], texts_[2]}, variant, 5),
                                              Pack({texts_[1]}, variant)};
    const Batch batch = MakeBatch(rows, pattern);
    std::vector<float> together(batch.ids.size());
    decoder_.Score(batch, together.data());
    size_t at = 0;
    for (const PackedSequence& row : rows) {
      std::vector<float> nll(row.ids.size());
      decoder_.Score(MakeBatch({{row}}, pattern), nll.data());
      for (const float value : nll) EXPECT_NEAR(together[at++], value, 1e-5 * std::max(1.0f, value)) << variant;
    }
  }
}

TEST_F(VariantOracle, T26_ServingEqualsTrainingWithResetAndTheFirstDocumentOtherwise) {
  for (const char* variant : {"anchor-reset", "intra-reset", "anchor", "multi-bos"}) {
    const PackedSequence packed = Pack(texts_, variant);
    const Values trained = Nll(Engines()[1], texts_, variant);
    const int32_t own_bos = ParseVariant(variant).pattern.anchors == 0;
    const auto rows = Rows(packed);
    Matrix logits(1, spec_.vocab);
    for (size_t d = 0; d < texts_.size(); ++d) {
      KvCache cache(backend_.get(), spec_, ParseKvForm("full"), {}, DType::kF32, spec_.context);
      decoder_.Extend(std::vector<int32_t>{kBos}, &cache, {});
      double difference = 0;
      for (size_t t = 0; t < texts_[d].size(); ++t) {
        const int32_t id = texts_[d][t];
        decoder_.Extend({&id, 1}, &cache, logits.view());
        const float* l = logits.Row<float>(0);
        const double served = ReferenceModel::Nll({l, l + spec_.vocab}, TargetOf(id));
        difference =
            std::max(difference, std::abs(served - trained[rows[d].first + own_bos + static_cast<int32_t>(t)]));
      }
      if (d == 0 || ParseVariant(variant).reset_positions) {
        EXPECT_LE(difference, 2e-4) << variant << " document " << d;
      } else if (d == 2) {
        EXPECT_GT(difference, kVisible) << variant;
      }
    }
  }
}

}  // namespace
}  // namespace hawser
