#include "hawser/train/estimate.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "hawser/attn/schedule.h"
#include "hawser/base/file.h"
#include "hawser/data/loader.h"
#include "hawser/model/decoder.h"
#include "hawser/train/trainer.h"

namespace hawser {
namespace {

constexpr double kSampleFlops = 5e11;
constexpr int64_t kSampleBytes = int64_t{4} << 30;
// What a run adds to the program that no other part counts: oneDNN's code and scratch, gaps of the heap. Measured as 40
// to 52 MiB for shapes of 0.3M, 4M and 11M parameters (docs/TRAINING.md, Memory).
constexpr int64_t kRunOverhead = int64_t{40} << 20;
constexpr int kSampleRuns = 2;  // the better one counts

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::max(1e-9, std::chrono::duration<double>(Clock::now() - start).count());
}

std::vector<PackedSequence> FirstSequences(const RunText& text, int64_t seed, int64_t length, int64_t count) {
  PackOptions pack = text.pack;
  if (length < pack.length) pack.positions = {};  // a sample, whose time does not depend on them
  pack.length = static_cast<int32_t>(length);
  Loader loader(&text.documents, pack, static_cast<uint64_t>(seed), text.upsample);
  std::vector<PackedSequence> sequences(static_cast<size_t>(count));
  for (PackedSequence& sequence : sequences) loader.Next(&sequence);
  return sequences;
}

/// Visible pairs of a layer, in the mean over layers.
int64_t VisiblePairs(const LayerPatterns& patterns, const TokenLayout& layout) {
  std::vector<int64_t> pairs;
  for (const AttnPattern& pattern : patterns.distinct) pairs.push_back(CompileSchedule(pattern, layout).visible_pairs);
  int64_t sum = 0;
  for (const size_t p : patterns.of_layer) sum += pairs[p];
  return sum / static_cast<int64_t>(patterns.of_layer.size());
}

/// Bytes that the kernels hold for a micro-batch.
int64_t KernelBytes(const TrainPlan& plan, const LayerPatterns& patterns, std::span<const PackedSequence> sequences,
                    const Backend& backend) {
  const ModelSpec& spec = plan.spec;
  int64_t attention = 0;
  for (const AttnPattern& pattern : patterns.distinct) {
    std::vector<AttnSchedule> schedules;
    for (const PackedSequence& sequence : sequences) schedules.push_back(CompileSchedule(pattern, sequence.layout));
    std::vector<AttnSequence> all;
    for (size_t i = 0; i < schedules.size(); ++i) {
      const int64_t begin = static_cast<int64_t>(i) * plan.sequence_tokens();
      all.push_back({begin, begin, &schedules[i]});
    }
    AttentionBackwardArgs args{.shape = {.heads = spec.heads, .kv_heads = spec.kv_heads, .head_dim = spec.head_dim},
                               .sequences = all};
    args.q.dtype = QkvDType(spec, plan.config.dtype);
    attention = std::max(attention, backend.AttentionScratchBytes(args));
  }
  return attention +
         backend.CrossEntropyScratchBytes(static_cast<int64_t>(sequences.size()) * plan.sequence_tokens(), spec.vocab);
}

/// Sizes of the sample: those of a micro-batch of the run, less of each until it is short.
struct Sample {
  ModelSpec spec;
  int64_t length = 0, sequences = 0;
};

Sample ChooseSample(const TrainPlan& plan) {
  Sample sample{.spec = plan.spec, .length = plan.sequence_tokens(), .sequences = plan.config.micro_batch};
  const auto flops = [&] {
    return TrainingFlops(sample.spec, sample.sequences * sample.length,
                         sample.sequences * sample.length * (sample.length + 1) / 2);
  };
  // Halves a size down to `least` until the sample is short.
  const auto shrink = [&](auto& size, int64_t least) {
    while (flops() > kSampleFlops && size > least) {
      size = static_cast<std::remove_reference_t<decltype(size)>>(std::max<int64_t>(least, size / 2));
    }
  };
  shrink(sample.sequences, 1);
  shrink(sample.length, 1024);
  shrink(sample.spec.layers, 2);
  for (std::vector<int32_t>* listed : {&sample.spec.full_layers, &sample.spec.unplaced_layers}) {
    std::erase_if(*listed, [&](int32_t layer) { return layer >= sample.spec.layers; });
  }
  shrink(sample.length, std::min<int64_t>(sample.length, 128 + 2 * plan.variant.pattern.anchors));
  return sample;
}

/// Times forward and backward of the sample (useful FLOPs a second), and an update of its weights (seconds a value).
void TimeSample(const TrainPlan& plan, const Sample& sample, const RunText& text, Backend* backend,
                RunEstimate* estimate) {
  ParamStore weights(sample.spec, DType::kF32), grads(sample.spec, DType::kF32);
  InitializeParams(weights, static_cast<uint64_t>(plan.config.seed));
  const ParamStore in_use = Cast(weights, plan.config.dtype);
  Decoder decoder(backend, &in_use);
  const Batch batch = MakeBatch(FirstSequences(text, plan.config.seed, sample.length, sample.sequences),
                                plan.variant.pattern.OfFirstLayers(sample.spec.layers, plan.spec.layers));
  for (int run = 0; run < kSampleRuns; ++run) {
    const auto start = Clock::now();
    const StepStats stats = decoder.ForwardBackward(batch, 1.0f, plan.config.recompute, &grads);
    const double flops = TrainingFlops(sample.spec, batch.rows(), stats.visible_pairs);
    estimate->flops_per_second = std::max(estimate->flops_per_second, flops / SecondsSince(start));
  }
  const int64_t n = std::min<int64_t>(weights.size(), int64_t{1} << 24);
  Matrix m = backend->NewMatrix(1, n, DType::kF32), v = backend->NewMatrix(1, n, DType::kF32);
  const auto start = Clock::now();
  backend->AdamW({.w = weights.arena().Row<float>(0),
                  .grad = grads.arena().Row<float>(0),
                  .m = m.Row<float>(0),
                  .v = v.Row<float>(0),
                  .n = n,
                  .lr = 1e-4f});
  estimate->update_seconds = SecondsSince(start) / static_cast<double>(n);
}

}  // namespace

