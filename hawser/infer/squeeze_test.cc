// Squeezed Attention against plain caches and exact attention, on small models: SQn are the properties that it is held
// to. Files of prefixes are in squeeze_file_test.cc.
#include "hawser/infer/squeeze.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/infer/generation.h"
#include "hawser/kv/report.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

constexpr int64_t kPrefix = 700, kText = 20;

std::vector<int32_t> RandomIds(int64_t count, int32_t vocab, uint64_t seed) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<int32_t>(RandomBits(seed, 3, static_cast<uint64_t>(i)) % static_cast<uint64_t>(vocab)));
  }
  return ids;
}

class SqueezeTest : public ::testing::Test {
 protected:
  SqueezeTest() { SetThreads(1); }  // steps this small are faster so
  ~SqueezeTest() override { SetThreads(0); }
};

/// A model with a prefix.
struct SqueezeProblem {
  explicit SqueezeProblem(const ModelSpec& spec_, const IndexOptions& options = {.window = 64},
                          const std::string& kv = "full", DType dtype = DType::kF32)
      : spec(spec_), params(Cast(LoudModel(spec_, 5), dtype)), decoder(backend.get(), &params) {
    ids = RandomIds(kPrefix, spec.vocab, 1);
    text = RandomIds(kText, spec.vocab, 2);
    index = std::make_shared<const PrefixIndex>(
        IndexPrefix(backend.get(), &decoder, Weights(params), ids, ParseKvForm(kv), 0, options, &queries));
  }
  std::unique_ptr<KvCache> NewCache(const std::string& kv = "full") {
    return std::make_unique<KvCache>(NewKvCache(backend.get(), decoder.spec(), ParseKvForm(kv), {}, params.dtype(), 0));
  }
  std::unique_ptr<KvCache> Behind(const std::string& keep) {
    auto cache = NewCache();
    cache->Follow(std::make_shared<SqueezedReader>(backend.get(), index, ParseKeepRule(keep)));
    return cache;
  }
  std::unique_ptr<KvCache> Dense(const std::string& kv = "full") {
    auto cache = NewCache(kv);
    decoder.Extend(ids, cache.get(), {});
    return cache;
  }
  /// Logits of every token of the text, `most` of which come at once.
  std::vector<float> Feed(KvCache* cache, int64_t most, bool prompt = false) {
    Matrix logits(kText, spec.vocab);
    if (prompt) cache->BeginPrefill(kText);
    for (int64_t t = 0; t < kText; t += most) {
      const int64_t n = std::min(most, kText - t);
      decoder.Extend(std::span(text).subspan(static_cast<size_t>(t), static_cast<size_t>(n)), cache,
                     logits.view().Rows(t, n));
    }
    if (prompt) cache->EndPrefill();
    return {logits.Row<float>(0), logits.Row<float>(0) + kText * spec.vocab};
  }
  AttnShape shape() const { return AttnShapeOf(spec); }

  ModelSpec spec;
  ParamStore params;
  std::unique_ptr<Backend> backend = MakeBackend("cpu");
  Decoder decoder;
  std::vector<int32_t> ids, text;
  std::vector<Matrix> queries;
  std::shared_ptr<const PrefixIndex> index;
};

