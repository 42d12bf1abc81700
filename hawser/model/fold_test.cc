// STRING end to end: scoring, prompts in chunks and single tokens against the f64 twin with a dense matrix of folded
// distances, and what it does not go with.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/model/decoder.h"
#include "hawser/model/fold_rules.h"
#include "hawser/model/kv_shape.h"
#include "hawser/model/places.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

using testing::ReferenceModel;

constexpr int32_t kFoldVocab = 50;
constexpr double kFoldNear = 1e-3;     // rounding of logits in f32
constexpr double kFoldVisible = 0.02;  // a key at another distance moves logits by more

std::vector<int32_t> FoldIds(int32_t n, uint64_t seed) {
  Rng rng{seed, 6};
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(kFoldVocab));
  return ids;
}

/// Documents behind `prefix` tokens, with the positions of a variant.
struct FoldedText {
  std::vector<int32_t> ids;
  std::vector<int64_t> positions;
  TokenLayout layout;
};
FoldedText FoldDocuments(const AttnVariant& variant, const std::vector<int32_t>& lengths, uint64_t seed) {
  FoldedText text;
  const int32_t prefix = variant.pattern.anchors;
  text.ids = FoldIds(prefix + std::accumulate(lengths.begin(), lengths.end(), 0), seed);
  text.layout = MakeLayout(prefix, lengths);
  for (int32_t k = 0; k < text.layout.size; ++k) {
    const int32_t begin = variant.reset_positions ? text.layout.DocBegin(k) : 0;
    text.positions.push_back(k < prefix || begin == 0 ? k : prefix + k - begin);
    text.layout.is_separator.push_back(text.ids[static_cast<size_t>(k)] % 5 == 0);
  }
  return text;
}

ModelSpec FoldSpec(int32_t kv_heads, const std::string& rope) {
  ModelSpec spec = TinySpec({.vocab = kFoldVocab, .kv_heads = kv_heads, .head_dim = 12, .width = 40});
  ApplyPlaces(rope, spec.context, 0, &spec);
  return spec;
}

/// Logits of a text from distances alone: each key stands at its folded distance from the query that sees it.
std::vector<std::vector<double>> DenseFolded(const ParamStore& params, const FoldedText& text,
                                             const LayeredPattern& pattern) {
  const ModelSpec& spec = params.spec();
  std::vector<AttnPattern> of;
  const LayerPatterns patterns = PatternsOfLayers(pattern, spec.layers, OwnPattern(spec));
  for (const size_t p : patterns.of_layer) of.push_back(patterns.distinct[p]);
  return ReferenceModel(params)
      .ForwardLayers(
          text.ids,
          [&](int32_t layer, int32_t q, int32_t k) {
            return Visible(of[static_cast<size_t>(layer)], text.layout, q, k);
          },
          [&](int32_t q, int32_t k) {
            const int64_t distance = text.positions[static_cast<size_t>(q)] - text.positions[static_cast<size_t>(k)];
            return static_cast<double>(text.positions[static_cast<size_t>(q)] - spec.rope.fold.Distance(distance));
          })
      .logits;
}

TEST(FoldedModel, ScoresAreThoseOfADensePositionMatrix) {
  const std::unique_ptr<Backend> backend = MakeBackend("cpu");
  for (const int32_t kv_heads : {1, 4}) {
    for (const char* rope : {"string:shift=9,window=3", "yarn:factor=4,original=32,string:shift=14,window=14",
                             "theta=500,string:shift=20,window=0,temperature=1",
                             "default:q_temp=logn,q_context=6,q_first=1,string:shift=9,window=2,temperature=1"}) {
      const ModelSpec spec = FoldSpec(kv_heads, rope);
      const ParamStore params = LoudModel(spec, 11), low = Cast(params, DType::kBF16);
      Decoder f32(backend.get(), &params), bf16(backend.get(), &low);
      for (const char* variant_text :
           {"full", "intra", "intra-reset", "anchor", "anchor-reset", "scope=doc anchors=3 window=8 sinks=2",
            "sinks=2 window=6 sep", "sinks=1 window=9 every=3 full-layers=-1"}) {
        const AttnVariant variant = ParseVariant(variant_text);
        Batch batch;
        batch.pattern = variant.pattern;
        std::vector<FoldedText> texts = {FoldDocuments(variant, {7, 30}, 1), FoldDocuments(variant, {3, 1, 60}, 2),
                                         FoldDocuments(variant, {5}, 3)};
        for (const FoldedText& text : texts) {
          batch.sequences.push_back({batch.rows(), text.layout});
          batch.ids.insert(batch.ids.end(), text.ids.begin(), text.ids.end());
          batch.positions.insert(batch.positions.end(), text.positions.begin(), text.positions.end());
        }
        for (const int32_t id : batch.ids) batch.targets.push_back((id * 7 + 3) % kFoldVocab);
        batch.weights.assign(batch.ids.size(), 1.0f);
        std::vector<float> nll(batch.ids.size()), nll_low(batch.ids.size());
        f32.Score(batch, nll.data());
        bf16.Score(batch, nll_low.data());
        size_t row = 0;
        double sum = 0, sum_low = 0;
        for (const FoldedText& text : texts) {
          for (const std::vector<double>& logits : DenseFolded(params, text, variant.pattern)) {
            const double want = ReferenceModel::Nll(logits, batch.targets[row]);
            ASSERT_NEAR(nll[row], want, 2e-4 * std::max(1.0, std::abs(want)))
                << rope << " " << variant_text << " row " << row;
            sum += want, sum_low += nll_low[row++];
          }
        }
        EXPECT_NEAR(sum_low, sum, 0.05 * sum) << rope << " " << variant_text << " in bf16";
      }
    }
  }
}

