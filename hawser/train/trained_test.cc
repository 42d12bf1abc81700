// Training of some parameters, and of adapters.
#include "hawser/train/trained.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/io/json.h"
#include "hawser/io/safetensors.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/test_folder.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/lora.h"
#include "hawser/train/peft.h"
#include "hawser/train/trainer.h"

namespace hawser {
namespace {

using testing::ReferenceModel;

constexpr int32_t kVocab = 40, kLength = 24;

ModelSpec Spec(bool tie = false) {
  return TinySpec({.vocab = kVocab, .head_dim = 10, .width = 24, .mlp_width = 36, .context = kLength, .tie = tie});
}

/// Two documents of tokens that follow from each other.
PackedSequence Sequence(uint64_t seed) {
  PackedSequence sequence;
  sequence.layout = MakeLayout(0, {10, kLength - 10});
  Rng rng{seed};
  for (int32_t t = 0; t < kLength; ++t) {
    const bool first = t == 0 || t == 10;
    sequence.ids.push_back(first ? static_cast<int32_t>(rng.Below(kVocab)) : (sequence.ids.back() * 3 + 7) % kVocab);
    sequence.positions.push_back(t);
    sequence.targets.push_back(t == 9 || t + 1 == kLength ? -1 : (sequence.ids.back() * 3 + 7) % kVocab);
    sequence.weights.push_back(1.0f);
  }
  return sequence;
}

std::vector<PackedSequence> Sequences(uint64_t seed, int64_t count = 2) {
  std::vector<PackedSequence> sequences;
  for (int64_t i = 0; i < count; ++i) sequences.push_back(Sequence(100 * seed + static_cast<uint64_t>(i)));
  return sequences;
}

TrainConfig Config() {
  TrainConfig config;
  config.steps = 40;
  config.micro_batch = 1;
  config.lr = 1e-2;
  config.schedule = Schedule::kConstant;
  config.clip = 0;
  config.weight_decay = 0;
  return config;
}

TrainConfig LoraConfig(std::vector<std::string> targets = {"q_proj", "v_proj", "down_proj"}) {
  TrainConfig config = Config();
  config.lora_rank = 3;
  config.lora_alpha = 5;
  config.lora_targets = std::move(targets);
  return config;
}

bool SameBits(ConstMat a, ConstMat b) {
  return a.rows == b.rows && a.cols == b.cols && a.dtype == b.dtype &&
         std::memcmp(a.data, b.data, static_cast<size_t>(a.rows * a.cols) * SizeOf(a.dtype)) == 0;
}

void Randomize(ParamStore* store, uint64_t seed) {
  Rng rng{seed};
  float* values = static_cast<float*>(store->arena().data);
  for (int64_t i = 0; i < store->size(); ++i) values[i] = static_cast<float>(0.2 * rng.Normal());
}

ErrorKind KindOf(const std::function<void()>& body, std::string* what) {
  try {
    body();
  } catch (const Error& error) {
    *what = error.what();
    return error.kind();
  }
  return ErrorKind::kInternal;
}

class TrainedTest : public ::testing::Test {
 protected:
  Trainer Make(const TrainConfig& config, ParamStore weights) {
    return Trainer(backend_.get(), config, ParseVariant("intra").pattern, std::move(weights));
  }
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST(TrainedLayout, GlobsChoose) {
  const ParamLayout all(Spec());
  const auto count = [&](std::vector<std::string> only, std::vector<std::string> freeze, int64_t rank = 0) {
    TrainConfig config;
    config.train_only = std::move(only);
    config.freeze = std::move(freeze);
    config.lora_rank = rank;
    return TrainedLayout(all, config).params().size();
  };
  const size_t n = all.params().size();
  EXPECT_EQ(count({}, {}), n);
  EXPECT_EQ(count({}, {"*norm*"}), n - 5);  // two a layer, and the last
  EXPECT_EQ(count({"*norm*", "model.embed_tokens.weight"}, {}), 6u);
  EXPECT_EQ(count({"model.layers.1.*"}, {"*norm*"}), 7u);
  EXPECT_EQ(count({}, {}, 4), 0u);
  EXPECT_EQ(count({"*norm*"}, {"model.norm.weight"}, 4), 4u);
  std::string what;
  EXPECT_EQ(KindOf([&] { count({}, {"*nrom*"}); }, &what), ErrorKind::kUsage);
  EXPECT_NE(what.find("*nrom*"), std::string::npos) << what;
  EXPECT_NE(what.find("freeze"), std::string::npos) << what;
  EXPECT_EQ(KindOf([&] { count({}, {"*"}); }, &what), ErrorKind::kUsage);
  EXPECT_EQ(KindOf([&] { count({"*q_proj*"}, {}, 4); }, &what), ErrorKind::kUsage);  // adapted by default
  EXPECT_NE(what.find("q_proj"), std::string::npos) << what;
}

TEST(LoraLayout, TargetsAreModules) {
  const ParamLayout all(Spec());
  const auto layout = [&](std::vector<std::string> targets) {
    return LoraLayout(all, {.rank = 3, .targets = std::move(targets)});
  };
  const ParamLayout adapters = layout({"q_proj", "layers.1.mlp.up_proj", "lm_head"});
  ASSERT_EQ(adapters.params().size(), 8u);
  EXPECT_EQ(adapters.params()[0].name, "model.layers.0.self_attn.q_proj.lora_A.weight");
  EXPECT_EQ(adapters.params()[1].name, "model.layers.0.self_attn.q_proj.lora_B.weight");
  EXPECT_EQ(&adapters.Find(Role::kQuery, 0, Part::kAdapterA), &adapters.params()[0]);
  EXPECT_EQ(&adapters.Find(Role::kQuery, 0, Part::kAdapterB), &adapters.params()[1]);
  EXPECT_EQ(adapters.TryFind(Role::kQuery, 0), nullptr) << "an adapter is no weight";
  EXPECT_EQ(adapters.params()[0].rows, 3);
  EXPECT_EQ(adapters.params()[0].cols, 24);
  EXPECT_EQ(adapters.params()[1].rows, 40);
  EXPECT_EQ(adapters.params()[1].cols, 3);
  EXPECT_EQ(layout({"*_proj"}).params().size(), 2u * 2 * 7);
  EXPECT_TRUE(LoraLayout(all, {}).empty());
  std::string what;
  for (const char* bad : {"q_porj", "model.norm", "embed_tokens", "proj", ""}) {
    EXPECT_EQ(KindOf([&] { layout({bad}); }, &what), ErrorKind::kUsage) << bad;
  }
  EXPECT_EQ(KindOf([&] { layout({"q_porj"}); }, &what), ErrorKind::kUsage);
  EXPECT_NE(what.find("did you mean 'q_proj'"), std::string::npos) << what;
}

TEST(LoraLayout, StartsUniformAndAtZero) {
  const ModelSpec spec = Spec();
  const ParamLayout all(spec);
  const LoraSpec lora{.rank = 16, .targets = {"*_proj"}};
  ParamStore a(spec, LoraLayout(all, lora), DType::kF32), again(spec, LoraLayout(all, lora), DType::kF32);
  InitializeLora(&a, 7);
  InitializeLora(&again, 7);
  EXPECT_TRUE(SameBits(a.arena(), again.arena()));
  double sum = 0, squares = 0, count = 0;
  for (const ParamInfo& info : a.layout().params()) {
    const float* values = a.At(info).Row<float>(0);
    for (int64_t i = 0; i < info.size(); ++i) {
      if (info.name.find("lora_B") != std::string::npos) {
        ASSERT_EQ(values[i], 0.0f);
        continue;
      }
      const double unit = values[i] * std::sqrt(static_cast<double>(info.cols));
      ASSERT_LE(std::abs(unit), 1.0);
      sum += unit;
      squares += unit * unit;
      ++count;
    }
  }
  EXPECT_NEAR(sum / count, 0, 4 * std::sqrt(1 / 3.0 / count));  // uniform: variance 1/3, of its square 4/45
  EXPECT_NEAR(squares / count, 1 / 3.0, 4 * std::sqrt(4 / 45.0 / count));
}

TEST_F(TrainedTest, FrozenParametersStayAndTheOthersTrainAsTheyWould) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    TrainConfig config = Config(), all = Config();
    config.dtype = all.dtype = dtype;
    config.freeze = {"*embed*", "*k_proj*", "model.layers.0.mlp.*", "model.norm.weight"};
    Trainer some = Make(config, LoudModel(Spec(), 3)), full = Make(all, LoudModel(Spec(), 3));
    const double loss = some.Step(Sequences(1)).loss;
    EXPECT_EQ(loss, full.Step(Sequences(1)).loss);
    const ParamStore before = LoudModel(Spec(), 3);
    const ParamLayout trained = TrainedLayout(before.layout(), config);
    int64_t frozen = 0;
    for (const ParamInfo& info : before.layout().params()) {
      const bool is_trained = trained.TryFind(info.role, info.layer) != nullptr;
      frozen += !is_trained;
      const ConstMat want = (is_trained ? full.weights() : before).Get(info.role, info.layer);
      EXPECT_TRUE(SameBits(some.weights().Get(info.role, info.layer), want)) << info.name;
      EXPECT_EQ(SameBits(before.Get(info.role, info.layer), want), !is_trained) << info.name;
    }
    EXPECT_EQ(frozen, 1 + 2 + 3 + 1);
    EXPECT_EQ(some.state().m->layout().params().size(), trained.params().size());
    EXPECT_TRUE(some.gradients().Get(Role::kEmbedding).empty());
    // A gradient that is only there for its group takes no part in the norm.
    const float* dk = some.gradients().Get(Role::kKey, 0).Row<float>(0);
    EXPECT_TRUE(std::all_of(dk, dk + 20 * 24, [](float g) { return g == 0; }));
    for (uint64_t step = 2; step <= 30; ++step) some.Step(Sequences(step));
    EXPECT_LT(some.Step(Sequences(1)).loss, 0.7 * loss);
  }
}

TEST_F(TrainedTest, AdaptersAtZeroChangeNothing) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    TrainConfig config = LoraConfig({"*_proj", "lm_head"});
    config.dtype = dtype;
    const ParamStore weights = LoudModel(Spec(), 3);
    Trainer trainer = Make(config, Cast(weights, DType::kF32));
    EXPECT_TRUE(SameBits(trainer.Merged().arena(), weights.arena()));
    TrainConfig plain = Config();
    plain.dtype = dtype;
    Trainer without = Make(plain, Cast(weights, DType::kF32));
    const LayeredPattern pattern = ParseVariant("intra").pattern;
    EXPECT_EQ(trainer.Score(Sequences(5), pattern), without.Score(Sequences(5), pattern));
  }
}

