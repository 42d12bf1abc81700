// `hawser bench attention`: holds the backend's attention against the twin in double on a small case of each pattern,
// then times whole calls, compiling the schedule and packing included. Only visible pairs count as work: forward
// 4 * pairs * D * H FLOPs, backward 10 * pairs * D * H. Decode is the last query of the same text alone. With --string
// each row is timed in turn with the same row without, so that what else the machine does falls on both.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <optional>

#include "hawser/base/progress.h"
#include "hawser/base/rng.h"
#include "hawser/cli/bench.h"
#include "hawser/device/registry.h"
#include "hawser/ops/attention_reference.h"
#include "hawser/pos/alibi.h"

namespace hawser {
namespace {

struct Options {
  std::vector<std::string> patterns;
  std::vector<int> tokens, head_dims;
  int heads = 4, kv_heads = 2, docs = 2048, repeat = 5;
  double separators = 0.12;
  bool alibi = false;
  double softcap = 0;
  int64_t shift = 0;
  std::string dtype, direction = "both", isa;
};

struct Case {
  AttnPattern pattern;
  int tokens, heads, kv_heads, head_dim, docs;
  DType dtype;
  bool alibi;
  double softcap;
  int64_t shift;  // of STRING; 0: none

  /// The pattern, and what happens to scores.
  std::string Name() const {
    return ToString(pattern) + (alibi ? " alibi" : "") + (softcap > 0 ? fmt::format(" softcap={}", softcap) : "") +
           (shift > 0 ? fmt::format(" string={}", shift) : "");
  }
};

/// Documents of about `docs` tokens behind the anchors, separators at random.
TokenLayout BenchLayout(const Case& c, double separators, uint64_t seed) {
  Rng rng{.seed = seed, .stream = 1};
  const int prefix = std::min(c.pattern.anchors, c.tokens);
  std::vector<int32_t> lengths;
  for (int left = c.tokens - prefix; left > 0; left -= lengths.back()) {
    const int length = c.docs / 2 + static_cast<int>(rng.Below(c.docs)) + 1;
    lengths.push_back(std::min(left, length));
  }
  TokenLayout layout = MakeLayout(prefix, lengths);
  layout.is_separator.resize(static_cast<size_t>(layout.size));
  for (uint8_t& flag : layout.is_separator) flag = rng.Uniform() < separators;
  return layout;
}

/// One sequence, its tensors, and the two calls.
struct Run {
  Run(Backend& b, const Case& c, TokenLayout l, uint64_t seed)
      : backend(b), what(c), layout(std::move(l)), lse(static_cast<size_t>(c.tokens) * c.heads) {
    if (c.alibi) slopes = AlibiSlopes({}, c.heads);
    const int64_t wide = int64_t{c.heads} * c.head_dim, narrow = int64_t{c.kv_heads} * c.head_dim;
    uint64_t stream = 0;
    for (Matrix* m : {&q, &q_far, &out, &dout, &dq}) *m = backend.NewMatrix(c.tokens, wide, c.dtype);
    for (Matrix* m : {&k, &v, &dk, &dv}) *m = backend.NewMatrix(c.tokens, narrow, c.dtype);
    for (Matrix* m : {&q, &k, &v, &dout, &q_far}) {
      Matrix host(m->rows(), m->cols(), DType::kF32);
      Rng rng{.seed = seed, .stream = ++stream};
      for (int64_t i = 0; i < host.rows() * host.cols(); ++i) {
        host.Row<float>(0)[i] = static_cast<float>(3.4 * rng.Uniform() - 1.7);  // deviation 1
      }
      backend.Copy(host, *m);
    }
  }

