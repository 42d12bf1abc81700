// `hawser bench prefill` and `hawser bench decode`: a whole model reads a prompt, or goes on by one token of each of
// several streams at a time, at depths of context. Prompts are judged by their floating-point operations, tokens by the
// bytes that have to be read for them, as shares of what this machine can do. Before anything is timed, the last logits
// of a short prompt are held against those of the same tokens one by one.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <memory>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/cli/bench.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/quant/block.h"
#include "hawser/train/config.h"

namespace hawser {
namespace {

struct Options {
  std::string model, shape = "125m", dtype = "bf16", kv = "full";
  std::vector<std::string> contexts = {"512", "4096"};
  int64_t batch = 1, tokens = 32;
  int32_t repeat = 5;
};

ModelDims ShapeOf(const std::string& name) {
  if (name == "1.1b") {
    return {.vocab = 32000, .width = 2048, .layers = 22, .heads = 32, .kv_heads = 4, .mlp_width = 5632};
  }
  return ShapeByName(name);
}

/// Random weights in blocks: of each matrix a few rows, again and again, as what they say does not change the time.
Weights RandomBlocks(const ModelSpec& spec, const BlockType& type, uint64_t seed) {
  const ParamLayout layout(spec);
  std::vector<ConstMat> tensors;
  std::vector<std::shared_ptr<const void>> owners;
  uint64_t stream = 0;
  for (const ParamInfo& info : layout.params()) {
    Rng rng{.seed = seed, .stream = ++stream};
    if (info.vector) {
      auto values = std::make_shared<Matrix>(info.rows, info.cols);
      std::fill_n(values->Row<float>(0), info.size(), info.part == Part::kBias ? 0.0f : 1.0f);
      tensors.push_back(values->view());
      owners.push_back(std::move(values));
      continue;
    }
    const std::optional<int64_t> row_bytes = RowBytes(type.dtype, info.cols);
    if (!row_bytes) {
      Fail(ErrorKind::kUsage, "bench: rows of {} inputs are no whole blocks of {}, which hold {} values", info.cols,
           type.name, type.values);
    }
    constexpr int64_t kDistinct = 16;
    auto memory = std::make_shared<Buffer>(static_cast<size_t>(info.rows * *row_bytes));
    auto* to = memory->as<std::byte>();
    std::vector<float> row(static_cast<size_t>(info.cols));
    for (int64_t r = 0; r < info.rows; ++r) {
      if (r < kDistinct) {
        for (float& v : row) v = static_cast<float>(0.02 * rng.Normal());
        type.encode(row.data(), info.cols / type.values, to + r * *row_bytes);
      } else {
        std::copy_n(to + r % kDistinct * *row_bytes, *row_bytes, to + r * *row_bytes);
      }
    }
    tensors.push_back({to, type.dtype, info.rows, info.cols, *row_bytes});
    owners.push_back(std::move(memory));
  }
  return Weights(spec, DType::kBF16, std::move(tensors), std::move(owners));
}

Weights MakeWeights(const Options& o, uint64_t seed) {
  if (!o.model.empty()) return LoadModelToRun(o.model, {}, ParseDType(o.dtype)).weights;
  TrainConfig config;
  config.context = 512;
  config.dims = ShapeOf(o.shape);
  const ModelSpec spec = ScratchSpec(config, config.dims.vocab);
  Validate(spec);
  for (const BlockType* type : BlockTypes()) {
    if (type->name != o.dtype) continue;
    if (type->encode == nullptr) {
      Fail(ErrorKind::kUnsupported, "bench: {} is only read, and the bench writes its weights; use another type",
           type->name);
    }
    return RandomBlocks(spec, *type, seed);
  }
  const DType dtype = ParseDType(o.dtype);
  if (dtype != DType::kF32 && dtype != DType::kBF16) {
    Fail(ErrorKind::kUsage, "bench: activations are f32 or bf16, not {}", o.dtype);
  }
  auto params = std::make_shared<ParamStore>(spec, DType::kF32);
  InitializeParams(*params, seed);
  if (dtype == DType::kBF16) *params = Cast(*params, dtype);
  return Weights::Of(std::move(params));
}

struct Bench {
  Backend* backend;
  const Weights* weights;
  Decoder* decoder;
  KvForm form;
  uint64_t seed;

