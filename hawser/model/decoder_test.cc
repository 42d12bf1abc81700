// The decoder against its naive f64 twin, finite differences, and the properties of document masks that hold (and those
// that must not) for AnchorAttention, intra-document attention and their position variants (arXiv:2411.13476).
#include "hawser/model/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>

#include "hawser/attn/variant.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

using testing::ReferenceModel;

std::vector<int32_t> RandomIds(int32_t n, int32_t vocab, uint64_t seed) {
  Rng rng{seed, 1};
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(vocab)));
  return ids;
}

/// What is asked of each row: depends on its token alone, so that it moves with it.
int32_t TargetOf(int32_t id, int32_t vocab) { return (id * 7 + 3) % vocab; }

struct Packed {
  std::vector<int32_t> ids;
  std::vector<int64_t> positions;
  TokenLayout layout;
  AttnPattern pattern;
};

std::vector<int64_t> Iota(int64_t n, int64_t from = 0) {
  std::vector<int64_t> v(static_cast<size_t>(n));
  std::iota(v.begin(), v.end(), from);
  return v;
}

/// Documents after `prefix` anchor tokens (id 1), with continuous or reset positions.
Packed Pack(const std::vector<std::vector<int32_t>>& documents, std::string_view variant_text) {
  const AttnVariant variant = ParseVariant(variant_text);
  const int32_t prefix = variant.pattern.anchors;
  Packed packed;
  packed.pattern = variant.pattern;
  std::vector<int32_t> lengths;
  packed.ids.assign(static_cast<size_t>(prefix), 1);
  packed.positions = Iota(prefix);
  for (const std::vector<int32_t>& document : documents) {
    lengths.push_back(static_cast<int32_t>(document.size()));
    const int64_t from = variant.reset_positions ? prefix : static_cast<int64_t>(packed.ids.size());
    for (size_t t = 0; t < document.size(); ++t) packed.positions.push_back(from + static_cast<int64_t>(t));
    packed.ids.insert(packed.ids.end(), document.begin(), document.end());
  }
  packed.layout = MakeLayout(prefix, lengths);
  return packed;
}

Batch MakeBatch(const std::vector<Packed>& sequences, int32_t vocab) {
  Batch batch;
  for (const Packed& p : sequences) {
    batch.sequences.push_back({batch.rows(), p.layout});
    batch.pattern = p.pattern;
    batch.ids.insert(batch.ids.end(), p.ids.begin(), p.ids.end());
    batch.positions.insert(batch.positions.end(), p.positions.begin(), p.positions.end());
    for (int32_t id : p.ids) batch.targets.push_back(TargetOf(id, vocab));
  }
  batch.weights.assign(batch.ids.size(), 1.0f);
  return batch;
}

class DecoderTest : public ::testing::Test {
 protected:
  DecoderTest() : spec_(TinySpec({.tie = true})), params_(LoudModel(spec_, 5)), twin_(params_) {}

  /// One engine of two: the kernels in f32, the twin in f64.
  struct Engine {
    std::string name;
    std::function<std::vector<double>(const Packed&)> nll;
    double tolerance;
  };
  std::vector<Engine> Engines() {
    return {{"kernels",
             [this](const Packed& p) {
               const Batch batch = MakeBatch({p}, spec_.vocab);
               std::vector<float> nll(batch.ids.size());
               decoder_.Score(batch, nll.data());
               return std::vector<double>(nll.begin(), nll.end());
             },
             2e-4},
            {"twin",
             [this](const Packed& p) {
               const ReferenceModel::Output out = twin_.Forward(p.ids, p.positions, p.layout, p.pattern);
               std::vector<double> nll;
               for (size_t t = 0; t < p.ids.size(); ++t) {
                 nll.push_back(ReferenceModel::Nll(out.logits[t], TargetOf(p.ids[t], spec_.vocab)));
               }
               return nll;
             },
             1e-9}};
  }

  static double MaxDiff(const std::vector<double>& a, const std::vector<double>& b, size_t a0, size_t b0, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(a[a0 + i] - b[b0 + i]));
    return worst;
  }

  ModelSpec spec_;
  ParamStore params_;
  ReferenceModel twin_;
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
  std::vector<std::vector<int32_t>> documents_ = {RandomIds(9, 64, 1), RandomIds(1, 64, 2), RandomIds(17, 64, 3),
                                                  RandomIds(6, 64, 4)};
  // What a visible change looks like: far above the tolerance of either engine.
  static constexpr double kVisible = 0.02;
};

