// `hawser bench train`: holds the gradient of a whole model against a difference of its loss, then times optimizer
// steps on random documents: packing, forward, backward, clip and update. FLOPs are the useful ones (TrainingFlops):
// only visible pairs count, recomputed activations do not. Unless sizes are given, the first row is a step of the model
// of `hawser demo`.
#include <algorithm>
#include <cmath>
#include <memory>

#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/cli/bench.h"
#include "hawser/train/trainer.h"

namespace hawser {
namespace {

struct Options {
  std::string model;
  std::vector<std::string> attention = {"full", "intra", "anchor"};
  std::vector<std::string> dtypes = {"f32", "bf16"};
  int64_t tokens = 4096, sequences = 1, docs = 512;
  int64_t width = 256, layers = 4, heads = 4, kv_heads = 2, mlp = 0, vocab = 4096;
  std::string recompute = "none";
  int repeat = 5;
};

ModelSpec BenchSpec(const Options& o) {
  if (!o.model.empty()) {
    ModelSpec spec = LoadSpec(o.model);
    spec.context = o.tokens;
    return spec;
  }
  TrainConfig config;
  config.context = o.tokens;
  config.dims = {.vocab = o.vocab,
                 .width = o.width,
                 .layers = o.layers,
                 .heads = o.heads,
                 .kv_heads = o.kv_heads,
                 .mlp_width = o.mlp};
  return ScratchSpec(config, o.vocab);
}

/// Documents of docs / 2 to 3/2 docs random tokens, packed; token 0 is the anchor and BOS.
std::vector<PackedSequence> RandomSequences(const AttnVariant& variant, const ModelSpec& spec, int64_t length,
                                            int64_t count, int64_t docs, uint64_t seed) {
  PackOptions options{.length = static_cast<int32_t>(length), .variant = variant, .bos = 0};
  options.anchor.assign(static_cast<size_t>(variant.pattern.anchors), 0);
  if (variant.pattern.separators) {  // about one token in eight
    options.separators.resize(static_cast<size_t>(spec.vocab));
    for (size_t i = 0; i < options.separators.size(); i += 8) options.separators[i] = 1;
  }
  Packer packer(options, seed);
  std::vector<PackedSequence> sequences;
  PackedSequence sequence;
  for (Rng rng{seed}; static_cast<int64_t>(sequences.size()) < count;) {
    Document document;
    document.tokens.resize(static_cast<size_t>(docs / 2 + 2) + rng.Below(static_cast<uint64_t>(docs)));
    for (int32_t& id : document.tokens) id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(spec.vocab)));
    packer.Add(document);
    while (static_cast<int64_t>(sequences.size()) < count && packer.Next(&sequence)) sequences.push_back(sequence);
  }
  return sequences;
}

TrainConfig BenchConfig(const Options& o, const ModelSpec& spec, const std::string& dtype) {
  TrainConfig config;
  config.steps = 1 << 20;
  config.lr = 1e-4;
  ApplySetting(config, "dtype=" + dtype);
  ApplySetting(config, "recompute=" + o.recompute);
  config.micro_batch = ChooseMicroBatch(spec, config, spec.context);
  return config;
}

/// The loss along the normalised gradient must rise by the gradient's norm: (L(w + h g) - L(w - h g)) / 2h = |g|.
void Verify(Backend* backend, const Options& o, const std::string& attention, const std::string& dtype, ModelSpec spec,
            uint64_t seed) {
  spec.context = std::min<int64_t>(spec.context, 192);
  const AttnVariant variant = ParseVariant(attention);
  const auto sequences = RandomSequences(variant, spec, spec.context, 2, std::min<int64_t>(o.docs, 60), seed);
  ParamStore weights(spec, DType::kF32);
  InitializeParams(weights, seed);
  TrainConfig config = BenchConfig(o, spec, dtype);
  config.lr = 0;  // gradients only
  Trainer trainer(backend, config, variant.pattern, Cast(weights, DType::kF32));
  const double norm = trainer.Step(sequences).grad_norm;
  const double h = (dtype == "bf16" ? 0.2 : 0.02) / norm;
  const auto loss_at = [&](double distance) {
    ParamStore moved = Cast(weights, DType::kF32);
    auto* w = static_cast<float*>(moved.arena().data);
    const auto* g = static_cast<const float*>(trainer.gradients().arena().data);
    for (int64_t i = 0; i < moved.size(); ++i) w[i] += static_cast<float>(distance / norm * g[i]);
    return Trainer(backend, config, variant.pattern, std::move(moved)).Score(sequences, variant.pattern);
  };
  const double slope = (loss_at(h) - loss_at(-h)) / (2 * h);
  const double bound = (dtype == "bf16" ? 0.1 : 0.02) * norm;
  if (!(std::abs(slope - norm) <= bound)) {
    Fail(ErrorKind::kNumeric, "bench: the loss of '{}' ({}) has slope {:.5g}, its gradient says {:.5g}", attention,
         dtype, slope, norm);
  }
}

