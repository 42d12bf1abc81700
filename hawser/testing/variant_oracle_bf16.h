// testing/variant_oracle_bf16.h - the sequences of variant_oracle.h on the kernels in bf16. What the oracles ask for
// holds exactly for the f64 twin with the same weights. So two runs that should agree are each within the rounding of
// bf16 of one value, and at most twice that apart; runs that should differ do so by more.
#pragma once

#include "hawser/testing/tolerance.h"
#include "hawser/testing/variant_oracle.h"

namespace hawser::testing {

class VariantOracleBf16 : public VariantOracle {
 protected:
  static double MaxDiff(const Values& a, const Values& b) {
    EXPECT_EQ(a.size(), b.size());
    return VariantOracle::MaxDiff(a, b, 0, 0, static_cast<int32_t>(a.size()));
  }
  using VariantOracle::MaxDiff;

  Values Low(const PackedSequence& s, const char* variant) {
    return Kernels(&low_decoder_, s, ParseVariant(variant).pattern);
  }
  Values Low(const Texts& texts, const char* variant) { return Low(Pack(texts, variant), variant); }

  static Values Twin(const ReferenceModel& twin, const PackedSequence& s, const char* variant) {
    const ReferenceModel::Output out = twin.Forward(s.ids, s.positions, s.layout, ParseVariant(variant).pattern);
    Values nll;
    for (size_t t = 0; t < s.ids.size(); ++t) nll.push_back(ReferenceModel::Nll(out.logits[t], TargetOf(s.ids[t])));
    return nll;
  }

  /// Nats by which rounding may move the nll of a row, whatever the variant. Not measured on the kernels: the twin runs
  /// with every value that they store perturbed by up to one unit, evenly and independently (Monte Carlo arithmetic);
  /// six standard deviations of its worst row.
  static double Tolerance() {
    static const double tolerance = [] {
      constexpr int kDraws = 6;
      const ReferenceModel exact(ExactParams());
      ReferenceModel noisy(ExactParams());
      uint64_t draw = 0;
      noisy.store = [&draw](double x) {
        const double uniform = static_cast<double>(RandomBits(7, 7, draw++) >> 11) * 0x1p-53;
        return x * (1.0 + RoundingUnit(DType::kBF16) * (2.0 * uniform - 1.0));
      };
      double worst = 0;
      for (const char* variant : {"full", "intra", "anchor", "anchor-interleaved"}) {
        const PackedSequence s = Pack(RandomTexts({18, 1, 29, 16}, 1), variant);
        const Values want = Twin(exact, s, variant);
        Values square(want.size());
        for (int i = 0; i < kDraws; ++i) {
          const Values got = Twin(noisy, s, variant);
          for (size_t t = 0; t < want.size(); ++t) square[t] += (got[t] - want[t]) * (got[t] - want[t]) / kDraws;
        }
        worst = std::max(worst, std::sqrt(*std::max_element(square.begin(), square.end())));
      }
      return 6 * worst;
    }();
    return tolerance;
  }
  static double Apart() { return 2 * Tolerance(); }

  static const ParamStore& Params() {
    static const ParamStore params =
        Cast(LoudModel(TinySpec({.vocab = kVocab, .layers = 3, .context = 256, .tie = true}), 5), DType::kBF16);
    return params;
  }
  /// The same values in f32.
  static ParamStore ExactParams() { return Cast(Params(), DType::kF32); }

  Decoder low_decoder_{backend_.get(), &Params()};
};

}  // namespace hawser::testing
