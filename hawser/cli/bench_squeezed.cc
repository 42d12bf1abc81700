// `hawser bench squeezed`: attention of one token over a prefix, all of it or what a rule keeps (kv/squeezed.h), by the
// length of the prefix. Keys are random, around directions that last for some tokens; the model is not run. Before
// anything is timed, what queries read is held against the formula in double over the keys that were chosen, and
// keeping all against the dense cache. Dense and squeezed take turns, each time with another query.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/base/size.h"
#include "hawser/cli/bench.h"
#include "hawser/infer/squeeze.h"
#include "hawser/model/kv_shape.h"
#include "hawser/ops/attention_reference.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

struct SqueezedOptions {
  std::string model, shape = "125m", dtype = "bf16", keep = "0.1";
  std::vector<std::string> lengths = {"2048", "4096", "8192", "16384", "32768", "65536"};
  int32_t levels = 2, layers = 0;
  int64_t queries = 9;
};

constexpr int64_t kSpan = 24;       // tokens whose keys lie around one direction
constexpr int64_t kFillRows = 512;  // at a time

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double MedianOf(std::vector<double> seconds) {
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

/// Random rows [n, cols] of the dtype; rows of one span lie around one direction.
Matrix RandomRows(Backend* backend, int64_t first, int64_t n, int64_t cols, DType dtype, uint64_t stream) {
  Matrix f32(n, cols), rows = backend->NewMatrix(n, cols, dtype);
  for (int64_t r = 0; r < n; ++r) {
    Rng around{.seed = static_cast<uint64_t>((first + r) / kSpan), .stream = stream};
    Rng own{.seed = static_cast<uint64_t>(first + r), .stream = stream + 1000};
    for (int64_t c = 0; c < cols; ++c) {
      // Uniform values do as well as normal ones, and are made far faster.
      f32.Row<float>(r)[c] = static_cast<float>(4 * around.Uniform() - 2 + 2 * own.Uniform() - 1);
    }
  }
  backend->Copy(f32, rows);
  return rows;
}

class SqueezedBench {
 public:
  SqueezedBench(Backend* backend, const ModelSpec& spec, DType dtype, const SqueezedOptions& options, int64_t tokens)
      : backend_(backend),
        spec_(spec),
        options_(options),
        dtype_(dtype),
        shape_(AttnShapeOf(spec)),
        cache_(NewKvCache(backend, spec, {}, {}, dtype, tokens)) {
    Fill(tokens);
    std::vector<Matrix> window;
    for (int32_t layer = 0; layer < spec.layers; ++layer) window.push_back(Queries(100, 7 + layer, DType::kF32));
    const double start = SecondsNow();
    index_ = std::make_shared<const PrefixIndex>(
        BuildPrefixIndex(backend, cache_, std::vector<int32_t>(static_cast<size_t>(tokens), 1), window, shape_, {},
                         {.levels = options.levels, .iterations = 2}));
    index_seconds_ = SecondsNow() - start;
    for (int64_t i = 0; i < options.queries + 1; ++i) queries_.push_back(Queries(1, 500 + i, dtype));
    own_ = RandomRows(backend, tokens, 1, int64_t{spec.kv_heads} * spec.head_dim, dtype, 3);
  }

  void Verify() {
    const int32_t layer = spec_.layers - 1;
    SqueezedReader reader(backend_, index_, ParseKeepRule(options_.keep)), all(backend_, index_, {});
    const Matrix& q = queries_.back();
    Matrix out = backend_->NewMatrix(1, q.cols(), DType::kF32), dense = backend_->NewMatrix(1, q.cols(), DType::kF32);
    const double share = dtype_ == DType::kF32 ? 1e-4 : 0.02;
    Attend(&reader, layer, q, out);
    for (int32_t g = 0; g < spec_.kv_heads; ++g) VerifyHead(*reader.parts(0), layer, g, q, out, share);
    // Dense attention knows no own token: its slots are those of the prefix.
    all.Choose(layer, shape_, q, 0, false);
    KvParts parts = *all.parts(0);
    const ConstMat last = cache_.Keys(layer).Run(cache_.seen() - 1, 1),
                   value = cache_.Values(layer).Run(cache_.seen() - 1, 1);
    std::vector<KvRange> ranges(parts.ranges.begin(), parts.ranges.end());
    for (int32_t g = 0; g < spec_.kv_heads; ++g)
      --ranges[static_cast<size_t>(parts.first[static_cast<size_t>(g) + 1]) - 1].end;
    parts.ranges = ranges;
    const DecodeArgs::Row row{.k = last, .v = value, .parts = &parts};
    backend_->AttentionDecode({.shape = shape_, .q = q, .out = out, .rows = {&row, 1}});
    AttendDense(layer, q, dense);
    CheckAgainst(Numbers(dense), Numbers(out), share, fmt::format("a prefix of {} tokens kept whole", cache_.seen()));
  }

  nlohmann::json Time() {
    SqueezedReader reader(backend_, index_, ParseKeepRule(options_.keep));
    std::vector<double> dense, squeezed, choosing;
    Matrix out = backend_->NewMatrix(1, queries_[0].cols(), dtype_);
    for (size_t i = 0; i < queries_.size(); ++i) {
      const Matrix& q = queries_[i];
      double start = SecondsNow();
      for (int32_t layer = 0; layer < spec_.layers; ++layer) AttendDense(layer, q, out);
      const double dense_seconds = SecondsNow() - start;
      double chosen = 0;
      start = SecondsNow();
      for (int32_t layer = 0; layer < spec_.layers; ++layer) {
        const double begin = SecondsNow();
        reader.Choose(layer, shape_, q, 0, false);
        chosen += SecondsNow() - begin;
        AttendChosen(reader, q, out);
      }
      if (i == 0) continue;  // the first warms up
      squeezed.push_back(SecondsNow() - start);
      dense.push_back(dense_seconds);
      choosing.push_back(chosen);
    }
    const SqueezedReader::Usage& usage = reader.usage(false);
    const auto tokens = static_cast<double>(index_->tokens());
    const double heads = static_cast<double>(spec_.layers) * spec_.kv_heads;
    const double key_bytes = static_cast<double>(index_->bytes()) / tokens / heads;  // and value
    const double read = heads * (usage.keys_per_query() * key_bytes +
                                 usage.centroids_per_query() * spec_.head_dim * static_cast<double>(sizeof(float)));
    return {{"name", fmt::format("squeezed {} {}", options_.keep, index_->tokens())},
            {"keep", options_.keep},
            {"context", index_->tokens()},
            {"dtype", Name(dtype_)},
            {"layers", spec_.layers},
            {"kv_heads", spec_.kv_heads},
            {"group", spec_.heads / spec_.kv_heads},
            {"head_dim", spec_.head_dim},
            {"levels", index_->levels},
            {"direction", "decode"},
            {"dense_seconds", MedianOf(dense)},
            {"seconds", MedianOf(squeezed)},
            {"choosing_seconds", MedianOf(choosing)},
            {"speedup", MedianOf(dense) / MedianOf(squeezed)},
            {"dense_bytes", index_->bytes()},
            {"bytes", read},
            {"keys_share", usage.keys_per_query() / tokens},
            {"centroids_share", usage.centroids_per_query() / tokens},
            {"index_seconds", index_seconds_}};
  }

 private:
  Matrix Queries(int64_t rows, int64_t number, DType dtype) const {
    return RandomRows(backend_, number * kSpan, rows, int64_t{spec_.heads} * spec_.head_dim, dtype, 11);
  }
  void Fill(int64_t tokens) {
    const int64_t cols = int64_t{spec_.kv_heads} * spec_.head_dim;
    const std::vector<int32_t> ids(kFillRows, 1);
    while (cache_.seen() < tokens) {
      const int64_t n = std::min(kFillRows, tokens - cache_.seen());
      KvCache::Chunk chunk = cache_.Begin(std::span(ids).first(static_cast<size_t>(n)), static_cast<int32_t>(n));
      const Matrix k = RandomRows(backend_, cache_.seen(), n, cols, dtype_, 1),
                   v = RandomRows(backend_, cache_.seen(), n, cols, dtype_, 2);
      for (int32_t layer = 0; layer < spec_.layers; ++layer) cache_.Append(layer, k, v);
      chunk.Commit();
    }
  }
  void AttendDense(int32_t layer, ConstMat q, Mat out) const {
    const DecodeArgs::Row row{.k = cache_.Keys(layer), .v = cache_.Values(layer)};
    backend_->AttentionDecode({.shape = shape_, .q = q, .out = out, .rows = {&row, 1}});
  }
  void Attend(SqueezedReader* reader, int32_t layer, ConstMat q, Mat out) const {
    reader->Choose(layer, shape_, q, 0, false);
    AttendChosen(*reader, q, out);
  }
  void AttendChosen(const SqueezedReader& reader, ConstMat q, Mat out) const {
    const DecodeArgs::Row row{.k = own_, .v = own_, .parts = reader.parts(0)};
    backend_->AttentionDecode({.shape = shape_, .q = q, .out = out, .rows = {&row, 1}});
  }
  std::vector<double> Numbers(ConstMat m) const {
    Matrix f32(m.rows, m.cols);
    backend_->Copy(m, f32);
    return {f32.Row<float>(0), f32.Row<float>(0) + m.rows * m.cols};
  }
  void VerifyHead(const KvParts& parts, int32_t layer, int32_t head, const Matrix& q, const Matrix& out,
                  double share) const {
    const int64_t dim = spec_.head_dim, group = spec_.heads / spec_.kv_heads;
    NaiveAttention twin{.rows = 1,
                        .keys = 1,
                        .heads = static_cast<int>(group),
                        .kv_heads = 1,
                        .dim = static_cast<int>(dim),
                        .scale = shape_.scale,
                        .visible = [](int64_t, int64_t) { return true; },
                        .q = Numbers(q.view().Cols(head * group * dim, group * dim)),
                        .k = Numbers(own_.view().Cols(head * dim, dim)),
                        .v = Numbers(own_.view().Cols(head * dim, dim)),
                        .softcap = shape_.softcap};
    for (int32_t i = parts.first[static_cast<size_t>(head)]; i < parts.first[static_cast<size_t>(head) + 1]; ++i) {
      const KvRange range = parts.ranges[static_cast<size_t>(i)];
      const int64_t n = range.end - range.begin;
      const std::vector<double> k = Numbers(parts.k.Rows(range.begin, n)), v = Numbers(parts.v.Rows(range.begin, n));
      twin.k.insert(twin.k.end(), k.begin(), k.end());
      twin.v.insert(twin.v.end(), v.begin(), v.end());
      twin.keys += n;
    }
    twin.Forward();
    CheckAgainst(
        twin.out, Numbers(out.view().Cols(head * group * dim, group * dim)), share,
        fmt::format("attention over {} keys of {}, layer {}, head {}", twin.keys - 1, cache_.seen(), layer, head));
  }

  Backend* backend_;
  ModelSpec spec_;
  const SqueezedOptions& options_;
  DType dtype_;
  AttnShape shape_;
  KvCache cache_;
  std::shared_ptr<const PrefixIndex> index_;
  double index_seconds_ = 0;
  std::vector<Matrix> queries_;
  Matrix own_;  // the token's key and value
};

void PrintRow(const nlohmann::json& row) {
  const auto number = [&](const char* key) { return row[key].get<double>(); };
  std::printf("%8lld %10.3f %10.3f %10.3f %8.2fx %10.1f %10.1f %8.1f %% %8.1f %% %9.1f\n",
              static_cast<long long>(row["context"].get<int64_t>()), number("dense_seconds") * 1e3,
              number("seconds") * 1e3, number("choosing_seconds") * 1e3, number("speedup"),
              number("dense_bytes") * 1e-6, number("bytes") * 1e-6, number("keys_share") * 100,
              number("centroids_share") * 100, number("index_seconds"));
  std::fflush(stdout);
}

/// The length from which squeezed attention is faster, between the two measured ones around it by a straight line of
/// the logarithms; null where it never is, or always.
nlohmann::json BreakEven(const nlohmann::json& rows) {
  for (size_t i = rows.size(); i-- > 1;) {
    const auto log_of = [&](size_t row, const char* key) { return std::log(rows[row][key].get<double>()); };
    const double below = log_of(i - 1, "speedup"), above = log_of(i, "speedup");
    if (below > 0 || above <= 0) continue;
    const double from = log_of(i - 1, "context"), to = log_of(i, "context");
    return std::round(std::exp(from + (to - from) * -below / (above - below)));
  }
  return nullptr;
}

int RunSqueezed(const SqueezedOptions& o, const CommonOptions& common) {
  ModelSpec spec;
  if (o.model.empty()) {
    TrainConfig config;
    config.context = 1 << 16;
    config.dims = ShapeByName(o.shape);
    spec = ScratchSpec(config, config.dims.vocab);
  } else {
    spec = LoadSpec(o.model);
  }
  if (o.layers > 0) spec.layers = std::min(spec.layers, o.layers);
  Validate(spec);
  ParseKeepRule(o.keep);
  std::vector<int64_t> lengths;
  for (const std::string& text : o.lengths) {
    const std::optional<int64_t> length = ParseSize(text);
    if (!length) Fail(ErrorKind::kUsage, "--lengths: '{}' is no number of tokens", text);
    CheckPrefixLength(*length, {});
    lengths.push_back(*length);
  }
  std::ranges::sort(lengths);
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  const DType dtype = QkvDType(spec, ParseDType(o.dtype));
  const MachinePeaks peaks = MeasurePeaks();
  if (!common.json) {
    PrintMachine(peaks);
    std::printf("%d layers, %d query and %d kv heads of %d channels, %s; keep %s, %d level%s\n", spec.layers,
                spec.heads, spec.kv_heads, spec.head_dim, std::string(Name(dtype)).c_str(), o.keep.c_str(), o.levels,
                o.levels == 1 ? "" : "s");
    std::printf("%8s %10s %10s %10s %9s %10s %10s %10s %10s %9s\n", "prefix", "dense ms", "ms", "choosing", "speedup",
                "dense MB", "MB", "keys", "centroids", "index s");
  }
  nlohmann::json rows = nlohmann::json::array();
  for (const int64_t length : lengths) {
    SqueezedBench bench(backend.get(), spec, dtype, o, length);
    bench.Verify();
    rows.push_back(bench.Time());
    if (!common.json) PrintRow(rows.back());
  }
  const nlohmann::json even = BreakEven(rows);
  if (common.json) {
    PrintJson({{"machine", MachineJson(peaks)}, {"rows", rows}, {"break_even", even}});
  } else if (!even.is_null()) {
    std::printf("faster than dense from about %.0f tokens on\n", even.get<double>());
  }
  return 0;
}

}  // namespace

std::function<int()> SetupBenchSqueezed(Command command, CommonOptions& common) {
  auto o = std::make_shared<SqueezedOptions>();
  command.Add("--model", o->model, "Take the sizes of this model");
  command.Add("--shape", o->shape, "Sizes by name").OneOf({"125m", "10m", "demo"}).ShowDefault();
  command.Add("--layers", o->layers, "Layers at most; 0: all of the model").Range(0, 1 << 16).ShowDefault();
  command.Add("--lengths", o->lengths, "Tokens of the prefix").Delimiter(',').ShowDefault();
  command.Add("--keep", o->keep, "What is read, as generate takes it").ShowDefault();
  command.Add("--levels", o->levels, "Levels of the index").Range(1, 2).ShowDefault();
  command.Add("--dtype", o->dtype, "Queries, keys and values: f32 or bf16").OneOf({"f32", "bf16"}).ShowDefault();
  command.Add("--queries", o->queries, "Tokens timed").Range(1, 1 << 16).ShowDefault();
  return [o, &common] { return RunSqueezed(*o, common); };
}

}  // namespace hawser