TEST_F(TrainedTest, AdapterGradientsMatchFiniteDifferencesOfTheTwin) {
  const TrainConfig config = LoraConfig({"*_proj", "lm_head"});
  const double scale = 5.0 / 3.0;
  const ParamStore weights = LoudModel(Spec(), 3);
  Trainer trainer = Make(config, Cast(weights, DType::kF32));
  Randomize(trainer.state().adapters, 11);
  trainer.ResumeAfter(0);
  ParamStore kept(weights.spec(), trainer.adapters().layout(), DType::kF32);
  std::memcpy(kept.arena().data, trainer.adapters().arena().data, static_cast<size_t>(kept.size()) * 4);
  std::vector<double> theta(static_cast<size_t>(kept.size()));
  std::copy_n(static_cast<const float*>(kept.arena().data), kept.size(), theta.begin());
  const PackedSequence sequence = Sequence(8);

  // The mean loss of the twin with W + s B A in double.
  const auto loss = [&] {
    ReferenceModel twin(weights);
    const auto& params = kept.layout().params();
    for (size_t p = 0; p < params.size(); p += 2) {
      const ParamInfo &a = params[p], &b = params[p + 1];
      const ParamInfo& w = weights.layout().Find(a.role, a.layer);
      for (int64_t r = 0; r < w.rows; ++r) {
        for (int64_t c = 0; c < w.cols; ++c) {
          for (int64_t k = 0; k < a.rows; ++k) {
            twin.arena()[static_cast<size_t>(w.offset + r * w.cols + c)] +=
                scale * theta[static_cast<size_t>(b.offset + r * b.cols + k)] *
                theta[static_cast<size_t>(a.offset + k * a.cols + c)];
          }
        }
      }
    }
    const auto out = twin.Forward(sequence.ids, sequence.positions, sequence.layout, ParseVariant("intra").pattern);
    double sum = 0, count = 0;
    for (size_t t = 0; t < sequence.ids.size(); ++t) {
      if (sequence.targets[t] < 0) continue;
      sum += ReferenceModel::Nll(out.logits[t], sequence.targets[t]);
      ++count;
    }
    return sum / count;
  };
  const StepReport report = trainer.Step({&sequence, 1});
  EXPECT_NEAR(report.loss, loss(), 1e-4);
  const ParamStore& grads = trainer.adapter_gradients();
  double squares = 0;
  Rng rng{2};
  for (const ParamInfo& info : grads.layout().params()) {
    const float* g = grads.At(info).Row<float>(0);
    const double norm = std::sqrt(std::inner_product(g, g + info.size(), g, 0.0));
    EXPECT_GT(norm, 1e-4) << info.name;
    squares += norm * norm;
    for (int trial = 0; trial < 3; ++trial) {
      const auto i = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(info.size())));
      double& value = theta[static_cast<size_t>(info.offset + i)];
      const double was = value, step = 1e-5;
      value = was + step;
      const double up = loss();
      value = was - step;
      const double down = loss();
      value = was;
      EXPECT_NEAR(g[i], (up - down) / (2 * step), 2e-4 * norm + 1e-6) << info.name << " [" << i << "]";
    }
  }
  EXPECT_NEAR(report.grad_norm, std::sqrt(squares), 1e-5 * report.grad_norm);
}