TEST_F(DecoderTest, MatchesTwinOverPatternsAndBatches) {
  const char* patterns[] = {"full",
                            "window=5",
                            "intra",
                            "anchor",
                            "scope=doc anchors=3 window=4 sinks=2",
                            "sinks=2 window=6 sep",
                            "scope=doc anchors=1 sinks=1 window=3 sep"};
  for (const bool tie : {true, false}) {
    for (const int32_t kv_heads : {1, 2, 4}) {
      const ModelSpec spec = TinySpec({.vocab = 50, .kv_heads = kv_heads, .head_dim = 12, .width = 40, .tie = tie});
      const ParamStore params = LoudModel(spec, 11);
      const ReferenceModel twin(params);
      const ParamStore low = Cast(params, DType::kBF16);
      Decoder f32(backend_.get(), &params), bf16(backend_.get(), &low);
      for (const char* text : patterns) {
        Packed a = Pack({RandomIds(7, 50, 21), RandomIds(20, 50, 22)}, text);
        Packed b = Pack({RandomIds(3, 50, 23), RandomIds(1, 50, 24), RandomIds(40, 50, 25)}, text);
        for (Packed* p : {&a, &b}) {
          for (size_t i = 0; i < p->ids.size(); ++i) p->layout.is_separator.push_back(p->ids[i] % 5 == 0);
        }
        const Batch batch = MakeBatch({a, b}, spec.vocab);
        std::vector<float> nll(batch.ids.size()), nll_low(batch.ids.size());
        const StepStats stats = f32.Score(batch, nll.data());
        bf16.Score(batch, nll_low.data());
        double sum = 0;
        size_t row = 0;
        for (const Packed& p : {a, b}) {
          const ReferenceModel::Output out = twin.Forward(p.ids, p.positions, p.layout, p.pattern);
          for (size_t t = 0; t < p.ids.size(); ++t, ++row) {
            const double want = ReferenceModel::Nll(out.logits[t], TargetOf(p.ids[t], spec.vocab));
            sum += want;
            ASSERT_NEAR(nll[row], want, 2e-4 * std::max(1.0, std::abs(want))) << text << " row " << row;
          }
        }
        EXPECT_NEAR(stats.loss, sum, 1e-4 * sum) << text;
        EXPECT_EQ(stats.weight, static_cast<double>(batch.ids.size()));
        double low_sum = std::accumulate(nll_low.begin(), nll_low.end(), 0.0);
        EXPECT_NEAR(low_sum, sum, 0.05 * sum) << text << " in bf16";
      }
    }
  }
}

TEST_F(DecoderTest, GradientsMatchFiniteDifferencesOfTheTwin) {
  for (const bool tie : {true, false}) {
    const ModelSpec spec = TinySpec({.vocab = 30, .head_dim = 10, .width = 24, .mlp_width = 36, .tie = tie});
    const ParamStore params = LoudModel(spec, 3);
    Decoder decoder(backend_.get(), &params);
    const Packed a = Pack({RandomIds(6, 30, 1), RandomIds(9, 30, 2)}, "anchor");
    const Packed b = Pack({RandomIds(11, 30, 3)}, "anchor");
    Batch batch = MakeBatch({a, b}, spec.vocab);
    batch.targets[4] = -1;
    batch.weights[7] = 0.0f;
    batch.weights[8] = 2.5f;
    const auto loss = [&](const ReferenceModel& twin) {
      double sum = 0;
      size_t row = 0;
      for (const Packed& p : {a, b}) {
        const ReferenceModel::Output out = twin.Forward(p.ids, p.positions, p.layout, p.pattern);
        for (size_t t = 0; t < p.ids.size(); ++t, ++row) {
          if (batch.targets[row] >= 0) {
            sum += static_cast<double>(batch.weights[row]) * ReferenceModel::Nll(out.logits[t], batch.targets[row]);
          }
        }
      }
      return sum;
    };
    ReferenceModel twin(params);
    for (const Recompute recompute : {Recompute::kNone, Recompute::kLayer}) {
      ParamStore grads(spec, DType::kF32);
      const StepStats stats = decoder.ForwardBackward(batch, 0.5f, recompute, &grads);
      EXPECT_NEAR(stats.loss, loss(twin), 1e-3);
      Rng rng{9, 9};
      for (const ParamInfo& info : params.layout().params()) {
        double norm = 0;
        const float* g = grads.arena().Row<float>(0) + info.offset;
        for (int64_t i = 0; i < info.size(); ++i) norm += static_cast<double>(g[i]) * g[i];
        norm = std::sqrt(norm);
        for (int trial = 0; trial < 5; ++trial) {
          const int64_t i = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(info.size())));
          double& w = twin.arena()[static_cast<size_t>(info.offset + i)];
          const double kept = w, step = 1e-5;
          w = kept + step;
          const double up = loss(twin);
          w = kept - step;
          const double down = loss(twin);
          w = kept;
          EXPECT_NEAR(g[i], 0.5 * (up - down) / (2 * step), 2e-4 * norm + 1e-5) << info.name << " [" << i << "]";
        }
      }
    }
  }
}

