// testing/variant_oracle.h - sequences of every variant as the packer makes them, run on the kernels and on the f64
// twin.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/rng.h"
#include "hawser/data/packer.h"
#include "hawser/device/registry.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/trainer.h"

namespace hawser::testing {

using Texts = std::vector<std::vector<int32_t>>;

constexpr int32_t kBos = 1, kTagId = 2, kVocab = 64;
constexpr const char* kVariants[] = {"full",      "intra",         "intra-reset",       "intra-tag",
                                     "anchor",    "anchor-reset",  "anchor-tag",        "intra-interleaved",
                                     "multi-bos", "multi-bos-tag", "anchor-interleaved"};

inline bool IsDocumentScope(const char* variant) { return ParseVariant(variant).pattern.scope == Scope::kDocument; }

/// Every text once, in order, packed into one sequence; `padding` tokens after it.
inline PackedSequence Pack(const Texts& texts, const AttnVariant& variant, int32_t padding = 0) {
  PackOptions options{.variant = variant, .bos = kBos, .min_document = 0};
  options.anchor.assign(variant.multi_bos ? 1 : static_cast<size_t>(variant.pattern.anchors), kBos);
  options.length = padding + variant.pattern.anchors;
  for (const auto& text : texts) {
    options.length += static_cast<int32_t>(text.size()) + (variant.pattern.anchors == 0) + 2 * variant.tags;
  }
  Packer packer(options, 3);
  for (size_t d = 0; d < texts.size(); ++d) {
    packer.Add({.id = static_cast<int64_t>(d), .tokens = texts[d], .tag = {kTagId, kTagId}});
  }
  packer.Finish();
  PackedSequence sequence;
  EXPECT_TRUE(packer.Next(&sequence));
  EXPECT_EQ(packer.counts().sequences, 1);
  return sequence;
}
inline PackedSequence Pack(const Texts& texts, const char* variant, int32_t padding = 0) {
  return Pack(texts, ParseVariant(variant), padding);
}

/// Rows [begin, end) of each document, its chunks together.
inline std::vector<std::pair<int32_t, int32_t>> Rows(const PackedSequence& s) {
  std::vector<std::pair<int32_t, int32_t>> rows;
  for (const Segment& segment : s.segments) {
    if (segment.document < 0) continue;
    if (segment.chunk == 0) rows.emplace_back(segment.begin, segment.begin);
    rows.back().second = segment.begin + segment.length;
  }
  return rows;
}

/// Visible pairs: L (L + 1) / 2, or that of each document, and L more behind a shared anchor.
inline int64_t PairsByFormula(const PackedSequence& s, const char* variant) {
  const auto length = static_cast<int64_t>(s.ids.size());
  if (!IsDocumentScope(variant)) return length * (length + 1) / 2;
  int64_t pairs = ParseVariant(variant).pattern.anchors > 0 ? length : 0;
  for (const auto& [begin, end] : Rows(s)) pairs += int64_t{end - begin} * (end - begin + 1) / 2;
  return pairs;
}

/// The anchor, if the sequence has one, and rows [begin, end) at the positions they have in `s`.
inline PackedSequence Alone(const PackedSequence& s, int32_t anchors, std::pair<int32_t, int32_t> rows) {
  PackedSequence out;
  const auto take = [&](const auto& from, auto& to) {
    to.assign(from.begin(), from.begin() + anchors);
    to.insert(to.end(), from.begin() + rows.first, from.begin() + rows.second);
  };
  take(s.ids, out.ids);
  take(s.positions, out.positions);
  take(s.targets, out.targets);
  take(s.weights, out.weights);
  out.layout = MakeLayout(anchors, {rows.second - rows.first});
  return out;
}

/// A multi-bos sequence whose text stands where it stands behind a shared anchor.
inline PackedSequence AtAnchorPositions(PackedSequence copies, const PackedSequence& shared) {
  size_t from = 1;
  for (const Segment& segment : copies.segments) {
    for (int32_t t = segment.bos_tokens; t < segment.length; ++t) {
      copies.positions[segment.begin + t] = shared.positions[from++];
    }
  }
  return copies;
}

/// The sequence with every position 1000 further on, and with every one but those of anchors, shared or copied.
struct Shifted {
  Shifted(const PackedSequence& packed, const AttnVariant& variant) : all(packed), others(packed) {
    for (const Segment& segment : packed.segments) {
      for (int32_t t = 0; t < segment.length; ++t) {
        const bool anchor = segment.document == Segment::kAnchor || (variant.multi_bos && t < segment.bos_tokens);
        all.positions[segment.begin + t] += 1000;
        others.positions[segment.begin + t] += anchor ? 0 : 1000;
      }
    }
  }
  PackedSequence all, others;
};

/// The model with all weights of keys zero: a row is the mean of the values that it sees.
inline ParamStore WithoutKeys(ParamStore params) {
  for (const ParamInfo& info : params.layout().params()) {
    if (info.role != Role::kKey) continue;
    const Mat w = params.Get(info.role, info.layer);
    std::fill_n(w.Row<float>(0), w.rows * w.cols, 0.0f);
  }
  return params;
}

class VariantOracle : public ::testing::Test {
 protected:
  using Values = std::vector<double>;
  struct Engine {
    std::string name;
    std::function<Values(const PackedSequence&, const LayeredPattern&)> nll;  // of TargetOf(id), a row
    double tolerance;
  };