  const ModelSpec& spec() const { return decoder->spec(); }
  KvCache NewCache() const { return NewKvCache(backend, spec(), form, {}, weights->dtype(), 0); }
  std::vector<int32_t> Tokens(int64_t count) const {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < count; ++t) {
      ids.push_back(static_cast<int32_t>(RandomBits(seed, 6, t) % static_cast<uint64_t>(spec().vocab)));
    }
    return ids;
  }
  void Read(std::span<const int32_t> tokens, KvCache* cache, Mat logits) const {
    cache->BeginPrefill(static_cast<int64_t>(tokens.size()));
    decoder->Extend(tokens, cache, logits);
    cache->EndPrefill();
  }
  /// Keys and values of so many tokens without running the model.
  void Fill(KvCache* cache, int64_t count) const {
    constexpr int64_t kMost = 512;
    Matrix random(kMost, int64_t{spec().kv_heads} * spec().head_dim);
    Rng rng{.seed = seed, .stream = 5};
    for (int64_t i = 0; i < random.rows() * random.cols(); ++i) {
      random.Row<float>(0)[i] = static_cast<float>(rng.Normal());
    }
    const Matrix rows = [&] {
      Matrix low = backend->NewMatrix(random.rows(), random.cols(), QkvDType(spec(), weights->dtype()));
      backend->Copy(random, low);
      return low;
    }();
    while (cache->seen() < count) {
      const std::vector<int32_t> ids = Tokens(std::min(kMost, count - cache->seen()));
      KvCache::Chunk chunk = cache->Begin(ids, kMost);
      const int32_t n = chunk.size();
      for (int32_t layer = 0; layer < cache->layers(); ++layer) {
        cache->Append(layer, rows.view().Rows(0, n), rows.view().Rows(0, n));
      }
      chunk.Commit();
    }
  }
  /// Matrices that every token is multiplied by: all but a table of embeddings that is no head.
  template <class Size>
  double Products(Size size) const {
    double sum = 0;
    for (size_t i = 0; i < weights->tensors().size(); ++i) {
      const ParamInfo& info = weights->layout().params()[i];
      if (info.vector || (info.role == Role::kEmbedding && !spec().tie_embeddings) || info.role == Role::kPlaces)
        continue;
      sum += static_cast<double>(size(info, weights->tensors()[i]));
    }
    return sum;
  }
};

std::vector<double> RowOf(const Matrix& m, int64_t row) { return {m.Row<float>(row), m.Row<float>(row) + m.cols()}; }

/// Prompt and single tokens: they differ by rounding alone, of BF16, or of activations to 8 bits where only one of the
/// two has it.
void Verify(const Bench& bench) {
  constexpr int64_t kTokens = 72;
  const std::vector<int32_t> ids = bench.Tokens(kTokens);
  Matrix prompt(1, bench.spec().vocab), single(1, bench.spec().vocab);
  KvCache cache = bench.NewCache(), other = bench.NewCache();
  bench.Read(ids, &cache, prompt);
  for (const int32_t id : ids) bench.decoder->Extend({&id, 1}, &other, single);
  const bool exact = bench.weights->dtype() == DType::kF32 && !IsBlocked(bench.weights->Head().dtype);
  CheckAgainst(RowOf(single, 0), RowOf(prompt, 0), exact ? 1e-3 : 0.15, "the logits of a prompt");
}

double Peak(const MachinePeaks& peaks, DType dtype) {
  if (dtype == DType::kF32) return peaks.f32_gflops;
  return std::max({peaks.f32_gflops, peaks.bf16_avx512_gflops, peaks.bf16_amx_gflops});
}

nlohmann::json Prefill(const Bench& bench, const Options& o, int64_t context, const MachinePeaks& peaks) {
  const ModelSpec& spec = bench.spec();
  const std::vector<int32_t> ids = bench.Tokens(context);
  KvCache cache = bench.NewCache();
  Matrix logits(1, spec.vocab);
  const Timing time = TimeIt(o.repeat, [&] {
    cache.Reset();
    bench.Read(ids, &cache, logits);
  });
  const auto n = static_cast<double>(context);
  const double head = static_cast<double>(spec.vocab) * spec.width;
  const double products = bench.Products([](const ParamInfo& info, ConstMat) { return info.size(); }) - head;
  const double pairs = n * (n + 1) / 2 * spec.layers * spec.heads * spec.head_dim;
  const double gflops = (2 * (products * n + head) + 4 * pairs) / time.seconds / 1e9;
  return {{"name", fmt::format("prefill {} {}", o.dtype, context)},
          {"dtype", o.dtype},
          {"context", context},
          {"tokens", context},
          {"direction", "prefill"},
          {"seconds", time.seconds},
          {"spread", time.spread},
          {"tokens_per_second", n / time.seconds},
          {"gflops", gflops},
          {"peak_fraction", gflops / Peak(peaks, bench.weights->dtype())}};
}

nlohmann::json Decode(const Bench& bench, const Options& o, int64_t context, const MachinePeaks& peaks) {
  const ModelSpec& spec = bench.spec();
  std::vector<KvCache> caches;
  for (int64_t b = 0; b < o.batch; ++b) {
    caches.push_back(bench.NewCache());
    bench.Fill(&caches.back(), context);
  }
  std::vector<KvCache*> each;
  for (KvCache& cache : caches) each.push_back(&cache);
  Matrix logits(o.batch, spec.vocab);
  const std::vector<int32_t> ids = bench.Tokens(o.batch);
  std::vector<double> seconds;
  double slots = 0;
  for (int64_t t = -2; t < o.tokens; ++t) {
    const auto begin = std::chrono::steady_clock::now();
    bench.decoder->Step(ids, each, logits);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    if (t < 0) continue;  // warm
    seconds.push_back(took.count());
    for (int32_t layer = 0; layer < spec.layers; ++layer) slots += static_cast<double>(caches[0].slots(layer).size());
  }
  std::ranges::sort(seconds);
  const double median = seconds[seconds.size() / 2], b = static_cast<double>(o.batch);
  const double weights = bench.Products([](const ParamInfo&, ConstMat w) { return StoredBytes(w); });
  const double kv = b * slots / static_cast<double>(o.tokens) * static_cast<double>(caches[0].row_bytes());
  const double gb = (weights + kv) / median / 1e9;
  return {{"name", fmt::format("decode {} {} x {}", o.dtype, context, o.batch)},
          {"dtype", o.dtype},
          {"context", context},
          {"batch", o.batch},
          {"tokens", o.tokens},
          {"direction", "decode"},
          {"seconds", median},
          {"spread", (seconds.back() - seconds.front()) / median},
          {"tokens_per_second", b / median},
          {"weight_bytes", weights},
          {"kv_bytes", kv},
          {"gb_per_s", gb},
          {"memory_fraction", gb / peaks.gb_per_s}};
}

int RunBench(const Options& o, const CommonOptions& common, bool prefill) {
  std::vector<int64_t> contexts;
  for (const std::string& text : o.contexts) {
    int64_t value = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size() || value < 1 || value > (int64_t{1} << 24)) {
      Fail(ErrorKind::kUsage, "--context wants numbers of tokens from 1 to 16777216; found '{}'", text);
    }
    contexts.push_back(value);
  }
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  const Weights weights = MakeWeights(o, common.seed);
  Decoder decoder(backend.get(), weights);
  const Bench bench{backend.get(), &weights, &decoder, ParseKvForm(o.kv), common.seed};
  Verify(bench);
  const MachinePeaks peaks = MeasurePeaks();
  if (!common.json) {
    PrintMachine(peaks);
    std::printf("%lld parameters, %s, %.1f MB\n", static_cast<long long>(NumParameters(decoder.spec())),
                o.dtype.c_str(), static_cast<double>(weights.bytes()) / 1e6);
    if (prefill) {
      std::printf("%8s %10s %7s %10s %9s %7s\n", "context", "ms", "spread", "tokens/s", "GFLOP/s", "peak");
    } else {
      std::printf("%8s %6s %10s %7s %10s %9s %10s\n", "context", "batch", "ms", "spread", "tokens/s", "GB/s",
                  "of memory");
    }
  }
  nlohmann::json rows = nlohmann::json::array();
  for (const int64_t context : contexts) {
    const nlohmann::json row = prefill ? Prefill(bench, o, context, peaks) : Decode(bench, o, context, peaks);
    rows.push_back(row);
    if (common.json) continue;
    const auto number = [&](const char* key) { return row[key].get<double>(); };
    if (prefill) {
      std::printf("%8lld %10.2f %6.0f%% %10.1f %9.0f %6.1f%%\n", static_cast<long long>(context),
                  number("seconds") * 1e3, number("spread") * 100, number("tokens_per_second"), number("gflops"),
                  number("peak_fraction") * 100);
    } else {
      std::printf("%8lld %6lld %10.3f %6.0f%% %10.1f %9.1f %9.0f%%\n", static_cast<long long>(context),
                  static_cast<long long>(o.batch), number("seconds") * 1e3, number("spread") * 100,
                  number("tokens_per_second"), number("gb_per_s"), number("memory_fraction") * 100);
    }
    std::fflush(stdout);
  }
  if (common.json) PrintJson({{"machine", MachineJson(peaks)}, {"rows", rows}});
  return 0;
}

