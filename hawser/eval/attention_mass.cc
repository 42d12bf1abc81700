#include "hawser/eval/attention_mass.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "hawser/attn/pattern.h"
#include "hawser/attn/schedule.h"
#include "hawser/base/error.h"
#include "hawser/model/decoder.h"
#include "hawser/ops/forwarding_backend.h"

namespace hawser {
namespace {

/// Runs each attention of a text's forward pass twice more, over all keys and over near ones, with kinds as values.
class MassProbe final : public ForwardingBackend {
 public:
  MassProbe(Backend* backend, const ModelSpec& spec, const AttentionMassOptions& options, AttentionMass* result)
      : ForwardingBackend(backend), backend_(backend), spec_(spec), options_(options), result_(result) {
    near_ = PatternsOfLayers(
        AttnPattern{.window = static_cast<int32_t>(std::min<int64_t>(options.window, AttnPattern::kAll))}, spec.layers,
        OwnPattern(spec));
  }

  /// Before a text is read.
  void Begin(const KindText& text) {
    text_ = &text;
    layer_ = 0;
    const auto rows = static_cast<int32_t>(text.ids.size());
    schedules_.clear();
    for (const AttnPattern& pattern : near_.distinct) schedules_.push_back(CompileSchedule(pattern, {.size = rows}));
    values_ = Matrix();  // of the last text
  }

  void AttentionForward(const AttentionArgs& args) override {
    backend_->AttentionForward(args);
    if (values_.rows() == 0) MakeValues(args.v.m.dtype);
    AttentionArgs probe = args;
    probe.v = values_.view();
    std::vector<float> all = Run(&probe), all_lse = lse_;
    const AttnSequence near{.schedule = &schedules_[near_.of_layer[static_cast<size_t>(layer_)]]};
    probe.sequences = {&near, 1};
    std::vector<float> near_mass = Run(&probe);
    const size_t heads = static_cast<size_t>(spec_.heads), dim = static_cast<size_t>(spec_.head_dim);
    for (size_t r = 0; r < text_->ids.size(); ++r) {
      for (size_t h = 0; h < heads; ++h) {
        // softmax over all keys = that over the near ones times their share of it
        const double share = std::exp(double{lse_[r * heads + h]} - double{all_lse[r * heads + h]});
        const size_t from = (r * heads + h) * dim;
        const size_t to = (static_cast<size_t>(layer_) * heads + h) * static_cast<size_t>(options_.kinds);
        for (size_t c = 0; c < static_cast<size_t>(options_.kinds); ++c) {
          result_->mass[to + c] += all[from + c];
          result_->far_mass[to + c] += all[from + c] - share * near_mass[from + c];
        }
      }
    }
    ++layer_;
    if (options_.on_layer) options_.on_layer(++done_);
  }

 private:
  void MakeValues(DType dtype) {
    const auto rows = static_cast<int64_t>(text_->ids.size());
    const int64_t dim = spec_.head_dim, cols = spec_.kv_heads * dim;
    Matrix ones(rows, cols, DType::kF32);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t g = 0; g < spec_.kv_heads; ++g) ones.view().Row<float>(r)[g * dim + text_->kinds[r]] = 1;
    }
    Matrix uploaded = backend_->NewMatrix(rows, cols, DType::kF32);
    backend_->Upload(ones.view().data, uploaded.view());
    values_ = backend_->NewMatrix(rows, cols, dtype);
    backend_->Copy(uploaded.view(), values_.view());
  }

  /// out [rows, H*D]; fills lse_.
  std::vector<float> Run(AttentionArgs* args) {
    const auto rows = static_cast<int64_t>(text_->ids.size());
    const int64_t cols = int64_t{spec_.heads} * spec_.head_dim;
    Matrix out = backend_->NewMatrix(rows, cols, DType::kF32),
           lse = backend_->NewMatrix(rows, spec_.heads, DType::kF32);
    args->out = out.view();
    args->lse = lse.view().Row<float>(0);
    backend_->AttentionForward(*args);
    std::vector<float> result(static_cast<size_t>(rows * cols));
    backend_->Download(out.view(), result.data());
    lse_.resize(static_cast<size_t>(rows * spec_.heads));
    backend_->Download(lse.view(), lse_.data());
    return result;
  }

  Backend* backend_;
  const ModelSpec& spec_;
  const AttentionMassOptions& options_;
  AttentionMass* result_;
  LayerPatterns near_;
  const KindText* text_ = nullptr;
  int32_t layer_ = 0;
  int64_t done_ = 0;
  std::vector<AttnSchedule> schedules_;  // of near_.distinct
  Matrix values_;
  std::vector<float> lse_;
};

