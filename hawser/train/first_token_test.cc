// The anchor predicts the first token of every document: N targets of one row (arXiv:2411.13476 trains them only where
// every document has its own copy of the anchor, and then N of them).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/testing/tolerance.h"
#include "hawser/train/trainer.h"

namespace hawser {
namespace {

using testing::ReferenceModel;
using Values = std::vector<double>;

constexpr int32_t kVocab = 64, kAnchor = 1;

class FirstToken : public ::testing::Test {
 protected:
  /// Documents of 9, 1, 18 and 5 tokens in one sequence, their first tokens trained from the anchor.
  static PackedSequence Pack(const char* text, uint64_t seed = 1) {
    PackOptions options{.length = 40, .variant = ParseVariant(text), .min_document = 0};
    options.anchor.assign(options.variant.multi_bos ? 1 : static_cast<size_t>(options.variant.pattern.anchors),
                          kAnchor);
    options.first_token_from_anchor = true;
    Packer packer(options, 3);
    Rng rng{seed, 1};
    for (const int32_t n : {9, 1, 18, 5}) {
      Document document{.tokens = std::vector<int32_t>(static_cast<size_t>(n))};
      for (int32_t& id : document.tokens) id = static_cast<int32_t>(3 + rng.Below(kVocab - 3));
      packer.Add(document);
    }
    packer.Finish();
    PackedSequence sequence;
    EXPECT_TRUE(packer.Next(&sequence));
    return sequence;
  }

  double TwinLoss(const PackedSequence& s, const LayeredPattern& pattern) const {
    const ReferenceModel::Output out = twin_.Forward(s.ids, s.positions, s.layout, pattern);
    double loss = 0;
    for (size_t t = 0; t < s.ids.size(); ++t) {
      if (s.weights[t] > 0) loss += s.weights[t] * ReferenceModel::Nll(out.logits[t], s.targets[t]);
    }
    for (size_t e = 0; e < s.extra_rows.size(); ++e) {
      loss += s.extra_weights[e] * ReferenceModel::Nll(out.logits[s.extra_rows[e]], s.extra_targets[e]);
    }
    return loss;
  }

  std::vector<float> Gradients(const ParamStore& weights, const Batch& batch, StepStats* stats = nullptr,
                               Recompute recompute = Recompute::kNone) {
    Decoder decoder(backend_.get(), &weights);
    ParamStore grads(spec_, DType::kF32);
    const StepStats found = decoder.ForwardBackward(batch, 1.0f, recompute, &grads);
    if (stats != nullptr) *stats = found;
    const float* g = grads.arena().Row<float>(0);
    return {g, g + grads.size()};
  }

