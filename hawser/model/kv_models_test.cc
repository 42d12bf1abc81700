// Caches of models that have windows, frequencies or dtypes of their own (testing/kv_decode.h).
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/kv/state.h"
#include "hawser/model/fingerprint.h"
#include "hawser/testing/kv_decode.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

TEST_F(KvDecodeTest, ModelsWithAWindowOfTheirOwn) {
  const Logits narrow = Decode("window:9");
  // What a stream still holds of before the window is out of sight, however near
  // its slot is: 9 tokens are more than the recent run has after a trim.
  Plan plan = StreamPlan({.a = 2, .s = 4, .w = 6, .c = 20}, false);
  for (int64_t t = 0; t < kTokens; ++t) std::erase_if(plan.attended[t], [&](int64_t k) { return t - k >= 9; });
  const auto stream = Dense(plan, KvPositions::kAbsolute);
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.sliding_window = 9; });  // the decoder's too
  for (int32_t most : {1, 20}) {
    EXPECT_LT(Difference(Decode("full", most), narrow), kTolerance);
    EXPECT_LT(Difference(Decode("sep-stream:2,4,6,20,positions=absolute", most), stream), kTolerance);
  }
}

TEST_F(KvDecodeTest, ModelsWithAWindowInSomeLayers) {
  const Logits mixed = Decode("window:9,full-layers=1"), narrow = Decode("window:9");
  EXPECT_GT(Difference(mixed, narrow), 100 * kTolerance);
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.sliding_window = 9; });
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.full_layers = {1}; });
  spec_ = params_.spec();
  for (int32_t most : {1, 20}) {
    for (const char* policy : {"full", "window:9,full-layers=1"}) {
      EXPECT_LT(Difference(Decode(policy, most), mixed), kTolerance) << policy;
    }
  }
}

TEST_F(KvDecodeTest, KeysTurnWithALengthThatGrows) {
  ChangeSpec(&params_,
             [&](ModelSpec& spec) { spec.rope.scaling = {.kind = RopeKind::kDynamic, .factor = 4, .original = 8}; });
  spec_ = params_.spec();
  Decoder decoder(backend_.get(), &params_);
  const auto cache_of = [&](const char* policy, int64_t length) {
    return NewKvCache(backend_.get(), spec_, ParseKvForm(policy), flags_, DType::kF32, length);
  };
  const auto logits_of = [&](KvCache* cache, int32_t begin, int32_t count) {
    Matrix rows(1, spec_.vocab);
    decoder.Extend(std::span(ids_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), cache, rows.view());
    return std::vector<float>(rows.Row<float>(0), rows.Row<float>(0) + spec_.vocab);
  };
  const auto near = [&](const std::vector<float>& a, const std::vector<float>& b, double error) {
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
    return most < error;
  };
  for (const char* policy : {"full", "full:dtype=q8_0", "window:9", "sep:3,8", "sink:3,9", "sink:3,9,dtype=q8_0",
                             "sep-stream:2,4,6,20", "sep-stream:2,4,6,20,positions=absolute"}) {
    SCOPED_TRACE(policy);
    // A prompt has the frequencies of its end, whatever its chunks.
    if (std::string_view(policy) == "full") {
      KvCache prompt = cache_of(policy, 0), fixed = cache_of(policy, 30);
      prompt.BeginPrefill(30);
      const auto got = logits_of(&prompt, 0, 30);
      prompt.EndPrefill();
      EXPECT_EQ(got, logits_of(&fixed, 0, 30));
    }
    // Chunks give what single tokens give, and a stream that was saved goes on as if it had not been.
    KvCache whole = cache_of(policy, 0), single = cache_of(policy, 0);
    std::vector<float> last;
    const auto chunked = logits_of(&whole, 0, 40);
    for (int32_t t = 0; t < 40; ++t) last = logits_of(&single, t, 1);
    EXPECT_TRUE(near(chunked, last, kTolerance));
    const auto file = FreshPath("dynamic_state");
    SaveKvState(single, ModelFingerprint(params_), file, {});
    KvCache loaded = cache_of(policy, 0);
    LoadKvState(file, ModelFingerprint(params_), &loaded);
    for (int32_t t = 40; t < 44; ++t) EXPECT_EQ(logits_of(&loaded, t, 1), logits_of(&single, t, 1));
    single.Reset();
    for (int32_t t = 0; t < 40; ++t) EXPECT_EQ(logits_of(&single, t, 1).size(), last.size());
  }
  // Of one layer the keys do not depend on what came before: the last row is that of a pass over all with one base.
  params_ = LoudModel(TinySpec({.layers = 1, .context = kTokens}), 17);
  ChangeSpec(&params_,
             [&](ModelSpec& spec) { spec.rope.scaling = {.kind = RopeKind::kDynamic, .factor = 4, .original = 8}; });
  spec_ = params_.spec();
  Decoder shallow(backend_.get(), &params_);
  KvCache grown = cache_of("full", 0), fixed = cache_of("full", 40);
  Matrix a(1, spec_.vocab), b(1, spec_.vocab);
  for (int32_t t = 0; t < 40; ++t) shallow.Extend(std::span(ids_).subspan(static_cast<size_t>(t), 1), &grown, a.view());
  shallow.Extend(std::span(ids_).first(40), &fixed, b.view());
  for (int32_t v = 0; v < spec_.vocab; ++v) EXPECT_NEAR(a.Row<float>(0)[v], b.Row<float>(0)[v], kTolerance);
  for (const char* policy : {"sink:3,9,positions=cachelen"}) {
    EXPECT_THROW(cache_of(policy, 0), Error);
    EXPECT_NO_THROW(cache_of(policy, 64));
  }
}