  void Compile() {
    schedule = CompileSchedule(what.pattern, layout);
    sequence = {.query_begin = 0, .key_begin = 0, .schedule = &schedule};
    if (what.shift == 0) return;
    std::vector<int64_t> positions(static_cast<size_t>(what.tokens));
    std::iota(positions.begin(), positions.end(), int64_t{0});
    SplitFar(what.shift, positions, &schedule);
  }
  ConstMat FarQueries() const { return what.shift > 0 ? ConstMat(q_far.view()) : ConstMat(); }
  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(what.head_dim)); }
  AttnShape Shape() const {
    return {.heads = what.heads,
            .kv_heads = what.kv_heads,
            .head_dim = what.head_dim,
            .scale = Scale(),
            .slopes = what.alibi ? slopes.data() : nullptr,
            .softcap = static_cast<float>(what.softcap)};
  }
  void Forward() {
    Compile();
    backend.AttentionForward({.shape = Shape(),
                              .q = q,
                              .k = k,
                              .v = v,
                              .out = out,
                              .lse = lse.data(),
                              .sequences = {&sequence, 1},
                              .q_far = FarQueries()});
  }
  /// The last row of q, and of out.
  void Decode() {
    const auto far = what.shift > 0 ? std::max<int64_t>(0, what.tokens - what.shift) : 0;
    const DecodeArgs::Row row{.k = k, .v = v, .far = static_cast<int32_t>(far)};
    const auto last = [&](ConstMat m) { return m.empty() ? m : m.Rows(m.rows - 1, 1); };
    backend.AttentionDecode({.shape = Shape(),
                             .q = last(q),
                             .out = out.view().Rows(out.rows() - 1, 1),
                             .rows = {&row, 1},
                             .q_far = last(FarQueries())});
  }
  void Backward() {
    Compile();
    backend.AttentionBackward({.shape = Shape(),
                               .q = q,
                               .k = k,
                               .v = v,
                               .out = out,
                               .dout = dout,
                               .lse = lse.data(),
                               .dq = dq,
                               .dk = dk,
                               .dv = dv,
                               .sequences = {&sequence, 1}});
  }
  std::vector<double> Values(const Matrix& m) {
    Matrix f32(m.rows(), m.cols(), DType::kF32);
    backend.Copy(m, f32);
    const float* values = f32.Row<float>(0);
    return {values, values + f32.rows() * f32.cols()};
  }

  Backend& backend;
  Case what;
  TokenLayout layout;
  AttnSchedule schedule;
  AttnSequence sequence;
  std::vector<float> slopes, lse;
  Matrix q, q_far, k, v, out, dout, dq, dk, dv;
};

/// The same pattern, dtype and head dim on 384 tokens, against the formula in double.
void Verify(Backend& backend, Case c, const Options& options, uint64_t seed) {
  c.tokens = 384;
  c.docs = std::min(c.docs, 100);
  c.kv_heads = 1;
  c.heads = std::min(2, c.heads);
  c.shift = std::min<int64_t>(c.shift, 100);
  Run run(backend, c, BenchLayout(c, options.separators, seed), seed);
  run.Forward();
  if (c.shift == 0) run.Backward();
  NaiveAttention twin{.rows = c.tokens,
                      .keys = c.tokens,
                      .heads = c.heads,
                      .kv_heads = c.kv_heads,
                      .dim = c.head_dim,
                      .scale = run.Scale(),
                      .visible =
                          [&](int64_t row, int64_t key) {
                            return Visible(c.pattern, run.layout, static_cast<int32_t>(row), static_cast<int32_t>(key));
                          },
                      .q = run.Values(run.q),
                      .k = run.Values(run.k),
                      .v = run.Values(run.v),
                      .softcap = c.softcap,
                      .slopes = {run.slopes.begin(), run.slopes.end()},
                      .distance = [](int64_t row, int64_t key) { return static_cast<double>(row - key); },
                      .q_far = c.shift > 0 ? run.Values(run.q_far) : std::vector<double>(),
                      .far = [&](int64_t row, int64_t key) { return row - key >= c.shift; }};
  twin.Forward();
  const double share = c.dtype == DType::kBF16 ? 0.02 : 2e-5;
  const std::string of = fmt::format(" of '{}' ({}, head dim {})", c.Name(), Name(c.dtype), c.head_dim);
  CheckAgainst(twin.out, run.Values(run.out), share, "out" + of);
  if (c.pattern == AttnPattern{}) {
    run.Decode();
    CheckAgainst(twin.out, run.Values(run.out), share, "a single row" + of);
  }
  if (c.shift > 0) return;
  twin.Backward(run.Values(run.dout));
  CheckAgainst(twin.dq, run.Values(run.dq), share, "dq" + of);
  CheckAgainst(twin.dk, run.Values(run.dk), share, "dk" + of);
  CheckAgainst(twin.dv, run.Values(run.dv), share, "dv" + of);
}

/// What to run when nothing was asked for: dense at both usual head dims, and the sparse patterns at length.
std::vector<Case> Suite(const Options& o) {
  std::vector<Case> cases;
  const auto add = [&](const char* pattern, int tokens, int head_dim, DType dtype) {
    cases.push_back(
        {ParsePattern(pattern), tokens, o.heads, o.kv_heads, head_dim, o.docs, dtype, o.alibi, o.softcap, o.shift});
  };
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const int head_dim : {64, 128}) add("full", 4096, head_dim, dtype);
  }
  for (const int head_dim : {64, 128}) add("full", 8192, head_dim, DType::kBF16);
  for (const char* pattern : {"full", "anchor", "sinks=4 window=256 sep"}) add(pattern, 32768, 64, DType::kBF16);
  return cases;
}

