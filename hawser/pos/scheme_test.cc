#include "hawser/pos/scheme.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

RopeSpec Spec(const std::string& text, double theta = 10000, int64_t context = 4096, int32_t d = 128) {
  return ApplyRopeText({.theta = theta, .rotary_dim = d}, text, context);
}

// Published tables hold ten significant digits, computed with sixty.
void ExpectTenDigits(double found, double want, const std::string& where) {
  EXPECT_NEAR(found, want, 5.1e-10 * std::abs(want)) << where;
}

struct TableRow {
  const char* text;
  double theta;
  int64_t context;
  int pairs[5];
  double inv_freq[5];
};

TEST(Frequencies, TableOfSchemes) {
  const TableRow rows[] = {
      {"default",
       1e4,
       4096,
       {1, 24, 32, 40, 63},
       {8.659643234e-01, 3.162277660e-02, 1e-2, 3.162277660e-03, 1.154781985e-04}},
      {"linear:factor=8",
       1e4,
       4096,
       {1, 24, 32, 40, 63},
       {1.082455404e-01, 3.952847075e-03, 1.25e-03, 3.952847075e-04, 1.443477481e-05}},
      {"ntk:factor=8",
       1e4,
       4096,
       {1, 24, 32, 40, 63},
       {8.378480019e-01, 1.432074855e-02, 3.477664048e-03, 8.445192086e-04, 1.443477481e-05}},
      {"dynamic:factor=8",
       1e4,
       4096,
       {1, 24, 32, 40, 63},
       {8.362830481e-01, 1.369238317e-02, 3.275709589e-03, 7.836673264e-04, 1.283091094e-05}},
      {"yarn:factor=8",
       1e4,
       4096,
       {1, 24, 32, 40, 63},
       {8.659643234e-01, 2.736586437e-02, 5.961538462e-03, 1.033821543e-03, 1.443477481e-05}},
      {"yarn:factor=8,truncate=0",
       1e4,
       4096,
       {1, 24, 32, 40, 63},
       {8.659643234e-01, 2.811208085e-02, 5.983133441e-03, 9.728577592e-04, 1.443477481e-05}},
      {"yarn:factor=8,blend=period",
       1e4,
       4096,
       {1, 24, 32, 40, 63},
       {8.659643234e-01, 1.522578133e-02, 2.363636364e-03, 4.952965010e-04, 1.443477481e-05}},
      {"yarn:factor=8,ramp=rotations",
       1e4,
       4096,
       {1, 24, 32, 40, 63},
       {8.659643234e-01, 2.146063374e-02, 2.807778439e-03, 4.900305207e-04, 1.443477481e-05}},
      {"ntk:factor=8",
       5e5,
       8192,
       {1, 20, 24, 32, 63},
       {7.881680611e-01, 8.558085868e-03, 3.302569514e-03, 4.918159662e-04, 3.068925989e-07}},
      {"yarn:factor=8",
       5e5,
       8192,
       {1, 20, 24, 32, 63},
       {8.146172339e-01, 1.485568890e-02, 5.040518274e-03, 3.951479071e-04, 3.068925989e-07}},
      {"llama3:factor=8,low=1,high=4,original=8192",
       5e5,
       131072,
       {1, 20, 24, 32, 63},
       {8.146172339e-01, 1.656044008e-02, 7.292664737e-03, 5.248461610e-04, 3.068925989e-07}},
  };
  for (const TableRow& row : rows) {
    const RopeFrequencies f = ComputeFrequencies(Spec(row.text, row.theta, row.context), 8192);
    ASSERT_EQ(f.inv_freq.size(), 64u);
    EXPECT_EQ(f.inv_freq[0], std::string(row.text) == "linear:factor=8" ? 0.125 : 1.0) << row.text;
    for (int i = 0; i < 5; ++i) ExpectTenDigits(f.inv_freq[row.pairs[i]], row.inv_freq[i], row.text);
  }
}

