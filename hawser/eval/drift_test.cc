#include "hawser/eval/drift.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/eval/drift_rows.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

std::vector<int32_t> Ids(int64_t n, uint64_t seed = 1) {
  Rng rng{seed, 1, 0};
  std::vector<int32_t> ids = {1};
  while (static_cast<int64_t>(ids.size()) < n) ids.push_back(3 + static_cast<int32_t>(rng.Below(61)));
  return ids;
}

class DriftTest : public ::testing::Test {
 protected:
  DriftReport Measure(std::string_view pipeline, DriftOptions options = {}) {
    options.numerics = ParseRopeNumerics(pipeline);
    if (options.numerics.table == FloatFormat::kF64) options.dtype = DType::kF64;
    if (options.deltas.size() > 3) options.deltas = {0, 300};
    return MeasureDrift(backend_.get(), params_, sequences_, options);
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  ParamStore params_ = LoudModel(TinySpec({.layers = 3}), 5);
  std::vector<std::vector<int32_t>> sequences_ = {Ids(70), Ids(70, 2)};
};

TEST_F(DriftTest, T27_AShiftAgainstItselfIsZeroToTheLastBit) {
  for (const char* pipeline : {"exact", "bf16-qk", "reference", "bf16-positions"}) {
    for (const DriftMode mode : {DriftMode::kFree, DriftMode::kForced}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        const DriftReport r = Measure(pipeline, {.deltas = {16}, .mode = mode, .dtype = dtype});
        EXPECT_EQ(r.shifts[0].total.l1, 0) << pipeline;
        EXPECT_EQ(r.shifts[0].total.d, 0) << pipeline;
        for (const DriftLogit& logit : r.shifts[0].logits) EXPECT_EQ(logit.abs, 0);
      }
    }
  }
}

TEST_F(DriftTest, T27_FewerBitsDriftMore) {
  for (const DriftMode mode : {DriftMode::kFree, DriftMode::kForced}) {
    double before = Measure("f64", {.mode = mode}).shifts[0].total.l1;
    EXPECT_LT(before, 1e-8);
    for (const char* pipeline : {"exact", "f16-qk", "bf16-qk", "all-bf16"}) {
      const double l1 = Measure(pipeline, {.mode = mode}).shifts[0].total.l1;
      EXPECT_GT(l1, before) << pipeline;
      before = l1;
    }
  }
}

TEST_F(DriftTest, SumsFitTogether) {
  const DriftReport r = Measure("bf16-qk", {.deltas = {0, 15, 300}, .lengths = {70, 1, 10}});
  EXPECT_EQ(r.sequences, 2);
  for (const DriftShift& shift : r.shifts) {
    DriftSums sum;
    for (const DriftSums& head : shift.heads) {
      EXPECT_LE(std::abs(head.d), head.abs * (1 + 1e-12));
      EXPECT_LE(head.abs, head.l1 * (1 + 1e-12));
      EXPECT_LE(std::abs(head.first), head.first_abs * (1 + 1e-12));
      sum.Add(head, 1);
    }
    EXPECT_NEAR(sum.l1, shift.total.l1, 1e-12 * sum.l1);
    EXPECT_NEAR(sum.d, shift.total.d, 1e-12 * sum.l1);
    double tokens = 0, magnitude = 0;
    for (size_t j = 0; j < shift.tokens.size(); ++j) {
      tokens += shift.tokens[j];
      magnitude += shift.tokens_abs[j];
    }
    EXPECT_NEAR(tokens, shift.total.d, 1e-12 * sum.l1);
    EXPECT_NEAR(magnitude, shift.total.abs, 1e-12 * sum.l1);
    EXPECT_NEAR(shift.tokens[0], shift.total.first, 1e-12 * sum.l1);
    EXPECT_GT(shift.spread.abs, 0);
    ASSERT_EQ(shift.logits.size(), 3u);
    EXPECT_EQ(shift.logits[0].length, 1);
  }
}

TEST_F(DriftTest, ModesAgreeOnTheFirstLayerOnly) {
  const DriftReport free = Measure("bf16-qk"), forced = Measure("bf16-qk", {.mode = DriftMode::kForced});
  for (size_t h = 0; h < free.shifts[0].heads.size(); ++h) {
    const double a = free.shifts[0].heads[h].l1, b = forced.shifts[0].heads[h].l1;
    if (h < static_cast<size_t>(free.heads)) {
      EXPECT_EQ(a, b) << h;
    } else {
      EXPECT_NE(a, b) << h;
    }
  }
}

