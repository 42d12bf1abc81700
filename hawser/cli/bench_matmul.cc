// `hawser bench matmul`: the three products of a linear layer, each held against the formula in double on a small case,
// then timed in turns with oneDNN's own primitive on the same matrices and threads. Ours runs in pieces whose results
// do not depend on the number of threads; `of_onednn` says what that costs. With a storage type of weights as --dtype,
// BF16 activations are multiplied by weights as they lie, in turns with the product of the same weights in BF16; a few
// tokens are judged by the bytes of weights read against the bandwidth of memory.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>

#include "hawser/base/rng.h"
#include "hawser/cli/bench.h"
#include "hawser/device/registry.h"
#include "hawser/quant/block.h"

namespace hawser {
namespace {

struct Options {
  std::vector<std::string> shapes;
  std::string dtype, direction = "all";
  int repeat = 15;
};

/// y [m, n] = x [m, k] W^T, and its gradients.
struct Shape {
  int64_t m, n, k;
};

/// One product: "forward" y = x W^T, "dx" dx = dy W, "dw" dW += dy^T x (f32).
struct Run {
  Run(Backend& b, Shape s, DType dtype, const std::string& direction, uint64_t seed) : backend(b) {
    const bool dw = direction == "dw", forward = direction == "forward";
    a = backend.NewMatrix(s.m, forward ? s.k : s.n, dtype);
    other = backend.NewMatrix(dw ? s.m : s.n, s.k, dtype);
    c = backend.NewMatrix(dw ? s.n : s.m, forward ? s.n : s.k, dw ? DType::kF32 : dtype);
    uint64_t stream = 0;
    for (Matrix* m : {&a, &other}) {
      Matrix host(m->rows(), m->cols(), DType::kF32);
      Rng rng{.seed = seed, .stream = ++stream};
      for (int64_t i = 0; i < host.rows() * host.cols(); ++i)
        host.Row<float>(0)[i] = static_cast<float>(rng.Uniform() - 0.5);
      backend.Copy(host, *m);
    }
    args = {.a = a, .trans_a = dw, .b = other, .trans_b = forward, .c = c, .accumulate = dw};
  }
  double Flops() const { return 2.0 * static_cast<double>(c.rows() * c.cols() * (args.trans_a ? a.rows() : a.cols())); }