// The ramp's ends are held to [0, d - 1]: bases and contexts where one of them would lie outside.
TEST(Frequencies, YarnRampEnds) {
  const TableRow rows[] = {
      {"yarn:factor=8",
       1e4,
       100,
       {1, 2, 5, 6, 7},
       {2.239946676e-01, 4.166666667e-02, 3.952847075e-04, 1.250000000e-04, 3.952847075e-05}},
      {"yarn:factor=8",
       20,
       2130,
       {1, 2, 5, 6, 7},
       {6.876560219e-01, 4.728708045e-01, 1.537645610e-01, 1.057371263e-01, 6.564166887e-02}},
      {"yarn:factor=8",
       1e4,
       5,
       {1, 2, 5, 6, 7},
       {3.952847075e-02, 1.25e-02, 3.952847075e-04, 1.25e-04, 3.952847075e-05}},
  };
  for (const TableRow& row : rows) {
    const RopeFrequencies f = ComputeFrequencies(Spec(row.text, row.theta, row.context, 16), 0);
    EXPECT_EQ(f.inv_freq[0], 1.0);
    for (int i = 0; i < 5; ++i) ExpectTenDigits(f.inv_freq[row.pairs[i]], row.inv_freq[i], std::to_string(row.context));
  }
}

TEST(Frequencies, PhaseIncrementsAreExactToTheLastBit) {
  const RopeFrequencies f = ComputeFrequencies(Spec("default"), 0);
  EXPECT_EQ(f.turns[0], 0x28be60db9391054aull);
  EXPECT_EQ(f.turns[1], 0x234855e55644662full);
  EXPECT_EQ(f.turns[32], 0x00684dc4c179c52cull);
  EXPECT_EQ(f.turns[63], 0x00013458e2f59024ull);
  const RopeFrequencies g = ComputeFrequencies(Spec("default", 5e5), 0);
  EXPECT_EQ(g.turns[1], 0x2130c415f3514ea0ull);
  EXPECT_EQ(g.turns[63], 0x0000068e3fbde7a8ull);
}

TEST(Frequencies, YarnMultiplier) {
  const auto a = [](const std::string& text) { return ComputeFrequencies(Spec(text), 0).multiplier; };
  EXPECT_NEAR(a("yarn:factor=8"), 1.207944154168, 1e-12);
  EXPECT_NEAR(a("yarn:factor=32"), 1.346573590280, 1e-12);
  EXPECT_EQ(a("yarn:factor=1"), 1.0);
  EXPECT_EQ(a("yarn:factor=8,attention_factor=1.5,mscale=1,mscale_all_dim=2"), 1.5);
  EXPECT_EQ(a("yarn:factor=40,mscale=0.707,mscale_all_dim=0.707"), 1.0);
  EXPECT_NEAR(a("yarn:factor=40,mscale=1,mscale_all_dim=0"), 1.368887945, 1e-9);
  EXPECT_NEAR(a("yarn:factor=40,mscale=0.707"), 1.368887945, 1e-9);  // one alone does nothing
  EXPECT_EQ(a("llama3:factor=8"), 1.0);
  EXPECT_NEAR(std::pow(YarnMscale(40, 0.707), 2), 1.589626165121, 1e-12);
}

TEST(Frequencies, DynamicStartsBeyondTheOriginalContext) {
  const RopeFrequencies plain = ComputeFrequencies(Spec("default"), 0);
  EXPECT_EQ(ComputeFrequencies(Spec("dynamic:factor=8"), 100).turns, plain.turns);
  EXPECT_EQ(ComputeFrequencies(Spec("dynamic:factor=8"), 4096).turns, plain.turns);
  EXPECT_NE(ComputeFrequencies(Spec("dynamic:factor=8"), 4097).turns, plain.turns);
  EXPECT_EQ(ComputeFrequencies(Spec("yarn:factor=8"), 100).turns,
            ComputeFrequencies(Spec("yarn:factor=8"), 99999).turns);
}

// Factor 1 changes nothing, and every scheme lies between no scaling and linear interpolation.
TEST(Frequencies, SchemesStayBetweenTheirLimits) {
  for (std::string name : {"linear", "ntk", "dynamic", "yarn", "llama3"}) {
    for (int32_t d : {4, 16, 64, 128, 256}) {
      for (double theta : {1e4, 5e5, 1e7}) {
        const auto compute = [&](const std::string& text, int64_t length) {
          return ComputeFrequencies(Spec(text, theta, 4096, d), length);
        };
        const RopeFrequencies plain = compute("default", 0);
        const RopeFrequencies one = compute(name + ":factor=1", 4096);
        const RopeFrequencies eight = compute(name + ":factor=8", 32768);
        for (int32_t i = 0; i < d / 2; ++i) {
          EXPECT_NEAR(one.inv_freq[i], plain.inv_freq[i], 1e-15 * plain.inv_freq[i]) << name;
          EXPECT_LE(eight.inv_freq[i], plain.inv_freq[i]) << name << " " << i;
          const double floor = name == "dynamic" ? 57.0 : 8.0;  // 8 * 32768 / 4096 - 7
          EXPECT_GE(eight.inv_freq[i] * (1 + 1e-15), plain.inv_freq[i] / floor) << name << " " << i;
          if (i > 0) {
            EXPECT_LT(eight.inv_freq[i], eight.inv_freq[i - 1]) << name << " " << i;
          }
        }
      }
    }
  }
}