/// Everything again from the formulas, for a model of one layer whose q and k are rounded to bf16.
TEST_F(DriftTest, AgreesWithANaiveTwin) {
  const ModelSpec spec = TinySpec({.layers = 1});
  params_ = LoudModel(spec, 9);
  const DriftReport got = Measure("bf16-qk", {.deltas = {0}, .dtype = DType::kF64});
  const auto tokens = static_cast<int64_t>(sequences_[0].size());
  const int64_t dim = spec.head_dim, half = dim / 2;
  std::vector<DriftSums> want(static_cast<size_t>(spec.heads));
  double logit = 0;
  for (const std::vector<int32_t>& ids : sequences_) {
    // rows[w][t]: output row w of Wqkv over the normed embedding of token t
    const ConstMat table = params_.Get(Role::kEmbedding), norm = params_.Get(Role::kAttnNorm, 0), w = params_.Qkv(0);
    std::vector<std::vector<double>> rows(static_cast<size_t>(w.rows), std::vector<double>(ids.size()));
    for (int64_t t = 0; t < tokens; ++t) {
      const float* e = table.Row<float>(ids[t]);
      double squares = 0;
      for (int64_t c = 0; c < spec.width; ++c) squares += double{e[c]} * e[c];
      const double scale = 1 / std::sqrt(squares / spec.width + double{spec.norm_eps});
      for (int64_t r = 0; r < w.rows; ++r) {
        for (int64_t c = 0; c < spec.width; ++c)
          rows[r][t] += e[c] * scale * norm.Row<float>(0)[c] * w.Row<float>(r)[c];
      }
    }
    const auto rotated = [&](int64_t first_row, int64_t t, int64_t shift) {
      std::vector<double> x(static_cast<size_t>(dim));
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(t + shift) * std::pow(1e4, -static_cast<double>(i) / half);
        const float cos = static_cast<float>(std::cos(angle)), sin = static_cast<float>(std::sin(angle));
        const float a = static_cast<float>(rows[first_row + i][t]),
                    b = static_cast<float>(rows[first_row + i + half][t]);
        x[i] = ToF32(ToBF16(a * cos - b * sin));
        x[i + half] = ToF32(ToBF16(b * cos + a * sin));
      }
      return x;
    };
    for (int32_t h = 0; h < spec.heads; ++h) {
      const int64_t key_row = (spec.heads + h / (spec.heads / spec.kv_heads)) * dim;
      std::vector<std::vector<double>> p[2];
      std::vector<double> first[2];
      for (int which = 0; which < 2; ++which) {
        const int64_t shift = which == 0 ? 0 : 16;
        for (int64_t t = 0; t < tokens; ++t) {
          const std::vector<double> q = rotated(h * dim, t, shift);
          std::vector<double> row(ids.size());
          double sum = 0;
          for (int64_t j = 0; j <= t; ++j) {
            const std::vector<double> k = rotated(key_row, j, shift);
            for (int64_t c = 0; c < dim; ++c) row[j] += q[c] * k[c] / std::sqrt(static_cast<double>(dim));
          }
          first[which].push_back(row[0]);
          for (int64_t j = 0; j <= t; ++j) sum += row[j] = std::exp(row[j]);
          for (int64_t j = 0; j <= t; ++j) row[j] /= sum;
          p[which].push_back(row);
        }
      }
      for (int64_t j = 0; j < tokens; ++j) {
        double column = 0, magnitude = 0;
        for (int64_t t = j; t < tokens; ++t) {
          column += p[0][t][j] - p[1][t][j];
          magnitude += std::abs(p[0][t][j] - p[1][t][j]);
        }
        const double n = 0.5 / static_cast<double>(tokens - j);  // of two sequences
        DriftSums part{.d = n * column, .abs = n * std::abs(column), .l1 = n * magnitude};
        if (j == 0) part.first = part.d, part.first_abs = part.abs, part.first_l1 = part.l1;
        want[h].Add(part, 1);
      }
      for (int64_t t = 0; t < tokens; ++t) logit += 0.5 * (first[0][t] - first[1][t]) / static_cast<double>(tokens);
    }
  }
  // The engine keeps f64 between the stages that the pipeline names; a value near a tie rounds the other way here.
  for (int32_t h = 0; h < spec.heads; ++h) {
    const DriftSums& head = got.shifts[0].heads[h];
    EXPECT_NEAR(head.d, want[h].d, 0.02 * want[h].l1) << h;
    EXPECT_NEAR(head.abs, want[h].abs, 0.02 * want[h].l1) << h;
    EXPECT_NEAR(head.l1, want[h].l1, 0.02 * want[h].l1) << h;
    EXPECT_NEAR(head.first_l1, want[h].first_l1, 0.02 * want[h].l1) << h;
    EXPECT_NEAR(head.first, want[h].first, 0.02 * want[h].l1) << h;
  }
  EXPECT_NEAR(got.shifts[0].logits.back().d, logit, 0.02 * got.shifts[0].logits.back().abs);
}

