#include "hawser/train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/lr.h"

namespace hawser {
namespace {

constexpr int32_t kVocab = 64;
constexpr int32_t kLength = 96;

/// Documents that count upwards by a step of their own, so that a small model can learn them; packed with BOS 1.
std::vector<PackedSequence> Sequences(int64_t count, uint64_t seed, const char* variant = "anchor") {
  PackOptions options;
  options.length = kLength;
  options.variant = ParseVariant(variant);
  options.anchor.assign(static_cast<size_t>(options.variant.pattern.anchors), 1);
  options.bos = 1;
  Packer packer(options, seed);
  std::vector<PackedSequence> sequences;
  PackedSequence sequence;
  for (Rng rng{seed}; static_cast<int64_t>(sequences.size()) < count;) {
    Document document;
    document.tokens.resize(10 + rng.Below(50));
    const auto first = static_cast<int32_t>(rng.Below(60)), by = static_cast<int32_t>(1 + rng.Below(3));
    for (size_t i = 0; i < document.tokens.size(); ++i) {
      document.tokens[i] = 3 + (first + by * static_cast<int32_t>(i)) % (kVocab - 3);
    }
    packer.Add(document);
    while (static_cast<int64_t>(sequences.size()) < count && packer.Next(&sequence)) sequences.push_back(sequence);
  }
  return sequences;
}

TrainConfig Config() {
  TrainConfig config;
  config.steps = 40;
  config.micro_batch = 2;
  config.lr = 1e-2;
  config.warmup = 4;
  return config;
}

ParamStore Weights(uint64_t seed = 5) {
  TinyDims dims;
  dims.vocab = kVocab;
  dims.context = kLength;
  return TinyModel(TinySpec(dims), seed);
}

class TrainerTest : public ::testing::Test {
 protected:
  Trainer Make(const TrainConfig& config, ParamStore weights = Weights(), const char* variant = "anchor") {
    return Trainer(backend_.get(), config, ParseVariant(variant).pattern, std::move(weights));
  }
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

bool SameBits(const ParamStore& a, const ParamStore& b) {
  return a.size() == b.size() && std::memcmp(a.arena().data, b.arena().data, static_cast<size_t>(a.size()) * 4) == 0;
}

double Distance(const ParamStore& a, const ParamStore& b) {
  const auto *x = static_cast<const float*>(a.arena().data), *y = static_cast<const float*>(b.arena().data);
  double distance = 0;
  for (int64_t i = 0; i < a.size(); ++i) distance = std::max(distance, std::abs(double{x[i]} - double{y[i]}));
  return distance;
}

TEST_F(TrainerTest, LossFallsForEveryDtypeAndVariant) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const char* variant : {"full", "intra-reset", "anchor"}) {
      if (dtype == DType::kBF16 && variant != std::string_view("anchor")) continue;
      TrainConfig config = Config();
      config.steps = 30;
      config.dtype = dtype;
      Trainer trainer = Make(config, Weights(), variant);
      double first = 0, last = 0;
      for (int64_t step = 0; step < config.steps; ++step) {
        const StepReport report = trainer.Step(Sequences(4, static_cast<uint64_t>(step), variant));
        EXPECT_EQ(report.step, step + 1);
        EXPECT_EQ(report.tokens + report.padding, 4 * kLength);
        EXPECT_LT(report.padding, kLength);
        EXPECT_LT(report.targets, report.tokens);
        (step == 0 ? first : last) = report.loss;
      }
      EXPECT_GT(first, 3.5) << variant;  // near log 64
      EXPECT_LT(last, 0.6 * first) << variant << " " << Name(dtype);
    }
  }
}

