#include "hawser/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/model/block.h"
#include "hawser/train/lr.h"
#include "hawser/train/trained.h"

namespace hawser {
namespace {

// Activations of one micro-batch stay in a last-level cache: at width 64, a step of 4096 tokens took 33 % of the peak
// as one batch and 42 % sequence by sequence (one thread). A few sequences at once leave work for more threads.
constexpr int64_t kMicroBatchBytes = int64_t{8} << 20;

double LossWeight(std::span<const PackedSequence> sequences) {
  double sum = 0;
  for (const PackedSequence& sequence : sequences) {
    for (size_t i = 0; i < sequence.targets.size(); ++i) sum += sequence.targets[i] >= 0 ? sequence.weights[i] : 0.0;
    for (const float weight : sequence.extra_weights) sum += weight;
  }
  return sum;
}

/// tokens, padding and targets of a report.
void CountTokens(std::span<const PackedSequence> sequences, StepReport* report) {
  for (const PackedSequence& sequence : sequences) {
    const int64_t padding = CountPadding(sequence);
    report->padding += padding;
    report->tokens += static_cast<int64_t>(sequence.ids.size()) - padding;
    for (size_t i = 0; i < sequence.targets.size(); ++i) {
      report->targets += sequence.targets[i] >= 0 && sequence.weights[i] != 0;
    }
    report->targets += std::ranges::count_if(sequence.extra_weights, [](float weight) { return weight != 0; });
  }
}

/// body(part) for parts of `size`, in order.
template <class T, class Body>
void ForEachPart(std::span<const T> all, int64_t size, Body&& body) {
  for (size_t begin = 0; begin < all.size(); begin += static_cast<size_t>(size)) {
    body(all.subspan(begin, std::min(static_cast<size_t>(size), all.size() - begin)));
  }
}
template <class Body>
void ForEachMicroBatch(std::span<const PackedSequence> sequences, int64_t size, Body&& body) {
  ForEachPart<PackedSequence>(sequences, size, body);
}

}  // namespace

int64_t CountPadding(const PackedSequence& sequence) {
  return std::ranges::count_if(sequence.layout.is_padding, [](uint8_t flag) { return flag != 0; });
}

Batch MakeBatch(std::span<const PackedSequence> sequences, const LayeredPattern& pattern) {
  Batch batch;
  batch.pattern = pattern;
  const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  for (const PackedSequence& sequence : sequences) {
    for (const int32_t row : sequence.extra_rows) {
      batch.extra_rows.push_back(static_cast<int32_t>(batch.rows()) + row);
    }
    batch.sequences.push_back({batch.rows(), sequence.layout});
    append(batch.ids, sequence.ids);
    append(batch.positions, sequence.positions);
    append(batch.targets, sequence.targets);
    append(batch.weights, sequence.weights);
    append(batch.extra_targets, sequence.extra_targets);
    append(batch.extra_weights, sequence.extra_weights);
  }
  return batch;
}

int64_t ActivationBytes(const ModelSpec& spec, DType dtype, Recompute recompute, int64_t rows) {
  const int64_t qkv = int64_t{spec.heads + 2 * spec.kv_heads} * spec.head_dim;
  const int64_t out = int64_t{spec.heads} * spec.head_dim;
  const int64_t width = spec.width, mlp = spec.mlp_width;
  const auto bytes = static_cast<int64_t>(SizeOf(dtype));
  const auto qkv_bytes = static_cast<int64_t>(SizeOf(QkvDType(spec, dtype)));
  const bool keeps = recompute == Recompute::kNone;
  const int64_t mlp_in = MlpInWidth(spec);
  const bool parallel = spec.block.residual != Residual::kSequential;
  const int64_t raw_qkv = KeepsRawQkv(spec) ? qkv_bytes * qkv : 0;
  const int64_t kept = bytes * (width + out) + 4 * int64_t{spec.heads};
  const int64_t recomputed = qkv_bytes * qkv + raw_qkv + (parallel ? 0 : bytes * width);
  // Scratch: gradients of qkv and of what attention gives; stream, norm, projection, gradient of norm and last output;
  // those of forms that need more; rotations and the inverse deviations of a norm.
  const int64_t more = (parallel ? 2 : 0) + (spec.block.post_norms ? 1 : 0);
  const int64_t scratch =
      qkv_bytes * qkv + bytes * (out + (5 + more) * width) + 4 * (int64_t{spec.rope.rotary_dim} + 1);
  const int64_t beside = keeps ? (qkv_bytes == bytes ? 0 : bytes * qkv) : recomputed;
  const int64_t per_row = spec.layers * (kept + (keeps ? recomputed + bytes * mlp_in : 0)) + scratch + beside;
  return rows * per_row + std::min(rows, kMlpRows) * bytes * ((keeps ? 1 : 2) * mlp_in + 2 * mlp);
}

int64_t ScoringBytes(const ModelSpec& spec, DType dtype, int64_t rows) {
  const auto bytes = static_cast<int64_t>(SizeOf(dtype)),
             qkv_bytes = static_cast<int64_t>(SizeOf(QkvDType(spec, dtype)));
  const int64_t out = int64_t{spec.heads} * spec.head_dim;
  const int64_t qkv = int64_t{spec.heads + 2 * spec.kv_heads} * spec.head_dim;
  return rows * (bytes * (spec.width + out) + 4 * int64_t{spec.heads} + qkv_bytes * qkv) +
         std::min(rows, kMlpRows) * bytes * MlpInWidth(spec);
}

double ExecutedFlops(const ModelSpec& spec, Recompute recompute, int64_t tokens, int64_t pairs) {
  const double scores = 2.0 * spec.head_dim * spec.heads * spec.layers * static_cast<double>(pairs);
  const int64_t heads = 2 * int64_t{spec.heads} + 2 * int64_t{spec.kv_heads};
  const int64_t repeated = int64_t{spec.layers} * spec.width * (heads * spec.head_dim + MlpInWidth(spec));
  const double again = recompute == Recompute::kNone ? 0.0 : 2.0 * static_cast<double>(repeated * tokens);
  return TrainingFlops(spec, tokens, pairs) + scores + again;
}

int64_t ChooseMicroBatch(const ModelSpec& spec, const TrainConfig& config, int64_t length) {
  const int64_t bytes = ActivationBytes(spec, config.dtype, Recompute::kNone, length);
  return std::max<int64_t>(1, kMicroBatchBytes / std::max<int64_t>(1, bytes));
}

Trainer::Trainer(Backend* backend, const TrainConfig& config, LayeredPattern pattern, ParamStore weights)
    : backend_(backend),
      config_(config),
      pattern_(pattern),
      objective_(ParseObjective(config.objective)),
      weights_(std::move(weights)),
      adapters_(spec(), AdapterLayout(weights_.layout(), config), DType::kF32),
      grads_(spec(),
             GradientLayout(weights_.layout(), TrainedLayout(weights_.layout(), config),
                            TrainsCandidates(config) ? ParamLayout() : adapters_.layout()),
             DType::kF32),
      adapter_grads_(spec(), adapters_.layout(), DType::kF32),
      optimizer_(backend, spec(), TrainedLayout(weights_.layout(), config)),
      adapter_optimizer_(backend, spec(), adapters_.layout()) {
  HAWSER_CHECK(weights_.dtype() == DType::kF32 && config.steps > 0 && config.micro_batch > 0);
  const auto* focus = std::get_if<FocusLoss>(&objective_);
  if (focus != nullptr) {
    InitializeCandidates(weights_, &adapters_);
  } else if (adapted()) {
    InitializeLora(&adapters_, static_cast<uint64_t>(config.seed));
    lora_.emplace(backend, LoraOf(config), &adapters_);
  }
  const bool low = config_.dtype == DType::kBF16;
  if (low || lora_) copy_ = Cast(weights_, config_.dtype);
  if (low && focus != nullptr) candidates_copy_ = Cast(adapters_, config_.dtype);
  RefreshCopy();
  const ParamStore* in_use = copy_ ? &*copy_ : &weights_;
  decoder_ = std::make_unique<Decoder>(backend, in_use);
  if (focus == nullptr) return;
  const ParamStore* candidates = candidates_copy_ ? &*candidates_copy_ : &adapters_;
  condenser_ = std::make_unique<Decoder>(backend, WithCandidates(Weights(*in_use), candidates));
  focus_ = std::make_unique<FocusPass>(backend, decoder_.get(), condenser_.get(), config_.dtype, focus->prompt);
}

int64_t Trainer::activation_bytes() const {
  if (focus_ == nullptr) return decoder_->activation_bytes();
  return decoder_->activation_bytes() + condenser_->activation_bytes() + focus_->bank_bytes();
}

TrainState Trainer::state() {
  TrainState state{&weights_, &optimizer_.m(), &optimizer_.v()};
  if (adapted()) {
    state.adapters = &adapters_;
    state.adapters_m = &adapter_optimizer_.m();
    state.adapters_v = &adapter_optimizer_.v();
  }
  return state;
}

/// In place: the decoder reads this memory.
void Trainer::RefreshCopy() {
  if (copy_) backend_->Copy(weights_.arena(), copy_->arena());
  if (lora_) lora_->Merge(weights_, &*copy_);
  if (candidates_copy_) backend_->Copy(adapters_.arena(), candidates_copy_->arena());
}

void Trainer::ResumeAfter(int64_t step) {
  step_ = step;
  RefreshCopy();
}

ParamStore Trainer::Merged() {
  ParamStore merged = Cast(weights_, DType::kF32);
  if (lora_) lora_->Merge(weights_, &merged);
  return merged;
}

namespace {

[[noreturn]] void FailUntrained(int64_t step, size_t sequences, const char* why) {
  Fail(ErrorKind::kUsage, "step {}: none of {} sequences has a token to train on{}", step, sequences, why);
}

}  // namespace

/// Returns the weight of all targets.
double Trainer::Gradients(std::span<const PackedSequence> sequences, StepReport* report) {
  const double weight = LossWeight(sequences);
  if (!(weight > 0)) FailUntrained(report->step, sequences.size(), "");
  const auto grad_scale = static_cast<float>(1.0 / weight);
  int64_t visible = 0, causal = 0;
  ShortPasses passes;
  ForEachMicroBatch(sequences, config_.micro_batch, [&](std::span<const PackedSequence> part) {
    Batch batch = MakeBatch(part, pattern_);
    if (const LongCe* long_ce = std::get_if<LongCe>(&objective_)) {
      batch.reference = ShortContextNats(decoder_.get(), part, pattern_, *long_ce, batch.rows(), &passes);
      batch.most_gain = static_cast<float>(long_ce->most);
    }
    const StepStats stats = decoder_->ForwardBackward(batch, grad_scale, config_.recompute, &grads_);
    report->loss += stats.loss;
    report->nats += stats.nats;
    report->gains += stats.gains;
    visible += stats.visible_pairs;
    causal += stats.causal_pairs;
  });
  CountTokens(sequences, report);
  report->density = causal > 0 ? static_cast<double>(visible) / static_cast<double>(causal) : 1.0;
  report->flops = TrainingFlops(spec(), report->tokens + report->padding, visible);
  report->executed = ExecutedFlops(spec(), config_.recompute, report->tokens + report->padding, visible);
  const double short_passes = TrainingFlops(spec(), passes.rows, passes.visible_pairs) / 3;  // forward alone
  report->flops += short_passes;
  report->executed += short_passes;
  return weight;
}

double Trainer::CandidateGradients(std::span<const PackedSequence> sequences, StepReport* report) {
  const FocusLoss& focus = std::get<FocusLoss>(objective_);
  std::vector<FocusText> texts;
  double weight = 0;
  FocusCost cost;
  CountTokens(sequences, report);
  report->targets = 0;
  for (const PackedSequence& sequence : sequences) {
    FocusText text = DrawFocusText(sequence, focus);
    if (!(text.weight() > 0)) continue;
    weight += text.weight();
    report->targets += std::ranges::count_if(text.weights, [](float w) { return w != 0; });
    cost += CostOf(text, focus.prompt);
    texts.push_back(std::move(text));
  }
  if (texts.empty()) {
    FailUntrained(report->step, sequences.size(), ": documents are too short, or have no target behind their windows");
  }
  const auto grad_scale = static_cast<float>(1.0 / weight);
  ForEachPart<FocusText>(texts, config_.micro_batch, [&](std::span<const FocusText> part) {
    const StepStats stats = focus_->Run(part, grad_scale, config_.recompute, &adapter_grads_);
    report->loss += stats.loss;
    report->nats += stats.nats;
  });
  report->density = static_cast<double>(cost.pairs()) / static_cast<double>(std::max<int64_t>(1, cost.causal_pairs));
  report->flops = report->executed = cost.Flops(spec());
  return weight;
}

StepReport Trainer::Step(std::span<const PackedSequence> sequences) {
  StepReport report{.step = step_ + 1};
  backend_->Fill(grads_.arena(), 0.0f);
  if (adapted()) backend_->Fill(adapter_grads_.arena(), 0.0f);
  const double weight = focus_ != nullptr ? CandidateGradients(sequences, &report) : Gradients(sequences, &report);
  report.loss /= weight;
  report.nats /= weight;
  FinishGradients();
  report.grad_norm = GradientNorm(backend_, grads_);
  if (adapted()) report.grad_norm = std::hypot(report.grad_norm, GradientNorm(backend_, adapter_grads_));
  if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) FailNonFinite(report.loss, report.grad_norm);
  const double clip = config_.clip > 0 && report.grad_norm > config_.clip ? config_.clip / report.grad_norm : 1.0;
  report.lr = LearningRate(config_, report.step, config_.steps);
  Update(report, clip);
  step_ = report.step;
  return report;
}

