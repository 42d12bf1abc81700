#include "hawser/train/objective.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hawser/attn/schedule.h"
#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/trainer.h"

namespace hawser {
namespace {

constexpr int32_t kGainVocab = 40, kGainLength = 64;

/// Random documents of 10 to 79 tokens behind BOS 1 or an anchor, with separators.
std::vector<PackedSequence> GainSequences(const char* variant, const char* positions = "", int64_t count = 3) {
  PackOptions options{.length = kGainLength, .variant = ParseVariant(variant), .bos = 1};
  options.anchor.assign(static_cast<size_t>(options.variant.multi_bos ? 1 : options.variant.pattern.anchors), 1);
  options.positions = ParsePositionMap(positions);
  options.reach = 4 * kGainLength;
  options.separators.assign(kGainVocab, 0);
  options.separators[7] = options.separators[9] = 1;
  Packer packer(options, 3);
  std::vector<PackedSequence> sequences;
  PackedSequence sequence;
  for (Rng rng{11}; std::ssize(sequences) < count;) {
    Document document;
    document.tokens.resize(10 + rng.Below(70));
    for (int32_t& id : document.tokens) id = static_cast<int32_t>(2 + rng.Below(kGainVocab - 2));
    packer.Add(document);
    while (std::ssize(sequences) < count && packer.Next(&sequence)) sequences.push_back(sequence);
  }
  return sequences;
}

ModelSpec GainSpec() { return TinySpec({.vocab = kGainVocab, .layers = 2, .context = kGainLength}); }

class ObjectiveTest : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  const ParamStore weights_ = LoudModel(GainSpec(), 5);

  Trainer Make(const char* variant, const char* objective, int64_t micro_batch = 3) const {
    TrainConfig config;
    config.steps = 10;
    config.micro_batch = micro_batch;
    config.lr = 1e-2;
    config.objective = objective;
    return Trainer(backend_.get(), config, ParseVariant(variant).pattern, Cast(weights_, DType::kF32));
  }
};

TEST(Objective, TextsParseBackAndWrongOnesAreNamed) {
  EXPECT_EQ(ParseObjective(""), Objective(PlainCe()));
  EXPECT_EQ(PrintForm(ParseObjective("longce:k=4k")), "longce");
  EXPECT_EQ(PrintForm(ParseObjective("longce:delta=1k,k=64,most=2.5")), "longce:k=64,delta=1024,most=2.5");
  const std::pair<const char*, const char*> kWrong[] = {{"longcf", "did you mean 'longce'?"},
                                                        {"ce:k=4", "ce takes no options"},
                                                        {"longce:gamma=5", "no 'gamma'"},
                                                        {"longce:k=0", "k='0'"},
                                                        {"longce:k=4,k=5", "twice"},
                                                        {"longce:delta", "delta needs a value"},
                                                        {"longce:most=0.5", "a number from 1"},
                                                        {"longce:most=nan", "most='nan'"}};
  for (const auto& [text, reason] : kWrong) {
    try {
      ParseObjective(text);
      ADD_FAILURE() << text << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    }
  }
}

// Each row against a forward of its own over the window that the published code would give it.
TEST_F(ObjectiveTest, ShortNatsAreThoseOfWindowsAlone) {
  Decoder decoder(backend_.get(), &weights_);
  for (const char* variant : {"full", "intra-reset", "anchor", "anchor-reset", "multi-bos", "window=9",
                              "scope=doc anchors=2 sinks=2 window=6 sep", "anchor-interleaved"}) {
    for (const char* positions : {"", "pose"}) {
      if (*positions != 0 && std::string(variant).ends_with("interleaved")) continue;
      SCOPED_TRACE(std::string(variant) + " " + positions);
      const LongCe long_ce{.k = 8, .delta = 5};
      const auto sequences = GainSequences(variant, positions);
      const LayeredPattern pattern = ParseVariant(variant).pattern;
      ShortPasses passes, others;
      const auto nats = ShortContextNats(&decoder, sequences, pattern, long_ce, 200, &passes);
      const auto smaller = ShortContextNats(&decoder, sequences, pattern, long_ce, 1, &others);
      ASSERT_EQ(std::ssize(nats), std::ssize(sequences) * kGainLength);
      EXPECT_EQ(passes.rows, others.rows);
      ShortPasses counted;
      const AttnPattern of_layers = pattern.OfLayer(0, 2);
      for (const TokenLayout& layout : ShortLayouts(sequences, pattern, long_ce)) {
        counted.rows += layout.size;
        counted.visible_pairs += CompileSchedule(of_layers, layout).visible_pairs;
      }
      EXPECT_EQ(counted.rows, passes.rows);
      EXPECT_EQ(counted.visible_pairs, passes.visible_pairs);
      int64_t scored = 0;
      for (size_t i = 0; i < nats.size(); ++i) {
        const PackedSequence& s = sequences[i / kGainLength];
        const auto row = static_cast<int32_t>(i % kGainLength);
        const int32_t begin = s.layout.DocBegin(row), anchors = pattern.anchors;
        const int32_t target = row + 1 - begin;  // the token's place in its document
        const bool counts = row >= anchors && s.targets[row] >= 0 && s.weights[row] > 0;
        if (!counts || target < long_ce.k + long_ce.delta) {
          EXPECT_TRUE(std::isnan(nats[i])) << i;
          continue;
        }
        const auto at = begin + static_cast<int32_t>((target - long_ce.k) / long_ce.delta * long_ce.delta);
        Batch batch;
        batch.pattern = pattern;
        batch.sequences.push_back({0, MakeLayout(anchors, {row + 1 - at})});
        for (int32_t r = 0; r <= row; ++r) {
          if (r >= anchors && r < at) continue;
          batch.ids.push_back(s.ids[r]);
          batch.positions.push_back(r < anchors ? r : anchors + s.positions[r] - s.positions[at]);
          batch.sequences[0].layout.is_separator.push_back(s.layout.is_separator[r]);
          batch.targets.push_back(r == row ? s.targets[r] : -1);
          batch.weights.push_back(1);
        }
        std::vector<float> alone(batch.ids.size());
        decoder.Score(batch, alone.data());
        EXPECT_NEAR(nats[i], alone.back(), 2e-5 * (1 + alone.back())) << i;
        EXPECT_NEAR(nats[i], smaller[i], 2e-5 * (1 + smaller[i])) << i;
        ++scored;
      }
      EXPECT_GT(scored, 20);
    }
  }
}

// LP2: without a token that has a far context the step is that of plain cross-entropy, to the bit.
TEST_F(ObjectiveTest, ShortDocumentsTrainAsEver) {
  const auto sequences = GainSequences("anchor");
  Trainer plain = Make("anchor", "ce"), gained = Make("anchor", "longce:k=60,delta=60");
  const StepReport a = plain.Step(sequences), b = gained.Step(sequences);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.nats, a.loss);
  EXPECT_EQ(b.gains.rows, 0);
  EXPECT_EQ(std::memcmp(plain.weights().arena().data, gained.weights().arena().data,
                        static_cast<size_t>(plain.weights().size()) * 4),
            0);
}

