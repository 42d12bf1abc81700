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
#include "hawser/eval/drift_layers.h"
#include "hawser/eval/drift_rows.h"
#include "hawser/eval/perplexity.h"

namespace hawser {
namespace {

constexpr std::string_view kModes[] = {"free", "forced"};
constexpr std::string_view kSides[] = {"both", "keys", "queries"};
constexpr int64_t kPad = 8;       // values a row of keys has beyond its end
constexpr int64_t kTileRows = 8;  // query rows whose reference attention is kept while the shifts pass by

template <class E, size_t N>
E Parse(std::string_view what, std::string_view text, const std::string_view (&names)[N]) {
  for (size_t i = 0; i < N; ++i) {
    if (names[i] == text) return static_cast<E>(i);
  }
  Fail(ErrorKind::kUsage, "unknown {} '{}'{}", what, text, SuggestName(text, names));
}

/// cos and sin of one shift.
struct Table {
  Table(const RopeSpec& rope, const RopeNumerics& rounding, int64_t shift, int64_t tokens) : numerics(rounding) {
    RopeSpec spec = rope;
    spec.numerics = rounding;
    const RopeFrequencies frequencies = ComputeFrequencies(spec, 0);
    half = static_cast<int64_t>(frequencies.inv_freq.size());
    std::vector<int64_t> positions(static_cast<size_t>(tokens));
    std::iota(positions.begin(), positions.end(), shift);
    cos.resize(static_cast<size_t>(tokens * half));
    sin.resize(cos.size());
    FillRopeTableF64(frequencies, positions.data(), tokens, cos.data(), sin.data());
  }

  /// Rotates the first 2 * half of `dim` channels at row t and rounds all to `store`.
  void Rotate(RopePairing pairing, int64_t t, int64_t dim, FloatFormat store, double* x) const {
    for (int64_t i = 0; i < half; ++i) {
      const int64_t a = pairing == RopePairing::kHalf ? i : 2 * i;
      const int64_t b = pairing == RopePairing::kHalf ? i + half : 2 * i + 1;
      const RopePair pair = RotatePair(numerics.math, x[a], x[b], cos[t * half + i], sin[t * half + i]);
      x[a] = pair.low;
      x[b] = pair.high;
    }
    for (int64_t c = 0; c < dim; ++c) x[c] = RoundTo(store, x[c]);
  }

  RopeNumerics numerics;
  int64_t half = 0;
  std::vector<double> cos, sin;
};

FloatFormat FormatOf(DType dtype) {
  return dtype == DType::kF64 ? FloatFormat::kF64 : dtype == DType::kF32 ? FloatFormat::kF32 : FloatFormat::kBF16;
}

/// One head of one stream: rotated queries [T, D], keys turned to columns [D, T + kPad], values [T, D].
struct HeadRows {
  std::vector<double> q, k, v;
};

/// What the shifts of one head differ by.
struct HeadDrift {
  std::vector<DriftSums> sums;                  // [shifts]
  std::vector<std::vector<double>> column;      // [shifts][T] n_j (C_j(s) - C_j(r))
  std::vector<std::vector<double>> column_abs;  // [shifts][T]
  std::vector<std::vector<DriftLogit>> logits;  // [shifts][lengths]
};

/// One sequence through the model, a hidden stream for the reference (stream 0) and, running free, one for each shift.
class Pass {
 public:
  Pass(Backend* backend, const ParamStore& weights, const DriftOptions& options, int64_t tokens,
       std::span<const int64_t> lengths)
      : spec_(weights.spec()),
        options_(options),
        tokens_(tokens),
        lengths_(lengths),
        layers_(backend, &weights, options.dtype) {
    const RopeNumerics exact = ParseRopeNumerics("f64");
    const FloatFormat activations = FormatOf(options.dtype);
    const auto side = [&](bool rounded) { return rounded ? options.numerics : exact; };
    for (int64_t s = 0; s < streams(); ++s) {
      const int64_t shift = s == 0 ? options.reference : options.deltas[s - 1];
      query_tables_.emplace_back(spec_.rope, side(options.side != DriftSide::kKeys), shift, tokens);
      key_tables_.emplace_back(spec_.rope, side(options.side != DriftSide::kQueries), shift, tokens);
    }
    query_store_ = query_tables_[0].numerics.qk.value_or(activations);
    key_store_ = key_tables_[0].numerics.qk.value_or(activations);
    const int64_t qkv = (int64_t{spec_.heads} + 2 * spec_.kv_heads) * spec_.head_dim;
    for (int64_t s = 0; s < hidden_streams(); ++s) {
      x_.emplace_back(tokens, spec_.width, options.dtype);
      qkv_.emplace_back(tokens, qkv, options.dtype);
      attn_out_.emplace_back(tokens, int64_t{spec_.heads} * spec_.head_dim, options.dtype);
    }
  }