std::function<int()> Setup(Command command, CommonOptions& common, bool prefill) {
  auto o = std::make_shared<Options>();
  command.Add("MODEL", o->model, "Of this model; without one, random weights of --shape");
  command.Add("--shape", o->shape, "Sizes by name").OneOf({"125m", "10m", "demo", "1.1b"}).ShowDefault();
  command
      .Add(
          "--dtype", o->dtype,
          "Of random weights: f32, bf16, or a type in blocks such as q4_0, with activations in bf16. Of activations of "
          "MODEL: f32 or bf16")
      .ShowDefault();
  command.Add("--context", o->contexts, prefill ? "Tokens of a prompt" : "Tokens in front of those timed")
      .ShowDefault();
  command.Add("--kv", o->kv, "Cache policy, see help kv").ShowDefault();
  if (prefill) {
    command.Add("--repeat", o->repeat, "Prompts timed").Range(2, 1000).ShowDefault();
  } else {
    command.Add("--batch", o->batch, "Streams that go on together").Range(1, 1024).ShowDefault();
    command.Add("--tokens", o->tokens, "Tokens timed").Range(1, 1 << 20).ShowDefault();
  }
  return [o, &common, prefill] { return RunBench(*o, common, prefill); };
}

}  // namespace

std::function<int()> SetupBenchPrefill(Command command, CommonOptions& common) { return Setup(command, common, true); }
std::function<int()> SetupBenchDecode(Command command, CommonOptions& common) { return Setup(command, common, false); }

}  // namespace hawser