TEST_F(KvDecodeTest, Bfloat16StreamsStayClose) {
  const ParamStore low = Cast(params_, DType::kBF16);
  Decoder decoder(backend_.get(), &low);
  for (const char* policy : {"sep-stream:2,4,6,20", "sink:3,9", "sep:3,8", "full"}) {
    std::vector<int32_t> targets(ids_.begin() + 1, ids_.end());
    targets.push_back(-1);
    std::vector<float> exact(kTokens), rounded(kTokens);
    KvCache wide = NewCache(policy),
            narrow = NewKvCache(backend_.get(), spec_, ParseKvForm(policy), flags_, DType::kBF16, kTokens);
    Model().ExtendScore(ids_, targets, &wide, exact.data());
    decoder.ExtendScore(ids_, targets, &narrow, rounded.data());
    double a = 0, b = 0;
    for (int32_t t = 0; t < kTokens; ++t) a += exact[t], b += rounded[t];
    EXPECT_NEAR(a, b, 0.05 * a) << policy;
    EXPECT_EQ(narrow.bytes() * 2, wide.bytes());
  }
}

TEST_F(KvDecodeTest, Q8StreamsStayCloseAndDoNotDependOnThreads) {
  std::vector<int32_t> targets(ids_.begin() + 1, ids_.end());
  targets.push_back(-1);
  for (const std::string policy : {"sep-stream:2,4,6,20", "sep-stream:2,4,6,20,policy=full,positions=absolute",
                                   "sink:3,9", "sep:3,8", "window:9", "fix:2,7,4", "sink:3,9,positions=cachelen"}) {
    const auto nats = [&](const std::string& form) {
      std::vector<float> nll(kTokens);
      KvCache cache = NewCache(form);
      Model().ExtendScore(ids_, targets, &cache, nll.data());
      double sum = 0;
      for (float x : nll) sum += x;
      return sum;
    };
    const double exact = nats(policy), blocks = nats(policy + ",dtype=q8_0");
    EXPECT_NEAR(blocks, exact, 0.02 * exact) << policy;
    EXPECT_NE(blocks, exact) << policy;
    const Logits one = Decode(policy + ",dtype=q8_0", 5, 3);
    SetThreads(2);
    EXPECT_EQ(Decode(policy + ",dtype=q8_0", 5, 3), one) << policy;
    SetThreads(1);
  }
}

}  // namespace
}  // namespace hawser