  void Begin(const std::vector<int32_t>& ids) {
    for (Matrix& x : x_) layers_.Embed(ids.data(), x.view());
  }

  /// Runs a layer; drift[h] is what its heads say.
  void Layer(int32_t layer, std::vector<HeadDrift>* drift) {
    window_ = std::min<int64_t>(OwnPattern(spec_).OfLayer(layer, spec_.layers).window, tokens_);
    for (size_t s = 0; s < x_.size(); ++s) layers_.Qkv(layer, x_[s].view(), qkv_[s].view());
    drift->assign(static_cast<size_t>(spec_.heads), {});
    ParallelFor(spec_.heads, [&](int64_t h) { (*drift)[h] = Head(h); });
    for (size_t s = 0; s < x_.size(); ++s) layers_.Finish(layer, attn_out_[s].view(), x_[s].view());
  }

 private:
  int64_t shifts() const { return static_cast<int64_t>(options_.deltas.size()); }
  int64_t streams() const { return shifts() + 1; }
  int64_t hidden_streams() const { return options_.mode == DriftMode::kFree ? streams() : 1; }

  HeadRows Rows(int64_t head, int64_t stream) const {
    const int64_t dim = spec_.head_dim, group = head / (spec_.heads / spec_.kv_heads), ld = tokens_ + kPad;
    const ConstMat qkv = qkv_[options_.mode == DriftMode::kFree ? stream : 0].view();
    HeadRows rows;
    rows.q.resize(static_cast<size_t>(tokens_ * dim));
    rows.k.resize(static_cast<size_t>(ld * dim));
    rows.v.resize(static_cast<size_t>(tokens_ * dim));
    std::vector<double> key(static_cast<size_t>(dim));
    for (int64_t t = 0; t < tokens_; ++t) {
      double* q = rows.q.data() + t * dim;
      ReadRow(qkv, t, head * dim, dim, q);
      query_tables_[stream].Rotate(spec_.rope.pairing, t, dim, query_store_, q);
      ReadRow(qkv, t, (spec_.heads + group) * dim, dim, key.data());
      key_tables_[stream].Rotate(spec_.rope.pairing, t, dim, key_store_, key.data());
      for (int64_t c = 0; c < dim; ++c) rows.k[c * ld + t] = key[c];
      ReadRow(qkv, t, (spec_.heads + spec_.kv_heads + group) * dim, dim, rows.v.data() + t * dim);
    }
    return rows;
  }

  int64_t FirstKey(int64_t row) const { return std::max<int64_t>(0, row - window_ + 1); }

  /// Attention of rows [begin, end), at most kTileRows, to p [end - begin, tokens + kPad]; with `output` also what it
  /// reads of the values.
  void Attend(const HeadRows& rows, int64_t head, int64_t stream, int64_t begin, int64_t end, bool output, double* p) {
    const int64_t ld = tokens_ + kPad, dim = spec_.head_dim;
    double out[kRowTile * 256];
    for (int64_t t = begin; t < end;) {
      double* to = p + (t - begin) * ld;
      const int64_t count = t + kRowTile <= end && FirstKey(t + kRowTile - 1) == 0 ? kRowTile : 1;
      if (count == kRowTile) {
        SoftmaxRowTile(rows.q.data() + t * dim, rows.k.data(), ld, dim, Scale(), t + 1, to, ld);
        if (output) WeightedSumTile(to, ld, rows.v.data(), dim, t + 1, out);
      } else {
        SoftmaxRow(rows.q.data() + t * dim, rows.k.data(), ld, dim, Scale(), FirstKey(t), t + 1, to);
        if (output) WeightedSum(to, rows.v.data(), dim, FirstKey(t), t + 1, out);
      }
      for (int64_t r = 0; output && r < count; ++r) {
        WriteRow(out + r * dim, dim, attn_out_[stream].view(), t + r, head * dim);
      }
      t += count;
    }
  }