void Trainer::FinishGradients() {
  if (lora_) lora_->Backward(grads_, &adapter_grads_);
  for (const ParamInfo& info : grads_.layout().params()) {  // what was only needed on the way
    if (optimizer_.m().layout().TryFind(info.role, info.layer) == nullptr) backend_->Fill(grads_.At(info), 0.0f);
  }
}

void Trainer::Update(const StepReport& report, double grad_scale) {
  ParamStore* low = config_.dtype == DType::kBF16 ? &*copy_ : nullptr;
  optimizer_.Step(config_, report.step, report.lr, grad_scale, grads_, &weights_, low);
  if (!adapted()) return;
  adapter_optimizer_.Step(config_, report.step, report.lr, grad_scale, adapter_grads_, &adapters_,
                          candidates_copy_ ? &*candidates_copy_ : nullptr);
  if (!lora_) return;
  if (low == nullptr) {
    for (const ParamInfo& info : optimizer_.m().layout().params()) {
      backend_->Copy(weights_.Get(info.role, info.layer), copy_->Get(info.role, info.layer));
    }
  }
  lora_->Merge(weights_, &*copy_);
}

double Trainer::ScoreCandidates(std::span<const PackedSequence> sequences, int64_t at_once) {
  const FocusLoss& focus = std::get<FocusLoss>(objective_);
  std::vector<FocusText> texts;
  for (const PackedSequence& sequence : sequences) {
    FocusText text = DrawFocusText(sequence, focus);
    if (text.weight() > 0) texts.push_back(std::move(text));
  }
  double loss = 0, weight = 0;
  ForEachPart<FocusText>(texts, at_once, [&](std::span<const FocusText> part) {
    const StepStats stats = focus_->Run(part, 1.0f, config_.recompute, nullptr);
    loss += stats.loss;
    weight += stats.weight;
  });
  return weight > 0 ? loss / weight : 0.0;
}

