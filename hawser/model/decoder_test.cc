// The decoder against its naive f64 twin and finite differences. The properties of document masks that hold, and those
// that must not, are in train/variant_oracle_test.cc.
#include "hawser/model/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>

#include "hawser/attn/variant.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/model/kv_shape.h"
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
  LayeredPattern pattern;
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

  ModelSpec spec_;
  ParamStore params_;
  ReferenceModel twin_;
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
  std::vector<std::vector<int32_t>> documents_ = {RandomIds(9, 64, 1), RandomIds(1, 64, 2), RandomIds(17, 64, 3),
                                                  RandomIds(6, 64, 4)};
};

TEST_F(DecoderTest, MatchesTwinOverPatternsAndBatches) {
  const char* patterns[] = {"full",
                            "window=5",
                            "intra",
                            "anchor",
                            "scope=doc anchors=3 window=4 sinks=2",
                            "sinks=2 window=6 sep",
                            "scope=doc anchors=1 sinks=1 window=3 sep",
                            "sinks=2 window=4 every=3 full-layers=-1",
                            "scope=doc anchors=1 sinks=1 window=5+2 sep"};
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
  constexpr const char* kMixture = "scope=doc anchors=1 sinks=1 window=5+2 every=4";
  for (const auto& [tie, text, softmax, places] :
       {std::tuple(true, "anchor", "standard", 0), std::tuple(false, "anchor", "standard", 0),
        std::tuple(false, kMixture, "standard", 0), std::tuple(true, "full", "self-adjust", 0),
        std::tuple(true, kMixture, "self-adjust:nb=0.1", 0), std::tuple(true, "full", "self-adjust-product", 0),
        std::tuple(true, kMixture, "standard", 3)}) {
    ModelSpec spec = TinySpec({.vocab = 30, .head_dim = 10, .width = 24, .mlp_width = 36, .tie = tie});
    spec.softmax = ParseSoftmax(softmax);
    if (places > 0) spec.segments = {.places = places, .separators = {2, 3, 7, 11, 13, 19}};
    const ParamStore params = LoudModel(spec, 3);
    Decoder decoder(backend_.get(), &params);
    Packed a = Pack({RandomIds(6, 30, 1), RandomIds(9, 30, 2)}, text);
    Packed b = Pack({RandomIds(11, 30, 3)}, text);
    Batch batch = MakeBatch({a, b}, spec.vocab);
    for (Packed* p : {&a, &b}) {  // of the twin: the decoder counts segments itself
      SegmentCounter counter;
      for (size_t t = 0; places > 0 && t < p->ids.size(); ++t) {
        p->positions[t] = counter.segment;
        counter.Pass(spec.segments, p->ids[t]);
      }
    }
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

TEST_F(DecoderTest, GradientsOfSomeParametersAreTheSameBits) {
  const Batch batch = MakeBatch({Pack(documents_, "anchor")}, 64);
  for (const bool tie : {true, false}) {
    const ModelSpec spec = TinySpec({.tie = tie});
    const ParamStore params = LoudModel(spec, 5);
    Decoder decoder(backend_.get(), &params);
    ParamStore all(spec, DType::kF32);
    decoder.ForwardBackward(batch, 1.0f, Recompute::kNone, &all);
    const std::function<bool(const ParamInfo&)> choices[] = {
        [](const ParamInfo& info) { return info.vector; }, [](const ParamInfo& info) { return info.layer == 1; },
        [](const ParamInfo& info) { return info.layer == -1 && !info.vector; }, [](const ParamInfo&) { return false; },
        [](const ParamInfo& info) { return info.role == Role::kGate || info.role == Role::kUp; }};
    for (const auto& wanted : choices) {
      std::vector<ParamInfo> some;
      for (const ParamInfo& info : params.layout().params()) {
        if (wanted(info)) some.push_back(info);
      }
      ParamStore grads(spec, ParamLayout(some), DType::kF32);
      decoder.ForwardBackward(batch, 1.0f, Recompute::kLayer, &grads);
      for (const ParamInfo& info : grads.layout().params()) {
        const float *got = grads.At(info).Row<float>(0), *want = all.Get(info.role, info.layer).Row<float>(0);
        EXPECT_TRUE(std::equal(got, got + info.size(), want)) << info.name;
      }
    }
  }
}

TEST_F(DecoderTest, SlidingWindowOfTheModelNarrowsThePattern) {
  ModelSpec narrow = spec_;
  narrow.sliding_window = 4;
  const ParamStore params = LoudModel(spec_, 5).WithSpec(narrow);
  Decoder decoder(backend_.get(), &params);
  Packed packed = Pack({documents_[2]}, "full");
  std::vector<float> nll(packed.ids.size());
  decoder.Score(MakeBatch({packed}, 64), nll.data());
  packed.pattern.window = 4;
  const ReferenceModel::Output want = twin_.Forward(packed.ids, packed.positions, packed.layout, packed.pattern);
  for (size_t t = 0; t < nll.size(); ++t) {
    EXPECT_NEAR(nll[t], ReferenceModel::Nll(want.logits[t], TargetOf(packed.ids[t], spec_.vocab)), 2e-4);
  }
}

TEST_F(DecoderTest, LayersWithoutTheModelsWindowSeeAll) {
  ModelSpec mixed = spec_;
  mixed.sliding_window = 4;
  mixed.full_layers = {1};
  const ParamStore params = LoudModel(spec_, 5).WithSpec(mixed);
  Decoder decoder(backend_.get(), &params);
  Packed packed = Pack({documents_[2]}, "full");
  std::vector<float> nll(packed.ids.size());
  decoder.Score(MakeBatch({packed}, 64), nll.data());
  const ReferenceModel::Output want = twin_.ForwardLayers(
      packed.ids, [](int32_t layer, int32_t q, int32_t k) { return layer == 1 || q - k < 4; },
      [&](int32_t, int32_t k) { return static_cast<double>(packed.positions[static_cast<size_t>(k)]); });
  for (size_t t = 0; t < nll.size(); ++t) {
    EXPECT_NEAR(nll[t], ReferenceModel::Nll(want.logits[t], TargetOf(packed.ids[t], spec_.vocab)), 2e-4);
  }
}

/// Loss and gradients of a batch under numerics, in a dtype.
struct Trained {
  double loss;
  std::vector<float> grads;
};
Trained TrainOnce(Backend* backend, const ParamStore& params, std::string_view numerics, DType dtype,
                  Recompute recompute = Recompute::kNone) {
  ParamStore weights = Cast(params, dtype);
  ChangeSpec(&weights, [&](ModelSpec& spec) { spec.rope.numerics = ParseRopeNumerics(numerics); });
  Decoder decoder(backend, &weights);
  ParamStore grads(params.spec(), DType::kF32);
  const Batch batch = MakeBatch({Pack({RandomIds(9, 64, 1), RandomIds(80, 64, 3)}, "anchor")}, 64);
  const StepStats stats = decoder.ForwardBackward(batch, 1.0f, recompute, &grads);
  const float* g = grads.arena().Row<float>(0);
  return {stats.loss, {g, g + grads.size()}};
}

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  return std::sqrt(difference / size);
}

TEST_F(DecoderTest, RotationsRoundAsTheNumericsSay) {
  const auto run = [&](std::string_view numerics, DType dtype) {
    return TrainOnce(backend_.get(), params_, numerics, dtype);
  };
  const Trained f32 = run("exact", DType::kF32), low = run("exact", DType::kBF16);
  EXPECT_EQ(run("f32-qk", DType::kF32).grads, f32.grads);
  EXPECT_EQ(run("bf16-qk", DType::kBF16).grads, low.grads);
  // f32 q and k in a bf16 model, and the bf16 rotation of wrong frequencies, are other numbers, of the same function.
  for (const char* numerics : {"f32-qk", "reference", "bf16-table", "all-bf16"}) {
    const Trained other = run(numerics, DType::kBF16);
    EXPECT_NE(other.grads, low.grads) << numerics;
    EXPECT_LT(Distance(other.grads, f32.grads), 0.1) << numerics;
    EXPECT_NEAR(other.loss / f32.loss, 1, 0.01) << numerics;
    EXPECT_EQ(TrainOnce(backend_.get(), params_, numerics, DType::kBF16, Recompute::kLayer).grads, other.grads);
  }
}

// The gradient is that of the rounded function: along it, the loss changes as it says.
TEST_F(DecoderTest, GradientsBelongToTheRoundedTables) {
  for (const char* numerics : {"inv_freq=bf16+table=bf16", "angle=f32+table=bf16", "positions=bf16"}) {
    const Trained trained = TrainOnce(backend_.get(), params_, numerics, DType::kF32);
    double square = 0;
    for (const float g : trained.grads) square += double{g} * g;
    const double step = 1e-3 / std::sqrt(square);
    const auto loss_at = [&](double t) {
      ParamStore moved = Cast(params_, DType::kF32);
      float* w = moved.arena().Row<float>(0);
      for (size_t i = 0; i < trained.grads.size(); ++i) w[i] += static_cast<float>(t * trained.grads[i]);
      return TrainOnce(backend_.get(), moved, numerics, DType::kF32).loss;
    };
    EXPECT_NEAR((loss_at(step) - loss_at(-step)) / (2 * step * square), 1, 0.02) << numerics;
  }
}

TEST_F(DecoderTest, ServingRotatesAsTrainingDid) {
  for (const char* numerics : {"reference", "f32-qk", "bf16-table"}) {
    ParamStore weights = Cast(params_, DType::kBF16);
    ChangeSpec(&weights, [&](ModelSpec& spec) { spec.rope.numerics = ParseRopeNumerics(numerics); });
    Decoder decoder(backend_.get(), &weights);
    const Packed packed = Pack({RandomIds(60, 64, 9)}, "full");
    const Batch batch = MakeBatch({packed}, 64);
    std::vector<float> want(batch.ids.size()), got(batch.ids.size());
    decoder.Score(batch, want.data());
    for (const char* policy : {"full", "window:100"}) {
      KvCache cache = NewKvCache(backend_.get(), weights.spec(), ParseKvForm(policy), {}, DType::kBF16, spec_.context);
      decoder.ExtendScore(batch.ids, batch.targets, &cache, got.data());
      for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-3) << numerics << " row " << i;
    }
  }
}

TEST_F(DecoderTest, RefusesNumericsThatOnlyTheDriftToolEmulates) {
  const auto kind = [&](std::string_view numerics, DType dtype) {
    try {
      TrainOnce(backend_.get(), params_, numerics, dtype);
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kInternal;
  };
  EXPECT_EQ(kind("f16-qk", DType::kBF16), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("bf16-qk", DType::kF32), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("math=f16", DType::kBF16), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("f64", DType::kF32), ErrorKind::kUnsupported);
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