std::vector<Case> Cases(const Options& o) {
  if (o.patterns.empty() && o.tokens.empty() && o.head_dims.empty() && o.dtype.empty()) return Suite(o);
  const std::vector<std::string> patterns = o.patterns.empty() ? std::vector<std::string>{"full"} : o.patterns;
  const std::vector<int> tokens = o.tokens.empty() ? std::vector<int>{4096} : o.tokens;
  const std::vector<int> head_dims = o.head_dims.empty() ? std::vector<int>{64, 128} : o.head_dims;
  const DType dtype = o.dtype.empty() ? DType::kBF16 : ParseDType(o.dtype);
  std::vector<Case> cases;
  for (const std::string& pattern : patterns) {
    for (const int head_dim : head_dims) {
      for (const int t : tokens) {
        cases.push_back(
            {ParsePattern(pattern), t, o.heads, o.kv_heads, head_dim, o.docs, dtype, o.alibi, o.softcap, o.shift});
      }
    }
  }
  return cases;
}

bool Wanted(const Options& options, std::string_view direction) {
  if (options.direction != "both") return options.direction == direction;
  return direction == "forward" || (direction == "backward" && options.shift == 0);
}

/// `run`, whose keys are partly far, and the same with one query, in turn. over_plain: the ratio of the medians.
Timing TimeBesidePlain(Run& run, int repeat, const std::function<void(Run&)>& body, std::optional<double>* over_plain) {
  const int64_t shift = run.what.shift;
  std::vector<double> folded, plain;
  const auto median = [](std::vector<double>& seconds) {
    std::ranges::sort(seconds);
    return seconds[seconds.size() / 2];
  };
  for (int i = 0; i <= repeat; ++i) {
    for (std::vector<double>* to : {&folded, &plain}) {
      run.what.shift = to == &folded ? shift : 0;
      const auto begin = std::chrono::steady_clock::now();
      body(run);
      if (i > 0) to->push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
  }
  run.what.shift = shift;
  const double seconds = median(folded);
  *over_plain = seconds / median(plain);
  return {seconds, (folded.back() - folded.front()) / seconds};
}

int RunBench(const Options& options, const CommonOptions& common) {
  if (options.heads % options.kv_heads != 0) {
    Fail(ErrorKind::kUsage, "--heads {} is no multiple of --kv-heads {}", options.heads, options.kv_heads);
  }
  if (options.shift > 0 && options.direction == "backward") {
    Fail(ErrorKind::kUsage, "--string is not trained with; its directions are forward and decode");
  }
  if (!options.isa.empty()) LimitAttentionIsa(options.isa);
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  const std::vector<Case> cases = Cases(options);
  for (const Case& c : cases) Verify(*backend, c, options, common.seed);
  const MachinePeaks peaks = MeasurePeaks();
  if (!common.json) {
    PrintMachine(peaks);
    std::printf("%-26s %-5s %5s %7s %-9s %10s %7s %9s %6s %8s %8s\n", "pattern", "dtype", "dim", "tokens", "direction",
                "ms", "spread", "GFLOP/s", "peak", "density", options.shift > 0 ? "of plain" : "of dense");
  }
  nlohmann::json rows = nlohmann::json::array();
  std::map<std::string, double> dense;  // seconds of full attention by everything else
  for (const Case& c : cases) {
    const double peak = AttentionPeak(peaks, c.dtype == DType::kBF16);
    Run run(*backend, c, BenchLayout(c, options.separators, common.seed), common.seed);
    run.Forward();
    const double density = run.schedule.Density();
    for (const std::string direction : {"forward", "backward", "decode"}) {
      if (!Wanted(options, direction) || (direction == "decode" && c.pattern != AttnPattern{})) continue;
      const double pairs = direction == "decode" ? c.tokens : static_cast<double>(run.schedule.visible_pairs);
      const auto body = [&](Run& r) {
        direction == "forward" ? r.Forward() : direction == "backward" ? r.Backward() : r.Decode();
      };
      std::optional<double> over_plain;
      const Timing time = c.shift > 0 ? TimeBesidePlain(run, options.repeat, body, &over_plain)
                                      : TimeIt(options.repeat, [&] { body(run); });
      const double gflops = (direction == "forward" ? 4 : 10) * pairs * c.head_dim * c.heads / time.seconds / 1e9;
      const std::string key = fmt::format("{} {} {} {}", Name(c.dtype), c.head_dim, c.tokens, direction);
      nlohmann::json row = {{"name", fmt::format("attention {} {}", c.Name(), key)},
                            {"pattern", ToString(c.pattern)},
                            {"alibi", c.alibi},
                            {"softcap", c.softcap},
                            {"dtype", Name(c.dtype)},
                            {"head_dim", c.head_dim},
                            {"heads", c.heads},
                            {"kv_heads", c.kv_heads},
                            {"tokens", c.tokens},
                            {"direction", direction},
                            {"seconds", time.seconds},
                            {"spread", time.spread},
                            {"gflops", gflops},
                            {"peak_fraction", gflops / peak},
                            {"density", density}};
      std::string ratio = "-";
      if (over_plain) {
        row["shift"] = c.shift;
        row["time_over_plain"] = *over_plain;
        ratio = fmt::format("{:.4f}", *over_plain);
      } else if (c.pattern == AttnPattern{}) {
        dense[key] = time.seconds;
      } else {
        if (dense.count(key) == 0) {
          Case full = c;
          full.pattern = AttnPattern{};
          Run dense_run(*backend, full, BenchLayout(full, options.separators, common.seed), common.seed);
          dense_run.Forward();
          dense[key] = TimeIt(options.repeat, [&] { body(dense_run); }).seconds;
        }
        row["time_over_dense"] = time.seconds / dense[key];
        ratio = fmt::format("{:.4f}", time.seconds / dense[key]);
      }
      if (!common.json) {
        std::printf("%-26s %-5s %5d %7d %-9s %10.2f %6.0f%% %9.0f %5.0f%% %8.4f %8s\n", c.Name().c_str(),
                    std::string(Name(c.dtype)).c_str(), c.head_dim, c.tokens, direction.c_str(), time.seconds * 1e3,
                    time.spread * 100, gflops, gflops / peak * 100, density, ratio.c_str());
        std::fflush(stdout);
      }
      rows.push_back(std::move(row));
    }
  }
  if (common.json) PrintJson({{"machine", MachineJson(peaks)}, {"rows", rows}});
  return 0;
}

}  // namespace