double MeasurePeak(Backend* backend, DType dtype) {
  static std::map<std::pair<std::string, DType>, double> measured;
  double& best = measured[{backend->Describe(), dtype}];
  if (best > 0) return best;
  constexpr int64_t kSize = 1024;
  Matrix a = backend->NewMatrix(kSize, kSize, dtype), b = backend->NewMatrix(kSize, kSize, dtype);
  Matrix c = backend->NewMatrix(kSize, kSize, DType::kF32);
  for (int i = 0; i < 16; ++i) {
    const auto start = std::chrono::steady_clock::now();
    backend->MatMul({.a = a.view(), .b = b.view(), .trans_b = true, .c = c.view()});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * kSize * kSize * kSize / std::max(seconds, 1e-9));
  }
  return best;
}

double RunEstimate::activation_bytes_per_token() const {
  return static_cast<double>(activations) / static_cast<double>(std::max<int64_t>(1, micro_batch_tokens));
}

double RunEstimate::tokens(const TrainPlan& plan) const { return static_cast<double>(plan.tokens()) * (1 - padding); }

double RunEstimate::epochs(const TrainPlan& plan) const {
  return tokens(plan) / static_cast<double>(std::max<int64_t>(1, text_tokens));
}

nlohmann::json RunEstimate::ToJson() const {
  return {{"memory",
           {{"weights", state.weights},
            {"weights_in_use", state.in_use},
            {"gradients", state.gradients},
            {"moments", state.moments},
            {"adapters", state.adapters},
            {"activations", activations},
            {"activations_without_recompute", activations_none},
            {"activations_with_recompute", activations_layer},
            {"activation_bytes_per_token", activation_bytes_per_token()},
            {"text", text_bytes},
            {"waiting_sequences", waiting},
            {"kernels", kernels},
            {"finish", finish},
            {"program", program},
            {"total", bytes()}}},
          {"documents", documents},
          {"text_tokens", text_tokens},
          {"density", density},
          {"padding_share", padding},
          {"step_flops", step_flops},
          {"flops_per_second", flops_per_second},
          {"update_seconds", update_seconds},
          {"sample", {{"tokens", sample_tokens}, {"length", sample_length}, {"layers", sample_layers}}},
          {"seconds", seconds}};
}