// Keys of the published vectors of each scheme, and the text of ours that they stand for.
TEST(Frequencies, AllPublishedVectors) {
  const char* data = std::getenv("HAWSER_DATA");
  const std::filesystem::path path = std::filesystem::path(data ? data : "") / ".." / "specs" / "position-vectors.json";
  if (!data || !std::filesystem::exists(path)) GTEST_SKIP() << "position-vectors.json is not there";
  std::ifstream stream(path);
  const nlohmann::json vectors = nlohmann::json::parse(stream);
  const auto real = [](const nlohmann::json& text) { return std::stod(text.get<std::string>()); };
  const auto spec_of = [&](const std::string& key, const nlohmann::json& v) -> std::optional<RopeSpec> {
    std::string text;
    if (key.starts_with("default") || key.starts_with("partial")) text = "default";
    if (key.starts_with("linear")) text = "linear:";
    if (key.starts_with("ntk")) text = "ntk:";
    if (key.starts_with("dynamic")) text = "dynamic:";
    if (key.starts_with("yarn_s")) text = "yarn:truncate=" + std::string(v.value("truncate", true) ? "1" : "0");
    if (key.starts_with("yarn_revised")) text = "yarn:blend=period";
    if (key.starts_with("yarn_rotation_ramp")) text = "yarn:ramp=rotations";
    if (key.starts_with("llama3")) text = "llama3:low=1,high=4";
    if (text.empty()) return std::nullopt;
    if (v.contains("factor")) text += (text.ends_with(':') ? "factor=" : ",factor=") + v["factor"].dump();
    const int64_t original = v.value("original_max_position_embeddings", v.value("max_position_embeddings", 4096));
    return Spec(text, v["base"], original, v.value("dim", v.value("rotary_dim", 0)));
  };
  int schemes = 0;
  for (const auto& [key, v] : vectors["schemes"].items()) {
    const std::optional<RopeSpec> spec = spec_of(key, v);
    if (!spec) continue;
    ++schemes;
    const RopeFrequencies f = ComputeFrequencies(*spec, v.value("seq_len", 0));
    for (const auto& [i, want] : v["inv_freq"].items())
      ExpectTenDigits(f.inv_freq.at(std::stoi(i)), real(want), key + " " + i);
    if (v.contains("attention_factor")) {
      EXPECT_NEAR(f.multiplier, real(v["attention_factor"]), 1e-12) << key;
    }
  }
  EXPECT_EQ(schemes, 23);
  for (const auto& [factor, want] : vectors["attention"]["yarn_mscale"].items()) {
    EXPECT_NEAR(YarnMscale(std::stod(factor), 1.0), real(want), 1e-12);
  }
  const auto named = [&](const std::string& key) {
    return Spec(key.starts_with("yarn") ? "yarn:factor=8" : "default", key.find("500000") == key.npos ? 1e4 : 5e5);
  };
  for (const auto& [key, turns] : vectors["fixed_point_turns_u64"].items()) {
    const RopeFrequencies f = ComputeFrequencies(named(key), 0);
    for (const auto& [i, want] : turns.items()) {
      EXPECT_EQ(f.turns.at(std::stoi(i)), std::stoull(want.get<std::string>(), nullptr, 16)) << key << " " << i;
    }
  }
  for (const auto& [key, rows] : vectors["cos_sin"].items()) {
    RopeFrequencies f = ComputeFrequencies(named(key), 0);
    f.multiplier = 1.0;  // the vectors are of the plain functions
    for (const nlohmann::json& row : rows) {
      const int64_t position = row["pos"];
      float cos[64], sin[64];
      FillRopeTable(f, &position, 1, cos, sin);
      EXPECT_NEAR(cos[row["i"].get<int>()], real(row["cos"]), 6e-8) << key << row;
      EXPECT_NEAR(sin[row["i"].get<int>()], real(row["sin"]), 6e-8) << key << row;
    }
  }
}

