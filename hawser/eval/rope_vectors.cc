#include "hawser/eval/rope_vectors.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/eval/report.h"
#include "hawser/pos/scheme.h"

namespace hawser {
namespace {

constexpr int64_t kDim = 128, kHalf = kDim / 2;
constexpr int64_t kShift = 16, kDistances = 1000;
constexpr int64_t kManyPairs = 8;
constexpr double kInfinite = std::numeric_limits<double>::infinity();

constexpr std::array<RopeSelfTestRange, 4> kRanges = {
    {{"0-4K", 0, 4000}, {"60-64K", 60000, 64000}, {"124-128K", 124000, 128000}, {"1.02M", 1020000, 1024000}}};

/// Measured with 4000 pairs by an independent program.
struct Known {
  const char* name;
  int digits;
  std::array<double, 4> shift;
};
constexpr Known kKnown[] = {
    {"f64", 1, {4e-14, 1e-12, 3e-12, 2e-11}},
    {"exact", 1, {8e-8, 9e-8, 8e-8, 8e-8}},
    {"hf-f32", 2, {2.0e-5, 7.0e-4, 1.4e-3, 9.1e-3}},
    {"f16-qk", 2, {4.1e-4, 4.2e-4, 4.2e-4, 4.1e-4}},
    {"hf-f16-qk", 2, {4.1e-4, 7.9e-4, 1.5e-3, 9.4e-3}},
    {"bf16-qk", 2, {3.4e-3, 3.3e-3, 3.3e-3, 3.3e-3}},
    {"hf-bf16-qk", 2, {3.3e-3, 3.4e-3, 3.6e-3, 9.5e-3}},
    {"bf16-table", 2, {4.2e-3, 4.3e-3, 4.5e-3, 1.0e-2}},
    {"all-bf16", 2, {5.3e-3, 5.4e-3, 5.4e-3, 1.1e-2}},
    {"bf16-inv-freq", 2, {3.3e-3, 3.3e-3, 3.3e-3, 3.3e-3}},
    {"bf16-positions", 2, {2.2e-1, 4.1e-1, 3.2e-1, 1.3e-1}},
    {"f16-positions", 2, {1.6e-2, 6.6e-1, kInfinite, kInfinite}},
};

/// Vectors and positions of one range, the same for every pipeline. Positions and distances are spread evenly, so that
/// rare events (a rounded position that jumps between s = 0 and 16) come as often as they should.
struct Samples {
  std::vector<double> q, k;  // [pairs, kDim]
  std::vector<int64_t> query, key;
  std::vector<double> exact;  // [pairs] A, not divided by sqrt(d)
};

/// cos and sin of positions [begin, begin + count).
struct Table {
  Table(const RopeNumerics& numerics, int64_t first, int64_t count)
      : frequencies(ComputeFrequencies({.rotary_dim = kDim, .numerics = numerics}, 0)),
        begin(first),
        cos(static_cast<size_t>(count * kHalf)),
        sin(cos.size()) {
    std::vector<int64_t> positions(static_cast<size_t>(count));
    std::iota(positions.begin(), positions.end(), begin);
    FillRopeTableF64(frequencies, positions.data(), count, cos.data(), sin.data());
  }
  RopeFrequencies frequencies;
  int64_t begin;
  std::vector<double> cos, sin;
};

/// <rotate(q, m), rotate(k, n)> with everything rounded as the table's numerics say.
double Score(const Table& table, const double* q, const double* k, int64_t m, int64_t n) {
  const RopeNumerics& numerics = table.frequencies.numerics;
  const FloatFormat store = numerics.qk.value_or(FloatFormat::kF32);
  const int64_t at_q = (m - table.begin) * kHalf, at_k = (n - table.begin) * kHalf;
  double sum = 0;
  for (int64_t i = 0; i < kHalf; ++i) {
    const RopePair a = RotatePair(numerics.math, q[i], q[i + kHalf], table.cos[at_q + i], table.sin[at_q + i]);
    const RopePair b = RotatePair(numerics.math, k[i], k[i + kHalf], table.cos[at_k + i], table.sin[at_k + i]);
    sum += RoundTo(store, a.low) * RoundTo(store, b.low) + RoundTo(store, a.high) * RoundTo(store, b.high);
  }
  return sum;
}

Samples MakeSamples(const RopeSelfTestRange& range, int64_t pairs, uint64_t seed) {
  Samples samples;
  const auto fill = [&](std::vector<double>& x, uint64_t stream) {
    x.resize(static_cast<size_t>(pairs * kDim));
    ParallelChunks(pairs, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * kDim; i < end * kDim; ++i) {
        Rng rng{seed, stream, 2 * static_cast<uint64_t>(i)};
        x[i] = RoundTo(FloatFormat::kBF16, rng.Normal());
      }
    });
  };
  fill(samples.q, 2 * static_cast<uint64_t>(range.begin));
  fill(samples.k, 2 * static_cast<uint64_t>(range.begin) + 1);
  const RopeNumerics f64 = ParseRopeNumerics("angle=turns+table=f64+math=f64+qk=f64");
  const Table near(f64, 0, kDistances);
  for (int64_t n = 0; n < pairs; ++n) {
    const double place = (static_cast<double>(n) + 0.5) / static_cast<double>(pairs);
    const double golden = static_cast<double>(n) * (std::numbers::phi - 1);  // its fractions fill [0, 1) evenly
    const auto m = range.begin + static_cast<int64_t>(place * static_cast<double>(range.end - range.begin));
    const auto distance = static_cast<int64_t>((golden - std::floor(golden)) * kDistances);
    samples.query.push_back(m);
    samples.key.push_back(std::max<int64_t>(0, m - distance));
    samples.exact.push_back(
        Score(near, samples.q.data() + n * kDim, samples.k.data() + n * kDim, m - samples.key.back(), 0));
  }
  return samples;
}