TEST_F(DriftTest, BackendAndF64LayersAgree) {
  const DriftReport low = Measure("bf16-qk"), wide = Measure("bf16-qk", {.dtype = DType::kF64});
  for (size_t h = 0; h < low.shifts[0].heads.size(); ++h) {
    EXPECT_NEAR(low.shifts[1].heads[h].l1 / wide.shifts[1].heads[h].l1, 1, 0.1) << h;
  }
}

TEST_F(DriftTest, PrefixesOfLengthsAreShorterRuns) {
  const DriftReport whole = Measure("bf16-qk", {.lengths = {25, 70}});
  for (auto& sequence : sequences_) sequence.resize(25);
  const DriftReport part = Measure("bf16-qk");
  for (size_t s = 0; s < 2; ++s) {
    EXPECT_NEAR(part.shifts[s].logits.back().d, whole.shifts[s].logits[0].d, 1e-5);
    EXPECT_NEAR(part.shifts[s].logits.back().abs, whole.shifts[s].logits[0].abs, 1e-5);
  }
}

TEST_F(DriftTest, OneSideAloneRoundsLessThanBoth) {
  const auto l1 = [&](DriftSide side) {
    return Measure("bf16-qk", {.mode = DriftMode::kForced, .side = side}).shifts[0].total.l1;
  };
  const double both = l1(DriftSide::kBoth), keys = l1(DriftSide::kKeys), queries = l1(DriftSide::kQueries);
  EXPECT_GT(keys, 0);
  EXPECT_GT(queries, 0);
  EXPECT_NE(keys, queries);
  EXPECT_LT(std::max(keys, queries), both);
}

TEST_F(DriftTest, WindowOfTheModelIsKept) {
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.sliding_window = 8; });
  const DriftReport r = Measure("bf16-qk");
  EXPECT_GT(r.shifts[0].total.l1, 0);
  EXPECT_EQ(r.shifts[0].logits.back().d, Measure("bf16-qk", {.lengths = {8}}).shifts[0].logits[0].d);
}

TEST_F(DriftTest, SameForAnyNumberOfThreads) {
  std::string first;
  for (const int threads : {1, 3}) {
    SetThreads(threads);
    DriftReport r = Measure("all-bf16");
    r.seconds = 0;
    if (first.empty()) first = ToJson(r).dump();
    EXPECT_EQ(ToJson(r).dump(), first);
  }
  SetThreads(0);
}

TEST_F(DriftTest, T27_BuiltInChecksHold) {
  const DriftChecks checks = CheckDrift(backend_.get(), params_, sequences_[0], {});
  EXPECT_EQ(checks.same_shift, 0);
  EXPECT_GT(checks.f64_l1, 0);
  EXPECT_LT(checks.f64_l1, 1e-8);
}

TEST_F(DriftTest, KaimingUniformFillsItsBounds) {
  KaimingUniform(params_, 3);
  const ConstMat w = params_.Get(Role::kDown, 1);
  const double bound = std::sqrt(6.0 / static_cast<double>(w.cols));
  double squares = 0, most = 0;
  for (int64_t i = 0; i < w.rows * w.cols; ++i) {
    squares += std::pow(w.Row<float>(0)[i], 2);
    most = std::max(most, std::abs(double{w.Row<float>(0)[i]}));
  }
  EXPECT_LE(most, bound);
  EXPECT_GT(most, 0.98 * bound);
  EXPECT_NEAR(squares / static_cast<double>(w.rows * w.cols), bound * bound / 3, 0.05 * bound * bound);
  EXPECT_EQ(params_.Get(Role::kAttnNorm, 0).Row<float>(0)[3], 1.0f);
}