TEST(Table, TenMillion) {
  const RopeFrequencies f = ComputeFrequencies(Spec("default"), 0);
  const int64_t position = 9'999'999;
  float cos[64], sin[64];
  FillRopeTable(f, &position, 1, cos, sin);
  EXPECT_NEAR(cos[0], -0.136321516005, 6e-8);
  EXPECT_NEAR(sin[0], 0.990664647736, 6e-8);
  EXPECT_NEAR(cos[1], 0.763325354182, 6e-8);
  EXPECT_NEAR(cos[63], 0.244078187565, 6e-8);
  EXPECT_NEAR(sin[63], -0.969755555980, 6e-8);
}

// Against the long double functions of the phase in turns, on positions up to 2^40 and on every quarter's edges.
TEST(Table, IsTheRoundedFunction) {
  RopeFrequencies f;
  std::vector<int64_t> positions = {1};
  Rng rng{.seed = 3};
  for (int i = 0; i < 512; ++i) f.turns.push_back(rng.Bits());
  for (uint64_t eighth = 0; eighth < 8; ++eighth) {
    for (int64_t offset : {-1, 0, 1}) f.turns.push_back((eighth << 61) + static_cast<uint64_t>(offset));
  }
  for (int i = 0; i < 200; ++i) positions.push_back(static_cast<int64_t>(rng.Below(uint64_t{1} << 40)));
  const size_t half = f.turns.size();
  std::vector<float> cos(positions.size() * half), sin(cos.size());
  FillRopeTable(f, positions.data(), static_cast<int64_t>(positions.size()), cos.data(), sin.data());
  constexpr double kHalfUlp = 0x1p-25 + 1e-11;
  for (size_t n = 0; n < positions.size(); ++n) {
    for (size_t i = 0; i < half; ++i) {
      const long double turns = static_cast<long double>(static_cast<uint64_t>(positions[n]) * f.turns[i]) * 0x1p-64L;
      const long double angle = turns * 2 * std::numbers::pi_v<long double>;
      ASSERT_NEAR(cos[n * half + i], static_cast<double>(std::cos(angle)), kHalfUlp)
          << positions[n] << " " << f.turns[i];
      ASSERT_NEAR(sin[n * half + i], static_cast<double>(std::sin(angle)), kHalfUlp)
          << positions[n] << " " << f.turns[i];
    }
  }
}

TEST(Table, T24_PositionZeroIsTheIdentity) {
  const int64_t zero = 0;
  for (std::string text : {"default", "linear:factor=8", "yarn:factor=8,attention_factor=1", "llama3:factor=8"}) {
    float cos[64], sin[64];
    FillRopeTable(ComputeFrequencies(Spec(text), 0), &zero, 1, cos, sin);
    for (int i = 0; i < 64; ++i) {
      EXPECT_EQ(cos[i], 1.0f) << text;
      EXPECT_EQ(sin[i], 0.0f) << text;
    }
  }
  float cos[64], sin[64];
  const RopeFrequencies f = ComputeFrequencies(Spec("yarn:factor=8"), 0);
  FillRopeTable(f, &zero, 1, cos, sin);
  EXPECT_EQ(cos[5], static_cast<float>(f.multiplier));
  EXPECT_EQ(sin[5], 0.0f);
}

TEST(Table, T24_EntriesDependOnTheirPositionAlone) {
  const RopeFrequencies f = ComputeFrequencies(Spec("yarn:factor=8"), 0);
  std::vector<int64_t> positions(1000);
  for (size_t n = 0; n < positions.size(); ++n) positions[n] = static_cast<int64_t>(n * n * 7 % 40000);
  std::vector<float> cos(positions.size() * 64), sin(cos.size());
  FillRopeTable(f, positions.data(), 1000, cos.data(), sin.data());
  for (int64_t n : {0, 1, 63, 64, 500, 999}) {
    float one_cos[64], one_sin[64];
    FillRopeTable(f, &positions[n], 1, one_cos, one_sin);
    for (int i = 0; i < 64; ++i) {
      EXPECT_EQ(one_cos[i], cos[n * 64 + i]);
      EXPECT_EQ(one_sin[i], sin[n * 64 + i]);
    }
  }
  FillRopeTable(f, nullptr, 0, nullptr, nullptr);
}

