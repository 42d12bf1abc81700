// Every form of the block (model/spec.h) against the naive f64 twin: forward, gradients, and decoding with caches.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>

#include "hawser/attn/variant.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/kv/form.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

using testing::ReferenceModel;

struct Form {
  const char* name;
  void (*shape)(ModelSpec* spec);
};

void LayerNorms(ModelSpec* s) {
  s->block.norm = NormKind::kLayer;
  s->block.norm_bias = true;
}
void Biases(ModelSpec* s) { s->block.qkv_bias = s->block.out_bias = s->block.mlp_bias = true; }
void Plain(ModelSpec* s, Act act) {
  s->block.gated = false;
  s->block.act = act;
}

constexpr Form kForms[] = {
    {"biases of queries, keys and values", [](ModelSpec* s) { s->block.qkv_bias = true; }},
    {"all biases", Biases},
    {"norms of heads", [](ModelSpec* s) { s->block.qk_norm = QkNorm::kHead; }},
    {"post norms alone, norms of rows of heads",
     [](ModelSpec* s) {
       s->block.pre_norms = false;
       s->block.post_norms = true;
       s->block.qk_norm = QkNorm::kWidth;
     }},
    {"caps, scales, norms of 1 + w on both sides",
     [](ModelSpec* s) {
       s->block.norm_plus_one = s->block.post_norms = true;
       s->block.act = Act::kGeluTanh;
       s->embedding_scale = 5.5f;
       s->attn_scale = 0.2f;
       s->attn_cap = 1.5f;
       s->logit_cap = 3;
       s->sliding_window = 6;
       s->full_layers = {1};
     }},
    {"another rope in layers with a window",
     [](ModelSpec* s) {
       s->block.norm_plus_one = s->block.post_norms = true;
       s->block.qk_norm = QkNorm::kHead;
       s->sliding_window = 7;
       s->full_layers = {1};
       s->rope.theta = 100;
       s->rope.scaling = {.kind = RopeKind::kLinear, .factor = 8};
       s->local_rope = RopeSpec{.theta = 1000, .rotary_dim = s->head_dim};
     }},
    {"parallel, two norms, a part rotated",
     [](ModelSpec* s) {
       LayerNorms(s);
       Biases(s);
       Plain(s, Act::kGelu);
       s->block.residual = Residual::kParallelTwoNorms;
       s->rope.rotary_dim = 4;
     }},
    {"parallel, one norm",
     [](ModelSpec* s) {
       LayerNorms(s);
       Plain(s, Act::kGelu);
       s->block.residual = Residual::kParallelOneNorm;
     }},
    {"parallel and gated, without biases",
     [](ModelSpec* s) {
       s->block.norm = NormKind::kLayer;
       s->block.residual = Residual::kParallelOneNorm;
       s->logit_scale = 0.4f;
     }},
    {"clipped, no positions",
     [](ModelSpec* s) {
       s->block.norm = NormKind::kLayer;
       Plain(s, Act::kGelu);
       s->block.qkv_clip = 0.8f;
       s->places = Places::kNone;
     }},
    {"biased by distance, norm of embeddings",
     [](ModelSpec* s) {
       LayerNorms(s);
       Biases(s);
       Plain(s, Act::kGeluTanh);
       s->embedding_norm = true;
       s->places = Places::kAlibi;
     }},
    {"queries that grow, from the second layer on",
     [](ModelSpec* s) {
       s->rope.query_scale = {.kind = QueryScaleKind::kLog, .context = 3, .first_layer = 1};
       s->sliding_window = 7;
       s->full_layers = {0, 1};
       s->local_rope = RopeSpec{.theta = 1000, .rotary_dim = s->head_dim};
     }},
    {"queries that grow by steps, a part rotated",
     [](ModelSpec* s) {
       s->block.qk_norm = QkNorm::kHead;
       s->rope.rotary_dim = 4;
       s->rope.query_scale = {.kind = QueryScaleKind::kFloorLog, .context = 4, .rate = 0.5};
     }},
    {"a layer without positions", [](ModelSpec* s) { s->unplaced_layers = {1}; }},
    {"relu", [](ModelSpec* s) { Plain(s, Act::kRelu); }},
};

ModelSpec SpecOf(const Form& form) {
  ModelSpec spec = TinySpec({.vocab = 30, .layers = 3, .head_dim = 10, .width = 24, .mlp_width = 36, .tie = true});
  form.shape(&spec);
  return spec;
}

/// Seeded weights large enough that each of them shows; biases and norms too.
ParamStore ModelOf(const ModelSpec& spec) {
  ParamStore params = LoudModel(spec, 3);
  for (const ParamInfo& info : params.layout().params()) {
    if (info.part != Part::kBias) continue;
    float* bias = params.At(info).Row<float>(0);
    for (int64_t i = 0; i < info.cols; ++i) bias[i] = 0.2f * static_cast<float>((i * 5 + info.layer) % 7 - 3);
  }
  return params;
}

