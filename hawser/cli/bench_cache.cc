// `hawser bench cache`: tokens one at a time, by cache policy. Caches are filled with random keys and values at the
// depth wanted, their tokens one after the other and trimmed on the way as a text would be, without running the model;
// then attention over what is resident is held against the formula in double, over the rows that the slots say, and
// timing starts. Times are means over whole periods of a policy that compresses.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/cli/bench.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/ops/attention_reference.h"

namespace hawser {
namespace {

struct Options {
  std::string model, shape = "125m", dtype = "bf16";
  std::vector<std::string> kv = {"full", "full:dtype=q8_0", "sep-stream:4,64,256,800",
                                 "sep-stream:4,64,256,800,dtype=q8_0"};
  int64_t context = 16384, near = 1000, far = 1'000'000;
  int64_t tokens = 0;  // timed; 0: a period of the policy, or kTokens
  double density = 0.115;
};

constexpr int64_t kTokens = 32;
constexpr int64_t kMostRows = 512;  // of a chunk that fills a cache

class Stopwatch {
 public:
  /// Seconds since the last call.
  double Lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// The stream that fills caches: token t, and the random rows that are its keys and values.
class Source {
 public:
  Source(Backend* backend, const ModelSpec& spec, DType dtype, double density, uint64_t seed)
      : spec_(spec), seed_(seed), flags_(static_cast<size_t>(spec.vocab)) {
    const int64_t width = int64_t{spec.kv_heads} * spec.head_dim;
    Matrix random(kCycle, width);
    Rng rng{.seed = seed, .stream = 5};
    for (int64_t i = 0; i < kCycle * width; ++i) random.Row<float>(0)[i] = static_cast<float>(rng.Normal());
    table_ = backend->NewMatrix(kCycle + kMostRows, width, dtype);
    backend->Copy(random, table_.view().Rows(0, kCycle));
    backend->Copy(random.view().Rows(0, kMostRows), table_.view().Rows(kCycle, kMostRows));
    for (size_t id = 0; id < flags_.size(); ++id) flags_[id] = static_cast<double>(id) < density * spec.vocab;
  }

  const std::vector<uint8_t>& flags() const { return flags_; }
  std::vector<int32_t> Tokens(int64_t begin, int64_t count) const {
    std::vector<int32_t> ids;
    for (int64_t t = begin; t < begin + count; ++t) {
      ids.push_back(static_cast<int32_t>(RandomBits(seed_, 6, t) % static_cast<uint64_t>(spec_.vocab)));
    }
    return ids;
  }
  ConstMat Keys(int32_t layer, int64_t token, int64_t count) const { return Rows(token + 131 * layer, count); }
  ConstMat Values(int32_t layer, int64_t token, int64_t count) const { return Rows(token + 131 * layer + 503, count); }

  /// Feeds the cache up to `position`. `each` runs before the chunk ends.
  template <class Each>
  void Fill(KvCache* cache, int64_t position, int32_t limit, Each&& each) const {
    while (cache->seen() < position) {
      const int64_t token = cache->seen();
      KvCache::Chunk chunk = cache->Begin(Tokens(token, std::min<int64_t>(limit, position - token)), limit);
      const int32_t n = chunk.size();
      for (int32_t layer = 0; layer < cache->layers(); ++layer) {
        cache->Append(layer, Keys(layer, token, n), Values(layer, token, n));
      }
      each();
      chunk.Commit();
    }
  }
  void Fill(KvCache* cache, int64_t position) const {
    Fill(cache, position, kMostRows, [] {});
  }

 private:
  static constexpr int64_t kCycle = 1009;
  ConstMat Rows(int64_t first, int64_t count) const { return table_.view().Rows(first % kCycle, count); }

  const ModelSpec& spec_;
  uint64_t seed_;
  std::vector<uint8_t> flags_;
  Matrix table_;
};

/// A model and the caches of one form.
struct Bench {
  Backend* backend;
  Decoder* decoder;
  const Source* source;
  const Options& options;
  DType dtype;

