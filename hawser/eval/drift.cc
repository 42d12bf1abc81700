#include "hawser/eval/drift.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/base/streams.h"
#include "hawser/base/text.h"
#include "hawser/eval/drift_pass.h"
#include "hawser/eval/perplexity.h"
#include "hawser/model/places.h"

namespace hawser {
namespace {

constexpr std::string_view kModes[] = {"free", "forced"};
constexpr std::string_view kSides[] = {"both", "keys", "queries"};
template <class E, size_t N>
E Parse(std::string_view what, std::string_view text, const std::string_view (&names)[N]) {
  for (size_t i = 0; i < N; ++i) {
    if (names[i] == text) return static_cast<E>(i);
  }
  Fail(ErrorKind::kUsage, "unknown {} '{}'{}", what, text, SuggestName(text, names));
}

std::vector<int64_t> Lengths(const DriftOptions& options, int64_t tokens) {
  std::vector<int64_t> lengths = options.lengths;
  if (lengths.empty()) {
    for (int64_t n = 64; n < tokens; n *= 2) lengths.push_back(n);
    lengths.push_back(tokens);
  }
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  for (const int64_t length : lengths) {
    if (length < 1 || length > tokens) {
      Fail(ErrorKind::kUsage, "a length of {} tokens is not in [1, {}], the tokens of a sequence", length, tokens);
    }
  }
  return lengths;
}

void CheckOptions(const ModelSpec& spec, std::span<const std::vector<int32_t>> sequences, const DriftOptions& options) {
  if (spec.softmax != SoftmaxSpec() || spec.segments.places > 0) {
    Fail(ErrorKind::kUnsupported,
         "drift is measured for the standard softmax and plain positions; this model has softmax {} and {} segment "
         "places",
         ToString(spec.softmax), spec.segments.places);
  }
  if (spec.places != Places::kRope || spec.local_rope || !spec.unplaced_layers.empty()) {
    Fail(ErrorKind::kUnsupported,
         "drift is measured where one rotation places the tokens of all layers; this model, of family \"{}\", has {}",
         spec.family, PlacesText(spec));
  }
  if (spec.attn_cap != 0) {
    Fail(ErrorKind::kUnsupported, "drift is measured of scores as they are; this model, of family \"{}\", caps them",
         spec.family);
  }
  if (spec.rope.fold.active()) {
    Fail(ErrorKind::kUnsupported, "rope {}: drift is measured without string; give another --rope",
         ToString(spec.rope));
  }
  if (DependsOnLength(spec.rope)) {
    Fail(ErrorKind::kUnsupported,
         "rope {}: its frequencies depend on the length, so a shift is not a rotation; give another --rope",
         ToString(spec.rope));
  }
  if (spec.rope.query_scale) {
    Fail(ErrorKind::kUnsupported,
         "rope {}: queries grow with their position, so scores of shifted ones differ by more than rounding; give "
         "another --rope",
         ToString(spec.rope));
  }
  if (sequences.empty()) Fail(ErrorKind::kUsage, "no sequences to measure on");
  if (options.deltas.empty()) Fail(ErrorKind::kUsage, "no shifts to compare with {}", options.reference);
  constexpr int64_t kMost = int64_t{1} << 31;
  const auto tokens = static_cast<int64_t>(sequences[0].size());
  const auto check = [&](int64_t shift) {
    if (shift < 0 || shift > kMost - tokens) {
      Fail(ErrorKind::kUsage, "a shift of {} is outside [0, {}]", shift, kMost - tokens);
    }
  };
  check(options.reference);
  for (const int64_t delta : options.deltas) check(delta);
  for (const std::vector<int32_t>& sequence : sequences) {
    if (static_cast<int64_t>(sequence.size()) != tokens || tokens < 1) {
      Fail(ErrorKind::kUsage, "sequences must have one length, found {} and {} tokens", tokens, sequence.size());
    }
    for (const int32_t id : sequence) {
      if (id < 0 || id >= spec.vocab) Fail(ErrorKind::kUsage, "token id {} is outside [0, {})", id, spec.vocab);
    }
  }
}

}  // namespace

std::string_view Name(DriftMode mode) { return kModes[static_cast<size_t>(mode)]; }
std::string_view Name(DriftSide side) { return kSides[static_cast<size_t>(side)]; }
DriftMode ParseDriftMode(std::string_view text) { return Parse<DriftMode>("mode", text, kModes); }
DriftSide ParseDriftSide(std::string_view text) { return Parse<DriftSide>("side to round", text, kSides); }

void DriftSums::Add(const DriftSums& other, double weight) {
  d += weight * other.d;
  abs += weight * other.abs;
  l1 += weight * other.l1;
  first += weight * other.first;
  first_abs += weight * other.first_abs;
  first_l1 += weight * other.first_l1;
}

std::vector<std::vector<int32_t>> DriftSequences(const std::vector<TextDocument>& documents, const Tokenizer& tokenizer,
                                                 int64_t count, int64_t tokens, BosRule bos) {
  if (count < 1 || tokens < 2) {
    Fail(ErrorKind::kUsage, "wanted 1 sequence or more of 2 tokens or more, found {} of {}", count, tokens);
  }
  const std::vector<Document> texts = TokenizeDocuments(documents, tokenizer);
  const std::vector<int32_t> prefix = TextPrefix(tokenizer, bos);
  const int64_t text_tokens = tokens - static_cast<int64_t>(prefix.size());
  if (text_tokens < 1) Fail(ErrorKind::kUsage, "{} tokens a sequence leave no room for text", tokens);
  std::vector<std::pair<size_t, int64_t>> begins;  // document, first token
  int64_t longest = 0;
  for (size_t d = 0; d < texts.size(); ++d) {
    const auto size = static_cast<int64_t>(texts[d].tokens.size());
    longest = std::max(longest, size);
    for (int64_t begin = 0; begin + text_tokens <= size; begin += text_tokens) begins.emplace_back(d, begin);
  }
  if (begins.empty()) {
    Fail(ErrorKind::kUsage, "no document has {} tokens, the longest has {}; give longer text or fewer --tokens",
         text_tokens, longest);
  }
  const int64_t found = static_cast<int64_t>(begins.size());
  count = std::min(count, found);
  std::vector<std::vector<int32_t>> sequences;
  for (int64_t i = 0; i < count; ++i) {
    const auto [d, begin] = begins[static_cast<size_t>(i * found / count)];
    std::vector<int32_t>& sequence = sequences.emplace_back(prefix);
    const auto from = texts[d].tokens.begin() + begin;
    sequence.insert(sequence.end(), from, from + text_tokens);
  }
  return sequences;
}

DriftReport MeasureDrift(Backend* backend, const ParamStore& weights, std::span<const std::vector<int32_t>> sequences,
                         const DriftOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const ModelSpec& spec = weights.spec();
  CheckOptions(spec, sequences, options);
  const auto tokens = static_cast<int64_t>(sequences[0].size());
  const std::vector<int64_t> lengths = Lengths(options, tokens);
  const ParamStore rounded = Cast(weights, options.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32);
  DriftPass pass(backend, rounded, options, tokens, lengths);

  DriftReport report{.numerics = options.numerics,
                     .mode = options.mode,
                     .side = options.side,
                     .dtype = options.dtype,
                     .reference = options.reference,
                     .tokens = tokens,
                     .sequences = static_cast<int64_t>(sequences.size()),
                     .layers = spec.layers,
                     .heads = spec.heads};
  for (const int64_t delta : options.deltas) {
    DriftShift& shift = report.shifts.emplace_back();
    shift.delta = delta;
    shift.heads.resize(static_cast<size_t>(spec.layers) * spec.heads);
    shift.tokens.resize(static_cast<size_t>(tokens));
    shift.tokens_abs.resize(static_cast<size_t>(tokens));
    for (const int64_t length : lengths) shift.logits.push_back({.length = length});
  }
  const double weight = 1.0 / static_cast<double>(sequences.size());
  std::vector<std::vector<DriftSums>> totals(report.shifts.size());  // of each sequence
  std::vector<HeadDrift> drift;
  int64_t done = 0;
  for (const std::vector<int32_t>& sequence : sequences) {
    pass.Begin(sequence);
    for (auto& total : totals) total.emplace_back();
    for (int32_t layer = 0; layer < spec.layers; ++layer) {
      pass.Layer(layer, &drift);
      for (size_t s = 0; s < report.shifts.size(); ++s) {
        DriftShift& shift = report.shifts[s];
        for (int32_t h = 0; h < spec.heads; ++h) {
          const HeadDrift& head = drift[h];
          shift.heads[static_cast<size_t>(layer) * spec.heads + h].Add(head.sums[s], weight);
          totals[s].back().Add(head.sums[s], 1);
          for (int64_t j = 0; j < tokens; ++j) {
            shift.tokens[j] += weight * head.column[s][j];
            shift.tokens_abs[j] += weight * head.column_abs[s][j];
          }
          for (size_t n = 0; n < lengths.size(); ++n) {
            shift.logits[n].d += weight * head.logits[s][n].d;
            shift.logits[n].abs += weight * head.logits[s][n].abs;
          }
        }
      }
      if (options.on_layer) options.on_layer(++done);
    }
  }
  for (size_t s = 0; s < report.shifts.size(); ++s) {
    DriftShift& shift = report.shifts[s];
    for (const DriftSums& total : totals[s]) shift.total.Add(total, weight);
    for (double DriftSums::*field : {&DriftSums::d, &DriftSums::abs, &DriftSums::l1, &DriftSums::first,
                                     &DriftSums::first_abs, &DriftSums::first_l1}) {
      double squares = 0;
      for (const DriftSums& total : totals[s]) squares += std::pow(total.*field - shift.total.*field, 2);
      if (totals[s].size() > 1) shift.spread.*field = std::sqrt(squares / static_cast<double>(totals[s].size() - 1));
    }
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

DriftChecks CheckDrift(Backend* backend, const ParamStore& weights, const std::vector<int32_t>& sequence,
                       const DriftOptions& options) {
  constexpr size_t kTokens = 256;
  constexpr double kMost = 1e-8;
  const std::vector<int32_t> head(sequence.begin(), sequence.begin() + std::min(sequence.size(), kTokens));
  DriftOptions same = options;
  same.deltas = {options.reference};
  same.lengths = {};
  same.on_layer = nullptr;
  DriftOptions exact = same;
  exact.deltas = {options.reference == 0 ? 16 : 0};
  exact.numerics = ParseRopeNumerics("f64");
  exact.mode = DriftMode::kFree;
  exact.dtype = DType::kF64;
  const DriftChecks checks{
      .same_shift = MeasureDrift(backend, weights, {&head, 1}, same).shifts[0].total.l1,
      .f64_l1 = MeasureDrift(backend, weights, {&head, 1}, exact).shifts[0].total.l1,
  };
  const bool overflows = std::isnan(checks.same_shift);  // f16 positions: told by the tables, no fault of this
  if (checks.same_shift != 0 && !overflows) {
    Fail(ErrorKind::kNumeric, "a shift of {} differs from itself by D_l1 = {}", options.reference, checks.same_shift);
  }
  if (!(checks.f64_l1 < kMost)) {
    Fail(ErrorKind::kNumeric, "in f64 the shifts {} and {} differ by D_l1 = {}, wanted below {}", exact.deltas[0],
         options.reference, checks.f64_l1, kMost);
  }
  return checks;
}

void KaimingUniform(ParamStore& weights, uint64_t seed) {
  HAWSER_CHECK(weights.dtype() == DType::kF32);
  for (const ParamInfo& info : weights.layout().params()) {
    float* w = weights.Get(info.role, info.layer).Row<float>(0);
    const double bound = std::sqrt(6.0 / static_cast<double>(info.cols));
    Rng rng{seed, streams::Tensor(static_cast<uint32_t>(info.role), info.layer), 0};
    for (int64_t i = 0; i < info.size(); ++i) {
      w[i] = info.vector ? 1.0f : static_cast<float>(bound * (2 * rng.Uniform() - 1));
    }
  }
}

}  // namespace hawser