// cos(m - n) from the rows of m and n equals that of their difference: exact phases, then f32 rounding only.
TEST(Table, DifferencesAreShiftInvariant) {
  const RopeFrequencies f = ComputeFrequencies(Spec("default", 5e5), 0);
  for (int64_t shift : {int64_t{0}, int64_t{131072}, int64_t{10'000'000}, (int64_t{1} << 31) - 2000}) {
    const int64_t positions[] = {shift + 1234, shift + 234, 1000};
    float cos[3 * 64], sin[3 * 64];
    FillRopeTable(f, positions, 3, cos, sin);
    for (int i = 0; i < 64; ++i) {
      EXPECT_NEAR(double{cos[i]} * cos[64 + i] + double{sin[i]} * sin[64 + i], cos[128 + i], 2.5e-7) << shift;
      EXPECT_NEAR(double{sin[i]} * cos[64 + i] - double{cos[i]} * sin[64 + i], sin[128 + i], 2.5e-7) << shift;
    }
  }
}

TEST(QueryScale, PublishedValues) {
  const QueryScale log{.kind = QueryScaleKind::kLog, .context = 4096};
  for (const auto& [position, scale] : {std::pair<int64_t, double>{0, 1},
                                        {4095, 1},
                                        {4096, 1.000029348},
                                        {8191, 1.083333333},
                                        {16383, 1.166666667},
                                        {32767, 1.25},
                                        {131071, 1.416666667},
                                        {int64_t{4096} * 4096 - 1, 2}}) {
    EXPECT_NEAR(log.At(position), scale, 2e-7 * scale) << position;
  }
  const QueryScale steps{.kind = QueryScaleKind::kFloorLog, .context = 8192};
  EXPECT_EQ(steps.At(8190), 1.0f);
  EXPECT_NEAR(steps.At(8191), 1.069314718, 1e-7);
  EXPECT_NEAR(steps.At(131071), 1.283321334, 1e-7);
  EXPECT_EQ(QueryScale().At(1 << 30), 1.0f);
}

TEST(QueryScale, IsPartOfARopeText) {
  const RopeSpec base{.rotary_dim = 16};
  const RopeSpec entropy_aware = ApplyRopeText(base, "eabf", 4096);
  EXPECT_EQ(ToString(entropy_aware), "default:theta=500000,q_temp=logn,q_context=4096");
  EXPECT_EQ(entropy_aware.query_scale.first_layer, 2);
  for (const char* text :
       {"default:q_temp=logn,q_context=512,q_first=0", "ntk:factor=4,original=64,q_temp=floor_log,q_context=64",
        "linear:factor=2,original=64,theta=500,q_temp=floor_log,q_context=8192,q_first=3,q_rate=0.25",
        "yarn:factor=2,original=64,attention_factor=1,q_temp=logn,q_context=64"}) {
    EXPECT_EQ(ToString(ApplyRopeText(base, text, 100)), text);
  }
  // Of a scaled model the context before it was scaled; another scheme takes the scale away, another base leaves it.
  const RopeSpec scaled = ApplyRopeText(base, "linear:factor=8,original=64,q_temp=logn", 512);
  EXPECT_EQ(scaled.query_scale.context, 64);
  EXPECT_EQ(ApplyRopeText(scaled, "theta=777", 512).query_scale, scaled.query_scale);
  EXPECT_FALSE(ApplyRopeText(scaled, "ntk:factor=8", 512).query_scale);
  EXPECT_EQ(ApplyRopeText(scaled, "eabf:theta=1e6,q_first=0", 512).theta, 1e6);
  const std::pair<const char*, const char*> kWrong[] = {
      {"default:q_temp=log", "did you mean 'logn'?"},
      {"default:q_context=64", "q_context needs q_temp"},
      {"default:q_temp=logn,q_context=1", "q_context=TOKENS, 2 or more: found 1"},
      {"default:q_temp=logn,q_rate=1", "q_rate is of q_temp=floor_log"},
      {"default:q_temp=floor_log,q_rate=-1", "q_rate='-1'"},
      {"default:q_temp=floor_log,q_first=99999", "q_first='99999'"},
      {"default:q_temp=logn,q_temp=logn", "given twice"},
      {"eabf:factor=2", "eabf has no 'factor'"},
      {"yarn:factor=8,original=64,q_temp=logn", "give attention_factor=1"}};
  for (const auto& [text, reason] : kWrong) {
    try {
      ApplyRopeText(base, text, 64);
      ADD_FAILURE() << text << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    }
  }
}