TEST_F(TrainedTest, AdaptersTrainAloneAndMergeToWhatWasTrained) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    TrainConfig config = LoraConfig();
    config.dtype = dtype;
    const ParamStore weights = LoudModel(Spec(true), 3);
    Trainer trainer = Make(config, Cast(weights, DType::kF32));
    double first = 0, last = 0;
    for (uint64_t step = 1; step <= 30; ++step) {
      last = trainer.Step(Sequences(step)).loss;
      if (step == 1) first = last;
    }
    EXPECT_LT(last, 0.9 * first) << Name(dtype);
    EXPECT_TRUE(SameBits(trainer.weights().arena(), weights.arena()));
    EXPECT_TRUE(trainer.state().m->layout().empty());
    // What is saved is what was computed with, to the last bit in either dtype.
    const ParamStore merged = Cast(trainer.Merged(), dtype);
    Decoder decoder(backend_.get(), &merged);
    const LayeredPattern pattern = ParseVariant("intra").pattern;
    std::vector<float> nll(kLength);
    const std::vector<PackedSequence> one = Sequences(50, 1);
    const StepStats stats = decoder.Score(MakeBatch(one, pattern), nll.data());
    EXPECT_EQ(stats.loss / stats.weight, trainer.Score(one, pattern)) << Name(dtype);
  }
}