TEST_F(DecoderTest, RecomputeAndThreadsChangeNoBit) {
  const Batch batch = MakeBatch({Pack(documents_, "anchor"), Pack({documents_[2], documents_[0]}, "anchor")}, 64);
  std::vector<std::vector<float>> results;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const ParamStore weights = Cast(params_, dtype);
    std::vector<float> first;
    for (const int threads : {1, 2, 3}) {
      SetThreads(threads);
      for (const Recompute recompute : {Recompute::kNone, Recompute::kLayer}) {
        Decoder decoder(backend_.get(), &weights);
        ParamStore grads(spec_, DType::kF32);
        decoder.ForwardBackward(batch, 1.0f, recompute, &grads);
        const float* g = grads.arena().Row<float>(0);
        const std::vector<float> all(g, g + grads.size());
        if (first.empty()) first = all;
        EXPECT_EQ(first, all) << Name(dtype) << ", " << threads << " threads";
      }
    }
    SetThreads(0);
  }
}

TEST_F(DecoderTest, ScoringGivesTheLossOfTraining) {  // masks do not depend on being in training
  const Batch batch = MakeBatch({Pack(documents_, "anchor")}, 64);
  std::vector<float> nll(batch.ids.size());
  const StepStats scored = decoder_.Score(batch, nll.data());
  ParamStore grads(spec_, DType::kF32);
  const StepStats trained = decoder_.ForwardBackward(batch, 1.0f, Recompute::kLayer, &grads);
  EXPECT_EQ(scored.loss, trained.loss);
}

TEST_F(DecoderTest, PackedEqualsSeparateRunsAtThePackedPositions) {
  for (const char* variant : {"anchor", "anchor-reset", "intra", "intra-reset"}) {
    const Packed packed = Pack(documents_, variant);
    const auto anchors = static_cast<size_t>(packed.pattern.anchors);
    for (const Engine& engine : Engines()) {
      const std::vector<double> whole = engine.nll(packed);
      size_t begin = anchors;
      for (const std::vector<int32_t>& document : documents_) {
        Packed alone = Pack({document}, variant);
        std::copy_n(packed.positions.begin() + static_cast<std::ptrdiff_t>(begin), document.size(),
                    alone.positions.begin() + static_cast<std::ptrdiff_t>(anchors));
        EXPECT_LE(MaxDiff(whole, engine.nll(alone), begin, anchors, document.size()), engine.tolerance)
            << variant << " " << engine.name;
        begin += document.size();
      }
    }
  }
}

TEST_F(DecoderTest, NaturalPositionsServeResetPackingOnly) {
  for (const Engine& engine : Engines()) {
    for (const bool reset : {true, false}) {
      const Packed packed = Pack(documents_, reset ? "anchor-reset" : "anchor");
      const std::vector<double> whole = engine.nll(packed);
      const size_t third = 1 + documents_[0].size() + documents_[1].size();
      const double difference = MaxDiff(whole, engine.nll(Pack({documents_[2]}, "anchor")), third, 1, 17);
      const double first = MaxDiff(whole, engine.nll(Pack({documents_[0]}, "anchor")), 1, 1, 9);
      EXPECT_LE(first, engine.tolerance) << engine.name;
      if (reset) {
        EXPECT_LE(difference, engine.tolerance) << engine.name;
      } else {
        EXPECT_GT(difference, kVisible) << engine.name;  // the anchor stands further away
      }
    }
  }
}