  /// What is asked of a row depends on its token alone, so that it moves with it.
  static int32_t TargetOf(int32_t id) { return (id * 7 + 3) % kVocab; }

  static Batch Asked(const std::vector<PackedSequence>& sequences, const LayeredPattern& pattern) {
    Batch batch = MakeBatch(sequences, pattern);
    for (size_t t = 0; t < batch.ids.size(); ++t) {
      batch.targets[t] = TargetOf(batch.ids[t]);
      batch.weights[t] = 1.0f;
    }
    return batch;
  }
  Values Kernels(Decoder* decoder, const PackedSequence& s, const LayeredPattern& pattern) {
    std::vector<float> nll(s.ids.size());
    decoder->Score(Asked({s}, pattern), nll.data());
    return {nll.begin(), nll.end()};
  }
  std::vector<Engine> Engines() {
    return {{"kernels", [this](const auto& s, const auto& p) { return Kernels(&decoder_, s, p); }, 2e-4},
            {"twin",
             [this](const auto& s, const auto& p) {
               const ReferenceModel::Output out = twin_.Forward(s.ids, s.positions, s.layout, p);
               Values nll;
               for (size_t t = 0; t < s.ids.size(); ++t) {
                 nll.push_back(ReferenceModel::Nll(out.logits[t], TargetOf(s.ids[t])));
               }
               return nll;
             },
             1e-9}};
  }
  Values Nll(const Engine& engine, const Texts& texts, const char* variant) {
    return engine.nll(Pack(texts, variant), ParseVariant(variant).pattern);
  }

  static double MaxDiff(const Values& a, const Values& b, int32_t a0, int32_t b0, int32_t n) {
    double worst = 0;
    for (int32_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(a.at(a0 + i) - b.at(b0 + i)));
    return worst;
  }

  /// Losses of three sequences of unlike lengths, in one batch and each alone.
  std::pair<Values, Values> TogetherAndAlone(Decoder* decoder, const char* variant) const {
    const LayeredPattern pattern = ParseVariant(variant).pattern;
    const std::vector<PackedSequence> rows = {Pack(texts_, variant), Pack({texts_[3], texts_[2]}, variant, 5),
                                              Pack({texts_[1]}, variant)};
    const auto score = [&](const std::vector<PackedSequence>& sequences) {
      const Batch batch = MakeBatch(sequences, pattern);
      std::vector<float> nll(batch.ids.size());
      decoder->Score(batch, nll.data());
      return nll;
    };
    const std::vector<float> together = score(rows);
    Values alone;
    for (const PackedSequence& row : rows) {
      const std::vector<float> one = score({row});
      alone.insert(alone.end(), one.begin(), one.end());
    }
    return {{together.begin(), together.end()}, alone};
  }

  /// Every variant scored and trained: the same loss to the last bit, with recompute or without.
  void ExpectScoringGivesTheLossOfTraining(Decoder* decoder) const {
    for (const char* variant : kVariants) {
      const Batch batch = MakeBatch({{Pack(texts_, variant)}}, ParseVariant(variant).pattern);
      std::vector<float> nll(batch.ids.size());
      const StepStats scored = decoder->Score(batch, nll.data());
      for (const Recompute recompute : {Recompute::kNone, Recompute::kLayer}) {
        ParamStore grads(spec_, DType::kF32);
        EXPECT_EQ(scored.loss, decoder->ForwardBackward(batch, 1.0f, recompute, &grads).loss) << variant;
      }
    }
  }

  /// Document `d` served token by token behind a BOS, against `trained`: the losses of all, packed.
  double ServedApartFrom(const Values& trained, const char* variant, size_t d, Decoder* decoder, DType kv) const {
    const int32_t own_bos = ParseVariant(variant).pattern.anchors == 0;
    const int32_t begin = Rows(Pack(texts_, variant))[d].first + own_bos;
    KvCache cache = NewKvCache(backend_.get(), spec_, ParseKvForm("full"), {}, kv, spec_.context);
    decoder->Extend(std::vector<int32_t>{kBos}, &cache, {});
    Matrix logits(1, spec_.vocab);
    double difference = 0;
    for (size_t t = 0; t < texts_[d].size(); ++t) {
      const int32_t id = texts_[d][t];
      decoder->Extend({&id, 1}, &cache, logits.view());
      const float* l = logits.Row<float>(0);
      const double served = ReferenceModel::Nll({l, l + spec_.vocab}, TargetOf(id));
      difference = std::max(difference, std::abs(served - trained[static_cast<size_t>(begin) + t]));
    }
    return difference;
  }

  static Texts RandomTexts(const std::vector<int32_t>& lengths, uint64_t seed) {
    Rng rng{seed, 1};
    Texts texts;
    for (const int32_t n : lengths) {
      texts.emplace_back();
      for (int32_t t = 0; t < n; ++t) texts.back().push_back(static_cast<int32_t>(3 + rng.Below(kVocab - 3)));
    }
    return texts;
  }

  ModelSpec spec_ = TinySpec({.vocab = kVocab, .layers = 3, .context = 256, .tie = true});
  ParamStore params_ = LoudModel(spec_, 5);
  ReferenceModel twin_{params_};
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
  const Texts texts_ = RandomTexts({18, 1, 29, 16}, 1);
  // What a visible change looks like: far above the tolerance of either engine.
  static constexpr double kVisible = 0.02;
};

}  // namespace hawser::testing