/// Times one model's rows; Verify has seen them.
void TimeRows(Backend* backend, const Options& o, const ModelSpec& spec, const MachinePeaks& peaks,
              const CommonOptions& common, nlohmann::json* rows) {
  if (!common.json) {
    std::printf("%lld parameters, head dim %d, %lld sequences of %lld tokens, documents of about %lld\n",
                static_cast<long long>(NumParameters(spec)), spec.head_dim, static_cast<long long>(o.sequences),
                static_cast<long long>(o.tokens), static_cast<long long>(o.docs));
    std::printf("%-26s %-5s %10s %7s %10s %9s %6s %8s %8s %8s\n", "attention", "dtype", "ms a step", "spread",
                "tokens/s", "GFLOP/s", "peak", "density", "of full", "by FLOPs");
  }
  for (const std::string& dtype : o.dtypes) {
    double full = 0, full_flops = 0;
    for (const std::string& attention : o.attention) {
      const AttnVariant variant = ParseVariant(attention);
      ParamStore weights(spec, DType::kF32);
      InitializeParams(weights, common.seed);
      Trainer trainer(backend, BenchConfig(o, spec, dtype), variant.pattern, std::move(weights));
      StepReport report;
      const Timing time = TimeIt(o.repeat, [&] {
        report = trainer.Step(RandomSequences(variant, spec, o.tokens, o.sequences, o.docs, common.seed));
      });
      if (attention == "full") full = time.seconds, full_flops = report.executed;
      const double rate = static_cast<double>(report.tokens) / time.seconds;
      const double gflops = report.flops / time.seconds * 1e-9;
      const double peak = dtype == "bf16"
                              ? std::max({peaks.bf16_amx_gflops, peaks.bf16_avx512_gflops, peaks.f32_gflops})
                              : peaks.f32_gflops;
      nlohmann::json row = {{"name", fmt::format("train {} {} {}", attention, dtype, o.tokens)},
                            {"pattern", attention},
                            {"dtype", dtype},
                            {"width", spec.width},
                            {"head_dim", spec.head_dim},
                            {"parameters", NumParameters(spec)},
                            {"tokens", report.tokens},
                            {"direction", "step"},
                            {"seconds", time.seconds},
                            {"spread", time.spread},
                            {"tokens_per_second", rate},
                            {"gflops", gflops},
                            {"peak_fraction", gflops / peak},
                            {"density", report.density},
                            {"activation_bytes", trainer.activation_bytes()}};
      if (full > 0) {
        row["time_over_full"] = time.seconds / full;
        row["flops_over_full"] = report.executed / full_flops;
      }
      if (!common.json) {
        const auto of_full = [&](double value, double whole) {
          return full > 0 ? fmt::format("{:.3f}", value / whole) : std::string("-");
        };
        std::printf("%-26s %-5s %10.1f %6.0f%% %10.0f %9.1f %5.1f%% %8.4f %8s %8s\n", attention.c_str(), dtype.c_str(),
                    time.seconds * 1e3, time.spread * 100, rate, gflops, gflops / peak * 100, report.density,
                    of_full(time.seconds, full).c_str(), of_full(report.executed, full_flops).c_str());
        std::fflush(stdout);
      }
      rows->push_back(std::move(row));
    }
  }
}