// LP5: gradients are those of the weighted loss with its weights held fixed.
TEST_F(ObjectiveTest, AStepIsThatOfTheWeightsItsGainsMake) {
  for (const char* variant : {"anchor", "full", "intra-reset"}) {
    std::vector<PackedSequence> sequences = GainSequences(variant);
    const LayeredPattern pattern = ParseVariant(variant).pattern;
    Trainer gained = Make(variant, "longce:k=8,delta=4,most=3");
    Decoder decoder(backend_.get(), &weights_);
    ShortPasses passes;
    const auto reference = ShortContextNats(&decoder, sequences, pattern, {.k = 8, .delta = 4}, 100, &passes);
    std::vector<float> nats(reference.size());
    decoder.Score(MakeBatch(sequences, pattern), nats.data());
    double before = 0, after = 0, gains = 0;
    int64_t rows = 0;
    for (size_t i = 0; i < nats.size(); ++i) {
      PackedSequence& s = sequences[i / kGainLength];
      float& weight = s.weights[i % kGainLength];
      if (s.targets[i % kGainLength] < 0) continue;
      before += weight;
      if (!std::isnan(reference[i])) {
        const float gain = std::min(std::exp(reference[i] - nats[i]), 3.0f);
        gains += gain;
        ++rows;
        weight *= gain;
      }
      after += weight;
    }
    ASSERT_GT(rows, 20);
    const StepReport report = gained.Step(GainSequences(variant));
    EXPECT_EQ(report.gains.rows, rows);
    EXPECT_NEAR(report.gains.sum, gains, 1e-4 * gains);
    Trainer by_hand = Make(variant, "ce");
    const StepReport want = by_hand.Step(sequences);
    // The mean is over the weights without gains.
    EXPECT_NEAR(report.loss, want.loss * after / before, 1e-4 * report.loss);
    EXPECT_NE(report.loss, report.nats);
    const auto *x = static_cast<const float*>(gained.gradients().arena().data),
               *y = static_cast<const float*>(by_hand.gradients().arena().data);
    for (int64_t i = 0; i < gained.gradients().size(); ++i) {
      const double wanted = y[i] * after / before;
      ASSERT_NEAR(x[i], wanted, 1e-4 * (1 + std::abs(wanted))) << variant;
    }
    EXPECT_GT(report.flops, want.flops);
  }
}

TEST_F(ObjectiveTest, ThreadsAndRecomputeChangeNoBit) {
  std::vector<std::unique_ptr<Trainer>> trainers;
  for (const int threads : {1, 3}) {
    for (const Recompute recompute : {Recompute::kNone, Recompute::kLayer}) {
      SetThreads(threads);
      TrainConfig config;
      config.steps = 10;
      config.micro_batch = 2;
      config.lr = 1e-2;
      config.dtype = DType::kBF16;
      config.recompute = recompute;
      config.objective = "longce:k=8,delta=8";
      trainers.push_back(std::make_unique<Trainer>(backend_.get(), config, ParseVariant("anchor").pattern,
                                                   Cast(weights_, DType::kF32)));
      for (int step = 0; step < 2; ++step) trainers.back()->Step(GainSequences("anchor", "pose"));
    }
  }
  SetThreads(0);
  const ParamStore& first = trainers[0]->weights();
  for (const auto& trainer : trainers) {
    EXPECT_EQ(std::memcmp(first.arena().data, trainer->weights().arena().data, static_cast<size_t>(first.size()) * 4),
              0);
  }
}

TEST_F(ObjectiveTest, ActivationsAreWhatIsExpected) {
  Trainer trainer = Make("full", "longce:k=8,delta=8", 2);
  trainer.Step(GainSequences("full", "", 2));
  trainer.Step(GainSequences("full", "", 2));
  const int64_t most = ActivationBytes(GainSpec(), DType::kF32, Recompute::kNone, 2 * kGainLength) +
                       ScoringBytes(GainSpec(), DType::kF32, 2 * kGainLength);
  EXPECT_LE(trainer.activation_bytes(), most + most / 8) << "and the rows that short passes gather";
}

}  // namespace
}  // namespace hawser