  Backend& backend;
  Matrix a, other, c;
  MatMulArgs args;
};

void Verify(Backend& backend, DType dtype, const std::string& direction, uint64_t seed) {
  Run run(backend, {37, 70, 133}, dtype, direction, seed);
  backend.MatMul(run.args);
  const auto values = [&](const Matrix& m) {
    Matrix f32(m.rows(), m.cols(), DType::kF32);
    backend.Copy(m, f32);
    return f32;
  };
  const Matrix a = values(run.a), b = values(run.other), c = values(run.c);
  const int64_t inner = run.args.trans_a ? a.rows() : a.cols();
  for (int64_t i = 0; i < c.rows(); ++i) {
    for (int64_t j = 0; j < c.cols(); ++j) {
      double want = 0, size = 0;
      for (int64_t q = 0; q < inner; ++q) {
        const double product = static_cast<double>(run.args.trans_a ? a.Row<float>(q)[i] : a.Row<float>(i)[q]) *
                               (run.args.trans_b ? b.Row<float>(j)[q] : b.Row<float>(q)[j]);
        want += product;
        size += std::abs(product);
      }
      const double bound = 1e-6 * size + (run.c.view().dtype == DType::kBF16 ? 0x1p-8 * std::abs(want) : 0.0);
      if (!(std::abs(c.Row<float>(i)[j] - want) <= bound)) {
        Fail(ErrorKind::kNumeric,
             "bench: matmul {} ({}) gives {} where {} is right; the kernels are wrong on this machine", direction,
             Name(dtype), c.Row<float>(i)[j], want);
      }
    }
  }
}

/// Medians over `repeat` turns of the seconds of both, and of their ratio (theirs / ours). Each turn runs one, then the
/// other, often enough to last some milliseconds, so that what else the machine does meets both alike.
struct Duel {
  double ours = 0, theirs = 0, ratio = 0, spread = 0;
};
Duel Fight(int repeat, const std::function<void()>& ours, const std::function<void()>& theirs) {
  const auto seconds = [](int times, const std::function<void()>& body) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / times;
  };
  ours();
  const int times = static_cast<int>(std::clamp(3e-3 / (seconds(1, ours) + 1e-9), 1.0, 1000.0));
  std::vector<double> a, b, ratios;
  for (int turn = 0; turn <= repeat; ++turn) {
    const double mine = seconds(times, ours), its = theirs ? seconds(times, theirs) : 0.0;
    if (turn == 0) continue;  // warm
    a.push_back(mine);
    b.push_back(its);
    ratios.push_back(its / mine);
  }
  const auto median = [](std::vector<double> v) {
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    return v[v.size() / 2];
  };
  const auto [low, high] = std::minmax_element(a.begin(), a.end());
  return {median(a), median(b), median(ratios), (*high - *low) / median(a)};
}

Shape ParseShape(const std::string& text) {
  Shape s{};
  int used = 0;
  long long m = 0, n = 0, k = 0;
  const bool read = std::sscanf(text.c_str(), "%lld,%lld,%lld%n", &m, &n, &k, &used) == 3;
  constexpr long long kMost = 1 << 24;
  if (!read || used != static_cast<int>(text.size()) || std::min({m, n, k}) < 1 || std::max({m, n, k}) > kMost ||
      std::max({m * n, n * k, m * k}) > (int64_t{1} << 31)) {
    Fail(ErrorKind::kUsage,
         "--shape wants m,n,k such as 2048,1536,576 with matrices of at most 2^31 elements; found '{}'", text);
  }
  return s = {m, n, k};
}

std::vector<Shape> Shapes(const Options& options) {
  if (options.shapes.empty()) {
    // Blocks of small language models over a batch of tokens, a square, and decoding one token.
    return {{2048, 256, 256},   {2048, 1536, 576}, {2048, 576, 1536},
            {2048, 2048, 2048}, {1, 1536, 576},    {1, 8192, 2048}};
  }
  std::vector<Shape> shapes;
  for (const std::string& text : options.shapes) shapes.push_back(ParseShape(text));
  return shapes;
}

/// Weights of a storage type, `copies` times, so that turns read memory and not caches; BF16 activations.
struct StoredRun {
  StoredRun(Backend& b, Shape s, DType stored, int64_t least_bytes, uint64_t seed)
      : backend(b), shape(s), stored(stored), row_bytes(*RowBytes(stored, s.k)) {
    const int64_t bytes = row_bytes * s.n;
    copies = std::max<int64_t>(1, least_bytes / bytes);
    memory = Buffer(static_cast<size_t>(copies * bytes));
    x = backend.NewMatrix(s.m, s.k, DType::kBF16);
    y = backend.NewMatrix(s.m, s.n, DType::kF32);
    Matrix host(s.m, s.k, DType::kF32);
    Rng rng{.seed = seed, .stream = 3};
    for (int64_t i = 0; i < s.m * s.k; ++i) host.Row<float>(0)[i] = static_cast<float>(rng.Normal());
    backend.Copy(host, x);
    // A few rows, again and again: what they say does not change the time.
    const BlockType& type = *FindBlockType(stored);
    const int64_t distinct = std::min<int64_t>(8, s.n);
    std::vector<float> row(static_cast<size_t>(s.k));
    auto* to = memory.as<std::byte>();
    for (int64_t r = 0; r < distinct; ++r) {
      for (float& v : row) v = static_cast<float>(rng.Normal());
      type.encode(row.data(), s.k / type.values, to + r * row_bytes);
    }
    for (int64_t r = distinct; r < copies * s.n; ++r) {
      std::memcpy(to + r * row_bytes, to + r % distinct * row_bytes, static_cast<size_t>(row_bytes));
    }
  }
  ConstMat Weights(int64_t copy) const {
    return {memory.as<std::byte>() + copy % copies * shape.n * row_bytes, stored, shape.n, shape.k, row_bytes};
  }
  void Go() { backend.Linear({.x = x, .w = Weights(turn++), .y = y}); }