TEST(RopeText, OneSchemeAtATime) {
  const std::pair<const char*, const char*> kWrong[] = {
      {"eabf,yarn:factor=2", "eabf and yarn are two schemes"},
      {"eabf,yarn:factor=2", "theta=500000,q_temp=logn"},
      {"yarn:factor=2,eabf", "theta=500000,q_temp=logn"},
      {"yarn:factor=2, ntk:factor=4", "yarn and ntk are two schemes"},
      {"linear ntk", "linear and ntk"},
      {"yarn:factor=2,alibi", "yarn and alibi"},
      {"ntk:factor=2,string,yarn:factor=2", "ntk and yarn"},
      {"string,yarn:factor=2", "string stands behind the scheme"},
      {"string:shift=9,yarn:factor=2", "string stands behind the scheme"},
      {"string,q_temp=logn", "fields of string stand behind a colon"},
      {"string shift=20", "fields of string stand behind a colon"},
      {"theta=5e5,yarn:factor=2", "as in yarn:theta=5e5"}};
  for (const auto& [text, reason] : kWrong) {
    const std::string message = UsageMessage([&] { Spec(text); });
    EXPECT_NE(message.find(reason), std::string::npos) << text << ": " << message;
  }
}

TEST(RopeText, PrintsWhatItParses) {
  for (std::string text :
       {"default", "default:theta=500000", "linear:factor=8,original=4096", "ntk:factor=2.5,original=4096",
        "dynamic:factor=8,original=2048", "yarn:factor=8,original=4096", "yarn:factor=4,original=32768,theta=1000000",
        "yarn:factor=8,original=4096,beta_fast=16,beta_slow=2,truncate=0,ramp=rotations,blend=period,"
        "attention_factor=1.25,mscale=0.707,mscale_all_dim=0.5",
        "llama3:factor=8,original=8192,low=1,high=4", "llama3:factor=32,original=8192,low=1.5,high=4,theta=500000"}) {
    EXPECT_EQ(ToString(Spec(text)), text);
    EXPECT_EQ(Spec(ToString(Spec(text))), Spec(text));
  }
  RopeSpec third = Spec("yarn:factor=8");
  third.scaling.factor = 8.0 / 3.0;
  third.theta = 1e6 / 7.0;
  EXPECT_EQ(ApplyRopeText({.rotary_dim = 128}, ToString(third), 1), third);
}

TEST(RopeText, AppliesToABase) {
  const RopeSpec base{.theta = 5e5,
                      .rotary_dim = 64,
                      .pairing = RopePairing::kAdjacent,
                      .scaling = {.kind = RopeKind::kLlama3, .factor = 8, .original = 8192}};
  const RopeSpec yarn = ApplyRopeText(base, "yarn:factor=4", 16384);
  EXPECT_EQ(yarn.theta, 5e5);
  EXPECT_EQ(yarn.pairing, RopePairing::kAdjacent);
  EXPECT_EQ(yarn.scaling, (RopeScaling{.kind = RopeKind::kYarn, .factor = 4, .original = 8192}));
  EXPECT_EQ(ApplyRopeText(base, "default", 16384).scaling, RopeScaling{});
  const RopeSpec abf = ApplyRopeText(base, "theta=5e6", 16384);
  EXPECT_EQ(abf.theta, 5e6);
  EXPECT_EQ(abf.scaling, base.scaling);
}

TEST(RopeText, AScaledBaseGivesWhatTheUnscaledOneGives) {
  const RopeSpec plain{.theta = 5e5, .rotary_dim = 64};
  for (const char* before : {"linear:factor=2", "ntk:factor=2", "dynamic:factor=2", "yarn:factor=2", "llama3:factor=2",
                             "yarn:factor=2,ramp=rotations,numerics=reference"}) {
    const RopeSpec scaled = ApplyRopeText(plain, before, 512);
    EXPECT_EQ(OriginalContext(scaled, 1024), 512) << before;
    for (const char* text : {"default", "linear:factor=8", "ntk:factor=8", "dynamic:factor=8", "yarn:factor=8",
                             "llama3:factor=8", "yarn:factor=4,original=256"}) {
      EXPECT_EQ(ApplyRopeText(scaled, text, 1024), ApplyRopeText(plain, text, 512)) << before << ", then " << text;
    }
  }
  // A base of one's own takes the place of a scaling that is nothing but a base.
  EXPECT_EQ(ApplyRopeText(ApplyRopeText(plain, "ntk:factor=2", 512), "theta=1e6", 1024),
            ApplyRopeText(plain, "theta=1e6", 512));
  EXPECT_EQ(OriginalContext(plain, 1024), 1024);
}