RunEstimate EstimateRun(const TrainPlan& plan, Backend* backend) {
  const TrainConfig& config = plan.config;
  const int64_t program = RssBytes() + kRunOverhead;
  const RunText text = ReadRunText(plan);
  RunEstimate estimate{.state = CountStateBytes(plan.spec, config),
                       .activations = plan.activation_bytes(),
                       .micro_batch_tokens = config.micro_batch * plan.sequence_tokens(),
                       .program = program,
                       .documents = text.documents.size()};
  const auto activations = [&](Recompute recompute) {
    return ActivationBytes(plan.spec, config.dtype, recompute, estimate.micro_batch_tokens);
  };
  estimate.activations_none = activations(Recompute::kNone);
  estimate.activations_layer = activations(Recompute::kLayer);
  estimate.text_tokens = text.documents.tokens();
  estimate.text_bytes = 4 * text.documents.tokens_in_memory();

  estimate.waiting = 4 * std::min(Loader::kWindowTokens, estimate.text_tokens);
  if (config.average_last > 1) {
    estimate.finish = 16 * NumParameters(plan.spec);  // two copies in f32, a sum in f64
  } else if (config.lora_rank > 0) {
    estimate.finish = 4 * NumParameters(plan.spec);
  }

  const LayerPatterns patterns = PatternsOfLayers(plan.variant.pattern, plan.spec.layers, OwnPattern(plan.spec));
  int64_t visible = 0, causal = 0, padding = 0;
  const std::vector<PackedSequence> first =
      FirstSequences(text, config.seed, plan.sequence_tokens(), plan.sequences_per_step);
  const FocusLoss* focus = std::get_if<FocusLoss>(&plan.objective);
  const LongCe* long_ce = std::get_if<LongCe>(&plan.objective);
  FocusCost focus_cost;
  estimate.kernels =
      KernelBytes(plan, patterns,
                  std::span(first).first(std::min(first.size(), static_cast<size_t>(config.micro_batch))), *backend);
  for (const PackedSequence& sequence : first) {
    visible += VisiblePairs(patterns, sequence.layout);
    causal += plan.sequence_tokens() * (plan.sequence_tokens() + 1) / 2;
    padding += CountPadding(sequence);
  }
  estimate.density = static_cast<double>(visible) / static_cast<double>(causal);
  estimate.padding = static_cast<double>(padding) / static_cast<double>(plan.tokens_per_step());
  estimate.step_flops = TrainingFlops(plan.spec, plan.tokens_per_step(), visible);
  if (long_ce != nullptr) {
    ShortPasses passes;
    for (const TokenLayout& layout : ShortLayouts(first, plan.variant.pattern, *long_ce)) {
      passes.rows += layout.size;
      passes.visible_pairs += VisiblePairs(patterns, layout);
    }
    estimate.step_flops += TrainingFlops(plan.spec, passes.rows, passes.visible_pairs) / 3;  // forward alone
  }
  if (focus != nullptr) {
    for (const PackedSequence& sequence : first) {
      const FocusText drawn = DrawFocusText(sequence, *focus);
      if (!drawn.targets.empty()) focus_cost += CostOf(drawn, focus->prompt);
    }
    estimate.density =
        static_cast<double>(focus_cost.pairs()) / static_cast<double>(std::max<int64_t>(1, focus_cost.causal_pairs));
    estimate.step_flops = focus_cost.Flops(plan.spec);
  }

  const Sample sample = ChooseSample(plan);
  if (10 * ParamLayout(sample.spec).size() <= kSampleBytes) {
    estimate.sample_tokens = sample.sequences * sample.length;
    estimate.sample_length = sample.length;
    estimate.sample_layers = sample.spec.layers;
    TimeSample(plan, sample, text, backend, &estimate);
  } else {
    estimate.flops_per_second = MeasurePeak(backend, config.dtype);
  }
  const auto trained = static_cast<double>(estimate.state.moments / 8);
  estimate.update_seconds *= trained;
  estimate.seconds =
      static_cast<double>(config.steps) * (estimate.step_flops / estimate.flops_per_second + estimate.update_seconds);
  return estimate;
}

}  // namespace hawser