double Furthest(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

ModelSpec LongTiny(int32_t heads = 4, int32_t kv_heads = 2) {
  return TinySpec({.layers = 2, .heads = heads, .kv_heads = kv_heads, .context = 2048});
}

/// Rows of one head of keys, as numbers.
std::vector<float> KeyRow(const PrefixIndex& index, size_t layer, int64_t row) {
  const float* from = index.layers[layer].keys.Row<float>(row);
  return {from, from + index.head_dim};
}

// SQ1, SQ5: what keeps everything is dense attention, whatever the order of the keys.
TEST_F(SqueezeTest, KeepingAllIsDense) {
  std::vector<ModelSpec> specs = {LongTiny(), LongTiny(4, 4), LongTiny(4, 1)};
  specs.push_back(LongTiny());
  specs.back().attn_cap = 2.0f;
  specs.push_back(LongTiny());
  specs.back().unplaced_layers = {1};
  specs.push_back(LongTiny());
  specs.back().block.qk_norm = QkNorm::kHead;
  specs.push_back(LongTiny());
  specs.back().rope = ApplyRopeText(specs.back().rope, "yarn:factor=4", 512, 0);
  for (size_t i = 0; i < specs.size(); ++i) {
    SqueezeProblem problem(specs[i], {.levels = 1 + static_cast<int32_t>(i) % 2, .window = 64});
    const std::vector<float> want = problem.Feed(problem.Dense().get(), 1);
    for (const char* keep : {"1", "mass=1", "quantile=0"}) {
      EXPECT_LT(Furthest(want, problem.Feed(problem.Behind(keep).get(), 1)), 2e-4) << i << " " << keep;
      EXPECT_LT(Furthest(want, problem.Feed(problem.Behind(keep).get(), kText, true)), 2e-4) << i << " " << keep;
    }
    // And less is something else.
    EXPECT_GT(Furthest(want, problem.Feed(problem.Behind("0.2").get(), 1)), 1e-3) << i;
  }
}

TEST_F(SqueezeTest, KeepingAllIsDenseInOtherDTypes) {
  SqueezeProblem half(LongTiny(), {.window = 64}, "full", DType::kBF16);
  EXPECT_LT(Furthest(half.Feed(half.Dense().get(), 1), half.Feed(half.Behind("1").get(), 1)), 0.35);
  EXPECT_EQ(half.index->dtype, DType::kBF16);
  SqueezeProblem bytes(LongTiny(), {.window = 64}, "full:dtype=q8_0");
  EXPECT_EQ(bytes.index->dtype, DType::kQ8_0);
  // The tail is in f32 here, so that what is left of the difference is that of the last tokens.
  EXPECT_LT(Furthest(bytes.Feed(bytes.Dense("full:dtype=q8_0").get(), 1), bytes.Feed(bytes.Behind("1").get(), 1)), 0.1);
}

// SQ1: clusters of single keys are scored with their exact weights: what is kept are the keys that weigh most.
TEST_F(SqueezeTest, SingleKeysAreScoredExactly) {
  SqueezeProblem problem(LongTiny(), {.clusters = 1, .levels = 1, .sinks = 0, .window = 8});
  const std::vector<double> shares = {0.1, 0.3};
  for (const KeepCheck& check :
       CheckKeeping(problem.backend.get(), problem.index, problem.shape(), problem.queries, shares, 8)) {
    // But for the window, which is read whatever it weighs.
    EXPECT_GT(check.recall, 1 - 8 / (check.share * kPrefix)) << check.share;
    EXPECT_LE(check.keys, check.share);
    EXPECT_GT(check.keys, check.share - 8.0 / kPrefix);  // some of the window come behind the query
    EXPECT_LE(check.mass, check.best_mass + 1e-9);
  }
}

// SQ6, SQ7: one decision a kv head, of the mean over its own query heads, by the formula; sinks and window always.
TEST_F(SqueezeTest, DecisionsAreThoseOfTheFormula) {
  for (const auto& [heads, kv_heads] : {std::pair{4, 4}, {4, 2}, {6, 2}, {4, 1}}) {
    ModelSpec spec = LongTiny(heads, kv_heads);
    spec.width = 48;
    SqueezeProblem problem(spec, {.levels = 1, .window = 64});
    const PrefixIndex& index = *problem.index;
    SqueezedReader reader(problem.backend.get(), problem.index, ParseKeepRule("0.3"));
    const int64_t dim = spec.head_dim, group = heads / kv_heads;
    for (const int64_t rows : {1, 3, 64}) {
      const bool prompt = rows > 1;
      const ConstMat q = problem.queries[1].view().Rows(0, rows);
      reader.Choose(1, problem.shape(), q, 0, prompt);
      const KvParts& parts = *reader.parts(rows - 1);
      for (int32_t g = 0; g < kv_heads; ++g) {
        const PrefixIndex::Level& level = index.layers[1].fine;
        const int32_t first = level.first[g], count = level.first[g + 1] - first;
        std::vector<double> score(static_cast<size_t>(count));
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t h = g * group; h < (g + 1) * group; ++h) {
            std::vector<double> e;
            double sum = 0;
            for (int32_t c = 0; c < count; ++c) {
              double dot = 0;
              for (int64_t d = 0; d < dim; ++d) {
                dot += static_cast<double>(q.Row<float>(r)[h * dim + d]) * level.centroids.Row<float>(first + c)[d];
              }
              const KvRange range = level.clusters[static_cast<size_t>(first + c)];
              e.push_back(std::exp(dot / std::sqrt(static_cast<double>(dim))));
              sum += (range.end - range.begin) * e.back();
            }
            for (int32_t c = 0; c < count; ++c) score[static_cast<size_t>(c)] += e[static_cast<size_t>(c)] / sum;
          }
        }
        std::vector<int32_t> order(score.size());
        std::iota(order.begin(), order.end(), 0);
        std::ranges::sort(order, [&](int32_t a, int32_t b) { return score[a] > score[b]; });
        std::set<int32_t> want;
        const auto base = static_cast<int32_t>(g * kPrefix);
        for (int32_t i = 0; i < index.sinks; ++i) want.insert(base + i);
        for (int32_t i = 0; i < index.window; ++i) want.insert(base + static_cast<int32_t>(kPrefix) - 1 - i);
        int64_t left = static_cast<int64_t>(0.3 * kPrefix) - index.sinks - index.window;
        for (const int32_t c : order) {
          const KvRange range = level.clusters[static_cast<size_t>(first + c)];
          if ((left -= range.end - range.begin) < 0) break;
          for (int32_t row = range.begin; row < range.end; ++row) want.insert(row);
        }
        std::set<int32_t> got;
        for (int32_t i = parts.first[g]; i < parts.first[g + 1]; ++i) {
          for (int32_t row = parts.ranges[i].begin; row < parts.ranges[i].end; ++row) got.insert(row);
        }
        EXPECT_EQ(got, want) << heads << "/" << kv_heads << " rows " << rows << " head " << g;
      }
    }
  }
}