  const ModelSpec& spec() const { return decoder->spec(); }
  KvCache NewCache(const KvForm& form) const {
    return NewKvCache(backend, spec(), form, source->flags(), dtype,
                      std::max(options.far, options.context) + (1 << 20));
  }
  /// Attention of one query a layer over what is resident. `far`: the query of far keys.
  void Attend(const KvCache& cache, const Matrix& q, const Matrix& far, Matrix& out) const {
    for (int32_t layer = 0; layer < spec().layers; ++layer) {
      const DecodeArgs::Row row{.k = cache.Keys(layer),
                                .v = cache.Values(layer),
                                .rotation = cache.rotation(layer),
                                .far = cache.far_slots(layer)};
      backend->AttentionDecode({.shape = {.heads = spec().heads,
                                          .kv_heads = spec().kv_heads,
                                          .head_dim = spec().head_dim,
                                          .scale = 1.0f / std::sqrt(static_cast<float>(spec().head_dim))},
                                .q = q,
                                .out = out,
                                .rows = {&row, 1},
                                .q_far = far});
    }
  }
  Matrix Query() const {
    const int64_t width = int64_t{spec().heads} * spec().head_dim;
    Matrix f32(1, width), q = backend->NewMatrix(1, width, dtype);
    Rng rng{.seed = 8, .stream = 8};
    for (int64_t i = 0; i < width; ++i) f32.Row<float>(0)[i] = static_cast<float>(rng.Normal());
    backend->Copy(f32, q);
    return q;
  }
};

std::vector<double> Values(Backend* backend, ConstMat m) {
  Matrix f32(m.rows, m.cols);
  backend->Copy(m, f32);
  return {f32.Row<float>(0), f32.Row<float>(0) + m.rows * m.cols};
}

/// One more token; what its query attends to in the last layer against the formula in double, over the source's rows of
/// the tokens in the slots, rotated by their distance.
void Verify(const Bench& bench, KvCache* cache) {
  const ModelSpec& spec = bench.spec();
  const int32_t layer = spec.layers - 1;
  const auto verify = [&] {
    const auto slots = cache->slots(layer);
    const auto size = static_cast<int64_t>(slots.size());
    const int64_t most = cache->policy(layer).MaxSlots();
    if ((most >= 0 && size > most) || slots.back().index != cache->seen()) {
      Fail(ErrorKind::kNumeric, "bench: {} holds {} slots, the last of token {} of {}", cache->policy(layer).Name(),
           size, slots.back().index, cache->seen());
    }
    const Matrix q = bench.Query();
    Matrix rotated = bench.Query(), far = bench.Query(), out = bench.backend->NewMatrix(1, q.cols(), DType::kF32);
    const auto rotate = [&](Matrix& x, const float* cos, const float* sin) {
      bench.backend->Rope({.x = x,
                           .heads = spec.heads,
                           .head_dim = spec.head_dim,
                           .half = spec.rope.rotary_dim / 2,
                           .pairing = spec.rope.pairing,
                           .cos = cos,
                           .sin = sin});
    };
    rotate(rotated, cache->cos(layer), cache->sin(layer));
    if (cache->far_cos(layer) != nullptr) rotate(far, cache->far_cos(layer), cache->far_sin(layer));
    bench.Attend(*cache, rotated, far, out);  // the last layer is what stays in out
    NaiveAttention twin{.rows = 1,
                        .keys = size,
                        .heads = spec.heads,
                        .kv_heads = spec.kv_heads,
                        .dim = spec.head_dim,
                        .scale = 1 / std::sqrt(static_cast<double>(spec.head_dim)),
                        .visible = [](int64_t, int64_t) { return true; },
                        .q = Values(bench.backend, q),
                        .k = {},
                        .v = {}};
    const std::vector<double> inv_freq = ComputeFrequencies(spec.rope, spec.context).inv_freq;
    for (int64_t slot = 0; slot < size; ++slot) {
      const int64_t token = slots[slot].index;
      const bool rank = cache->policy(layer).positions() == KvPositions::kRank;
      const auto distance = static_cast<double>(rank ? slot - (size - 1) : token - cache->seen());
      std::vector<double> key = Values(bench.backend, bench.source->Keys(layer, token, 1));
      for (int32_t g = 0; g < spec.kv_heads; ++g) {
        for (int32_t i = 0; i < spec.rope.rotary_dim / 2; ++i) {
          const bool adjacent = spec.rope.pairing == RopePairing::kAdjacent;
          double& a = key[static_cast<size_t>(g * spec.head_dim + (adjacent ? 2 * i : i))];
          double& b =
              key[static_cast<size_t>(g * spec.head_dim + (adjacent ? 2 * i + 1 : i + spec.rope.rotary_dim / 2))];
          const double cos = std::cos(distance * inv_freq[i]), sin = std::sin(distance * inv_freq[i]), x = a;
          a = x * cos - b * sin;
          b = b * cos + x * sin;
        }
      }
      twin.k.insert(twin.k.end(), key.begin(), key.end());
      const std::vector<double> value = Values(bench.backend, bench.source->Values(layer, token, 1));
      twin.v.insert(twin.v.end(), value.begin(), value.end());
    }
    twin.Forward();
    const double share = cache->stored() == DType::kF32 && bench.dtype == DType::kF32 ? 1e-4 : 0.05;
    CheckAgainst(twin.out, Values(bench.backend, out), share,
                 fmt::format("attention over {} at token {}", cache->policy(layer).Name(), cache->seen()));
  };
  bench.source->Fill(cache, cache->seen() + 1, 1, verify);
}

/// Tokens after which a policy that compresses is as full as before.
int64_t Period(const Options& options, const KvForm& form) {
  if (options.tokens > 0) return options.tokens;
  const auto* stream = std::get_if<KvSepStream>(&form.kind);
  if (stream == nullptr || form.layered()) return kTokens;
  const int64_t room = stream->capacity[0] - stream->initial[0] - stream->separators[0] - stream->local[0];
  return stream->trigger == KvTrigger::kOverflow ? room + 1 : room;
}

/// Seconds, means over the tokens timed.
struct Times {
  double token = 0, attention = 0, slots = 0;
};

class TokenTimer {
 public:
  TokenTimer(const Bench& bench, KvCache cache)
      : bench_(bench),
        cache_(std::move(cache)),
        logits_(bench.backend->NewMatrix(1, bench.spec().vocab, DType::kF32)),
        q_(bench.Query()),
        out_(bench.backend->NewMatrix(1, q_.cols(), bench.dtype)) {}