int RunBench(const std::vector<Options>& models, const CommonOptions& common) {
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  std::vector<ModelSpec> specs;
  for (const Options& o : models) {
    specs.push_back(BenchSpec(o));
    Validate(specs.back());
  }
  for (size_t i = 0; i < models.size(); ++i) {
    for (const std::string& dtype : models[i].dtypes) {
      for (const std::string& attention : models[i].attention) {
        Verify(backend.get(), models[i], attention, dtype, specs[i], common.seed);
      }
    }
  }
  const MachinePeaks peaks = MeasurePeaks();
  if (!common.json) PrintMachine(peaks);
  nlohmann::json rows = nlohmann::json::array();
  for (size_t i = 0; i < models.size(); ++i) TimeRows(backend.get(), models[i], specs[i], peaks, common, &rows);
  if (common.json) PrintJson({{"machine", MachineJson(peaks)}, {"rows", rows}});
  return 0;
}

/// Sizes by name; demo: over one of its batches.
void ApplyShape(const std::string& shape, Options* o) {
  const ModelDims dims = ShapeByName(shape);
  o->width = dims.width, o->layers = dims.layers, o->heads = dims.heads, o->kv_heads = dims.kv_heads;
  o->mlp = dims.mlp_width, o->vocab = dims.vocab;
  if (shape == "demo") o->tokens = 256, o->sequences = 16, o->docs = 144;
}

/// A step of the demo.
Options Demo(const Options& o) {
  Options demo = o;
  ApplyShape("demo", &demo);
  demo.attention = {"anchor"};
  demo.dtypes = {"f32"};
  demo.repeat = 4 * o.repeat;  // it is short
  return demo;
}

}  // namespace

std::function<int()> SetupBenchTrain(Command command, CommonOptions& common) {
  auto o = std::make_shared<Options>();
  const auto size = [&](const char* flag, int64_t& value, const char* help) {
    command.Add(flag, value, help).Range(1, int64_t{1} << 24).ShowDefault();
  };
  command.Add("--model", o->model, "Take the sizes of this model");
  command.Add("--attention", o->attention, "Training variants: full, intra, anchor, ...; may be given again")
      .ShowDefault();
  command.Add("--dtype", o->dtypes, "f32, bf16 or both").OneOf({"f32", "bf16"}).ShowDefault();
  const auto shape = [o = o.get()](const std::string& name) { ApplyShape(name, o); };
  command.AddCall("--shape", shape, "Sizes by name: 125m, 10m or demo; further options change single ones")
      .OneOf({"125m", "10m", "demo"});
  size("--tokens", o->tokens, "Tokens of a sequence");
  size("--sequences", o->sequences, "Sequences of a step");
  size("--docs", o->docs, "Mean tokens of a document");
  size("--width", o->width, "Channels of the stream");
  size("--layers", o->layers, "Layers");
  size("--heads", o->heads, "Query heads");
  size("--kv-heads", o->kv_heads, "Key and value heads");
  command.Add("--mlp", o->mlp, "Channels inside the MLP; 0: 8/3 of the width").Range(0, 1 << 24).ShowDefault();
  size("--vocab", o->vocab, "Tokens of the vocabulary");
  command.Add("--recompute", o->recompute, "none or layer").OneOf({"none", "layer"}).ShowDefault();
  command.Add("--repeat", o->repeat, "Timed steps of each row").Range(1, 1000).ShowDefault();
  return [o, command, &common] {
    std::vector<Options> models = {*o};
    const auto given = [&](const char* flag) { return command.Has(flag); };
    constexpr const char* kSizes[] = {"--model",     "--shape", "--attention", "--dtype",  "--tokens",
                                      "--sequences", "--docs",  "--width",     "--layers", "--heads",
                                      "--kv-heads",  "--mlp",   "--vocab"};
    if (std::none_of(std::begin(kSizes), std::end(kSizes), given)) models.insert(models.begin(), Demo(*o));
    return RunBench(models, common);
  };
}

}  // namespace hawser