RopeSelfTestCell Measure(const RopeNumerics& numerics, const RopeSelfTestRange& range, const Samples& samples) {
  const auto pairs = static_cast<int64_t>(samples.query.size());
  const int64_t begin = std::max<int64_t>(0, range.begin - kDistances);
  const Table table(numerics, begin, range.end + kShift - begin);
  constexpr int64_t kPiece = 125;
  struct Sums {
    double shift = 0, error = 0;
  };
  std::vector<Sums> sums(static_cast<size_t>((pairs + kPiece - 1) / kPiece));
  ParallelChunks(pairs, kPiece, [&](int64_t first, int64_t last) {
    Sums& sum = sums[first / kPiece];
    for (int64_t i = first; i < last; ++i) {
      const double* q = samples.q.data() + i * kDim;
      const double* k = samples.k.data() + i * kDim;
      const double here = Score(table, q, k, samples.query[i], samples.key[i]);
      const double shifted = Score(table, q, k, samples.query[i] + kShift, samples.key[i] + kShift);
      sum.shift += (here - shifted) * (here - shifted);
      sum.error += (here - samples.exact[i]) * (here - samples.exact[i]);
    }
  });
  Sums total;
  for (const Sums& sum : sums) {
    total.shift += sum.shift;
    total.error += sum.error;
  }
  const auto rms = [&](double squares) { return std::sqrt(squares / static_cast<double>(pairs) / kDim); };
  return {.shift = rms(total.shift), .error = rms(total.error)};
}

}  // namespace

double RopeSelfTestCell::deviation() const {
  if (expected == 0) return 0;
  const bool overflow_known = std::isinf(expected), overflows = !std::isfinite(shift);
  if (overflow_known || overflows) return overflow_known && overflows ? 0 : kInfinite;
  const double off = shift - expected;
  return std::copysign(std::max(0.0, std::abs(off) - half_digit), off) / expected;
}

double RopeSelfTestReport::worst() const {
  double worst = 0;
  for (const RopeSelfTestRow& row : rows) {
    for (const RopeSelfTestCell& cell : row.cells) {
      worst = std::max(worst, std::abs(cell.deviation()));
    }
  }
  return worst;
}

RopeSelfTestReport RunRopeSelfTest(const RopeSelfTestOptions& options) {
  if (options.pairs < 1) Fail(ErrorKind::kUsage, "the self-test needs at least one pair, found {}", options.pairs);
  const auto start = std::chrono::steady_clock::now();
  RopeSelfTestReport report{.pairs = options.pairs};
  for (const std::string& name : options.pipelines) {
    report.rows.push_back({.name = name, .numerics = ParseRopeNumerics(name)});
  }
  for (const RopeNumericsName& named : NamedRopeNumerics()) {
    const bool is_exact_again = named.name == "f32-qk";  // q and k without a format of their own are f32 here
    if (!options.pipelines.empty() || is_exact_again) continue;
    report.rows.push_back({.name = std::string(named.name), .numerics = named.value});
  }
  for (size_t range = 0; range < kRanges.size(); ++range) {
    const Samples few = MakeSamples(kRanges[range], options.pairs, options.seed);
    const Samples many = MakeSamples(kRanges[range], kManyPairs * options.pairs, options.seed);
    for (RopeSelfTestRow& row : report.rows) {
      RopeSelfTestCell& cell = row.cells[range];
      const bool rare = row.numerics.positions != FloatFormat::kF64;
      cell = Measure(row.numerics, kRanges[range], rare ? many : few);
      for (const Known& known : kKnown) {
        if (known.name != row.name) continue;
        cell.expected = known.shift[range];
        cell.half_digit = 0.5 * std::pow(10.0, std::floor(std::log10(cell.expected)) - (known.digits - 1));
      }
    }
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

nlohmann::json ToJson(const RopeSelfTestReport& report) {
  nlohmann::json rows = nlohmann::json::array();
  for (const RopeSelfTestRow& row : report.rows) {
    for (size_t range = 0; range < kRanges.size(); ++range) {
      const RopeSelfTestCell& cell = row.cells[range];
      nlohmann::json entry = {{"pipeline", row.name},
                              {"positions", kRanges[range].label},
                              {"shift_rms", cell.shift},
                              {"error_rms", cell.error}};
      if (cell.expected > 0) {
        entry["expected"] = cell.expected;
        entry["deviation"] = cell.deviation();
      }
      rows.push_back(std::move(entry));
    }
  }
  return {{"pairs", report.pairs}, {"rows", std::move(rows)}, {"worst", report.worst()}, {"seconds", report.seconds}};
}

std::string ToText(const RopeSelfTestReport& report) {
  const auto number = [](double x) {
    return std::isnan(x) ? std::string("NaN") : std::isinf(x) ? std::string("overflow") : fmt::format("{:.1e}", x);
  };
  std::vector<std::string> header = {"pipeline"};
  for (const RopeSelfTestRange& range : kRanges) {
    header.insert(header.end(), {range.label, "expected", "off"});
  }
  header.push_back("absolute");
  TextTable table(header);
  for (const RopeSelfTestRow& row : report.rows) {
    std::vector<std::string> cells = {row.name};
    for (const RopeSelfTestCell& cell : row.cells) {
      cells.push_back(number(cell.shift));
      cells.push_back(cell.expected == 0 ? "" : number(cell.expected));
      cells.push_back(cell.expected == 0 ? "" : fmt::format("{:+.0f} %", 100 * cell.deviation()));
    }
    cells.push_back(number(row.cells[0].error));
    table.Row(std::move(cells));
  }
  return table.ToString();
}

}  // namespace hawser
