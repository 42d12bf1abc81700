#include "hawser/train/focus.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>

#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/objective.h"
#include "hawser/train/trainer.h"

namespace hawser {
namespace {

constexpr int32_t kFocusVocab = 40;

ModelSpec FocusSpec() { return TinySpec({.vocab = kFocusVocab, .layers = 2, .context = 64}); }

/// One document of so many tokens behind BOS 1.
PackedSequence OneText(int64_t tokens, uint64_t seed, uint64_t draw = 0) {
  PackOptions options{.length = static_cast<int32_t>(tokens + 1), .variant = ParseVariant("full"), .bos = 1};
  Packer packer(options, seed);
  Document document;
  Rng rng{seed};
  for (int64_t i = 0; i < tokens; ++i) document.tokens.push_back(static_cast<int32_t>(2 + rng.Below(kFocusVocab - 2)));
  packer.Add(document);
  packer.Finish();
  PackedSequence sequence;
  HAWSER_CHECK(packer.Next(&sequence));
  sequence.draw = draw;
  return sequence;
}

FocusLoss SmallFocus() {
  return {.tokens = 60, .chunk = {7, 16}, .prompt = 5, .local = 12, .least = 6, .targets = {3}, .reconstruct = 0.5};
}

/// A model, and candidates that are not what it is.
struct FocusModel {
  explicit FocusModel(const ModelSpec& spec, uint64_t seed = 5)
      : weights(LoudModel(spec, seed)),
        candidates(spec, CandidateLayout(weights.layout()), DType::kF32),
        base(backend.get(), &weights),
        condenser(backend.get(), WithCandidates(Weights(weights), &candidates)) {
    InitializeCandidates(LoudModel(spec, seed + 1), &candidates);
  }