/// Adds to keys and far_keys what the rows of a text see.
void CountKeys(const KindText& text, const ModelSpec& spec, const AttentionMassOptions& options,
               AttentionMass* result) {
  const auto rows = static_cast<int64_t>(text.ids.size());
  const auto kinds = static_cast<size_t>(options.kinds);
  std::vector<int64_t> before(static_cast<size_t>(rows + 1) * kinds);  // [rows + 1][kinds] keys before row t
  for (size_t t = 0; t < text.kinds.size(); ++t) {
    std::copy_n(before.begin() + static_cast<ptrdiff_t>(t * kinds), kinds,
                before.begin() + static_cast<ptrdiff_t>((t + 1) * kinds));
    ++before[(t + 1) * kinds + static_cast<size_t>(text.kinds[t])];
  }
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const int64_t window = OwnPattern(spec).OfLayer(layer, spec.layers).window;
    for (int64_t t = 0; t < rows; ++t) {
      const int64_t first = std::max<int64_t>(0, t + 1 - window);
      const int64_t near = std::max(first, t + 1 - options.window);
      for (size_t c = 0; c < kinds; ++c) {
        const auto count = [&](int64_t begin, int64_t end) {
          return static_cast<double>(before[static_cast<size_t>(end) * kinds + c] -
                                     before[static_cast<size_t>(begin) * kinds + c]) /
                 static_cast<double>(t + 1 - first);
        };
        result->keys[static_cast<size_t>(layer) * kinds + c] += count(first, t + 1);
        result->far_keys[static_cast<size_t>(layer) * kinds + c] += count(first, near);
      }
    }
  }
}

void CheckTexts(const ModelSpec& spec, std::span<const KindText> texts, const AttentionMassOptions& options) {
  if (spec.softmax != SoftmaxSpec() || spec.rope.fold.active()) {
    Fail(
        ErrorKind::kUnsupported,
        "attention by kind is measured for the standard softmax and positions that do not fold; this model has softmax "
        "{}, rope {}",
        ToString(spec.softmax), ToString(spec.rope));
  }
  if (options.kinds < 1 || options.kinds > spec.head_dim || options.window < 1) {
    Fail(ErrorKind::kUsage, "attention by kind: wanted 1 to {} kinds and a window of 1 or more, found {} and {}",
         spec.head_dim, options.kinds, options.window);
  }
  if (texts.empty()) Fail(ErrorKind::kUsage, "attention by kind: no text to read");
  for (const KindText& text : texts) {
    if (text.ids.empty() || text.ids.size() != text.kinds.size()) {
      Fail(ErrorKind::kUsage, "attention by kind: a text of {} tokens has {} kinds", text.ids.size(),
           text.kinds.size());
    }
    for (const int32_t kind : text.kinds) {
      if (kind < 0 || kind >= options.kinds) {
        Fail(ErrorKind::kUsage, "attention by kind: kind {} is outside [0, {})", kind, options.kinds);
      }
    }
  }
}

}  // namespace

double AttentionMass::LayerMass(int32_t layer, int32_t kind, bool far) const {
  const std::vector<double>& of = far ? far_mass : mass;
  double sum = 0;
  for (int32_t h = 0; h < heads; ++h) {
    sum += of[(static_cast<size_t>(layer) * static_cast<size_t>(heads) + static_cast<size_t>(h)) *
                  static_cast<size_t>(kinds) +
              static_cast<size_t>(kind)];
  }
  return sum / heads;
}

double AttentionMass::LayerKeys(int32_t layer, int32_t kind, bool far) const {
  return (far ? far_keys : keys)[static_cast<size_t>(layer) * static_cast<size_t>(kinds) + static_cast<size_t>(kind)];
}

AttentionMass MeasureAttentionMass(Backend* backend, const Weights& weights, std::span<const KindText> texts,
                                   const AttentionMassOptions& options) {
  const ModelSpec& spec = weights.spec();
  CheckTexts(spec, texts, options);
  AttentionMass result{.layers = spec.layers, .heads = spec.heads, .kinds = options.kinds};
  const auto layers = static_cast<size_t>(spec.layers), kinds = static_cast<size_t>(options.kinds);
  result.mass.resize(layers * static_cast<size_t>(spec.heads) * kinds);
  result.far_mass = result.mass;
  result.keys.resize(layers * kinds);
  result.far_keys = result.keys;
  MassProbe probe(backend, spec, options, &result);
  Decoder decoder(&probe, weights);
  for (const KindText& text : texts) {
    const auto rows = static_cast<int64_t>(text.ids.size());
    result.rows += rows;
    CountKeys(text, spec, options, &result);
    Batch batch{.ids = text.ids};
    batch.positions.resize(text.ids.size());
    std::iota(batch.positions.begin(), batch.positions.end(), 0);
    batch.targets.assign(text.ids.size(), -1);
    batch.weights.assign(text.ids.size(), 0.0f);
    batch.sequences.push_back({.begin = 0, .layout = {.size = static_cast<int32_t>(rows)}});
    probe.Begin(text);
    decoder.ScoreRows(batch, {}, nullptr, nullptr);
  }
  for (std::vector<double>* sums : {&result.mass, &result.far_mass, &result.keys, &result.far_keys}) {
    for (double& sum : *sums) sum /= static_cast<double>(result.rows);
  }
  return result;
}

}  // namespace hawser