TEST_F(DecoderTest, ContinuousEqualsResetWithoutAnAnchorOnly) {
  for (const Engine& engine : Engines()) {
    const std::vector<double> intra = engine.nll(Pack(documents_, "intra"));
    EXPECT_LE(MaxDiff(intra, engine.nll(Pack(documents_, "intra-reset")), 0, 0, intra.size()), engine.tolerance);
    const std::vector<double> anchor = engine.nll(Pack(documents_, "anchor"));
    const std::vector<double> reset = engine.nll(Pack(documents_, "anchor-reset"));
    EXPECT_LE(MaxDiff(anchor, reset, 0, 0, 1 + documents_[0].size()), engine.tolerance);
    EXPECT_GT(MaxDiff(anchor, reset, 0, 0, anchor.size()), kVisible);
  }
}

TEST_F(DecoderTest, PermutingDocuments) {
  const std::vector<std::vector<int32_t>> permuted = {documents_[2], documents_[3], documents_[0], documents_[1]};
  for (const Engine& engine : Engines()) {
    for (const char* variant : {"intra", "intra-reset", "anchor-reset", "anchor"}) {
      const size_t prefix = static_cast<size_t>(ParseVariant(variant).pattern.anchors);
      const std::vector<double> a = engine.nll(Pack(documents_, variant));
      const std::vector<double> b = engine.nll(Pack(permuted, variant));
      const size_t third = prefix + documents_[0].size() + documents_[1].size();
      const double difference = MaxDiff(a, b, third, prefix, documents_[2].size());
      if (std::string_view(variant) == "anchor") {
        EXPECT_GT(difference, kVisible) << engine.name;
      } else {
        EXPECT_LE(difference, engine.tolerance) << variant << " " << engine.name;
      }
    }
  }
}

TEST_F(DecoderTest, ManyCopiesOfTheAnchorEqualOneAtEqualPositions) {
  // Multi-BOS: every document carries a copy of the anchor at position 0 and sees no other token outside itself.
  const Packed single = Pack(documents_, "anchor");
  std::vector<std::vector<int32_t>> with_bos = documents_;
  for (auto& document : with_bos) document.insert(document.begin(), 1);
  Packed copies = Pack(with_bos, "intra");
  size_t at = 0, content = 1;
  for (const auto& document : documents_) {
    copies.positions[at++] = 0;
    for (size_t t = 0; t < document.size(); ++t) copies.positions[at++] = single.positions[content++];
  }
  for (const Engine& engine : Engines()) {
    const std::vector<double> one = engine.nll(single), many = engine.nll(copies);
    size_t i = 1, j = 0;
    for (const auto& document : documents_) {
      EXPECT_NEAR(many[j], one[0], engine.tolerance) << engine.name;  // every copy equals the anchor
      EXPECT_LE(MaxDiff(one, many, i, j + 1, document.size()), engine.tolerance) << engine.name;
      i += document.size();
      j += document.size() + 1;
    }
    // With each realisation's own continuous positions they differ: the copies take room.
    const std::vector<double> own = engine.nll(Pack(with_bos, "intra"));
    EXPECT_GT(MaxDiff(one, own, one.size() - 6, own.size() - 6, 6), kVisible) << engine.name;
  }
}

TEST_F(DecoderTest, EditingADocumentChangesNothingOutsideIt) {
  std::vector<std::vector<int32_t>> edited = documents_;
  for (int32_t& id : edited[0]) id = (id + 11) % 64;
  for (const Engine& engine : Engines()) {
    for (const char* variant : {"anchor", "anchor-reset", "intra", "intra-reset", "full"}) {
      const Packed packed = Pack(documents_, variant);
      const std::vector<double> before = engine.nll(packed), after = engine.nll(Pack(edited, variant));
      const size_t begin = static_cast<size_t>(packed.pattern.anchors) + documents_[0].size();
      const double difference = MaxDiff(before, after, begin, begin, before.size() - begin);
      if (packed.pattern.scope == Scope::kDocument) {
        EXPECT_EQ(difference, 0.0) << variant << " " << engine.name;
      } else {
        EXPECT_GT(difference, kVisible) << variant << " " << engine.name;
      }
    }
  }
}

