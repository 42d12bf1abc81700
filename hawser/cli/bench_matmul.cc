// `hawser bench matmul`: the three products of a linear layer, each held against the formula in double on a small case,
// then timed in turns with oneDNN's own primitive on the same matrices and threads. Ours runs in pieces whose results
// do not depend on the number of threads; `of_onednn` says what that costs.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "hawser/base/rng.h"
#include "hawser/cli/bench.h"
#include "hawser/device/registry.h"

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

double Peak(const MachinePeaks& peaks, DType dtype) {
  if (dtype == DType::kF32) return peaks.f32_gflops;
  return std::max({peaks.f32_gflops, peaks.bf16_avx512_gflops, peaks.bf16_amx_gflops});
}

int RunBench(const Options& options, const CommonOptions& common) {
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
  command.Add("--dtype", options->dtype, "f32 or bf16 (both)").OneOf({"f32", "bf16"});
  command.Add("--direction", options->direction, "forward, dx, dw or all")
      .OneOf({"forward", "dx", "dw", "all"})
      .ShowDefault();
  command.Add("--repeat", options->repeat, "Timed turns of each row").Range(1, 1000).ShowDefault();
  return [options, &common] { return RunBench(*options, common); };
}

}  // namespace hawser