TEST(RopeScaling, NtkIsItsBaseToTheBit) {
  for (const char* text : {"ntk:factor=8", "ntk:factor=3.7,theta=500000"}) {
    const RopeSpec ntk = ApplyRopeText({.rotary_dim = 64}, text, 512);
    EXPECT_EQ(BakeNtk(ntk).scaling, RopeScaling{});
    EXPECT_EQ(ComputeFrequencies(ntk, 512).turns, ComputeFrequencies(BakeNtk(ntk), 512).turns);
  }
}

TEST(RopeText, Errors) {
  const auto message = [](const std::string& text) { return UsageMessage([&] { ComputeFrequencies(Spec(text), 0); }); };
  const std::string unknown = message("yern:factor=8");
  EXPECT_NE(unknown.find("did you mean 'yarn'"), std::string::npos) << unknown;
  for (const char* name : {"default", "linear", "ntk", "dynamic", "yarn", "llama3", "theta", "string"}) {
    EXPECT_NE(RopeHelp().find(name), std::string::npos) << name;
  }
  EXPECT_NE(message("yarn:factor=8,beta_fats=2").find("did you mean 'beta_fast'"), std::string::npos);
  EXPECT_NE(message("linear").find("needs a factor"), std::string::npos);
  for (const char* text : {"",
                           "linear:",
                           "linear:factor",
                           "linear:,factor=8",
                           "linear:factor=8,,original=64",
                           "linear:factor=8,",
                           "linear:factor=0",
                           "linear:factor=-8",
                           "linear:factor=0.5",
                           "linear:factor=nan",
                           "linear:factor=inf",
                           "linear:factor=8x",
                           "linear:factor=8,factor=8",
                           "linear:factor=8,beta_fast=1",
                           "default:factor=8",
                           "yarn:factor=8,beta_fast=1,beta_slow=1",
                           "yarn:factor=8,beta_slow=0",
                           "yarn:factor=8,truncate=2",
                           "yarn:factor=8,ramp=pair",
                           "yarn:factor=8,blend=none",
                           "yarn:factor=8,original=0",
                           "yarn:factor=8,original=1.5",
                           "yarn:factor=8,attention_factor=0",
                           "yarn:factor=8,mscale=-1",
                           "llama3:factor=8,low=4,high=4",
                           "llama3:factor=8,low=0",
                           "theta=1",
                           "theta=-5",
                           "theta=x",
                           "theta=inf"}) {
    EXPECT_FALSE(message(text).empty()) << text;
  }
  for (std::string name : {"yarn", "llama3", "dynamic"}) {
    EXPECT_FALSE(UsageMessage([&] { Spec(name + ":factor=8", 1e4, 0); }).empty()) << name;
  }
  for (int32_t d : {0, -2, 7, 1 << 20}) {
    EXPECT_FALSE(UsageMessage([&] { ComputeFrequencies(Spec("default", 1e4, 1, d), 0); }).empty()) << d;
  }
  EXPECT_FALSE(UsageMessage([] { ComputeFrequencies(Spec("ntk:factor=8", 1e4, 1, 2), 0); }).empty());
  EXPECT_FALSE(UsageMessage([] { ComputeFrequencies(Spec("dynamic:factor=8", 1e4, 1, 2), 0); }).empty());
}

// Any bytes give a usage error or a scheme that prints back to itself and has finite frequencies.
TEST(RopeText, DamagedTextIsRefusedOrRead) {
  const std::string seed = "yarn:factor=8,original=4096,beta_fast=16,beta_slow=2,truncate=0,mscale=0.7,theta=500000";
  const std::string alphabet = ":=,.-+e0123456789abdfilnorty\xff";
  int read = 0;
  for (uint64_t i = 0; i < 20000; ++i) {
    Rng rng{.seed = 5, .stream = i};
    std::string text = seed.substr(0, rng.Below(seed.size() + 1));
    for (uint64_t n = rng.Below(4); n > 0 && !text.empty(); --n) {
      text[rng.Below(text.size())] = alphabet[rng.Below(alphabet.size())];
    }
    try {
      const RopeSpec spec = Spec(text, 1e4, 4096, 16);
      ++read;
      ASSERT_EQ(Spec(ToString(spec), 1e4, 1, 16), spec) << text;
      const RopeFrequencies f = ComputeFrequencies(spec, 8192);
      for (double x : f.inv_freq) ASSERT_TRUE(x >= 0 && x <= 1) << text << " " << x;
      ASSERT_TRUE(std::isfinite(f.multiplier)) << text;
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::kUsage) << text;
    }
  }
  EXPECT_GT(read, 500);
}