  double Scale() const { return 1 / std::sqrt(static_cast<double>(spec_.head_dim)); }

  /// Logit of the first key.
  double FirstLogit(const HeadRows& rows, int64_t t) const {
    double sum = 0;
    for (int64_t c = 0; c < spec_.head_dim; ++c) {
      sum += rows.q[t * spec_.head_dim + c] * rows.k[c * (tokens_ + kPad)];
    }
    return sum * Scale();
  }

  HeadDrift Head(int64_t head) {
    std::vector<HeadRows> rows;
    for (int64_t s = 0; s < streams(); ++s) rows.push_back(Rows(head, s));
    HeadDrift drift;
    drift.column.assign(static_cast<size_t>(shifts()), std::vector<double>(static_cast<size_t>(tokens_)));
    drift.column_abs = drift.column;
    const int64_t ld = tokens_ + kPad;
    std::vector<double> reference(static_cast<size_t>(kTileRows * ld)), shifted(reference.size());
    for (int64_t begin = 0; begin < tokens_; begin += kTileRows) {
      const int64_t end = std::min(begin + kTileRows, tokens_);
      Attend(rows[0], head, 0, begin, end, /*output=*/true, reference.data());
      for (int64_t s = 1; s < streams(); ++s) {
        Attend(rows[s], head, s, begin, end, options_.mode == DriftMode::kFree, shifted.data());
        for (int64_t t = begin; t < end; ++t) {
          const int64_t from = (t - begin) * ld;
          AddDifference(shifted.data() + from, reference.data() + from, FirstKey(t), t + 1, drift.column[s - 1].data(),
                        drift.column_abs[s - 1].data());
        }
      }
    }
    for (int64_t s = 1; s < streams(); ++s) Weigh(drift, s - 1);
    for (int64_t s = 1; s < streams(); ++s) drift.logits.push_back(Logits(rows[0], rows[s]));
    return drift;
  }

  /// Column sums to their parts of D, D_abs and D_l1.
  void Weigh(HeadDrift& drift, int64_t shift) const {
    std::vector<double>&column = drift.column[shift], &magnitude = drift.column_abs[shift];
    DriftSums sums;
    for (int64_t j = 0; j < tokens_; ++j) {
      const double n = 1.0 / static_cast<double>(std::min(tokens_ - j, window_));
      column[j] *= n;
      const double l1 = magnitude[j] * n;
      magnitude[j] = std::abs(column[j]);
      if (j == 0) sums = {.first = column[j], .first_abs = magnitude[j], .first_l1 = l1};
      sums.d += column[j];
      sums.abs += magnitude[j];
      sums.l1 += l1;
    }
    drift.sums.push_back(sums);
  }

  std::vector<DriftLogit> Logits(const HeadRows& reference, const HeadRows& shifted) const {
    std::vector<DriftLogit> logits;
    double sum = 0, magnitude = 0;
    int64_t t = 0;
    for (const int64_t length : lengths_) {
      for (; t < std::min(length, window_); ++t) {
        const double difference = FirstLogit(shifted, t) - FirstLogit(reference, t);
        sum += difference;
        magnitude += std::abs(difference);
      }
      const auto rows = static_cast<double>(std::min(length, window_));
      logits.push_back({length, sum / rows, magnitude / rows});
    }
    return logits;
  }

  const ModelSpec& spec_;
  const DriftOptions& options_;
  const int64_t tokens_;
  int64_t window_ = 0;  // of the layer under way
  const std::span<const int64_t> lengths_;
  DriftLayers layers_;
  std::vector<Table> query_tables_, key_tables_;  // [streams]
  FloatFormat query_store_, key_store_;
  std::vector<Matrix> x_, qkv_, attn_out_;  // [hidden streams]
};

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
  Pass pass(backend, rounded, options, tokens, lengths);

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