std::function<int()> SetupBenchAttention(Command command, CommonOptions& common) {
  auto options = std::make_shared<Options>();
  command.Add("--pattern", options->patterns,
              "What a token sees: full, window=W, intra, anchor, or fields such as \"sinks=4 window=256 sep\"; "
              "may be given again");
  command.Add("--tokens", options->tokens, "Sequence lengths (4096)").Range(1, 1 << 24);
  command.Add("--head-dim", options->head_dims, "Channels of a head (64 128)").Range(1, 256);
  command.Add("--heads", options->heads, "Query heads").Range(1, 1024).ShowDefault();
  command.Add("--kv-heads", options->kv_heads, "Key and value heads").Range(1, 1024).ShowDefault();
  command.Add("--dtype", options->dtype, "f32 or bf16 (bf16)").OneOf({"f32", "bf16"});
  command.Add("--alibi", options->alibi, "Bias scores by distance, with the slopes of ALiBi");
  command.Add("--softcap", options->softcap, "Cap scores at C, as cap * tanh(score / cap); 0: not")
      .RangeReal(0, 1e6)
      .ShowDefault();
  command
      .Add("--string", options->shift,
           "Read keys so many tokens before a query, or more, by another query (STRING); beside the same without")
      .Range(0, 1 << 24);
  command.Add("--direction", options->direction, "forward, backward, both, or decode (of pattern full)")
      .OneOf({"forward", "backward", "both", "decode"})
      .ShowDefault();
  command.Add("--docs", options->docs, "Mean tokens of a document, for patterns that care")
      .Range(1, 1 << 24)
      .ShowDefault();
  command.Add("--separators", options->separators, "Share of tokens that are separators").RangeReal(0, 1).ShowDefault();
  command.Add("--isa", options->isa,
              "Limit the instruction set: scalar, avx2, avx512, avx512_bf16 or amx (as HAWSER_ISA does)");
  command.Add("--repeat", options->repeat, "Timed runs of each row").Range(1, 1000).ShowDefault();
  return [options, &common] { return RunBench(*options, common); };
}

}  // namespace hawser
