#include "hawser/pos/numerics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/pos/scheme.h"

namespace hawser {
namespace {

constexpr FloatFormat kAllFormats[] = {FloatFormat::kF64, FloatFormat::kF32, FloatFormat::kTF32, FloatFormat::kF16,
                                       FloatFormat::kBF16};

TEST(RoundTo, NearestTiesToEven) {
  const struct {
    FloatFormat format;
    double in, out;
  } rows[] = {
      {FloatFormat::kBF16, 257, 256},     {FloatFormat::kBF16, 259, 260},          {FloatFormat::kBF16, 65700, 65536},
      {FloatFormat::kF16, 2049, 2048},    {FloatFormat::kF16, 2051, 2052},         {FloatFormat::kF16, 65519, 65504},
      {FloatFormat::kTF32, 2049, 2048},   {FloatFormat::kTF32, 2051, 2052},        {FloatFormat::kTF32, 65520, 65536},
      {FloatFormat::kTF32, -2051, -2052}, {FloatFormat::kF32, 16777217, 16777216}, {FloatFormat::kF64, 0.1, 0.1},
  };
  for (const auto& row : rows) EXPECT_EQ(RoundTo(row.format, row.in), row.out) << Name(row.format) << " " << row.in;
  EXPECT_TRUE(std::isinf(RoundTo(FloatFormat::kF16, 65520)));
  for (FloatFormat format : kAllFormats) {
    EXPECT_TRUE(std::isnan(RoundTo(format, std::numeric_limits<double>::quiet_NaN()))) << Name(format);
    EXPECT_TRUE(std::isinf(RoundTo(format, -std::numeric_limits<double>::infinity()))) << Name(format);
    EXPECT_EQ(RoundTo(format, 1.0), 1.0);
    EXPECT_EQ(RoundTo(format, 0.0), 0.0);
  }
}

TEST(RoundTo, ErrsByAtMostHalfAUnitAndIsIdempotent) {
  const int bits[] = {53, 24, 11, 11, 8};
  Rng rng{7, 0, 0};
  for (int i = 0; i < 2000; ++i) {
    const double x = rng.Normal() * 30;
    for (size_t f = 0; f < std::size(bits); ++f) {
      const double y = RoundTo(kAllFormats[f], x);
      const double subnormal = 0x1p-25;  // of f16
      EXPECT_LE(std::abs(y - x), std::abs(x) * std::ldexp(1.0, -bits[f]) * 1.0001 + subnormal);
      EXPECT_EQ(RoundTo(kAllFormats[f], y), y);
    }
  }
}

TEST(RopeNumerics, TextRoundTrips) {
  std::set<std::string> names;
  for (const RopeNumericsName& named : NamedRopeNumerics()) {
    EXPECT_EQ(ParseRopeNumerics(named.name), named.value) << named.name;
    EXPECT_EQ(ToString(named.value), named.name);
    names.emplace(named.name);
  }
  EXPECT_EQ(names.size(), NamedRopeNumerics().size());
  EXPECT_EQ(ParseRopeNumerics("exact"), RopeNumerics());
  Rng rng{3, 0, 0};
  for (int i = 0; i < 300; ++i) {
    const auto any = [&] { return kAllFormats[rng.Below(5)]; };
    RopeNumerics n{any(), any(), static_cast<RopeAngle>(rng.Below(4)), any(), any()};
    if (rng.Below(2)) n.qk = any();
    EXPECT_EQ(ParseRopeNumerics(ToString(n)), n) << ToString(n);
    const RopeSpec spec{.theta = 5e5, .rotary_dim = 64, .numerics = n};
    EXPECT_EQ(ApplyRopeText({.rotary_dim = 64}, ToString(spec), 0), spec) << ToString(spec);
  }
}

TEST(RopeNumerics, SaysWhatIsWrongWithAText) {
  const auto message = [](std::string_view text) {
    try {
      ParseRopeNumerics(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return std::string(error.what());
    }
    ADD_FAILURE() << text << " was taken";
    return std::string();
  };
  EXPECT_NE(message("bf16qk").find("did you mean 'bf16-qk'"), std::string::npos);
  EXPECT_NE(message("tabel=bf16").find("did you mean 'table'"), std::string::npos);
  EXPECT_NE(message("table=bf17").find("did you mean 'bf16'"), std::string::npos);
  EXPECT_NE(message("table=bf16+table=f32").find("given twice"), std::string::npos);
  EXPECT_NE(message("angle=bf16").find("known: turns"), std::string::npos);
  message("");
  message("=");
  message("qk=");
  message("qk=f32+");
  message("qk=f32++table=bf16");
}

TEST(RopeNumerics, ApplyRopeTextKeepsOrReplacesThem) {
  const RopeSpec base{.rotary_dim = 64, .numerics = ParseRopeNumerics("reference")};
  EXPECT_EQ(ApplyRopeText(base, "theta=5e5", 0).numerics, base.numerics);
  EXPECT_EQ(ApplyRopeText(base, "default", 0).numerics, RopeNumerics());
  EXPECT_EQ(ApplyRopeText(base, "linear:factor=2,numerics=bf16-table", 0).numerics, ParseRopeNumerics("bf16-table"));
}

RopeFrequencies Frequencies(std::string_view numerics, double theta = 1e4) {
  return ComputeFrequencies({.theta = theta, .rotary_dim = 128, .numerics = ParseRopeNumerics(numerics)}, 0);
}

// Largest |cos - exact cos| at a position, in units of what f32 and iterated angles are known to reach.
double WorstCos(const RopeFrequencies& f, int64_t begin, int64_t end) {
  const RopeFrequencies exact = Frequencies("exact");
  double worst = 0;
  std::vector<double> cos(64), sin(64), want_cos(64), want_sin(64);
  for (int64_t p = begin; p < end; ++p) {
    FillRopeTableF64(f, &p, 1, cos.data(), sin.data());
    FillRopeTableF64(exact, &p, 1, want_cos.data(), want_sin.data());
    for (int i = 0; i < 64; ++i) worst = std::max(worst, std::abs(cos[i] - want_cos[i]));
  }
  return worst;
}

TEST(RopeTable, RoundedAnglesErrAsMuchAsTheyAreKnownTo) {
  EXPECT_NEAR(WorstCos(Frequencies("hf-f32"), 3096, 4096), 2.3e-4, 0.35e-4);
  EXPECT_NEAR(WorstCos(Frequencies("hf-f32"), 130072, 131072), 7.7e-3, 1.2e-3);
  EXPECT_NEAR(WorstCos(Frequencies("ggml"), 3096, 4096), 6.3e-4, 1e-4);
  EXPECT_NEAR(WorstCos(Frequencies("ggml"), 130072, 131072), 2.0e-2, 0.3e-2);
  EXPECT_LT(WorstCos(Frequencies("angle=f64+table=f32"), 130072, 131072), 7e-8);
}

TEST(RopeTable, TheTwoFormsAgreeAndTheDefaultIsExact) {
  const std::vector<int64_t> positions = {0, 1, 255, 257, 4095, 70000, 1 << 20};
  const auto count = static_cast<int64_t>(positions.size());
  for (const RopeNumericsName& named : NamedRopeNumerics()) {
    if (named.value.table == FloatFormat::kF64) continue;
    const RopeFrequencies f = Frequencies(named.name);
    std::vector<float> cos(count * 64), sin(count * 64);
    std::vector<double> wide_cos(count * 64), wide_sin(count * 64);
    FillRopeTable(f, positions.data(), count, cos.data(), sin.data());
    FillRopeTableF64(f, positions.data(), count, wide_cos.data(), wide_sin.data());
    for (size_t i = 0; i < cos.size(); ++i) {
      if (std::isnan(wide_cos[i])) {
        EXPECT_TRUE(std::isnan(cos[i])) << named.name;
        continue;
      }
      EXPECT_NEAR(cos[i], wide_cos[i], 6e-8) << named.name;  // the default's own way rounds a Taylor sum
      EXPECT_NEAR(sin[i], wide_sin[i], 6e-8) << named.name;
      EXPECT_EQ(RoundTo(named.value.table, wide_cos[i]), wide_cos[i]);
    }
  }
}

TEST(RopeTable, LongTablesAreThoseOfTheirPositions) {
  const RopeFrequencies f = Frequencies("reference");
  std::vector<int64_t> positions(10000);
  for (size_t n = 0; n < positions.size(); ++n) positions[n] = static_cast<int64_t>(n * n * 7 % 40000);
  std::vector<float> cos(positions.size() * 64), sin(cos.size());
  FillRopeTable(f, positions.data(), static_cast<int64_t>(positions.size()), cos.data(), sin.data());
  for (const size_t n : {0, 1, 4095, 4096, 8191, 8192, 9999}) {
    float one_cos[64], one_sin[64];
    FillRopeTable(f, &positions[n], 1, one_cos, one_sin);
    for (size_t i = 0; i < 64; ++i) {
      EXPECT_EQ(cos[n * 64 + i], one_cos[i]) << n;
      EXPECT_EQ(sin[n * 64 + i], one_sin[i]) << n;
    }
  }
}

TEST(RopeTable, RoundedFrequenciesAreWhatTheFormatHolds) {
  const RopeFrequencies exact = Frequencies("exact"), rounded = Frequencies("bf16-inv-freq");
  double worst = 0;
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(rounded.inv_freq[i], RoundTo(FloatFormat::kBF16, exact.inv_freq[i]));
    worst = std::max(worst, std::abs(rounded.inv_freq[i] / exact.inv_freq[i] - 1));
  }
  EXPECT_GT(worst, 2e-3);
  EXPECT_LE(worst, 0x1p-8);
  // The phases are exact ones of the rounded frequency.
  const double turns = static_cast<double>(rounded.turns[9]) * 0x1p-64;
  EXPECT_NEAR(turns * 2 * M_PI, rounded.inv_freq[9], 1e-15);
}

TEST(RopeTable, IteratedAnglesAreForUnscaledFrequencies) {
  RopeSpec spec{.rotary_dim = 64, .numerics = ParseRopeNumerics("ggml")};
  spec.scaling = {.kind = RopeKind::kLinear, .factor = 2};
  try {
    ComputeFrequencies(spec, 0);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
  }
}

TEST(RotatePair, PositionZeroIsTheIdentityInEveryFormat) {
  for (FloatFormat format : kAllFormats) {
    const double a = RoundTo(format, 1.234567891234), b = RoundTo(format, -0.7654321);
    const RopePair pair = RotatePair(format, a, b, 1.0, 0.0);
    EXPECT_EQ(pair.low, a);
    EXPECT_EQ(pair.high, b);
  }
}

}  // namespace
}  // namespace hawser