// SQ2, SQ10: centroids of both levels are the means of their keys, and never make the sum of exponentials larger.
TEST_F(SqueezeTest, CentroidsAreMeansAndBoundFromBelow) {
  SqueezeProblem problem(LongTiny(), {.clusters = 0.1, .groups = 0.03, .window = 64});
  const PrefixIndex& index = *problem.index;
  for (size_t layer = 0; layer < 2; ++layer) {
    const PrefixIndex::Layer& of = index.layers[layer];
    for (const PrefixIndex::Level* level : {&of.fine, &of.coarse}) {
      for (int64_t c = 0; c < level->centroids.rows; ++c) {
        KvRange rows = level->clusters[static_cast<size_t>(c)];
        if (level == &of.coarse) {
          rows = {of.fine.clusters[static_cast<size_t>(rows.begin)].begin,
                  of.fine.clusters[static_cast<size_t>(rows.end) - 1].end};
        }
        const auto n = static_cast<double>(rows.end - rows.begin);
        std::vector<double> mean(static_cast<size_t>(index.head_dim));
        double exact = 0, estimate = 0;
        const float* q = problem.queries[layer].Row<float>(3);
        const auto dot = [&](const auto& key) {
          double sum = 0;
          for (size_t d = 0; d < mean.size(); ++d) sum += static_cast<double>(q[d]) * key[d];
          return sum / std::sqrt(static_cast<double>(index.head_dim));
        };
        for (int32_t row = rows.begin; row < rows.end; ++row) {
          const std::vector<float> key = KeyRow(index, layer, row);
          for (size_t d = 0; d < mean.size(); ++d) mean[d] += key[d] / n;
          exact += std::exp(dot(key));
        }
        const float* centroid = level->centroids.Row<float>(c);
        for (size_t d = 0; d < mean.size(); ++d) ASSERT_NEAR(centroid[d], mean[d], 1e-5);
        estimate = n * std::exp(dot(centroid));
        EXPECT_LE(estimate, exact * (1 + 1e-5));
      }
    }
  }
}