TEST_F(TrainerTest, UpdatesFollowAdamWInDouble) {
  TrainConfig config = Config();
  config.clip = 0.5;
  config.weight_decay = 0.3;
  Trainer trainer = Make(config);
  const ParamLayout layout = trainer.weights().layout();
  const auto size = static_cast<size_t>(trainer.weights().size());
  const auto* w32 = static_cast<const float*>(trainer.weights().arena().data);
  const auto* g32 = static_cast<const float*>(trainer.gradients().arena().data);
  std::vector<double> w(w32, w32 + size), m(size), v(size);
  bool clipped = false;
  for (int64_t step = 1; step <= 6; ++step) {
    const StepReport report = trainer.Step(Sequences(2, static_cast<uint64_t>(step)));
    double squares = 0;
    for (size_t i = 0; i < size; ++i) squares += double{g32[i]} * g32[i];
    EXPECT_NEAR(report.grad_norm, std::sqrt(squares), 1e-6 * report.grad_norm);
    clipped |= report.grad_norm > config.clip;
    const double scale = std::min(1.0, config.clip / std::sqrt(squares));
    const double lr = 1e-2 * (step <= 4 ? static_cast<double>(step) / 4 : LearningRate(config, step, 40) / 1e-2);
    EXPECT_NEAR(report.lr, lr, 1e-12);
    for (const ParamInfo& info : layout.params()) {
      const double decay = info.name.find("norm") == std::string::npos ? 0.3 : 0.0;
      for (int64_t k = 0; k < info.size(); ++k) {
        const auto i = static_cast<size_t>(info.offset + k);
        const double g = g32[i] * scale;
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.95 * v[i] + 0.05 * g * g;
        const double mhat = m[i] / (1 - std::pow(0.9, step)), vhat = v[i] / (1 - std::pow(0.95, step));
        w[i] -= lr * (mhat / (std::sqrt(vhat) + 1e-8) + decay * w[i]);
        ASSERT_NEAR(w32[i], w[i], 2e-6) << info.name << "[" << k << "] step " << step;
      }
    }
  }
  EXPECT_TRUE(clipped);
}

TEST_F(TrainerTest, AccumulationEqualsOneLargeBatch) {
  const std::vector<PackedSequence> sequences = Sequences(4, 9);
  TrainConfig one = Config(), four = Config();
  one.micro_batch = 4;
  four.micro_batch = 1;
  Trainer a = Make(one), b = Make(four);
  const StepReport ra = a.Step(sequences), rb = b.Step(sequences);
  EXPECT_NEAR(ra.loss, rb.loss, 1e-6);
  EXPECT_NEAR(ra.grad_norm, rb.grad_norm, 1e-5 * ra.grad_norm);
  EXPECT_DOUBLE_EQ(ra.density, rb.density);
  EXPECT_LT(Distance(a.gradients(), b.gradients()), 1e-6);
  EXPECT_GT(ra.grad_norm, 0.01);
}

TEST_F(TrainerTest, LossIsPerWeightedToken) {
  // Sequences with unlike numbers of targets: the mean is over tokens, not over sequences or micro-batches.
  std::vector<PackedSequence> sequences = Sequences(2, 3);
  std::fill(sequences[1].weights.begin() + 8, sequences[1].weights.end(), 0.0f);
  TrainConfig config = Config();
  config.micro_batch = 1;
  Trainer trainer = Make(config);
  double loss = 0, weight = 0;
  for (const PackedSequence& s : sequences) {
    double w = 0;
    for (size_t i = 0; i < s.weights.size(); ++i) w += s.targets[i] >= 0 ? s.weights[i] : 0;
    Trainer alone = Make(config);
    loss += w * alone.Step({&s, 1}).loss;
    weight += w;
  }
  EXPECT_NEAR(trainer.Step(sequences).loss, loss / weight, 1e-6);
}

TEST_F(TrainerTest, RecomputeChangesNoBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    TrainConfig keep = Config();
    keep.dtype = dtype;
    TrainConfig again = keep;
    again.recompute = Recompute::kLayer;
    Trainer a = Make(keep), b = Make(again);
    for (uint64_t step = 0; step < 3; ++step) {
      const auto sequences = Sequences(3, step);
      EXPECT_EQ(a.Step(sequences).loss, b.Step(sequences).loss);
    }
    EXPECT_TRUE(SameBits(a.weights(), b.weights())) << Name(dtype);
  }
}