std::vector<int32_t> Ids(int32_t n, uint64_t seed) {
  Rng rng{seed, 1};
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(30));
  return ids;
}

/// Two documents behind a shared first token, with positions that begin anew.
Batch Anchored() {
  const AttnVariant variant = ParseVariant("anchor");
  Batch batch;
  batch.pattern = variant.pattern;
  batch.ids = {1};
  batch.positions = {0};
  const std::vector<int32_t> lengths = {6, 9};
  for (const int32_t length : lengths) {
    for (const int32_t id : Ids(length, static_cast<uint64_t>(length))) {
      batch.ids.push_back(id);
    }
    for (int64_t t = 1; t <= length; ++t) batch.positions.push_back(t);
  }
  batch.sequences = {{0, MakeLayout(1, lengths)}};
  for (const int32_t id : batch.ids) batch.targets.push_back((id * 7 + 3) % 30);
  batch.weights.assign(batch.ids.size(), 1.0f);
  return batch;
}

class BlockFormsTest : public ::testing::TestWithParam<Form> {
 protected:
  double TwinLoss(const ReferenceModel& twin, const Batch& batch) const {
    const LayeredPattern pattern = batch.pattern;
    const LayerPatterns of = PatternsOfLayers(pattern, spec_.layers, OwnPattern(spec_));
    const TokenLayout& layout = batch.sequences[0].layout;
    const ReferenceModel::Output out = twin.ForwardLayers(
        batch.ids,
        [&](int32_t layer, int32_t q, int32_t k) {
          return Visible(of.distinct[of.of_layer[static_cast<size_t>(layer)]], layout, q, k);
        },
        [&](int32_t, int32_t k) { return static_cast<double>(batch.positions[static_cast<size_t>(k)]); });
    double sum = 0;
    for (size_t t = 0; t < batch.ids.size(); ++t) sum += ReferenceModel::Nll(out.logits[t], batch.targets[t]);
    return sum;
  }

  ModelSpec spec_ = SpecOf(GetParam());
  ParamStore params_ = ModelOf(spec_);
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST_P(BlockFormsTest, CountsAreThoseOfTheLayout) {
  int64_t stored = 0, multiplied = int64_t{spec_.vocab} * spec_.width;
  for (const ParamInfo& info : params_.layout().params()) {
    stored += info.size();
    if (!info.vector && info.role != Role::kEmbedding) multiplied += info.size();
  }
  EXPECT_EQ(NumParameters(spec_), stored);
  EXPECT_EQ(MatrixParameters(spec_), multiplied);
}

TEST_P(BlockFormsTest, LossAndGradientsAreThoseOfTheTwin) {
  const Batch batch = Anchored();
  ReferenceModel twin(params_);
  const double want = TwinLoss(twin, batch);
  Decoder decoder(backend_.get(), &params_);
  std::vector<float> nll(batch.ids.size());
  EXPECT_NEAR(decoder.Score(batch, nll.data()).loss, want, 1e-4 * want);
  const ParamStore low = Cast(params_, DType::kBF16);
  EXPECT_NEAR(Decoder(backend_.get(), &low).Score(batch, nll.data()).loss, want, 0.05 * want);

  std::vector<float> first;
  for (const Recompute recompute : {Recompute::kNone, Recompute::kLayer}) {
    ParamStore grads(spec_, DType::kF32);
    decoder.ForwardBackward(batch, 0.5f, recompute, &grads);
    const float* all = grads.arena().Row<float>(0);
    if (first.empty()) first.assign(all, all + grads.size());
    EXPECT_TRUE(std::equal(first.begin(), first.end(), all)) << "recompute gives other bits";
  }
  Rng rng{9, 9};
  for (const ParamInfo& info : params_.layout().params()) {
    const float* g = first.data() + info.offset;
    double norm = 0;
    for (int64_t i = 0; i < info.size(); ++i) norm += static_cast<double>(g[i]) * g[i];
    norm = std::sqrt(norm);
    EXPECT_GT(norm, 0) << info.name;
    for (int trial = 0; trial < 4; ++trial) {
      const auto i = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(info.size())));
      double& w = twin.arena()[static_cast<size_t>(info.offset + i)];
      const double kept = w, step = 1e-5;
      w = kept + step;
      const double up = TwinLoss(twin, batch);
      w = kept - step;
      const double down = TwinLoss(twin, batch);
      w = kept;
      EXPECT_NEAR(g[i], 0.5 * (up - down) / (2 * step), 2e-4 * norm + 1e-5) << info.name << " [" << i << "]";
    }
  }
}