// SQ4: of the queries that calibrated it, a quantile keeps its share of the keys at most, and short of it by no more
// than what ties.
TEST_F(SqueezeTest, QuantilesKeepTheirShareOfTheWindowsQueries) {
  SqueezeProblem problem(LongTiny(), {.levels = 1, .window = 64});
  const PrefixIndex& index = *problem.index;
  int64_t largest = 0;
  for (const KvRange& range : index.layers[0].fine.clusters)
    largest = std::max<int64_t>(largest, range.end - range.begin);
  for (const KvRange& range : index.layers[1].fine.clusters)
    largest = std::max<int64_t>(largest, range.end - range.begin);
  const int64_t pinned = index.sinks + index.window, body = kPrefix - pinned;
  const double all = 2.0 * index.kv_heads * static_cast<double>(body);
  for (const char* keep : {"quantile=0.3", "quantile=0.5", "quantile=0.9", "quantile=0.9995"}) {
    SqueezedReader reader(problem.backend.get(), problem.index, ParseKeepRule(keep));
    for (int32_t layer = 0; layer < 2; ++layer) {
      reader.Choose(layer, problem.shape(), problem.queries[static_cast<size_t>(layer)], 0, true);
    }
    const SqueezedReader::Usage& usage = reader.usage(true);
    EXPECT_EQ(usage.queries, 64 * 2 * index.kv_heads);
    const double kept = (usage.keys_per_query() - static_cast<double>(pinned)) / static_cast<double>(body);
    const double wanted = 1 - reader.rule().value;
    EXPECT_LE(kept, wanted + 1 / all) << keep;
    EXPECT_GE(kept, wanted - 0.001 - static_cast<double>(largest) / all) << keep;
  }
}

// SQ8: the same bits for any number of threads, in the index and in what is read by it.
TEST_F(SqueezeTest, IsTheSameForAnyThreads) {
  std::vector<std::vector<float>> logits;
  std::vector<std::string> bytes;
  for (const int threads : {1, 3}) {
    SetThreads(threads);
    SqueezeProblem problem(LongTiny());
    logits.push_back(problem.Feed(problem.Behind("0.2").get(), 7));
    const auto path = FreshFolder("squeeze_threads") / "p.idx";
    SavePrefixIndex(*problem.index, path);
    bytes.push_back(ReadFile(path));
  }
  SetThreads(1);
  EXPECT_EQ(bytes[0], bytes[1]);
  EXPECT_EQ(logits[0], logits[1]);
}

// SQ9: more is better, and blocks lose little against clustering all at once.
TEST_F(SqueezeTest, RecallAndMassGrowWithTheBudget) {
  const std::vector<double> shares = {0.15, 0.2, 0.3, 0.5, 1};
  std::vector<std::vector<KeepCheck>> of;
  for (const int64_t block : {0, 150}) {
    SqueezeProblem problem(LongTiny(), {.levels = 1, .window = 64, .block = block});
    of.push_back(CheckKeeping(problem.backend.get(), problem.index, problem.shape(), problem.queries, shares, 16));
    for (size_t i = 1; i < shares.size(); ++i) {
      EXPECT_GE(of.back()[i].mass, of.back()[i - 1].mass);
      EXPECT_GE(of.back()[i].keys, of.back()[i - 1].keys);
      EXPECT_GT(of.back()[i].mass, of.back()[i].keys) << "no better than chance";
    }
    EXPECT_NEAR(of.back().back().mass, 1, 1e-9);
    EXPECT_NEAR(of.back().back().recall, 1, 1e-9);
  }
  for (size_t i = 0; i < shares.size(); ++i) EXPECT_GT(of[1][i].mass, of[0][i].mass - 0.05) << shares[i];
}

