#include "hawser/eval/attention_mass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/eval/separator_attention.h"
#include "hawser/model/decoder.h"
#include "hawser/ops/forwarding_backend.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

constexpr int32_t kMassKinds = 4;

KindText MassText(int32_t tokens, uint64_t seed) {
  Rng rng{seed, 1, 0};
  KindText text;
  for (int32_t t = 0; t < tokens; ++t) {
    text.ids.push_back(3 + static_cast<int32_t>(rng.Below(61)));
    text.kinds.push_back(t == 0 ? 0 : 1 + text.ids.back() % (kMassKinds - 1));
  }
  return text;
}

/// Keeps the queries and keys of every layer.
class CaptureBackend final : public ForwardingBackend {
 public:
  explicit CaptureBackend(Backend* to) : ForwardingBackend(to) {}
  void AttentionForward(const AttentionArgs& args) override {
    ForwardingBackend::AttentionForward(args);
    layers.push_back({Values(args.q), Values(args.k.m)});
  }
  static std::vector<float> Values(ConstMat m) {
    std::vector<float> values;
    for (int64_t r = 0; r < m.rows; ++r) values.insert(values.end(), m.Row<float>(r), m.Row<float>(r) + m.cols);
    return values;
  }
  struct Layer {
    std::vector<float> q, k;
  };
  std::vector<Layer> layers;
};

/// Everything again from the definitions, given queries and keys.
AttentionMass NaiveMass(Backend* backend, const ParamStore& params, const std::vector<KindText>& texts,
                        int64_t far_from) {
  const ModelSpec& spec = params.spec();
  AttentionMass want{.layers = spec.layers, .heads = spec.heads, .kinds = kMassKinds};
  want.mass.resize(static_cast<size_t>(spec.layers) * spec.heads * kMassKinds);
  want.far_mass = want.mass;
  want.keys.resize(static_cast<size_t>(spec.layers) * kMassKinds);
  want.far_keys = want.keys;
  std::vector<float> slopes;
  if (spec.places == Places::kAlibi) slopes = AlibiSlopes(spec.alibi, spec.heads);
  for (const KindText& text : texts) {
    const auto rows = static_cast<int32_t>(text.ids.size());
    want.rows += rows;
    CaptureBackend capture(backend);
    Decoder decoder(&capture, &params);
    Batch batch{.ids = text.ids};
    for (int32_t t = 0; t < rows; ++t) {
      batch.positions.push_back(t);
      batch.targets.push_back(-1);
      batch.weights.push_back(0);
    }
    batch.sequences.push_back({.begin = 0, .layout = {.size = rows}});
    decoder.Score(batch, std::vector<float>(text.ids.size()).data());
    for (int32_t layer = 0; layer < spec.layers; ++layer) {
      const CaptureBackend::Layer& of = capture.layers[layer];
      const int32_t window = OwnPattern(spec).OfLayer(layer, spec.layers).window;
      for (int32_t t = 0; t < rows; ++t) {
        const int32_t first = std::max(0, t + 1 - std::min(window, t + 1));
        for (int32_t j = first; j <= t; ++j) {
          const size_t at = static_cast<size_t>(layer) * kMassKinds + text.kinds[j];
          want.keys[at] += 1.0 / (t + 1 - first);
          if (t - j >= far_from) want.far_keys[at] += 1.0 / (t + 1 - first);
        }
        for (int32_t h = 0; h < spec.heads; ++h) {
          const int32_t g = h / (spec.heads / spec.kv_heads);
          std::vector<double> p(static_cast<size_t>(t + 1));
          double sum = 0;
          for (int32_t j = first; j <= t; ++j) {
            double s = 0;
            for (int32_t c = 0; c < spec.head_dim; ++c) {
              s += double{of.q[(static_cast<size_t>(t) * spec.heads + h) * spec.head_dim + c]} *
                   of.k[(static_cast<size_t>(j) * spec.kv_heads + g) * spec.head_dim + c];
            }
            s *= AttentionScale(spec);
            if (spec.attn_cap > 0) s = spec.attn_cap * std::tanh(s / spec.attn_cap);
            if (!slopes.empty()) s -= slopes[h] * static_cast<double>(t - j);
            p[j] = std::exp(s);
            sum += p[j];
          }
          for (int32_t j = first; j <= t; ++j) {
            const size_t at = (static_cast<size_t>(layer) * spec.heads + h) * kMassKinds + text.kinds[j];
            want.mass[at] += p[j] / sum;
            if (t - j >= far_from) want.far_mass[at] += p[j] / sum;
          }
        }
      }
    }
  }
  for (std::vector<double>* sums : {&want.mass, &want.far_mass, &want.keys, &want.far_keys}) {
    for (double& sum : *sums) sum /= static_cast<double>(want.rows);
  }
  return want;
}

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], tolerance) << i;
}