TEST_P(BlockFormsTest, GradientsOfSomeParametersAndInBf16) {
  const Batch batch = Anchored();
  ParamStore all(spec_, DType::kF32);
  Decoder(backend_.get(), &params_).ForwardBackward(batch, 1.0f, Recompute::kNone, &all);
  for (const bool vectors : {true, false}) {
    std::vector<ParamInfo> some;
    for (const ParamInfo& info : params_.layout().params()) {
      if (info.vector == vectors) some.push_back(info);
    }
    ParamStore grads(spec_, ParamLayout(some), DType::kF32);
    Decoder(backend_.get(), &params_).ForwardBackward(batch, 1.0f, Recompute::kLayer, &grads);
    for (const ParamInfo& info : grads.layout().params()) {
      const float* got = grads.At(info).Row<float>(0);
      const float* want = all.At(all.layout().Find(info.role, info.layer, info.part)).Row<float>(0);
      EXPECT_TRUE(std::equal(got, got + info.size(), want)) << info.name;
    }
  }
  const ParamStore low = Cast(params_, DType::kBF16);
  std::vector<float> first;
  for (const Recompute recompute : {Recompute::kNone, Recompute::kLayer}) {
    for (const int threads : {1, 3}) {
      SetThreads(threads);
      ParamStore grads(spec_, DType::kF32);
      Decoder(backend_.get(), &low).ForwardBackward(batch, 1.0f, recompute, &grads);
      const float* g = grads.arena().Row<float>(0);
      if (first.empty()) first.assign(g, g + grads.size());
      EXPECT_TRUE(std::equal(first.begin(), first.end(), g)) << threads << " threads";
    }
  }
  SetThreads(0);
  double square = 0, error = 0;
  for (int64_t i = 0; i < all.size(); ++i) {
    const double want = all.arena().Row<float>(0)[i];
    square += want * want;
    error += (first[static_cast<size_t>(i)] - want) * (first[static_cast<size_t>(i)] - want);
  }
  EXPECT_LT(error, 0.01 * square);
}

TEST_P(BlockFormsTest, DecodingEqualsScoring) {
  const std::vector<int32_t> ids = Ids(40, 5);
  const auto scored = [&](const LayeredPattern& pattern) {
    const LayerPatterns of = PatternsOfLayers(pattern, spec_.layers, OwnPattern(spec_));
    TokenLayout layout = MakeLayout(0, {static_cast<int32_t>(ids.size())});
    for (const int32_t id : ids) layout.is_separator.push_back(id % 5 == 0);
    return ReferenceModel(params_)
        .ForwardLayers(
            ids,
            [&](int32_t layer, int32_t q, int32_t k) {
              return Visible(of.distinct[of.of_layer[static_cast<size_t>(layer)]], layout, q, k);
            },
            [&](int32_t, int32_t k) { return static_cast<double>(k); })
        .logits;
  };
  std::vector<uint8_t> separators(30);
  for (size_t id = 0; id < 30; id += 5) separators[id] = 1;
  Decoder decoder(backend_.get(), &params_);
  const auto decoded = [&](std::string_view form, size_t most) {
    KvCache cache = NewKvCache(backend_.get(), spec_, ParseKvForm(form), separators, DType::kF32, spec_.context);
    Matrix logits(static_cast<int64_t>(ids.size()), spec_.vocab, DType::kF32);
    for (size_t begin = 0; begin < ids.size(); begin += most) {
      const size_t n = std::min(most, ids.size() - begin);
      decoder.Extend(std::span(ids).subspan(begin, n), &cache,
                     logits.view().Rows(static_cast<int64_t>(begin), static_cast<int64_t>(n)));
    }
    return logits;
  };
  const auto expect = [&](const LayeredPattern& pattern, const char* form) {
    const std::vector<std::vector<double>> want = scored(pattern);
    for (const size_t most : {1, 7, 40}) {
      const Matrix got = decoded(form, most);
      double worst = 0;
      for (size_t t = 0; t < ids.size(); ++t) {
        for (size_t v = 0; v < 30; ++v) {
          worst = std::max(worst, std::abs(got.view().Row<float>(static_cast<int64_t>(t))[v] - want[t][v]));
        }
      }
      EXPECT_LT(worst, 2e-4) << form << " in chunks of " << most;
    }
  };
  expect({}, "full");
  expect(AttnPattern{.window = 8, .sinks = 3, .separators = true}, "sep:3,8");
  for (const char* stream : {"sep-stream:2,4,6,20", "sink:3,9", "sink:3,9,positions=absolute"}) {
    const Matrix one = decoded(stream, 1), many = decoded(stream, 30);
    for (size_t i = 0; i < ids.size() * 30; ++i) {
      ASSERT_NEAR(one.view().Row<float>(0)[i], many.view().Row<float>(0)[i], 2e-4) << stream;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, BlockFormsTest, ::testing::ValuesIn(kForms),
                         [](const ::testing::TestParamInfo<Form>& form) {
                           std::string name;
                           for (const char c : std::string(form.param.name)) {
                             if (std::isalnum(static_cast<unsigned char>(c)) != 0) name += c;
                           }
                           return name;
                         });

}  // namespace
}  // namespace hawser