// SQ11: keys, centroids and queries that are all turned by one more offset choose and give the same.
TEST_F(SqueezeTest, IsRelocatable) {
  SqueezeProblem problem(LongTiny());
  const auto turn = [&](ConstMat from, int32_t heads) {
    Matrix to = problem.backend->NewMatrix(from.rows, from.cols, DType::kF32);
    problem.backend->Copy(from, to);
    const RopeFrequencies frequencies = ComputeFrequencies(problem.spec.rope, problem.spec.context);
    const std::vector<int64_t> positions(static_cast<size_t>(from.rows), 137);
    std::vector<float> cos(positions.size() * frequencies.inv_freq.size()), sin(cos.size());
    FillRopeTable(frequencies, positions.data(), from.rows, cos.data(), sin.data());
    problem.backend->Rope({.x = to,
                           .heads = heads,
                           .head_dim = problem.spec.head_dim,
                           .half = problem.spec.rope.rotary_dim / 2,
                           .pairing = problem.spec.rope.pairing,
                           .cos = cos.data(),
                           .sin = sin.data()});
    return to;
  };
  PrefixIndex moved = *problem.index;
  std::vector<Matrix> hold;
  for (PrefixIndex::Layer& layer : moved.layers) {
    for (ConstMat* rows : {&layer.keys, &layer.fine.centroids, &layer.coarse.centroids}) {
      hold.push_back(turn(*rows, 1));
      *rows = hold.back();
    }
  }
  const AttnShape shape = problem.shape();
  SqueezedReader here(problem.backend.get(), problem.index, ParseKeepRule("0.25"));
  SqueezedReader there(problem.backend.get(), std::make_shared<const PrefixIndex>(moved), ParseKeepRule("0.25"));
  const Matrix own(1, int64_t{shape.kv_heads} * shape.head_dim);
  for (int32_t layer = 0; layer < 2; ++layer) {
    const ConstMat q = problem.queries[static_cast<size_t>(layer)].view().Rows(20, 1);
    const Matrix turned = turn(q, shape.heads);
    here.Choose(layer, shape, q, 0, false);
    there.Choose(layer, shape, turned, 0, false);
    const KvParts &a = *here.parts(0), &b = *there.parts(0);
    EXPECT_TRUE(std::ranges::equal(a.ranges, b.ranges));
    Matrix out_a(1, q.cols), out_b(1, q.cols);
    const DecodeArgs::Row row_a{.k = own, .v = own, .parts = &a}, row_b{.k = own, .v = own, .parts = &b};
    problem.backend->AttentionDecode({.shape = shape, .q = q, .out = out_a, .rows = {&row_a, 1}});
    problem.backend->AttentionDecode({.shape = shape, .q = turned, .out = out_b, .rows = {&row_b, 1}});
    for (int64_t c = 0; c < q.cols; ++c) EXPECT_NEAR(out_a.Row<float>(0)[c], out_b.Row<float>(0)[c], 1e-4);
  }
}

// A token outside of prompts decides from itself alone, however many come at once.
TEST_F(SqueezeTest, StreamsDecideTokenByToken) {
  SqueezeProblem problem(LongTiny());
  for (const char* keep : {"0.2", "mass=0.9", "quantile=0.8"}) {
    const auto one = problem.Behind(keep), many = problem.Behind(keep);
    EXPECT_LT(Furthest(problem.Feed(one.get(), 1), problem.Feed(many.get(), 17)), 1e-3) << keep;
    EXPECT_EQ(one->prefix()->usage(false).queries, kText * 2 * 2);
    EXPECT_EQ(one->prefix()->usage(true).queries, 0);
    const auto json = KvReportJson(*one);
    EXPECT_EQ(json["prefix"]["tokens"], kPrefix);
    EXPECT_EQ(json["prefix"]["keep"], keep);
    EXPECT_GT(json["prefix"]["decode"]["share"], 0);
    EXPECT_LT(json["prefix"]["decode"]["share"], 1);
    EXPECT_NE(KvReportText(*one).find("prefix of 700 tokens"), std::string::npos);
  }
}