  ModelSpec spec_ = TinySpec({.vocab = kVocab, .layers = 2, .context = 256});
  ParamStore params_ = LoudModel(spec_, 8);
  ReferenceModel twin_{params_};
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST_F(FirstToken, LossIsThatOfEveryDocumentAloneBehindTheAnchor) {
  for (const char* text : {"anchor", "anchor-reset", "anchor-interleaved", "scope=doc anchors=3", "multi-bos"}) {
    const AttnVariant variant = ParseVariant(text);
    const int32_t anchors = variant.pattern.anchors;
    const PackedSequence packed = Pack(text);
    std::vector<float> nll(packed.ids.size());
    Decoder decoder(backend_.get(), &params_);
    const StepStats stats = decoder.Score(MakeBatch({{packed}}, variant.pattern), nll.data());
    double alone = 0, weight = 0;
    for (size_t i = 0; i < packed.segments.size(); ++i) {
      if (packed.segments[i].document < 0 || packed.segments[i].chunk > 0) continue;
      const int32_t begin = packed.segments[i].begin;
      int32_t end = begin;
      for (size_t j = i; j < packed.segments.size() && (j == i || packed.segments[j].chunk > 0); ++j) {
        end = packed.segments[j].begin + packed.segments[j].length;
      }
      PackedSequence one;
      for (int32_t t = 0; t < end; ++t) {
        if (t >= anchors && t < begin) continue;
        one.ids.push_back(packed.ids[t]);
        one.positions.push_back(packed.positions[t]);
        one.targets.push_back(packed.targets[t]);
        one.weights.push_back(packed.weights[t]);
      }
      one.layout = MakeLayout(anchors, {end - begin});
      if (anchors > 0) {
        one.targets[anchors - 1] = packed.ids[begin];
        one.weights[anchors - 1] = 1.0f;
      }
      alone += TwinLoss(one, variant.pattern);
      for (const float w : one.weights) weight += w;
    }
    EXPECT_EQ(stats.weight, weight) << text;
    EXPECT_NEAR(stats.loss, alone, 1e-5 * alone) << text;
    EXPECT_NEAR(TwinLoss(packed, variant.pattern), alone, 1e-9 * alone) << text;
    double rows = 0;
    for (size_t t = 0; t < nll.size(); ++t) rows += packed.weights[t] * nll[t];
    if (anchors > 0) {
      EXPECT_LT(rows, stats.loss - 1) << "the rows of the batch are not all of it";
      EXPECT_EQ(nll[anchors - 1], 0.0f);
    }
  }
}

TEST_F(FirstToken, GradientsAreTheCentralDifferencesOfTheTwin) {
  for (const char* text : {"anchor", "scope=doc anchors=2"}) {
    const LayeredPattern pattern = ParseVariant(text).pattern;
    const PackedSequence packed = Pack(text);
    StepStats stats;
    const std::vector<float> grads = Gradients(params_, MakeBatch({{packed}}, pattern), &stats);
    EXPECT_NEAR(stats.loss, TwinLoss(packed, pattern), 1e-5 * stats.loss);
    // What only the further targets move: the head's rows of the first tokens and the embedding of the anchor; then
    // parameters everywhere.
    std::vector<int64_t> asked;
    const ParamLayout& layout = params_.layout();
    const ParamInfo &head = layout.Find(Role::kHead, -1), &embedding = layout.Find(Role::kEmbedding, -1);
    for (const int32_t id : packed.extra_targets) asked.push_back(head.offset + id * head.cols + 3);
    for (int64_t c = 0; c < embedding.cols; c += 7) asked.push_back(embedding.offset + kAnchor * embedding.cols + c);
    for (int64_t i = 0; i < 20; ++i) asked.push_back(i * (params_.size() - 1) / 19);
    for (const int64_t i : asked) {
      double& w = twin_.arena()[static_cast<size_t>(i)];
      const double kept = w, step = 1e-5;
      w = kept + step;
      const double up = TwinLoss(packed, pattern);
      w = kept - step;
      const double down = TwinLoss(packed, pattern);
      w = kept;
      const double want = (up - down) / (2 * step);
      EXPECT_NEAR(grads[static_cast<size_t>(i)], want, 2e-4 * (1 + std::abs(want))) << text << " parameter " << i;
    }
  }
}

TEST_F(FirstToken, SharedAnchorAndCopiesHaveOneGradient) {
  const PackedSequence shared = Pack("anchor");
  PackedSequence copies = Pack("multi-bos");
  size_t from = 1;
  for (const Segment& segment : copies.segments) {
    if (segment.document < 0) continue;
    for (int32_t t = segment.bos_tokens; t < segment.length; ++t) {
      copies.positions[static_cast<size_t>(segment.begin + t)] = shared.positions[from++];
    }
  }
  StepStats one, many;
  const std::vector<float> a = Gradients(params_, MakeBatch({{shared}}, ParseVariant("anchor").pattern), &one);
  const std::vector<float> b = Gradients(params_, MakeBatch({{copies}}, ParseVariant("multi-bos").pattern), &many);
  EXPECT_EQ(one.weight, many.weight);
  EXPECT_NEAR(one.loss, many.loss, 1e-5 * one.loss);
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 2e-4 * (1 + std::abs(a[i]))) << i;
}

TEST_F(FirstToken, FurtherTargetsAddUpBesideTheRowsOwn) {
  // A row with a target of its own and two further ones: the gradient is the sum of three batches with one each.
  Batch batch = MakeBatch({{Pack("anchor"), Pack("anchor", 2)}}, ParseVariant("anchor").pattern);
  std::fill(batch.weights.begin(), batch.weights.end(), 0.0f);
  batch.extra_rows.clear();
  batch.extra_targets.clear();
  batch.extra_weights.clear();
  const auto with = [&](bool own, const std::vector<int32_t>& extra) {
    Batch b = batch;
    b.targets[45] = 9;
    b.weights[45] = own ? 0.5f : 0.0f;
    for (const int32_t id : extra) {
      b.extra_rows.push_back(45);
      b.extra_targets.push_back(id);
      b.extra_weights.push_back(0.25f * static_cast<float>(id));
    }
    return b;
  };
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const ParamStore weights = Cast(params_, dtype);
    StepStats all, part;
    const std::vector<float> sum = Gradients(weights, with(true, {5, 6}), &all);
    Values parts(sum.size());
    double loss = 0, size = 0;
    for (const Batch& b : {with(true, {}), with(false, {5}), with(false, {6})}) {
      const std::vector<float> grads = Gradients(weights, b, &part);
      loss += part.loss;
      double square = 0;
      for (size_t i = 0; i < parts.size(); ++i) {
        parts[i] += grads[i];
        square += double{grads[i]} * grads[i];
      }
      size += std::sqrt(square);
    }
    EXPECT_EQ(all.weight, 0.5 + 0.25 * 11);
    EXPECT_NEAR(all.loss, loss, 1e-6 * loss);
    double apart = 0;
    for (size_t i = 0; i < parts.size(); ++i) apart += (sum[i] - parts[i]) * (sum[i] - parts[i]);
    // Forward is the same to the bit; backward stores 3 tensors behind the loss and 11 in each of 2 layers.
    EXPECT_LE(std::sqrt(apart), testing::GradientTolerance(dtype, 25, kVocab, size)) << Name(dtype);
    EXPECT_GT(size, 1);
  }
}

TEST_F(FirstToken, SameBitsForThreadsAndRecompute) {
  const Batch batch = MakeBatch({{Pack("anchor"), Pack("anchor", 2)}}, ParseVariant("anchor").pattern);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const ParamStore weights = Cast(params_, dtype);
    const int threads = NumThreads();
    SetThreads(1);
    const std::vector<float> one = Gradients(weights, batch);
    SetThreads(2);
    EXPECT_EQ(one, Gradients(weights, batch));
    SetThreads(threads);
    EXPECT_EQ(one, Gradients(weights, batch, nullptr, Recompute::kLayer));
  }
}

