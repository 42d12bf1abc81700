// testing/kv_decode.h - the decoder over cache policies, against dense attention in f64 with the visible sets and
// positions that a policy's own recurrence gives.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/stream_reference.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {

class KvDecodeTest : public ::testing::Test {
 protected:
  static constexpr int32_t kTokens = 90;
  static constexpr double kVisible = 0.02;  // a change of what is seen moves logits by more than this

  /// What each token attends to, and the keys held when it came.
  struct Plan {
    std::vector<std::vector<int64_t>> attended;
    std::vector<int64_t> held;
  };

  KvDecodeTest() {
    SetThreads(1);  // steps this small are faster so
    Rng rng{.seed = 4, .stream = 4};
    flags_.resize(spec_.vocab);
    for (uint8_t& flag : flags_) flag = rng.Below(5) == 0;
    for (int32_t i = 0; i < kTokens; ++i) ids_.push_back(static_cast<int32_t>(rng.Below(spec_.vocab)));
  }

  ~KvDecodeTest() override { SetThreads(0); }

  using Logits = std::vector<std::vector<float>>;

  KvCache NewCache(const std::string& policy) {
    return NewKvCache(backend_.get(), Model().spec(), ParseKvForm(policy), flags_, DType::kF32, kTokens);
  }

  /// Logits of every token, fed in pieces of random length up to `most`.
  Logits Decode(KvCache* cache, int32_t most, uint64_t seed = 0) {
    Rng rng{.seed = seed, .stream = 8};
    Logits logits;
    for (int32_t t = 0; t < kTokens;) {
      const int32_t n = std::min(kTokens - t, 1 + static_cast<int32_t>(rng.Below(most)));
      const Logits rows = Feed(cache, {ids_.begin() + t, ids_.begin() + t + n});
      logits.insert(logits.end(), rows.begin(), rows.end());
      t += n;
    }
    return logits;
  }
  Logits Decode(const std::string& policy, int32_t most = 1, uint64_t seed = 0) {
    KvCache cache = NewCache(policy);
    return Decode(&cache, most, seed);
  }

  Logits Feed(KvCache* cache, const std::vector<int32_t>& ids) {
    Matrix rows(static_cast<int64_t>(ids.size()), spec_.vocab);
    Model().Extend(ids, cache, rows);
    Logits logits;
    for (int64_t r = 0; r < rows.rows(); ++r) logits.emplace_back(rows.Row<float>(r), rows.Row<float>(r) + spec_.vocab);
    return logits;
  }

  Plan StreamPlan(const testing::StreamReference::Sizes& sizes, bool full) const {
    testing::StreamReference reference(sizes, full);
    Plan plan;
    int64_t held = 0;
    for (int32_t id : ids_) {
      const testing::StreamStep step = reference.Step(flags_[id]);
      plan.attended.push_back(step.attended);
      plan.held.push_back(held);
      held = static_cast<int64_t>(step.stored.size());
    }
    return plan;
  }
  Plan SinkPlan(int64_t a, int64_t c) const {
    Plan plan;
    for (int64_t t = 0; t < kTokens; ++t) {
      std::vector<int64_t> sees;
      for (int64_t k = 0; k <= t; ++k) {
        if (k < a || k >= t - c) sees.push_back(k);
      }
      plan.attended.push_back(sees);
      plan.held.push_back(std::min(t, a + c));
    }
    return plan;
  }
  Plan PatternPlan(const AttnPattern& pattern) const {
    Plan plan;
    for (int64_t t = 0; t < kTokens; ++t) {
      std::vector<int64_t> sees;
      for (int64_t k = 0; k <= t; ++k) {
        if (k < pattern.sinks || t - k < pattern.window || (pattern.separators && flags_[ids_[k]])) sees.push_back(k);
      }
      plan.attended.push_back(sees);
    }
    return plan;
  }

  std::vector<std::vector<double>> Dense(const Plan& plan, KvPositions positions) const {
    const auto rank = [&](int32_t q, int32_t k) {
      const std::vector<int64_t>& v = plan.attended[q];
      return static_cast<double>(std::lower_bound(v.begin(), v.end(), k) - v.begin());
    };
    return testing::ReferenceModel(params_)
        .Forward(
            ids_, [&](int32_t q, int32_t k) { return std::ranges::binary_search(plan.attended[q], k); },
            [&](int32_t q, int32_t k) -> double {
              if (positions == KvPositions::kRank) return rank(q, k);
              return static_cast<double>(positions == KvPositions::kAbsolute ? k : plan.held[k]);
            })
        .logits;
  }

  template <class A, class B>
  static double Difference(const A& a, const B& b, int32_t begin = 0, int32_t end = kTokens) {
    double worst = 0;
    for (int32_t t = begin; t < end; ++t) {
      for (size_t i = 0; i < a[t].size(); ++i) {
        const double difference = std::abs(static_cast<double>(a[t][i]) - static_cast<double>(b[t][i]));
        if (!(difference <= worst)) worst = difference;  // a NaN sticks out
      }
    }
    return worst;
  }

  void ExpectDense(const std::string& policy, const Plan& plan) {
    const auto want = Dense(plan, MakeKvPolicy(policy)->positions());
    for (int32_t most : {1, 4, 40}) {
      EXPECT_LT(Difference(Decode(policy, most, most), want), kTolerance) << policy << " in pieces up to " << most;
    }
    EXPECT_GT(Difference(Decode("full"), want), kVisible) << policy << " hides nothing that matters";
  }

  void ExpectSameAsScored(const char* pattern, const char* policy) {
    Batch batch;
    batch.ids = ids_;
    batch.weights.assign(kTokens, 1.0f);
    batch.pattern = ParseLayeredPattern(pattern);
    TokenLayout layout;
    layout.size = kTokens;
    for (int32_t t = 0; t < kTokens; ++t) {
      batch.positions.push_back(t);
      batch.targets.push_back(t + 1 < kTokens ? ids_[t + 1] : -1);
      layout.is_separator.push_back(flags_[ids_[t]]);
    }
    batch.sequences.push_back({0, layout});
    std::vector<float> scored(kTokens), decoded(kTokens);
    Model().Score(batch, scored.data());
    for (int32_t most : {1, kTokens}) {
      KvCache cache = NewCache(policy);
      for (int32_t t = 0; t < kTokens; t += most) {
        const size_t n = std::min(most, kTokens - t);
        Model().ExtendScore({&ids_[t], n}, {&batch.targets[t], n}, &cache, &decoded[t]);
      }
      for (int32_t t = 0; t < kTokens; ++t) EXPECT_NEAR(decoded[t], scored[t], 5e-4) << policy << " t=" << t;
    }
  }

  static constexpr double kTolerance = 1e-3;
  ModelSpec spec_ = TinySpec({.layers = 3, .context = kTokens});
  ParamStore params_ = LoudModel(spec_, 17);
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  /// Of the parameters and the spec as they are now.
  Decoder Model() { return {backend_.get(), &params_}; }
  std::vector<uint8_t> flags_;
  std::vector<int32_t> ids_;
};

}  // namespace hawser