TEST_F(DecoderTest, ShiftingPositions) {
  for (const Engine& engine : Engines()) {
    for (const char* variant : {"anchor", "intra", "intra-reset"}) {
      const Packed packed = Pack(documents_, variant);
      const std::vector<double> base = engine.nll(packed);
      Packed all = packed, others = packed;
      for (size_t t = 0; t < packed.ids.size(); ++t) {
        all.positions[t] += 1000;
        if (static_cast<int32_t>(t) >= packed.pattern.anchors) others.positions[t] += 1000;
      }
      // f32 tables leave an absolute error of 1e-7 or so in cos and sin, whatever the position.
      EXPECT_LE(MaxDiff(base, engine.nll(all), 0, 0, base.size()), std::max(engine.tolerance, 1e-8)) << variant;
      const double moved = MaxDiff(base, engine.nll(others), 0, 0, base.size());
      if (packed.pattern.anchors > 0) {
        EXPECT_GT(moved, kVisible) << engine.name;
      } else {
        EXPECT_LE(moved, std::max(engine.tolerance, 1e-8)) << variant << " " << engine.name;
      }
    }
  }
}

TEST_F(DecoderTest, OneDocumentBehindTheAnchorIsFullAttention) {
  for (const Engine& engine : Engines()) {
    Packed packed = Pack({documents_[2]}, "anchor");
    const std::vector<double> anchored = engine.nll(packed);
    packed.pattern = {};
    // Bitwise for the twin; kernels fold the anchor in first, another order of the same sum.
    EXPECT_LE(MaxDiff(anchored, engine.nll(packed), 0, 0, anchored.size()),
              engine.name == "twin" ? 0 : engine.tolerance);
  }
}

TEST_F(DecoderTest, TheAnchorDependsOnNothing) {
  Packed other = Pack({documents_[3], documents_[1]}, "anchor");
  for (int64_t& position : other.positions) position += 77;
  const Packed alone = Pack({}, "anchor");
  const auto a = twin_.Forward(Pack(documents_, "anchor").ids, Pack(documents_, "anchor").positions,
                               Pack(documents_, "anchor").layout, other.pattern);
  const auto b = twin_.Forward(other.ids, other.positions, other.layout, other.pattern);
  const auto c = twin_.Forward(alone.ids, alone.positions, alone.layout, alone.pattern);
  for (size_t layer = 0; layer < a.hidden.size(); ++layer) {
    EXPECT_EQ(a.hidden[layer][0], b.hidden[layer][0]);
    EXPECT_EQ(a.hidden[layer][0], c.hidden[layer][0]);
  }
  const Engine kernels = Engines()[0];
  EXPECT_NEAR(kernels.nll(other)[0], kernels.nll(alone)[0], kernels.tolerance);
}

TEST_F(DecoderTest, GradientsOfDocumentsDoNotMix) {
  // Loss on one document alone; tokens that stand only in the other one get no gradient, the anchor does.
  std::vector<std::vector<int32_t>> documents = {{3, 4, 5, 6}, {10, 11, 12, 13, 14}};
  const ModelSpec spec = TinySpec({.tie = false});
  const ParamStore params = LoudModel(spec, 8);
  Decoder decoder(backend_.get(), &params);
  Batch batch = MakeBatch({Pack(documents, "anchor")}, spec.vocab);
  const auto embedding_norm = [&](const ParamStore& grads, int32_t id) {
    const float* row = grads.Get(Role::kEmbedding).Row<float>(id);
    return std::inner_product(row, row + spec.width, row, 0.0);
  };
  std::vector<float> first_grads, second_grads;
  for (const bool first : {true, false}) {
    for (size_t t = 0; t < batch.ids.size(); ++t) batch.weights[t] = t >= 1 && (t < 5) == first ? 1.0f : 0.0f;
    ParamStore grads(spec, DType::kF32);
    decoder.ForwardBackward(batch, 1.0f, Recompute::kNone, &grads);
    for (int32_t id : documents[first ? 1 : 0]) EXPECT_EQ(embedding_norm(grads, id), 0.0) << id;
    for (int32_t id : documents[first ? 0 : 1]) EXPECT_GT(embedding_norm(grads, id), 0.0) << id;
    EXPECT_GT(embedding_norm(grads, 1), 0.0);  // the anchor, though no loss stands on it
    const float* row = grads.Get(Role::kEmbedding).Row<float>(1);
    (first ? first_grads : second_grads).assign(row, row + spec.width);
  }
  for (size_t t = 1; t < batch.ids.size(); ++t) batch.weights[t] = 1.0f;
  ParamStore grads(spec, DType::kF32);
  decoder.ForwardBackward(batch, 1.0f, Recompute::kNone, &grads);
  for (int32_t c = 0; c < spec.width; ++c) {  // the anchor's gradient is the sum over documents
    EXPECT_NEAR(grads.Get(Role::kEmbedding).Row<float>(1)[c], first_grads[c] + second_grads[c], 1e-4);
  }
}