TEST_F(DriftTest, RefusesWhatHasNoAnswer) {
  const auto kind = [&](DriftOptions options) {
    try {
      MeasureDrift(backend_.get(), params_, sequences_, options);
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kInternal;
  };
  EXPECT_EQ(kind({.deltas = {-1}}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.deltas = {int64_t{1} << 31}}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.deltas = {}}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.deltas = {0}, .lengths = {71}}), ErrorKind::kUsage);
  EXPECT_EQ(kind({.deltas = {0}, .lengths = {0}}), ErrorKind::kUsage);
  sequences_[1].pop_back();
  EXPECT_EQ(kind({.deltas = {0}}), ErrorKind::kUsage);
  sequences_ = {{1, 64}};
  EXPECT_EQ(kind({.deltas = {0}}), ErrorKind::kUsage);
  sequences_ = {Ids(8)};
  ChangeSpec(&params_,
             [&](ModelSpec& spec) { spec.rope.scaling = {.kind = RopeKind::kDynamic, .factor = 2, .original = 64}; });
  EXPECT_EQ(kind({.deltas = {0}}), ErrorKind::kUnsupported);
  EXPECT_THROW(ParseDriftMode("forces"), Error);
  EXPECT_EQ(ParseDriftSide(Name(DriftSide::kKeys)), DriftSide::kKeys);
}

// The block is that of every family; what is refused is what places tokens otherwise, or does not leave scores alone.
TEST_F(DriftTest, OtherFormsOfTheBlock) {
  const auto with = [&](const std::function<void(ModelSpec*)>& change) {
    ModelSpec spec = TinySpec({.layers = 2});
    change(&spec);
    params_ = LoudModel(spec, 5);
  };
  const auto forms = std::to_array<void (*)(ModelSpec*)>({
      [](ModelSpec* s) {
        s->block.qkv_bias = true;
        s->block.qk_norm = QkNorm::kHead;
      },
      [](ModelSpec* s) {
        s->block.norm_plus_one = s->block.post_norms = true;
        s->block.act = Act::kGeluTanh;
        s->embedding_scale = 5.5f;
        s->attn_scale = 0.2f;
      },
      [](ModelSpec* s) {
        s->block.norm = NormKind::kLayer;
        s->block.norm_bias = s->block.mlp_bias = true;
        s->block.gated = false;
        s->block.act = Act::kGelu;
        s->block.residual = Residual::kParallelTwoNorms;
        s->rope.rotary_dim = 4;
      },
  });
  for (const auto& form : forms) {
    with(form);
    const DriftChecks checks = CheckDrift(backend_.get(), params_, sequences_[0], {});
    EXPECT_EQ(checks.same_shift, 0);
    const double exact = Measure("exact").shifts[0].total.l1, rounded = Measure("bf16-qk").shifts[0].total.l1;
    EXPECT_GT(exact, checks.f64_l1);
    EXPECT_GT(rounded, 10 * exact);
  }
  const auto refused = [&](const std::function<void(ModelSpec*)>& change, std::string_view why) {
    with(change);
    ExpectError(ErrorKind::kUnsupported, {why}, [&] { Measure("exact"); });
  };
  refused([](ModelSpec* s) { s->attn_cap = 1.5f; }, "caps them");
  refused([](ModelSpec* s) { s->places = Places::kAlibi; }, "alibi");
  refused([](ModelSpec* s) { s->unplaced_layers = {1}; }, "one rotation");
  refused(
      [](ModelSpec* s) {
        s->sliding_window = 7;
        s->local_rope = RopeSpec{.theta = 1000, .rotary_dim = s->head_dim};
      },
      "one rotation");
}