TEST_F(TrainedTest, EmbeddingsAndNormsBesideAdapters) {  // LongLoRA, arXiv:2309.12307
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    TrainConfig config = LoraConfig();
    config.dtype = dtype;
    config.train_only = {"*embed*", "*norm*"};
    const ParamStore weights = LoudModel(Spec(), 3);
    Trainer trainer = Make(config, Cast(weights, DType::kF32));
    for (uint64_t step = 1; step <= 3; ++step) trainer.Step(Sequences(step));
    for (const ParamInfo& info : weights.layout().params()) {
      const bool changes = info.vector || info.role == Role::kEmbedding;
      EXPECT_EQ(SameBits(trainer.weights().Get(info.role, info.layer), weights.Get(info.role, info.layer)), !changes)
          << info.name;
    }
    const LayeredPattern pattern = ParseVariant("intra").pattern;
    const double score = trainer.Score(Sequences(9), pattern);
    trainer.ResumeAfter(3);  // builds what the decoder reads anew
    EXPECT_EQ(score, trainer.Score(Sequences(9), pattern)) << Name(dtype);
  }
}

TEST_F(TrainedTest, PeftFolder) {
  const std::filesystem::path folder = FreshPath("peft");
  Trainer trainer = Make(LoraConfig({"q_proj", "mlp.down_proj"}), LoudModel(Spec(), 3));
  trainer.Step(Sequences(1));
  SavePeft(trainer.adapters(), {.rank = 3, .alpha = 5, .targets = {}}, "base", folder);
  const TensorSource source = ReadSafetensors(folder / "adapter_model.safetensors");
  EXPECT_EQ(source.tensors().size(), 8u);
  const TensorView* b = source.Find("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->shape, (std::vector<int64_t>{24, 3}));
  const auto config = ParseJson(ReadFile(folder / "adapter_config.json"));
  EXPECT_EQ(config["r"], 3);
  EXPECT_EQ(config["lora_alpha"].dump(), "5");
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["base_model_name_or_path"], "base");
  EXPECT_EQ(config["target_modules"].size(), 4u);
}

TEST(StateBytes, CountWhatATrainerHolds) {
  const auto backend = MakeBackend("cpu");
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool lora : {false, true}) {
      TrainConfig config = lora ? LoraConfig() : Config();
      config.dtype = dtype;
      if (!lora) config.freeze = {"*mlp*"};
      Trainer trainer(backend.get(), config, AttnPattern(), LoudModel(Spec(), 3));
      const StateBytes bytes = CountStateBytes(Spec(), config);
      EXPECT_EQ(bytes.weights, 4 * trainer.weights().size());
      EXPECT_EQ(bytes.gradients, 4 * trainer.gradients().size());
      int64_t moments = trainer.state().m->size() + trainer.state().v->size();
      if (lora) moments += trainer.state().adapters_m->size() + trainer.state().adapters_v->size();
      EXPECT_EQ(bytes.moments, 4 * moments);
      EXPECT_EQ(bytes.adapters > 0, lora);
      EXPECT_EQ(bytes.in_use > 0, lora || dtype == DType::kBF16);
    }
  }
}

}  // namespace
}  // namespace hawser