TEST_F(DecoderTest, InterleavedChunksEqualASeparateRunAtTheGappedPositions) {
  // Documents a and b cut in two, laid out a1 b1 a2 b2; the packer puts a document's chunks side by side in the
  // sequence and leaves the gaps in the positions.
  for (const bool anchored : {true, false}) {
    const int64_t from = anchored ? 1 : 0;
    std::vector<int64_t> a = Iota(7, from), b = Iota(6, from + 7);
    for (int64_t p : Iota(10, from + 13)) a.push_back(p);
    for (int64_t p : Iota(4, from + 23)) b.push_back(p);
    const std::vector<std::vector<int32_t>> texts = {RandomIds(17, 64, 31), RandomIds(10, 64, 32)};
    const char* variant = anchored ? "anchor" : "intra";
    Packed packed = Pack(texts, variant);
    std::copy(a.begin(), a.end(), packed.positions.begin() + from);
    std::copy(b.begin(), b.end(), packed.positions.begin() + from + 17);
    for (const Engine& engine : Engines()) {
      const std::vector<double> whole = engine.nll(packed);
      const auto first = static_cast<size_t>(from);
      size_t begin = first;
      for (const auto* positions : {&a, &b}) {
        const std::vector<int32_t>& text = texts[positions == &a ? 0 : 1];
        Packed alone = Pack({text}, variant);
        const std::vector<double> unsplit = engine.nll(alone);
        std::copy(positions->begin(), positions->end(), alone.positions.begin() + from);
        EXPECT_LE(MaxDiff(whole, engine.nll(alone), begin, first, text.size()), engine.tolerance) << engine.name;
        EXPECT_GT(MaxDiff(whole, unsplit, begin, first, text.size()), kVisible) << engine.name;
        begin += text.size();
      }
    }
  }
}

TEST_F(DecoderTest, LossIsTheSumOfSeparateRunsWithoutCrossDocumentTargets) {
  const auto next_tokens = [&](const Packed& p) {  // the last token of each document has no target
    Batch batch = MakeBatch({p}, 64);
    for (size_t t = 0; t < p.ids.size(); ++t) {
      const bool inside = t + 1 < p.ids.size() && p.layout.doc_begin[t] == p.layout.doc_begin[t + 1];
      batch.targets[t] = inside ? p.ids[t + 1] : -1;
      batch.weights[t] = inside ? 1.0f : 0.0f;
    }
    return batch;
  };
  std::vector<float> nll(64);
  double sum = 0, weight = 0;
  for (const std::vector<int32_t>& document : documents_) {
    const StepStats stats = decoder_.Score(next_tokens(Pack({document}, "anchor-reset")), nll.data());
    sum += stats.loss;
    weight += stats.weight;
  }
  const StepStats packed = decoder_.Score(next_tokens(Pack(documents_, "anchor-reset")), nll.data());
  EXPECT_EQ(packed.weight, weight);
  EXPECT_NEAR(packed.loss, sum, 1e-4 * sum);
}

TEST_F(DecoderTest, ServingEqualsTrainingWithReset) {
  // Decoding anchor and document with a cache at natural positions gives the rows of the packed batch.
  const Packed packed = Pack(documents_, "anchor-reset");
  const std::vector<double> trained = Engines()[1].nll(packed);
  Matrix logits(1, spec_.vocab);
  size_t row = 1;
  for (const std::vector<int32_t>& document : documents_) {
    KvCache cache(backend_.get(), spec_, MakeKvPolicy("full"), {}, DType::kF32, spec_.context);
    decoder_.Extend(std::vector<int32_t>{1}, &cache, {});
    for (const int32_t id : document) {
      decoder_.Extend({&id, 1}, &cache, logits.view());
      const float* l = logits.Row<float>(0);
      EXPECT_NEAR(ReferenceModel::Nll({l, l + spec_.vocab}, TargetOf(id, spec_.vocab)), trained[row++], 2e-4);
    }
  }
}