class AttentionMassTest : public ::testing::Test {
 protected:
  AttentionMass Measure(const ParamStore& params, int64_t window) {
    return MeasureAttentionMass(backend_.get(), Weights(params), texts_, {.kinds = kMassKinds, .window = window});
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  std::vector<KindText> texts_ = {MassText(70, 1), MassText(45, 2)};
};

TEST_F(AttentionMassTest, AgreesWithANaiveTwin) {
  std::vector<ModelSpec> specs(4, TinySpec({.layers = 3}));
  specs[1].sliding_window = 9;
  specs[1].full_layers = {1};
  specs[2].attn_cap = 0.5f;
  specs[3].places = Places::kAlibi;
  for (const ModelSpec& spec : specs) {
    const ParamStore params = LoudModel(spec, 5);
    for (const int64_t window : {1, 6, 40, 1000}) {
      const AttentionMass got = Measure(params, window), want = NaiveMass(backend_.get(), params, texts_, window);
      EXPECT_EQ(got.rows, 115);
      ExpectNear(got.mass, want.mass, 2e-6);
      ExpectNear(got.far_mass, want.far_mass, 2e-6);
      ExpectNear(got.keys, want.keys, 1e-12);
      ExpectNear(got.far_keys, want.far_keys, 1e-12);
    }
  }
}

TEST_F(AttentionMassTest, AllOfAttentionIsThere) {
  const AttentionMass mass = Measure(LoudModel(TinySpec({.layers = 2}), 7), 8);
  for (int32_t layer = 0; layer < 2; ++layer) {
    double all = 0, keys = 0;
    for (int32_t kind = 0; kind < kMassKinds; ++kind) {
      all += mass.LayerMass(layer, kind, false);
      keys += mass.LayerKeys(layer, kind, false);
      EXPECT_LT(mass.LayerMass(layer, kind, true), mass.LayerMass(layer, kind, false));
    }
    EXPECT_NEAR(all, 1, 1e-6);
    EXPECT_NEAR(keys, 1, 1e-12);
  }
}

TEST_F(AttentionMassTest, RefusesWhatItCannotMeasure) {
  const ParamStore params = TinyModel(TinySpec(), 1);
  const auto measure = [&](std::vector<KindText> texts, AttentionMassOptions options) {
    return MeasureAttentionMass(backend_.get(), Weights(params), texts, options);
  };
  EXPECT_THROW(measure({}, {.kinds = 4}), Error);
  EXPECT_THROW(measure(texts_, {.kinds = 3}), Error);  // kind 3 is there
  EXPECT_THROW(measure(texts_, {.kinds = 9}), Error);  // head dimension 8
  EXPECT_THROW(measure(texts_, {.kinds = 4, .window = 0}), Error);
  EXPECT_THROW(measure({{.ids = {5, 6}, .kinds = {0}}}, {.kinds = 4}), Error);
  EXPECT_THROW(measure({{.ids = {5, 64}, .kinds = {0, 1}}}, {.kinds = 4}), Error);
}

TEST(SeparatorShareTest, TimesAreOfKeysBesideTheFirst) {
  // a quarter of the keys has half of what the first token leaves
  const SeparatorShare share{.first = 0.5, .separators = 0.25, .plain = 0.25, .separator_keys = 0.2, .plain_keys = 0.6};
  EXPECT_NEAR(share.times(), 2, 1e-12);
  EXPECT_TRUE(std::isnan(SeparatorShare{.separators = 1, .separator_keys = 1}.times()));
  EXPECT_TRUE(std::isnan(SeparatorShare{.plain = 1, .plain_keys = 1}.times()));
}

}  // namespace
}  // namespace hawser