class FoldedStream : public ::testing::Test {
 protected:
  static constexpr int32_t kTokens = 75;

  /// Logits of every token, fed in pieces of `sizes`, round and round.
  std::vector<std::vector<float>> Feed(const ParamStore& params, const std::string& kv, const std::vector<int>& sizes,
                                       int64_t length = 0) {
    Decoder decoder(backend_.get(), &params);
    KvCache cache = NewKvCache(backend_.get(), params.spec(), ParseKvForm(kv), flags_, params.dtype(), length);
    std::vector<std::vector<float>> all;
    for (size_t at = 0, i = 0; at < text_.ids.size(); ++i) {
      const size_t n = std::min(text_.ids.size() - at, static_cast<size_t>(sizes[i % sizes.size()]));
      Matrix rows(static_cast<int64_t>(n), kFoldVocab);
      decoder.Extend(std::span(text_.ids).subspan(at, n), &cache, rows);
      for (int64_t r = 0; r < rows.rows(); ++r) all.emplace_back(rows.Row<float>(r), rows.Row<float>(r) + kFoldVocab);
      at += n;
    }
    return all;
  }
  template <class A, class B>
  static double Worst(const A& a, const B& b) {
    double worst = 0;
    for (size_t t = 0; t < a.size(); ++t) {
      for (size_t i = 0; i < a[t].size(); ++i) {
        const double d = std::abs(static_cast<double>(a[t][i]) - static_cast<double>(b[t][i]));
        if (!(d <= worst)) worst = d;
      }
    }
    return worst;
  }