TEST_F(TrainerTest, ThreadsChangeNoBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    TrainConfig config = Config();
    config.dtype = dtype;
    std::vector<std::unique_ptr<Trainer>> trainers;
    for (const int threads : {1, 2, 3}) {
      SetThreads(threads);
      trainers.push_back(std::make_unique<Trainer>(backend_.get(), config, ParseVariant("anchor").pattern, Weights()));
      for (uint64_t step = 0; step < 3; ++step) trainers.back()->Step(Sequences(3, step));
    }
    SetThreads(0);
    EXPECT_TRUE(SameBits(trainers[0]->weights(), trainers[1]->weights())) << Name(dtype);
    EXPECT_TRUE(SameBits(trainers[0]->weights(), trainers[2]->weights())) << Name(dtype);
  }
}

TEST_F(TrainerTest, StepsAfterResumeAreTheSame) {
  TrainConfig config = Config();
  config.dtype = DType::kBF16;
  Trainer straight = Make(config), stopped = Make(config);
  for (uint64_t step = 0; step < 3; ++step) {
    straight.Step(Sequences(2, step));
    stopped.Step(Sequences(2, step));
  }
  Trainer resumed = Make(config, Weights(99));
  const TrainState from = stopped.state(), to = resumed.state();
  const auto copy = [](const ParamStore& a, ParamStore& b) {
    std::memcpy(b.arena().data, a.arena().data, static_cast<size_t>(a.size()) * 4);
  };
  copy(*from.weights, *to.weights);
  copy(*from.m, *to.m);
  copy(*from.v, *to.v);
  resumed.ResumeAfter(3);
  for (uint64_t step = 3; step < 6; ++step) {
    EXPECT_EQ(straight.Step(Sequences(2, step)).loss, resumed.Step(Sequences(2, step)).loss);
  }
  EXPECT_TRUE(SameBits(straight.weights(), resumed.weights()));
}

TEST_F(TrainerTest, NonFiniteStopsBeforeTheUpdateAndIsNamed) {
  ParamStore weights = Weights();
  weights.Get(Role::kUp, 1).Row<float>(3)[2] = std::numeric_limits<float>::quiet_NaN();
  Trainer trainer = Make(Config(), Cast(weights, DType::kF32));
  trainer.ResumeAfter(7);
  try {
    trainer.Step(Sequences(2, 1));
    FAIL() << "a NaN weight went unnoticed";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kNumeric);
    const std::string what = error.what();
    EXPECT_NE(what.find("step 8"), std::string::npos) << what;
    EXPECT_NE(what.find("model.embed_tokens.weight"), std::string::npos) << what;          // first gradient
    EXPECT_NE(what.find("model.layers.1.mlp.up_proj.weight"), std::string::npos) << what;  // where it comes from
  }
  EXPECT_EQ(trainer.step(), 7);
  weights.Get(Role::kUp, 1).Row<float>(3)[2] = 0;
  ParamStore after = Cast(trainer.weights(), DType::kF32);
  after.Get(Role::kUp, 1).Row<float>(3)[2] = 0;
  EXPECT_TRUE(SameBits(after, weights));
}

TEST_F(TrainerTest, NothingToTrainOnIsAnError) {
  std::vector<PackedSequence> sequences = Sequences(1, 1);
  std::fill(sequences[0].targets.begin(), sequences[0].targets.end(), -1);
  Trainer trainer = Make(Config());
  EXPECT_THROW(trainer.Step(sequences), Error);
}

TEST_F(TrainerTest, ScoreIsTheLossWithoutAnUpdate) {
  const auto sequences = Sequences(3, 4);
  Trainer trainer = Make(Config());
  const double score = trainer.Score(sequences, ParseVariant("anchor").pattern);
  EXPECT_NE(score, trainer.Score(sequences, AttnPattern()));
  EXPECT_NEAR(score, trainer.Step(sequences).loss, 1e-6);
}