TEST_F(DriftTest, ReportsAreWhole) {
  const std::vector<DriftRun> runs = {{"exact", Measure("exact")}, {"f16-positions", Measure("f16-positions")}};
  const std::string csv = ToCsv(runs);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + 2 * 2 * 3 * 4);
  const nlohmann::json json = ToJson(runs[0].report);
  EXPECT_EQ(json["shifts"][1]["by_head"].size(), 12u);
  EXPECT_EQ(json["shifts"][0]["tokens"].size(), 70u);
  EXPECT_FALSE(json["shifts"][1].contains("tokens"));
  EXPECT_NE(ToText(runs).find("f16-positions"), std::string::npos);
  EXPECT_EQ(ToSvg(runs).find("nan"), std::string::npos);
}

TEST(DriftRows, SoftmaxAgreesWithTheFormula) {
  Rng rng{4, 0, 0};
  for (const int64_t end : {1, 2, 7, 8, 9, 16, 33}) {
    for (const int64_t begin : {int64_t{0}, end / 2}) {
      constexpr int64_t kDim = 5;
      const int64_t ld = end + 8;
      std::vector<double> q(kDim), keys(static_cast<size_t>(kDim * ld)), p(static_cast<size_t>(ld), -1), out(3);
      for (double& x : q) x = 30 * rng.Normal();
      for (double& x : keys) x = rng.Normal();
      SoftmaxRow(q.data(), keys.data(), ld, kDim, 0.7, begin, end, p.data());
      double most = -1e300, sum = 0;
      std::vector<double> want(static_cast<size_t>(end));
      for (int64_t j = begin; j < end; ++j) {
        for (int64_t c = 0; c < kDim; ++c) want[j] += 0.7 * q[c] * keys[c * ld + j];
        most = std::max(most, want[j]);
      }
      for (int64_t j = begin; j < end; ++j) sum += want[j] = std::exp(want[j] - most);
      for (int64_t j = 0; j < ld; ++j) {
        if (j < begin || j >= end) {
          EXPECT_EQ(p[j], -1) << j;
        } else {
          EXPECT_NEAR(p[j], want[j] / sum, 1e-13);
        }
      }
      std::vector<double> sums(static_cast<size_t>(end)), sizes(sums);
      AddDifference(p.data(), want.data(), begin, end, sums.data(), sizes.data());
      std::vector<double> values(static_cast<size_t>(3 * end));
      for (double& x : values) x = rng.Normal();
      WeightedSum(p.data(), values.data(), 3, begin, end, out.data());
      double weighted = 0;
      for (int64_t j = begin; j < end; ++j) {
        EXPECT_EQ(sums[j], p[j] - want[j]);
        EXPECT_EQ(sizes[j], std::abs(p[j] - want[j]));
        weighted += p[j] * values[3 * j + 2];
      }
      EXPECT_NEAR(out[2], weighted, 1e-12);
    }
  }
}

TEST(DriftRows, TilesOfRowsAreTheirRowsToTheLastBit) {
  Rng rng{5, 0, 0};
  for (const int64_t end : {1, 3, 5, 8, 13, 14, 29, 64}) {
    for (const int64_t dim : {5, 8, 24}) {
      const int64_t last = end + kRowTile - 1, ld = last + 8;
      std::vector<double> q(static_cast<size_t>(kRowTile * dim)), keys(static_cast<size_t>(dim * ld)),
          values(static_cast<size_t>(last * dim)), tile(static_cast<size_t>(kRowTile * ld), -1),
          sums(static_cast<size_t>(kRowTile * dim));
      for (std::vector<double>* of : {&q, &keys, &values}) {
        for (double& x : *of) x = rng.Normal();
      }
      SoftmaxRowTile(q.data(), keys.data(), ld, dim, 0.7, end, tile.data(), ld);
      WeightedSumTile(tile.data(), ld, values.data(), dim, end, sums.data());
      for (int64_t r = 0; r < kRowTile; ++r) {
        std::vector<double> p(static_cast<size_t>(ld)), out(static_cast<size_t>(dim));
        SoftmaxRow(q.data() + r * dim, keys.data(), ld, dim, 0.7, 0, end + r, p.data());
        WeightedSum(p.data(), values.data(), dim, 0, end + r, out.data());
        for (int64_t j = 0; j < last; ++j) EXPECT_EQ(tile[r * ld + j], p[j]) << end << " " << dim << " " << r;
        for (int64_t c = 0; c < dim; ++c) EXPECT_EQ(sums[r * dim + c], out[c]) << end << " " << dim << " " << r;
      }
    }
  }
}

}  // namespace
}  // namespace hawser