TEST_F(DecoderTest, BatchRowsEqualRowsRunSingly) {
  const std::vector<Packed> rows = {Pack(documents_, "anchor"), Pack({documents_[3], documents_[2]}, "anchor"),
                                    Pack({documents_[1]}, "anchor")};
  std::vector<float> together(MakeBatch(rows, 64).ids.size());
  decoder_.Score(MakeBatch(rows, 64), together.data());
  size_t at = 0;
  for (const Packed& row : rows) {
    const Batch single = MakeBatch({row}, 64);
    std::vector<float> nll(single.ids.size());
    decoder_.Score(single, nll.data());
    for (const float value : nll) EXPECT_NEAR(together[at++], value, 1e-5 * std::max(1.0f, value));
  }
}

TEST_F(DecoderTest, PaddingIsInert) {
  Packed packed = Pack(documents_, "anchor");
  Batch padded = MakeBatch({packed}, 64);
  const size_t n = packed.ids.size();
  std::vector<float> plain(n);
  decoder_.Score(padded, plain.data());
  Packed with = packed;
  for (int i = 0; i < 5; ++i) {
    with.ids.push_back(0);
    with.positions.push_back(0);
    with.layout.doc_begin.push_back(static_cast<int32_t>(n));
  }
  with.layout.size += 5;
  with.layout.is_padding.assign(n + 5, 0);
  for (size_t t = n; t < n + 5; ++t) with.layout.is_padding[t] = 1;
  padded = MakeBatch({with}, 64);
  for (size_t t = n; t < n + 5; ++t) padded.weights[t] = 0;
  std::vector<float> nll(n + 5);
  decoder_.Score(padded, nll.data());
  for (size_t t = 0; t < n; ++t) EXPECT_NEAR(nll[t], plain[t], 1e-5);
  for (size_t t = n; t < n + 5; ++t) EXPECT_EQ(nll[t], 0.0f);
  ParamStore a(spec_, DType::kF32), b(spec_, DType::kF32);
  decoder_.ForwardBackward(MakeBatch({packed}, 64), 1.0f, Recompute::kNone, &a);
  decoder_.ForwardBackward(padded, 1.0f, Recompute::kNone, &b);
  for (int64_t i = 0; i < a.size(); ++i) {
    ASSERT_NEAR(a.arena().Row<float>(0)[i], b.arena().Row<float>(0)[i], 1e-4) << i;
  }
}

TEST_F(DecoderTest, SlidingWindowOfTheModelNarrowsThePattern) {
  ModelSpec narrow = spec_;
  narrow.sliding_window = 4;
  ParamStore params = LoudModel(spec_, 5);
  params.mutable_spec() = narrow;
  Decoder decoder(backend_.get(), &params);
  Packed packed = Pack({documents_[2]}, "full");
  std::vector<float> nll(packed.ids.size());
  decoder.Score(MakeBatch({packed}, 64), nll.data());
  packed.pattern.window = 4;
  const std::vector<double> want = Engines()[1].nll(packed);
  for (size_t t = 0; t < nll.size(); ++t) EXPECT_NEAR(nll[t], want[t], 2e-4);
}

TEST_F(DecoderTest, RefusesWhatIsNotABatch) {
  Batch batch = MakeBatch({Pack(documents_, "anchor")}, 64);
  std::vector<float> nll(batch.ids.size());
  Batch bad = batch;
  bad.ids[3] = 64;
  EXPECT_THROW(decoder_.Score(bad, nll.data()), Error);
  bad = batch;
  bad.targets.pop_back();
  EXPECT_THROW(decoder_.Score(bad, nll.data()), Error);
  bad = batch;
  bad.sequences[0].begin = 1;
  EXPECT_THROW(decoder_.Score(bad, nll.data()), Error);
  bad = batch;
  bad.ids.push_back(1), bad.targets.push_back(1), bad.weights.push_back(1), bad.positions.push_back(1);
  EXPECT_THROW(decoder_.Score(bad, nll.data()), Error);
  EXPECT_THROW(decoder_.Score(Batch{}, nll.data()), Error);
}

}  // namespace
}  // namespace hawser