  KvCache& cache() { return cache_; }
  void Step(bool attention) {
    const std::vector<int32_t> id = bench_.source->Tokens(cache_.seen(), 1);
    Stopwatch watch;
    bench_.decoder->Extend(id, &cache_, logits_);
    seconds_.push_back(watch.Lap());
    if (attention) {
      bench_.Attend(cache_, q_, q_, out_);
      sum_.attention += watch.Lap();
    }
    for (int32_t layer = 0; layer < cache_.layers(); ++layer) {
      sum_.slots += static_cast<double>(cache_.slots(layer).size()) / cache_.layers();
    }
  }
  void Forget() { sum_ = {}, seconds_.clear(); }
  Times Mean() const {
    const auto n = static_cast<double>(seconds_.size());
    double token = 0;
    for (double s : seconds_) token += s;
    return {token / n, sum_.attention / n, sum_.slots / n};
  }
  double Median() const {
    std::vector<double> sorted = seconds_;
    std::ranges::sort(sorted);
    return sorted[sorted.size() / 2];
  }

 private:
  const Bench& bench_;
  KvCache cache_;
  Matrix logits_, q_, out_;
  Times sum_;
  std::vector<double> seconds_;
};

/// Depth `context`: whole tokens and attention alone, and what reading fewer keys could bring at most.
nlohmann::json Depth(const Bench& bench, const std::string& text, const nlohmann::json& first) {
  const KvForm form = ParseKvForm(text);
  TokenTimer timer(bench, bench.NewCache(form));
  bench.source->Fill(&timer.cache(), bench.options.context - 1);
  Verify(bench, &timer.cache());
  for (int i = 0; i < 2; ++i) timer.Step(true);
  timer.Forget();
  const int64_t tokens = Period(bench.options, form);
  for (int64_t i = 0; i < tokens; ++i) timer.Step(true);
  const Times times = timer.Mean();
  const double weights = static_cast<double>(NumParameters(bench.spec())) * static_cast<double>(SizeOf(bench.dtype));
  const double kv = times.slots * bench.spec().layers * static_cast<double>(timer.cache().row_bytes());
  nlohmann::json row = {{"name", fmt::format("decode {} {}", text, bench.options.context)},
                        {"kv", text},
                        {"dtype", Name(bench.dtype)},
                        {"head_dim", bench.spec().head_dim},
                        {"parameters", NumParameters(bench.spec())},
                        {"context", bench.options.context},
                        {"tokens", tokens},
                        {"direction", "decode"},
                        {"slots", times.slots},
                        {"weight_bytes", weights},
                        {"kv_bytes", kv},
                        {"seconds", times.token},
                        {"tokens_per_second", 1 / times.token},
                        {"attention_seconds", times.attention},
                        {"attention_tokens_per_second", 1 / times.attention},
                        {"attention_gb_per_s", kv / times.attention * 1e-9}};
  if (!first.is_null()) {
    const auto of = [&](const char* key) { return first[key].get<double>(); };
    row["speedup"] = of("seconds") / times.token;
    row["attention_speedup"] = of("attention_seconds") / times.attention;
    row["bound"] = (of("weight_bytes") + of("kv_bytes")) / (weights + kv);
  }
  return row;
}

/// Upkeep of a cache that has come to its steady state, a token: all that begin and end of a chunk do (slots,
/// rotations, trims), and the part of tokens that compress.
std::pair<double, double> Upkeep(const Bench& bench, KvCache* cache, int64_t tokens) {
  double all = 0, compressing = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t token = cache->seen();
    const std::vector<int32_t> id = bench.source->Tokens(token, 1);
    const size_t before = cache->slots().size();
    Stopwatch watch;
    KvCache::Chunk chunk = cache->Begin(id, 1);
    double seconds = watch.Lap();
    for (int32_t layer = 0; layer < cache->layers(); ++layer) {
      cache->Append(layer, bench.source->Keys(layer, token, 1), bench.source->Values(layer, token, 1));
    }
    watch.Lap();
    chunk.Commit();
    seconds += watch.Lap();
    all += seconds;
    if (cache->slots().size() <= before) compressing += seconds;
  }
  return {all / static_cast<double>(tokens), compressing / static_cast<double>(tokens)};
}

/// A bounded policy at two positions, in turn, so that what else the machine does falls on both.
nlohmann::json Flatness(const Bench& bench, const std::string& text) {
  const KvForm form = ParseKvForm(text);
  std::vector<TokenTimer> timers;
  for (const int64_t position : {bench.options.near, bench.options.far}) {
    timers.emplace_back(bench, bench.NewCache(form));
    bench.source->Fill(&timers.back().cache(), position - 1);
    Verify(bench, &timers.back().cache());
  }
  for (TokenTimer& timer : timers) timer.Step(false), timer.Forget();
  const int64_t tokens = Period(bench.options, form);
  for (int64_t i = 0; i < tokens; ++i) {
    for (TokenTimer& timer : timers) timer.Step(false);
  }
  const Times near = timers[0].Mean(), far = timers[1].Mean();
  const auto [upkeep, compression] = Upkeep(bench, &timers[1].cache(), 4 * tokens);
  return {{"name", fmt::format("flatness {} {} {}", text, bench.options.near, bench.options.far)},
          {"kv", text},
          {"dtype", Name(bench.dtype)},
          {"tokens", tokens},
          {"direction", "decode"},
          {"near", bench.options.near},
          {"far", bench.options.far},
          {"near_seconds", near.token},
          {"seconds", far.token},
          {"far_over_near", far.token / near.token},
          {"far_over_near_median", timers[1].Median() / timers[0].Median()},
          {"near_slots", near.slots},
          {"slots", far.slots},
          {"upkeep_seconds", upkeep},
          {"upkeep_share", upkeep / far.token},
          {"compression_seconds", compression},
          {"compression_share", compression / far.token}};
}

void PrintDepth(const nlohmann::json& row) {
  const auto number = [&](const char* key) { return row[key].get<double>(); };
  const auto times = [&](const char* key) { return row.contains(key) ? fmt::format("{:.2f}x", number(key)) : "-"; };
  std::printf("%-36s %8.1f %9.1f %9.3f %9.1f %8s %10.3f %10.0f %8s %7.1f\n", row["kv"].get<std::string>().c_str(),
              number("slots"), number("kv_bytes") * 1e-6, number("seconds") * 1e3, number("tokens_per_second"),
              times("speedup").c_str(), number("attention_seconds") * 1e3, number("attention_tokens_per_second"),
              times("attention_speedup").c_str(), number("attention_gb_per_s"));
  if (row.contains("bound")) std::printf("%-36s bytes read bound a whole token to %s\n", "", times("bound").c_str());
  std::fflush(stdout);
}

void PrintFlatness(const nlohmann::json& row) {
  const auto number = [&](const char* key) { return row[key].get<double>(); };
  std::printf(
      "%-36s %10.3f ms at %lld, %.3f ms at %lld: %.3fx (medians %.3fx); compression %.2f %%, all upkeep %.2f %%\n",
      row["kv"].get<std::string>().c_str(), number("near_seconds") * 1e3, row["near"].get<long long>(),
      number("seconds") * 1e3, row["far"].get<long long>(), number("far_over_near"), number("far_over_near_median"),
      number("compression_share") * 100, number("upkeep_share") * 100);
  std::fflush(stdout);
}

int RunBench(const Options& o, const CommonOptions& common) {
  ModelSpec spec;
  if (o.model.empty()) {
    TrainConfig config;
    config.context = std::max<int64_t>(o.context, 16);
    config.dims = ShapeByName(o.shape);
    spec = ScratchSpec(config, config.dims.vocab);
  } else {
    spec = LoadSpec(o.model);
  }
  Validate(spec);
  for (const std::string& text : o.kv) {
    if (ParseKvForm(text).positions == KvPositions::kCacheLength) {
      Fail(ErrorKind::kUsage, "bench cache holds keys against the place they stand at: not with positions=cachelen");
    }
  }
  if (o.near >= o.far) Fail(ErrorKind::kUsage, "--near {} is not before --far {}", o.near, o.far);
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  const DType dtype = ParseDType(o.dtype);
  ParamStore weights(spec, DType::kF32);
  InitializeParams(weights, common.seed);
  if (dtype != DType::kF32) weights = Cast(weights, dtype);
  Decoder decoder(backend.get(), &weights);
  const Source source(backend.get(), decoder.spec(), QkvDType(spec, dtype), o.density, common.seed);
  const Bench bench{backend.get(), &decoder, &source, o, QkvDType(spec, dtype)};
  const MachinePeaks peaks = MeasurePeaks();
  if (!common.json) {
    PrintMachine(peaks);
    std::printf("%lld parameters, %s, %lld tokens of context\n", static_cast<long long>(NumParameters(spec)),
                o.dtype.c_str(), static_cast<long long>(o.context));
    std::printf("%-36s %8s %9s %9s %9s %8s %10s %10s %8s %7s\n", "kv", "slots", "KV MB", "ms", "tokens/s", "of first",
                "attn ms", "attn tok/s", "of first", "GB/s");
  }
  nlohmann::json rows = nlohmann::json::array(), first;
  for (const std::string& text : o.kv) {
    rows.push_back(Depth(bench, text, first));
    if (first.is_null()) first = rows.back();
    if (!common.json) PrintDepth(rows.back());
  }
  for (const std::string& text : o.kv) {
    const KvForm form = ParseKvForm(text);
    if (form.layered() || MakeKvPolicy(form)->MaxSlots() < 0) continue;
    rows.push_back(Flatness(bench, text));
    if (!common.json) PrintFlatness(rows.back());
  }
  if (common.json) PrintJson({{"machine", MachineJson(peaks)}, {"rows", rows}});
  return 0;
}

}  // namespace

std::function<int()> SetupBenchCache(Command command, CommonOptions& common) {
  auto o = std::make_shared<Options>();
  command.Add("--model", o->model, "Take the sizes of this model");
  command.Add("--shape", o->shape, "Sizes by name").OneOf({"125m", "10m", "demo"}).ShowDefault();
  command
      .Add("--kv", o->kv,
           "Cache policies, see help kv; may be given again. The first is what others are compared with; those "
           "that are bounded are also timed at --near and --far")
      .OneArgument()
      .ShowDefault();
  command.Add("--dtype", o->dtype, "Weights and activations: f32 or bf16").OneOf({"f32", "bf16"}).ShowDefault();
  command.Add("--context", o->context, "Tokens in front of those timed").Range(2, int64_t{1} << 24).ShowDefault();
  command.Add("--near", o->near, "A position at which bounded policies are timed").Range(2, 1 << 24).ShowDefault();
  command.Add("--far", o->far, "And one far behind it").Range(2, int64_t{1} << 30).ShowDefault();
  command
      .Add("--tokens", o->tokens,
           fmt::format("Tokens timed; 0: one period of a policy that compresses, {} of others", kTokens))
      .Range(0, 1 << 20)
      .ShowDefault();
  command.Add("--density", o->density, "Share of separators among the random tokens").RangeReal(0, 1).ShowDefault();
  return [o, &common] { return RunBench(*o, common); };
}

}  // namespace hawser