  FoldedText text_ = FoldDocuments({}, {kTokens}, 4);
  std::vector<uint8_t> flags_ = [] {
    std::vector<uint8_t> flags(kFoldVocab);
    for (size_t id = 0; id < flags.size(); id += 5) flags[id] = 1;
    return flags;
  }();
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST_F(FoldedStream, ChunksAndSingleTokensAreTheDensePositionMatrix) {
  for (const int32_t kv_heads : {1, 2, 4}) {
    const ModelSpec spec = FoldSpec(kv_heads, "string:shift=11,window=4");
    const ParamStore params = LoudModel(spec, 12), low = Cast(params, DType::kBF16);
    for (const auto& [kv, pattern] :
         std::vector<std::pair<std::string, std::string>>{{"full", "full"},
                                                          {"window:11", "window=11"},
                                                          {"sep:3,8", "sinks=3 window=8 sep"},
                                                          {"sink:3,8,positions=absolute", ""},
                                                          {"full:dtype=q8_0", ""}}) {
      const auto one_by_one = Feed(params, kv, {1});
      const bool exact = kv != "full:dtype=q8_0";
      if (!pattern.empty()) {
        EXPECT_LT(Worst(one_by_one, DenseFolded(params, text_, ParseLayeredPattern(pattern))), kFoldNear) << kv;
      }
      for (const std::vector<int>& sizes : {std::vector<int>{75}, {1, 10, 3}, {16}, {40, 1}}) {
        EXPECT_LT(Worst(Feed(params, kv, sizes), one_by_one), exact ? kFoldNear : 0.2) << kv << " " << sizes[0];
      }
      if (kv == "full") {
        EXPECT_LT(Worst(Feed(low, kv, {1}), one_by_one), 0.5);
        EXPECT_LT(Worst(Feed(low, kv, {13}), one_by_one), 0.5);
      }
    }
  }
}

TEST_F(FoldedStream, LongCachesAndForksAreReadTheSame) {
  text_ = FoldDocuments({}, {600}, 5);  // more than a page, a block and a piece of keys
  const ModelSpec spec = FoldSpec(2, "string:shift=100,window=30");
  const ParamStore params = LoudModel(spec, 17);
  const auto one_by_one = Feed(params, "full", {1});
  EXPECT_LT(Worst(Feed(params, "full", {600}), one_by_one), kFoldNear);
  EXPECT_LT(Worst(Feed(params, "full", {290, 3}), one_by_one), kFoldNear);
  Decoder decoder(backend_.get(), &params);
  KvCache cache = NewKvCache(backend_.get(), spec, ParseKvForm("full"), flags_, DType::kF32, 0);
  decoder.Extend(std::span(text_.ids).first(500), &cache, {});
  const std::unique_ptr<KvCache> fork = cache.Fork(300);
  Matrix row(1, kFoldVocab);
  decoder.Extend(std::span(text_.ids).subspan(300, 1), fork.get(), row);
  EXPECT_LT(Worst(std::vector<std::vector<float>>{{row.Row<float>(0), row.Row<float>(0) + kFoldVocab}},
                  std::vector<std::vector<float>>{one_by_one[300]}),
            kFoldNear);
}

TEST_F(FoldedStream, StreamsOfOneStepAreEachAsAlone) {
  const ModelSpec spec = FoldSpec(2, "string:shift=11,window=4");
  const ParamStore params = LoudModel(spec, 13);
  const auto alone = Feed(params, "full", {1});
  Decoder decoder(backend_.get(), &params);
  // One has no far key yet, one has many, one is given more tokens at once.
  std::vector<std::unique_ptr<KvCache>> caches;
  for (const size_t held : {3u, 40u, 20u}) {
    caches.push_back(
        std::make_unique<KvCache>(NewKvCache(backend_.get(), spec, ParseKvForm("full"), flags_, DType::kF32, 0)));
    decoder.Extend(std::span(text_.ids).first(held), caches.back().get(), {});
  }
  struct Sink : RowSink {
    void Rows(std::span<const Row> rows, ConstMat hidden) override {
      Matrix logits(hidden.rows, kFoldVocab);
      decoder->Logits(hidden, logits);
      for (size_t i = 0; i < rows.size(); ++i) {
        got[rows[i].chunk] = {logits.Row<float>(static_cast<int64_t>(i)),
                              logits.Row<float>(static_cast<int64_t>(i)) + kFoldVocab};
      }
    }
    Decoder* decoder;
    std::vector<std::vector<float>> got = std::vector<std::vector<float>>(3);
  } sink;
  sink.decoder = &decoder;
  const std::span<const int32_t> ids = text_.ids;
  const DecodeChunk chunks[] = {{.cache = caches[0].get(), .tokens = ids.subspan(3, 1)},
                                {.cache = caches[1].get(), .tokens = ids.subspan(40, 1)},
                                {.cache = caches[2].get(), .tokens = ids.subspan(20, 5)}};
  decoder.Run(chunks, &sink);
  EXPECT_LT(Worst(sink.got, std::vector{alone[3], alone[40], alone[24]}), kFoldNear);
}

TEST_F(FoldedStream, ShortTextsAndAFoldOfNothingArePlain) {
  const ParamStore plain = LoudModel(FoldSpec(2, "default"), 14);
  const auto with = [&](const std::string& rope) {
    ParamStore params = LoudModel(FoldSpec(2, "default"), 14);
    ChangeSpec(&params, [&](ModelSpec& spec) { ApplyPlaces(rope, spec.context, 0, &spec); });
    return params;
  };
  const auto want = Feed(plain, "full", {7});
  EXPECT_EQ(Feed(with("string:shift=75,window=5,temperature=1"), "full", {7}), want);
  EXPECT_LT(Worst(Feed(with("string:shift=9,window=9,temperature=1"), "full", {7}), want), kFoldNear);
  EXPECT_GT(Worst(Feed(with("string:shift=9,window=2,temperature=1"), "full", {7}), want), kFoldVisible);
}

TEST_F(FoldedStream, FrequenciesOfADeclaredLengthAreTheSameForAllQueries) {
  std::string lists = "1+1+1+1+1+1,long=2+3+4+5+6+7";
  const ModelSpec spec = FoldSpec(2, "longrope:factor=2,original=64,short=" + lists + ",string:shift=11,window=4");
  const ParamStore params = LoudModel(spec, 15);
  const auto declared = Feed(params, "full", {1}, 75);
  EXPECT_LT(Worst(Feed(params, "full", {75}, 75), declared), kFoldNear);
  // One that follows the tokens turns its keys at the end of the original context.
  EXPECT_LT(Worst(Feed(params, "full", {64, 11}), Feed(params, "full", {1})), kFoldNear);
}

TEST_F(FoldedStream, LayersWithAWindowOfTheirOwn) {
  ModelSpec spec = FoldSpec(2, "string:shift=20,window=4,temperature=1");
  spec.sliding_window = 9;  // of layer 0, where so nothing is far
  spec.full_layers = {1};
  const ParamStore params = LoudModel(spec, 16);
  const auto folded = Feed(params, "full", {13});
  EXPECT_LT(Worst(folded, DenseFolded(params, text_, {})), kFoldNear);
  EXPECT_LT(Worst(Feed(params, "full", {1}), folded), kFoldNear);
  // A rope of its own does not fold there, so the window may be any.
  spec.local_rope = spec.rope;
  spec.local_rope->fold = {};
  EXPECT_EQ(Feed(LoudModel(spec, 16), "full", {13}), folded);
  spec.sliding_window = 40;
  EXPECT_GT(Worst(Feed(LoudModel(spec, 16), "full", {13}), folded), kFoldVisible);
}

TEST(FoldedModel, WhatIsRefusedByName) {
  const std::unique_ptr<Backend> backend = MakeBackend("cpu");
  const ModelSpec spec = FoldSpec(2, "string:shift=11,window=4");
  const auto says = [](const auto& run, const std::string& want) {
    try {
      run();
      ADD_FAILURE() << "took it; wanted: " << want;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      EXPECT_NE(std::string(error.what()).find(want), std::string::npos) << error.what();
    }
  };
  const auto cache = [&](const ModelSpec& of, const std::string& kv) {
    NewKvCache(backend.get(), of, ParseKvForm(kv), std::vector<uint8_t>(kFoldVocab), DType::kF32, 0);
  };
  says([&] { CheckTrainable(spec); }, "string is for models as they are");
  const ParamStore params = LoudModel(spec, 1);
  Decoder decoder(backend.get(), &params);
  ParamStore grads(spec, DType::kF32);
  Batch batch{
      .ids = {1, 2}, .positions = {0, 1}, .targets = {1, 2}, .weights = {1, 1}, .sequences = {{0, {.size = 2}}}};
  says([&] { decoder.ForwardBackward(batch, 1, Recompute::kNone, &grads); }, "is not trained with");
  batch.pattern = ParsePattern("window=12");
  says([&] { decoder.Score(batch, nullptr); }, "the window of layer 0 of 12 tokens is wider than the shift");
  says([&] { CheckFold(spec, ParseLayeredPattern("window=all+64")); }, "the window of layer 1 of 64 tokens");
  for (const char* kv : {"sink:4,20", "sep-stream:1,2,3,20", "sink:4,20,positions=cachelen", "bounded:20"}) {
    says([&] { cache(spec, kv); }, "pass positions=absolute");
  }
  says([&] { cache(spec, "window:12"); }, "the window of 12 tokens is wider than the shift");
  ModelSpec other = spec;
  other.sliding_window = 64;
  says([&] { cache(other, "full"); }, "64 tokens is wider than the shift");
  other = spec;
  other.softmax.kind = SoftmaxKind::kSelfAdjust;
  says([&] { cache(other, "full"); }, "needs the standard softmax");
  other = spec;
  other.segments = {.places = 4, .separators = {3}};
  says([&] { CheckFold(other, AttnPattern{}); }, "count segments");

  const auto usage = [&](ModelSpec of, const std::string& text, const std::string& want) {
    try {
      ApplyPlaces(text, 128, 0, &of);
      ADD_FAILURE() << "took it; wanted: " << want;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find(want), std::string::npos) << error.what();
    }
  };
  other = TinySpec();
  other.places = Places::kAlibi;
  for (const char* text : {"string:shift=4", "alibi,string:shift=4", "alibi:ntk,factor=4,string"}) {
    usage(other, text, "biases by distance (ALiBi)");
  }
  other.places = Places::kNone;
  usage(other, "string:shift=4", "no positions");
}

}  // namespace
}  // namespace hawser