  std::unique_ptr<Backend> backend = MakeBackend("cpu");
  ParamStore weights, candidates;
  Decoder base, condenser;
};

TEST(FocusTraining, TextsOfTheObjectiveParseBackAndAreResolvedByTheContext) {
  EXPECT_EQ(PrintForm(ParseObjective("focus")), "focus");
  EXPECT_EQ(PrintForm(ParseObjective("focus:chunk=64+128,targets=1+8,tokens=2k,reconstruct=0")),
            "focus:tokens=2048,chunk=64+128,targets=1+8,reconstruct=0");
  const FocusLoss resolved = Resolve(FocusLoss(), TinySpec({.context = 512}));
  EXPECT_EQ(PrintForm(resolved), "focus:tokens=2048,chunk=64+128+256,prompt=64,local=248,least=248");
  EXPECT_EQ(ShapeOf(resolved), (FocusShape{.chunk = 256, .prompt = 64, .local = 248}));
  const std::pair<const char*, const char*> kWrong[] = {
      {"focus:chunk=500", "500 tokens of a chunk, 1 of BOS and 64 of the prompt do not fit the context of 512"},
      {"focus:chunk=4", "512 candidates, 1 BOS, 248 tokens of the window and 8 new ones do not fit"},
      {"focus:local=600", "do not fit"},
      {"focus:local=20,least=21", "longer than the longest"},
      {"focus:local=20,prompt=21", "prompt=21"},
      {"focus:tokens=200", "hold no memory"}};
  for (const auto& [text, reason] : kWrong) {
    try {
      Resolve(std::get<FocusLoss>(ParseObjective(text)), TinySpec({.context = 512}));
      ADD_FAILURE() << text << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    }
  }
}

TEST(FocusTraining, WindowsGoOnAfterTheMemoryOrLieInIt) {
  const PackedSequence sequence = OneText(60, 3);
  int reconstructed = 0;
  std::vector<int> chunks(17);
  for (uint64_t draw = 0; draw < 400; ++draw) {
    PackedSequence drawn = sequence;
    drawn.draw = draw;
    const FocusText text = DrawFocusText(drawn, SmallFocus());
    ASSERT_EQ(std::ssize(text.targets), 3);
    EXPECT_EQ(text.bos, 1);
    EXPECT_TRUE(text.window >= 6 && text.window <= 12);
    EXPECT_EQ(std::ssize(text.local), text.window + 2);
    EXPECT_EQ(text.weight(), 3.0);
    ++chunks[static_cast<size_t>(text.chunk)];
    // The targets are the tokens behind the window.
    const int32_t* local = text.local.data();
    for (size_t t = 0; t < 3; ++t) EXPECT_EQ(text.targets[t], local[static_cast<size_t>(text.window) + t]);
    EXPECT_EQ(text.memory.data(), drawn.ids.data());
    if (text.memory.size() == drawn.ids.size()) {
      ++reconstructed;
      EXPECT_GT(local, drawn.ids.data());
      EXPECT_LE(local + text.window + 3, drawn.ids.data() + drawn.ids.size());
    } else {
      EXPECT_EQ(local, text.memory.data() + text.memory.size());
      EXPECT_EQ(local + text.window + 3, drawn.ids.data() + drawn.ids.size());
    }
  }
  EXPECT_TRUE(reconstructed > 150 && reconstructed < 250) << reconstructed;
  EXPECT_EQ(chunks[7] + chunks[16], 400);
  EXPECT_TRUE(chunks[7] > 150 && chunks[16] > 150);
}

TEST(FocusTraining, ShortTextsHaveShortWindowsOrNoTargets) {
  for (int64_t tokens = 2; tokens < 30; ++tokens) {
    const PackedSequence sequence = OneText(tokens, 3);
    FocusLoss focus = SmallFocus();
    focus.reconstruct = 0;
    const FocusText text = DrawFocusText(sequence, focus);
    EXPECT_EQ(text.targets.empty(), tokens < 5) << tokens;
    if (text.targets.empty()) continue;
    EXPECT_GE(std::ssize(text.memory), 2) << "BOS and a token";
    EXPECT_EQ(std::ssize(text.memory) + text.window + 3, tokens + 1);
  }
}

// FO6. Were the candidates to know what they help to predict, the probabilities of all that may stand there would not
// add up to 1. In a reconstruction they do know it: it stands in the memory.
TEST(FocusTraining, CandidatesDoNotKnowTheTargets) {
  FocusModel model(FocusSpec());
  FocusPass pass(model.backend.get(), &model.base, &model.condenser, DType::kF32, 5);
  FocusLoss focus = SmallFocus();
  focus.least = focus.local;
  for (const double reconstruct : {0.0, 1.0}) {
    focus.reconstruct = reconstruct;
    double furthest = 0;
    for (const size_t target : {0, 1, 2}) {
      double sum = 0;
      for (int32_t id = 0; id < kFocusVocab; ++id) {
        PackedSequence sequence = OneText(59, 3, /*draw=*/8);
        FocusText text = DrawFocusText(sequence, focus);
        const int64_t row = text.local.data() - sequence.ids.data() + text.window + static_cast<int64_t>(target);
        sequence.ids[static_cast<size_t>(row)] = id;
        sequence.targets[static_cast<size_t>(row) - 1] = id;
        text = DrawFocusText(sequence, focus);
        ASSERT_EQ(text.targets[target], id);
        for (size_t t = 0; t < 3; ++t) text.weights[t] = t == target ? 1.0f : 0.0f;
        sum += std::exp(-pass.Run({&text, 1}, 1.0f, Recompute::kNone, nullptr).loss);
      }
      furthest = std::max(furthest, std::abs(sum - 1.0));
    }
    if (reconstruct == 0) {
      EXPECT_LT(furthest, 1e-5);
    } else {
      EXPECT_GT(furthest, 1e-3);
    }
  }
}

// FO7, with rows of chunks in no graph: of what differs from one point of the loss to another they are part too.
TEST(FocusTraining, GradientsAreFiniteDifferences) {
  for (const char* family : {"llama", "biased"}) {
    SCOPED_TRACE(family);
    ModelSpec spec = FocusSpec();
    if (std::string(family) == "biased") {  // Qwen 2 and 3 in one, in parallel branches
      spec.block.qkv_bias = spec.block.out_bias = true;
      spec.block.qk_norm = QkNorm::kHead;
      spec.block.residual = Residual::kParallelTwoNorms;
    }
    FocusModel model(spec);
    FocusPass pass(model.backend.get(), &model.base, &model.condenser, DType::kF32, 5);
    const PackedSequence first = OneText(59, 3, /*draw=*/1), second = OneText(40, 4, /*draw=*/8);
    const std::vector<FocusText> texts = {DrawFocusText(first, SmallFocus()), DrawFocusText(second, SmallFocus())};
    ParamStore grads(spec, model.candidates.layout(), DType::kF32);
    const StepStats stats = pass.Run(texts, 1.0f, Recompute::kNone, &grads);
    EXPECT_NEAR(stats.loss, pass.Run(texts, 1.0f, Recompute::kNone, nullptr).loss, 1e-5 * stats.loss);
    EXPECT_EQ(stats.weight, 6.0);
    int64_t checked = 0;
    for (const ParamInfo& info : model.candidates.layout().params()) {
      float* w = model.candidates.At(info).Row<float>(0);
      const float* gradient = grads.At(info).Row<float>(0);
      // Along a direction of random signs: many small slopes add up to one that shows above the rounding of a loss.
      Rng rng{7, static_cast<uint64_t>(info.offset)};
      std::vector<float> sign(static_cast<size_t>(info.size())), kept(w, w + info.size());
      double slope = 0, norm = 0;
      for (int64_t i = 0; i < info.size(); ++i) {
        sign[static_cast<size_t>(i)] = rng.Below(2) == 0 ? -1.0f : 1.0f;
        slope += static_cast<double>(gradient[i]) * sign[static_cast<size_t>(i)];
        norm += static_cast<double>(gradient[i]) * gradient[i];
      }
      const bool last = info.layer == spec.layers - 1 && (info.role == Role::kQuery || info.role == Role::kAttnOut);
      if (last) {  // of the last layer keys and values alone are kept
        EXPECT_EQ(norm, 0.0) << info.name;
        continue;
      }
      // A bias of keys moves all scores of a head alike only without rotation: here it has a gradient too.
      const double step = 1e-3;
      const auto loss_at = [&](double by) {
        for (int64_t i = 0; i < info.size(); ++i) {
          w[i] = kept[static_cast<size_t>(i)] + static_cast<float>(by) * sign[static_cast<size_t>(i)];
        }
        return pass.Run(texts, 1.0f, Recompute::kNone, nullptr).loss;
      };
      const double numeric = (loss_at(step) - loss_at(-step)) / (2 * step);
      std::copy(kept.begin(), kept.end(), w);
      EXPECT_NEAR(slope, numeric, 2e-2 * std::sqrt(norm) + 5e-3) << info.name;
      EXPECT_GT(norm, 0.0) << info.name;
      ++checked;
    }
    EXPECT_GT(checked, 5);
  }
}

TEST(FocusTraining, TextsInOnePassAreThoseAlone) {
  FocusModel model(FocusSpec());
  FocusPass pass(model.backend.get(), &model.base, &model.condenser, DType::kF32, 5);
  std::vector<PackedSequence> sequences;
  std::vector<FocusText> texts;
  for (uint64_t i = 0; i < 5; ++i) sequences.push_back(OneText(20 + 9 * static_cast<int64_t>(i), i, i));
  for (const PackedSequence& sequence : sequences) texts.push_back(DrawFocusText(sequence, SmallFocus()));
  ParamStore together(model.weights.spec(), model.candidates.layout(), DType::kF32);
  ParamStore alone(model.weights.spec(), model.candidates.layout(), DType::kF32);
  const double loss = pass.Run(texts, 0.5f, Recompute::kLayer, &together).loss;
  double sum = 0;
  for (const FocusText& text : texts) sum += pass.Run({&text, 1}, 0.5f, Recompute::kNone, &alone).loss;
  EXPECT_NEAR(loss, sum, 1e-5 * sum);
  const auto* a = static_cast<const float*>(together.arena().data);
  const auto* b = static_cast<const float*>(alone.arena().data);
  for (int64_t i = 0; i < together.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-4 * (1 + std::abs(b[i]))) << i;
}

TEST(FocusTraining, CostsAreWhatPassesHold) {
  const PackedSequence sequence = OneText(59, 3, /*draw=*/1);
  FocusLoss focus = SmallFocus();
  focus.chunk = {16};
  focus.reconstruct = 0;
  focus.least = 12;
  const FocusText text = DrawFocusText(sequence, focus);  // 45 of memory, 12 of window, 3 targets
  ASSERT_EQ(std::ssize(text.memory), 45);
  const FocusCost cost = CostOf(text, 5);
  EXPECT_EQ(cost.chunk_rows, 16 + 16 + 13 + 3 * 5);  // BOS and all but one of the prompt
  EXPECT_EQ(cost.candidate_rows, 3);
  EXPECT_EQ(cost.local_rows, 1 + 12 + 2);
  EXPECT_EQ(cost.candidate_pairs, 22 + 22 + 19);
  EXPECT_EQ(cost.local_pairs, 15 * 3 + 15 * 16 / 2);
  FocusModel model(FocusSpec());
  FocusPass pass(model.backend.get(), &model.base, &model.condenser, DType::kF32, 5);
  EXPECT_EQ(pass.Run({&text, 1}, 1.0f, Recompute::kNone, nullptr).visible_pairs, cost.local_pairs);
}

class FocusTrainer : public ::testing::Test {
 protected:
  Trainer Make(const char* objective, DType dtype = DType::kF32) const {
    TrainConfig config;
    config.steps = 40;
    config.micro_batch = 2;
    config.lr = 1e-2;
    config.dtype = dtype;
    config.weight_decay = 0;
    config.objective = PrintForm(Resolve(std::get<FocusLoss>(ParseObjective(objective)), FocusSpec()));
    return Trainer(backend_.get(), config, ParseVariant("full").pattern, Cast(weights_, DType::kF32));
  }
  static std::vector<PackedSequence> Texts(uint64_t step) {
    std::vector<PackedSequence> texts;
    for (uint64_t i = 0; i < 3; ++i) texts.push_back(OneText(59, i, step * 3 + i));
    return texts;
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  const ParamStore weights_ = TinyModel(FocusSpec(), 5);
};

constexpr const char* kSmallObjective = "focus:tokens=60,chunk=7+16,prompt=5,local=12,targets=3";

TEST_F(FocusTrainer, TrainsTheFourProjectionsAndNothingElse) {
  Trainer trainer = Make(kSmallObjective);
  const double before = trainer.Score(Texts(1000), {});
  StepReport first, last;
  for (uint64_t step = 0; step < 40; ++step) {
    last = trainer.Step(Texts(step));
    if (step == 0) first = last;
  }
  EXPECT_EQ(std::memcmp(weights_.arena().data, trainer.weights().arena().data,
                        static_cast<size_t>(weights_.size()) * sizeof(float)),
            0);
  EXPECT_EQ(trainer.gradients().size(), 0);
  EXPECT_LT(trainer.Score(Texts(1000), {}), before) << "the same three texts at other cuts";
  EXPECT_EQ(first.targets, 9);
  EXPECT_EQ(first.tokens, 3 * 60);
  EXPECT_GT(first.flops, 0);
  std::vector<std::string> names;
  for (const ParamInfo& info : trainer.adapters().layout().params()) {
    names.push_back(info.name);
    const ConstMat now = trainer.adapters().At(info), then = weights_.At(weights_.layout().Find(info.role, info.layer));
    const bool idle = info.layer == 1 && (info.role == Role::kQuery || info.role == Role::kAttnOut);
    EXPECT_EQ(std::memcmp(now.data, then.data, static_cast<size_t>(info.size()) * sizeof(float)) == 0, idle)
        << info.name;
  }
  EXPECT_EQ(names.size(), 8u);
}

TEST_F(FocusTrainer, ThreadsRecomputeAndResumingChangeNoBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    std::vector<Matrix> results;
    for (const int threads : {1, 3}) {
      SetThreads(threads);
      Trainer trainer = Make(kSmallObjective, dtype);
      for (uint64_t step = 0; step < 4; ++step) trainer.Step(Texts(step));
      Trainer other = Make(kSmallObjective, dtype);
      for (uint64_t step = 0; step < 2; ++step) other.Step(Texts(step));
      Trainer resumed = Make(kSmallObjective, dtype);  // from what a checkpoint holds
      const TrainState from = other.state(), to = resumed.state();
      for (const auto& [a, b] : {std::pair(from.adapters, to.adapters), std::pair(from.adapters_m, to.adapters_m),
                                 std::pair(from.adapters_v, to.adapters_v)}) {
        backend_->Copy(a->arena(), b->arena());
      }
      resumed.ResumeAfter(2);
      for (uint64_t step = 2; step < 4; ++step) resumed.Step(Texts(step));
      for (const Trainer* each : {&trainer, &resumed}) {
        Matrix copy = backend_->NewMatrix(1, each->adapters().size(), DType::kF32);
        backend_->Copy(each->adapters().arena(), copy);
        results.push_back(std::move(copy));
      }
    }
    SetThreads(0);
    for (const Matrix& result : results) {
      EXPECT_EQ(std::memcmp(result.view().data, results[0].view().data, result.bytes()), 0) << Name(dtype);
    }
  }
}

TEST_F(FocusTrainer, TextsWithoutTargetsAreNamed) {
  Trainer trainer = Make(kSmallObjective);
  try {
    trainer.Step(std::vector<PackedSequence>{OneText(3, 1)});
    ADD_FAILURE() << "was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("documents are too short"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace hawser