  Backend& backend;
  Shape shape;
  DType stored;
  int64_t row_bytes, copies = 1, turn = 0;
  Buffer memory;
  Matrix x, y;
};

/// Against the decoded weights in double: x in 8 bits is off by at most max |x| / 254 of its 32, decoded weights by one
/// rounding to BF16.
void VerifyStored(Backend& backend, DType stored, uint64_t seed) {
  const BlockType& type = *FindBlockType(stored);
  for (const int64_t tokens : {1, 3, 33}) {
    StoredRun run(backend, {tokens, 21, 768}, stored, 0, seed);
    run.Go();
    Matrix x(tokens, 768);
    backend.Copy(run.x, x);
    std::vector<float> w(768);
    for (int64_t j = 0; j < 21; ++j) {
      type.decode(run.Weights(0).Row<std::byte>(j), 768 / type.values, w.data());
      for (int64_t t = 0; t < tokens; ++t) {
        double want = 0, size = 0, off = 0;
        for (int64_t b = 0; b < 768; b += 32) {
          double most = 0, sum = 0;
          for (int64_t i = b; i < b + 32; ++i) {
            const double value = x.Row<float>(t)[i], weight = w[static_cast<size_t>(i)];
            want += value * weight, size += std::abs(value * weight);
            most = std::max(most, std::abs(value)), sum += std::abs(weight);
          }
          off += most / 254.0 * sum;
        }
        const double got = run.y.Row<float>(t)[j], bound = std::max(off, 0x1p-8 * size) + 1e-5 * size;
        if (!(std::abs(got - want) <= bound)) {
          Fail(ErrorKind::kNumeric,
               "bench: weights in {} give {} where {} is right; the kernels are wrong on this machine", type.name, got,
               want);
        }
      }
    }
  }
}

double Peak(const MachinePeaks& peaks, DType dtype) {
  if (dtype == DType::kF32) return peaks.f32_gflops;
  return std::max({peaks.f32_gflops, peaks.bf16_avx512_gflops, peaks.bf16_amx_gflops});
}

int RunStored(const Options& options, const CommonOptions& common, const BlockType& type) {
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  if (type.encode == nullptr) {
    Fail(ErrorKind::kUnsupported, "bench: {} is only read, and the bench writes its weights; use another type",
         type.name);
  }
  std::vector<Shape> shapes = {{1, 4096, 4096}, {4, 4096, 4096}, {8, 4096, 4096}, {512, 4096, 4096}};
  if (!options.shapes.empty()) shapes = Shapes(options);
  for (const Shape& s : shapes) {
    if (s.k % type.values != 0) {
      Fail(ErrorKind::kUsage, "bench: rows of {} inputs are no whole blocks of {}, which hold {} values", s.k,
           type.name, type.values);
    }
  }
  VerifyStored(*backend, type.dtype, common.seed);
  const MachinePeaks peaks = MeasurePeaks();
  if (!common.json) {
    PrintMachine(peaks);
    std::printf("%-6s %7s %7s %7s %10s %7s %8s %10s %9s %8s\n", "dtype", "m", "n", "k", "us", "spread", "GB/s",
                "of memory", "GFLOP/s", "of bf16");
  }
  constexpr int64_t kBeyondCaches = int64_t{256} << 20;
  nlohmann::json rows = nlohmann::json::array();
  for (const Shape& s : shapes) {
    StoredRun run(*backend, s, type.dtype, kBeyondCaches, common.seed);
    const int64_t low_copies = std::max<int64_t>(1, kBeyondCaches / (2 * s.n * s.k));
    Matrix low = backend->NewMatrix(low_copies * s.n, s.k, DType::kBF16);
    backend->Fill(low, 0.5f);
    int64_t turn = 0;
    const Duel duel = Fight(
        options.repeat, [&] { run.Go(); },
        [&] { backend->Linear({.x = run.x, .w = low.view().Rows(turn++ % low_copies * s.n, s.n), .y = run.y}); });
    const double gb = static_cast<double>(run.row_bytes * s.n) / duel.ours / 1e9;
    const double gflops = 2.0 * static_cast<double>(s.m * s.n * s.k) / duel.ours / 1e9;
    rows.push_back({{"name", fmt::format("matmul weights {} {},{},{}", type.name, s.m, s.n, s.k)},
                    {"dtype", type.name},
                    {"m", s.m},
                    {"n", s.n},
                    {"k", s.k},
                    {"tokens", s.m},
                    {"direction", "forward"},
                    {"seconds", duel.ours},
                    {"spread", duel.spread},
                    {"gb_per_s", gb},
                    {"memory_fraction", gb / peaks.gb_per_s},
                    {"gflops", gflops},
                    {"of_bf16", duel.ratio}});
    if (common.json) continue;
    std::printf("%-6s %7ld %7ld %7ld %10.1f %6.0f%% %8.1f %9.0f%% %9.0f %8.2f\n", std::string(type.name).c_str(),
                static_cast<long>(s.m), static_cast<long>(s.n), static_cast<long>(s.k), duel.ours * 1e6,
                duel.spread * 100, gb, gb / peaks.gb_per_s * 100, gflops, duel.ratio);
    std::fflush(stdout);
  }
  if (common.json) PrintJson({{"machine", MachineJson(peaks)}, {"rows", rows}});
  return 0;
}

int RunBench(const Options& options, const CommonOptions& common) {
  for (const BlockType* type : BlockTypes()) {
    if (type->name == options.dtype) return RunStored(options, common, *type);
  }
  const std::vector<Shape> shapes = Shapes(options);
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  std::vector<DType> dtypes = {DType::kF32, DType::kBF16};
  if (!options.dtype.empty()) dtypes = {ParseDType(options.dtype)};
  std::vector<std::string> directions = {"forward", "dx", "dw"};
  if (options.direction != "all") directions = {options.direction};
  for (const DType dtype : dtypes) {
    for (const std::string& direction : directions) Verify(*backend, dtype, direction, common.seed);
  }
  const MachinePeaks peaks = MeasurePeaks();
  if (!common.json) {
    PrintMachine(peaks);
    std::printf("%-6s %-8s %7s %7s %7s %10s %7s %9s %6s %9s %10s\n", "dtype", "product", "m", "n", "k", "us", "spread",
                "GFLOP/s", "peak", "onednn", "of onednn");
  }
  nlohmann::json rows = nlohmann::json::array();
  for (const DType dtype : dtypes) {
    for (const Shape& s : shapes) {
      for (const std::string& direction : directions) {
        Run run(*backend, s, dtype, direction, common.seed);
        const Duel duel = Fight(
            options.repeat, [&] { backend->MatMul(run.args); }, LibraryMatMul(run.args));
        const double gflops = run.Flops() / duel.ours / 1e9, peak = Peak(peaks, dtype);
        nlohmann::json row = {{"name", fmt::format("matmul {} {} {},{},{}", direction, Name(dtype), s.m, s.n, s.k)},
                              {"dtype", Name(dtype)},
                              {"m", s.m},
                              {"n", s.n},
                              {"k", s.k},
                              {"tokens", s.m},
                              {"direction", direction},
                              {"density", 1.0},
                              {"seconds", duel.ours},
                              {"spread", duel.spread},
                              {"gflops", gflops},
                              {"peak_fraction", gflops / peak}};
        std::string theirs = "-", share = "-";
        if (duel.theirs > 0) {
          row["onednn_gflops"] = run.Flops() / duel.theirs / 1e9;
          row["of_onednn"] = duel.ratio;
          theirs = fmt::format("{:.0f}", run.Flops() / duel.theirs / 1e9);
          share = fmt::format("{:.2f}", duel.ratio);
        }
        if (!common.json) {
          std::printf("%-6s %-8s %7ld %7ld %7ld %10.1f %6.0f%% %9.0f %5.0f%% %9s %10s\n",
                      std::string(Name(dtype)).c_str(), direction.c_str(), static_cast<long>(s.m),
                      static_cast<long>(s.n), static_cast<long>(s.k), duel.ours * 1e6, duel.spread * 100, gflops,
                      gflops / peak * 100, theirs.c_str(), share.c_str());
          std::fflush(stdout);
        }
        rows.push_back(std::move(row));
      }
    }
  }
  if (common.json) PrintJson({{"machine", MachineJson(peaks)}, {"rows", rows}});
  return 0;
}

}  // namespace

std::function<int()> SetupBenchMatMul(Command command, CommonOptions& common) {
  auto options = std::make_shared<Options>();
  command.Add("--shape", options->shapes,
              "A layer with m tokens, n outputs and k inputs, as m,n,k; may be given again");
  command
      .Add("--dtype", options->dtype,
           "f32 or bf16 (both); or how weights are stored, forward only: q8_0, q4_0, q4_k, ...")
      .OneOf({"f32", "bf16", "q8_0", "q4_0", "q4_1", "q4_k", "q6_k"});
  command.Add("--direction", options->direction, "forward, dx, dw or all")
      .OneOf({"forward", "dx", "dw", "all"})
      .ShowDefault();
  command.Add("--repeat", options->repeat, "Timed turns of each row").Range(1, 1000).ShowDefault();
  return [options, &common] { return RunBench(*options, common); };
}

}  // namespace hawser