TEST(ActivationBytes, AreWhatTheDecoderHolds) {
  const auto backend = MakeBackend("cpu");
  for (const Recompute recompute : {Recompute::kNone, Recompute::kLayer}) {
    TrainConfig config = Config();
    config.recompute = recompute;
    Trainer trainer(backend.get(), config, AttnPattern(), Weights());
    trainer.Step(Sequences(2, 1, "full"));
    EXPECT_EQ(trainer.activation_bytes(), ActivationBytes(trainer.spec(), DType::kF32, recompute, 2 * kLength));
    // bf16 beside queries and keys in f32; more rows than the mlp takes at once
    for (const char* numerics : {"exact", "f32-qk"}) {
      ModelSpec spec = TinySpec({.vocab = kVocab, .context = 2100});
      spec.rope.numerics = ParseRopeNumerics(numerics);
      config.dtype = DType::kBF16;
      Trainer low(backend.get(), config, AttnPattern(), TinyModel(spec, 1));
      PackedSequence s;
      s.ids.assign(2100, 5);
      s.positions.assign(2100, 0);
      s.targets = s.ids;
      s.weights.assign(2100, 1.0f);
      s.layout.size = 2100;
      low.Step({&s, 1});
      EXPECT_EQ(low.activation_bytes(), ActivationBytes(spec, DType::kBF16, recompute, 2100)) << numerics;
    }
  }
}

TEST(ChooseMicroBatch, DoesNotDependOnRecompute) {
  ModelSpec spec = TinySpec();
  spec.context = 256;
  TrainConfig none, layer;
  layer.recompute = Recompute::kLayer;
  ASSERT_LT(ActivationBytes(spec, DType::kF32, layer.recompute, 4096),
            ActivationBytes(spec, DType::kF32, none.recompute, 4096));
  EXPECT_GT(ChooseMicroBatch(spec, none, spec.context), 1);
  EXPECT_EQ(ChooseMicroBatch(spec, none, spec.context), ChooseMicroBatch(spec, layer, spec.context));
}

TEST_F(TrainerTest, GradientsOfAWeightedLossByDifferences) {
  for (const LossRows rows : {LossRows::kDocument, LossRows::kAll}) {
    PackOptions options{.length = kLength, .variant = ParseVariant("anchor"), .anchor = {1}, .loss_rows = rows};
    Packer packer(options);
    Rng rng{8};
    for (int64_t d = 0; d < 4; ++d) {
      Document document{.id = d};
      for (int i = 0; i < 40; ++i) {
        document.tokens.push_back(static_cast<int32_t>(3 + rng.Below(kVocab - 3)));
        document.weights.push_back(i < 15 ? 0.0f : static_cast<float>(rng.Uniform()));
      }
      packer.Add(document);
    }
    packer.Finish();
    std::vector<PackedSequence> sequences(1);
    ASSERT_TRUE(packer.Next(&sequences[0]));
    TrainConfig config = Config();
    config.lr = 0;
    config.warmup = 0;
    config.clip = 0;
    Trainer trainer = Make(config);
    const LayeredPattern pattern = options.variant.pattern;
    const double loss = trainer.Step(sequences).loss;
    EXPECT_NEAR(loss, trainer.Score(sequences, pattern), 1e-6) << "what is trained is what is scored";
    auto* weights = static_cast<float*>(trainer.state().weights->arena().data);
    const auto* grads = static_cast<const float*>(trainer.gradients().arena().data);
    // Along a random direction of each tensor.
    for (const ParamInfo& info : trainer.weights().layout().params()) {
      std::vector<double> direction(static_cast<size_t>(info.size()));
      double slope = 0, length = 0;
      for (double& d : direction) {
        d = 2 * rng.Uniform() - 1;
        length += d * d;
      }
      const double step = 0.02 / std::sqrt(length);
      const std::vector<float> before(weights + info.offset, weights + info.offset + info.size());
      const auto at = [&](double by) {
        for (int64_t i = 0; i < info.size(); ++i) {
          weights[info.offset + i] = static_cast<float>(before[i] + by * step * direction[i]);
        }
        const double score = trainer.Score(sequences, pattern);
        std::copy(before.begin(), before.end(), weights + info.offset);
        return score;
      };
      for (int64_t i = 0; i < info.size(); ++i) slope += step * direction[i] * grads[info.offset + i];
      EXPECT_NEAR((at(1) - at(-1)) / 2, slope, 0.02 * std::abs(slope) + 2e-6) << info.name;
    }
  }
}

}  // namespace
}  // namespace hawser