TEST(RopeText, MaxContext) {
  EXPECT_EQ(MaxContext(Spec("default"), 4096), 4096);
  EXPECT_EQ(MaxContext(Spec("theta=5e6"), 4096), 4096);
  EXPECT_EQ(MaxContext(Spec("linear:factor=8"), 4096), 32768);
  EXPECT_EQ(MaxContext(Spec("yarn:factor=4,original=32768"), 4096), 131072);
  EXPECT_EQ(MaxContext(Spec("llama3:factor=8,original=8192"), 131072), 131072);
  EXPECT_EQ(MaxContext(Spec("llama3:factor=32,original=8192"), 131072), 262144);
  EXPECT_EQ(MaxContext(Spec("dynamic:factor=8"), 4096), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(MaxContext(Spec("linear:factor=1e18,original=4096000000"), 4096), std::numeric_limits<int64_t>::max());
}

TEST(RopeText, AFactorFromTheContextWanted) {
  const RopeSpec base{.rotary_dim = 64};
  for (const char* name : {"yarn", "linear", "ntk", "dynamic", "llama3"}) {
    const std::string text = name;
    EXPECT_EQ(ApplyRopeText(base, text, 2048, 16384), ApplyRopeText(base, text + ":factor=8", 2048)) << name;
    EXPECT_EQ(ApplyRopeText(base, text + ":original=1k", 2048, 3072),
              ApplyRopeText(base, text + ":factor=3,original=1024", 2048));
    EXPECT_EQ(ApplyRopeText(base, text + ":factor=2", 2048, 16384), ApplyRopeText(base, text + ":factor=2", 2048));
    for (const int64_t wanted : {0, 100, 2048}) EXPECT_THROW(ApplyRopeText(base, text, 2048, wanted), Error) << name;
  }
  EXPECT_NE(RopeHelp().find("yarn"), std::string::npos);
}

TEST(Frequencies, LongRopeDividesByListsThatTheLengthChooses) {
  const RopeSpec spec = Spec("longrope:factor=4,original=100,short=1+1.25+2,long=2+4+8", 10000, 400, 6);
  EXPECT_EQ(ToString(spec), "longrope:factor=4,original=100,short=1+1.25+2,long=2+4+8");
  EXPECT_EQ(Spec(ToString(spec), 10000, 400, 6), spec);
  const RopeFrequencies plain = ComputeFrequencies({.rotary_dim = 6}, 1);
  const double divisors[2][3] = {{1, 1.25, 2}, {2, 4, 8}};
  for (const int64_t length : {1, 100, 101, 400}) {
    const RopeFrequencies scaled = ComputeFrequencies(spec, length);
    EXPECT_NEAR(scaled.multiplier, std::sqrt(1 + std::log(4.0) / std::log(100.0)), 1e-12);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_DOUBLE_EQ(scaled.inv_freq[i], plain.inv_freq[i] / divisors[length > 100][i]);
    }
  }
  EXPECT_EQ(ComputeFrequencies(Spec("longrope:factor=4,original=9,short=1,long=1,attention_factor=1.5", 1e4, 9, 2), 1)
                .multiplier,
            1.5);
  EXPECT_TRUE(DependsOnLength(spec));
  EXPECT_EQ(SameFrequenciesUntil(spec, 7), 100);
  EXPECT_EQ(SameFrequenciesUntil(spec, 101), int64_t{1} << 53);
  const RopeSpec dynamic = Spec("dynamic:factor=4,original=100");
  EXPECT_EQ(SameFrequenciesUntil(dynamic, 7), 100);
  EXPECT_EQ(SameFrequenciesUntil(dynamic, 101), 101);
  EXPECT_FALSE(DependsOnLength(Spec("yarn:factor=4")));
  EXPECT_NE(UsageMessage([] { Spec("longrope:factor=4", 1e4, 100, 6); }).find("no short=; wanted short=A+B+.. of 3"),
            std::string::npos);
  EXPECT_NE(
      UsageMessage([] { Spec("longrope:factor=4,short=1+2,long=1+2+3", 1e4, 100, 6); }).find("short= of 2 numbers"),
      std::string::npos);
  EXPECT_NE(UsageMessage([] { Spec("longrope:factor=4,short=1+0+2,long=1+2+3", 1e4, 100, 6); }).find("above 0"),
            std::string::npos);
}

}  // namespace
}  // namespace hawser