double Trainer::Score(std::span<const PackedSequence> sequences, const LayeredPattern& pattern, int64_t at_once) {
  if (at_once <= 0) at_once = config_.micro_batch;
  if (focus_ != nullptr) return ScoreCandidates(sequences, at_once);
  double loss = 0, weight = 0;
  std::vector<float> nll;
  ForEachMicroBatch(sequences, at_once, [&](std::span<const PackedSequence> part) {
    const Batch batch = MakeBatch(part, pattern);
    nll.resize(static_cast<size_t>(batch.rows()));
    const StepStats stats = decoder_->Score(batch, nll.data());
    loss += stats.loss;
    weight += stats.weight;
  });
  return weight > 0 ? loss / weight : 0.0;
}

void Trainer::FailNonFinite(double loss, double norm) const {
  std::string gradient = FirstNonFinite(grads_);
  if (gradient.empty()) gradient = FirstNonFinite(adapter_grads_);
  const std::string weight = FirstNonFinite(weights_);
  Fail(ErrorKind::kNumeric, "step {}: loss {} and gradient norm {} must be finite; {}{}", step_ + 1, loss, norm,
       gradient.empty() ? "every gradient is finite" : "the first gradient that is not is of " + gradient,
       weight.empty() ? "; try a lower lr" : "; the weights of " + weight + " are not finite either");
}

}  // namespace hawser