// What comes behind a prefix goes back, forks and begins anew, and the prefix stays.
TEST_F(SqueezeTest, CachesBehindAPrefixForkAndGoBack) {
  SqueezeProblem problem(LongTiny());
  const auto cache = problem.Behind("0.25");
  EXPECT_EQ(cache->seen(), kPrefix);
  const std::vector<float> want = problem.Feed(cache.get(), 1);
  EXPECT_EQ(cache->seen(), kPrefix + kText);
  EXPECT_TRUE(cache->holds_all());
  EXPECT_FALSE(cache->Truncate(kPrefix - 1));
  EXPECT_EQ(cache->Fork(kPrefix - 1), nullptr);
  const auto fork = cache->Fork(kPrefix);
  ASSERT_NE(fork, nullptr);
  EXPECT_NE(fork->prefix(), cache->prefix());
  EXPECT_EQ(problem.Feed(fork.get(), 1), want);
  ASSERT_TRUE(cache->Truncate(kPrefix + 3));
  EXPECT_EQ(cache->seen(), kPrefix + 3);
  ASSERT_TRUE(cache->Truncate(kPrefix));
  EXPECT_EQ(problem.Feed(cache.get(), 1), want);
  cache->Reset();
  EXPECT_EQ(cache->seen(), kPrefix);
  EXPECT_EQ(problem.Feed(cache.get(), 1), want);
}

TEST_F(SqueezeTest, StreamsWithAndWithoutAPrefixShareAPass) {
  SqueezeProblem problem(LongTiny());
  const auto behind = problem.Behind("0.25"), alone = problem.NewCache(), other = problem.Behind("0.5");
  const auto behind2 = problem.Behind("0.25"), alone2 = problem.NewCache(), other2 = problem.Behind("0.5");
  const std::vector<KvCache*> all = {behind.get(), alone.get(), other.get()};
  const std::vector<KvCache*> apart = {behind2.get(), alone2.get(), other2.get()};
  Matrix logits(3, problem.spec.vocab), single(1, problem.spec.vocab);
  for (int t = 0; t < 3; ++t) {
    const std::vector<int32_t> ids = {problem.text[t], problem.text[t + 5], problem.text[t + 9]};
    problem.decoder.Step(ids, all, logits);
    for (int64_t s = 0; s < 3; ++s) {
      problem.decoder.Extend({&ids[static_cast<size_t>(s)], 1}, apart[static_cast<size_t>(s)], single);
      for (int32_t v = 0; v < problem.spec.vocab; ++v) {
        ASSERT_NEAR(logits.Row<float>(s)[v], single.Row<float>(0)[v], 1e-4) << s;
      }
    }
  }
}

TEST_F(SqueezeTest, RefusesWhatDoesNotGoWithIt) {
  const auto refused = [](const ModelSpec& spec, ErrorKind kind, std::string_view word,
                          const IndexOptions& options = {}, const std::string& kv = "full") {
    ExpectError(kind, {word}, [&] { SqueezeProblem(spec, options, kv); });
  };
  ModelSpec spec = LongTiny();
  refused(spec, ErrorKind::kUsage, "observation window of 696", {.window = 696});
  refused(spec, ErrorKind::kUnsupported, "drops keys", {}, "sink:4,60");
  spec.rope = ApplyRopeText(spec.rope, "dynamic:factor=4", 512, 0);
  refused(spec, ErrorKind::kUnsupported, "--context");
  spec = LongTiny();
  spec.places = Places::kAlibi;
  refused(spec, ErrorKind::kUnsupported, "ALiBi");
  spec = LongTiny();
  spec.sliding_window = 100;
  refused(spec, ErrorKind::kUnsupported, "sliding window");
  spec = LongTiny();
  spec.softmax = ParseSoftmax("self-adjust");
  refused(spec, ErrorKind::kUnsupported, "softmax");
  spec = LongTiny();
  spec.rope = ApplyRopeText(spec.rope, "string:shift=100,window=20", 2048, 0);
  refused(spec, ErrorKind::kUnsupported, "string");
}

}  // namespace
}  // namespace hawser