TEST_F(FirstToken, AStepCountsThem) {
  TrainConfig config;
  config.steps = 2;
  config.lr = 1e-3;
  const LayeredPattern pattern = ParseVariant("anchor").pattern;
  const std::vector<PackedSequence> sequences = {Pack("anchor"), Pack("anchor", 2)};
  const double want = (TwinLoss(sequences[0], pattern) + TwinLoss(sequences[1], pattern)) / (2 * (33 - 4 + 4));
  for (const int64_t together : {1, 2}) {
    config.micro_batch = together;
    Trainer trainer(backend_.get(), config, pattern, Cast(params_, DType::kF32));
    EXPECT_NEAR(trainer.Step(sequences).loss, want, 1e-5 * want);
  }
}

TEST_F(FirstToken, BadExtraTargetsAreRefused) {
  const Batch good = MakeBatch({{Pack("anchor")}}, ParseVariant("anchor").pattern);
  std::vector<float> nll(good.ids.size());
  Decoder decoder(backend_.get(), &params_);
  const auto refused = [&](auto&& spoil) {
    Batch bad = good;
    spoil(bad);
    try {
      decoder.Score(bad, nll.data());
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  EXPECT_TRUE(refused([](Batch& b) { b.extra_rows[1] = 40; }));
  EXPECT_TRUE(refused([](Batch& b) { b.extra_rows[0] = -1; }));
  EXPECT_TRUE(refused([](Batch& b) { b.extra_rows[0] = 1; }));  // descends
  EXPECT_TRUE(refused([](Batch& b) { b.extra_targets[2] = kVocab; }));
  EXPECT_TRUE(refused([](Batch& b) { b.extra_weights.pop_back(); }));
  EXPECT_FALSE(refused([](Batch&) {}));
}

}  // namespace
}  // namespace hawser
