// What is written to config.json and beside it reads back equal.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/hf_config.h"

namespace hawser {
namespace {

using nlohmann::json;

/// Writes `spec` and reads it again as a folder would.
ModelSpec RoundTrip(const ModelSpec& spec, bool* has_side_file = nullptr) {
  const std::string config = HfConfigText(spec, DType::kF32), side = SideFileText(spec, config);
  if (has_side_file != nullptr) *has_side_file = !side.empty();
  return MergeSideFile(ParseHfConfig(config), side);
}

TEST(HfConfigTest, WhatIsWrittenReadsBackEqual) {
  struct Case {
    const char* rope;
    int64_t context;
    bool side_file;
  };
  for (const Case& c : {Case{"default", 128, false},
                        {"theta=5e5", 256, false},
                        {"linear:factor=4", 512, false},
                        {"linear:factor=4", 300, true},  // nothing in the block tells 128 from 75
                        {"dynamic:factor=4", 128, false},
                        {"dynamic:factor=4", 512, true},
                        {"yarn:factor=4", 512, false},
                        {"yarn:factor=4", 300, true},  // written as 512
                        {"yarn:factor=4,beta_fast=20,beta_slow=2,truncate=0,attention_factor=1.5", 512, false},
                        {"yarn:factor=40,mscale=0.707,mscale_all_dim=0.707", 5120, false},
                        {"yarn:factor=1.3", 166, true},
                        {"yarn:factor=4,ramp=rotations", 512, true},
                        {"yarn:factor=4,blend=period", 512, true},
                        {"llama3:factor=8,low=1,high=4,original=100", 512, false}}) {
    SCOPED_TRACE(c.rope);
    for (const int32_t rotary_dim : {16, 12, 10}) {
      ModelSpec spec = TinySpec({.head_dim = 16, .context = 128});
      spec.rope.rotary_dim = rotary_dim;
      spec.rope = ApplyRopeText(spec.rope, c.rope, 128);
      spec.context = c.context;
      bool side_file = false;
      EXPECT_EQ(RoundTrip(spec, &side_file), spec);
      EXPECT_EQ(side_file, c.side_file);
      // Whoever reads config.json alone computes the same frequencies (dynamic: at any length).
      ModelSpec config = ParseHfConfig(HfConfigText(spec, DType::kBF16));
      config.rope.numerics = {};  // before f32
      for (const int64_t length : {128, 500, 4000}) {
        const RopeFrequencies ours = ComputeFrequencies(spec.rope, length),
                              theirs = ComputeFrequencies(config.rope, length);
        EXPECT_NEAR(ours.multiplier, theirs.multiplier, 1e-12);
        for (size_t i = 0; i < ours.inv_freq.size(); ++i) {
          EXPECT_NEAR(ours.inv_freq[i] / theirs.inv_freq[i], 1, 1e-12) << i;
        }
      }
    }
  }
}

TEST(HfConfigTest, NumericsAreWrittenBeside) {
  for (const char* text :
       {"default:numerics=reference", "yarn:factor=4,numerics=f32-qk", "default:numerics=table=bf16"}) {
    ModelSpec spec = TinySpec({.head_dim = 16, .context = 512});
    spec.rope = ApplyRopeText(spec.rope, text, 128);
    bool side_file = false;
    EXPECT_EQ(RoundTrip(spec, &side_file), spec) << text;
    EXPECT_TRUE(side_file) << text;
  }
}

TEST(HfConfigTest, NtkIsWrittenAsItsBase) {
  ModelSpec spec = TinySpec({.head_dim = 128, .context = 128});
  spec.rope = ApplyRopeText(spec.rope, "ntk:factor=8", 128);
  spec.context = 1024;
  bool side_file = false;
  EXPECT_EQ(RoundTrip(spec, &side_file), spec);
  EXPECT_TRUE(side_file);
  const ModelSpec others = ParseHfConfig(HfConfigText(spec, DType::kF32));
  EXPECT_EQ(others.rope.scaling, RopeScaling{});
  EXPECT_NEAR(others.rope.theta, 82684.6226406, 1e-7);  // 10000 * 8^(128/126)
}

TEST(HfConfigTest, WritesWhatEachGenerationOfReadersWants) {
  ModelSpec spec = TinySpec({.context = 128});
  spec.rope = ApplyRopeText(spec.rope, "yarn:factor=4", 128);
  spec.context = 400;
  spec.norm_eps = 1e-6f;
  const std::string text = HfConfigText(spec, DType::kBF16);
  const json config = json::parse(text);
  EXPECT_EQ(config["architectures"], json({"LlamaForCausalLM"}));
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  EXPECT_EQ(config["dtype"], "bfloat16");
  EXPECT_EQ(config["max_position_embeddings"], 512);  // readers take 512 / 128 for the factor
  EXPECT_EQ(config["rope_scaling"]["type"], "yarn");
  EXPECT_EQ(config["rope_scaling"]["rope_type"], "yarn");
  EXPECT_FALSE(config["rope_scaling"].contains("rope_theta"));
  EXPECT_EQ(config["rope_parameters"]["rope_theta"], 10000.0);
  EXPECT_TRUE(config["rope_scaling"]["factor"].is_number_float());
  EXPECT_TRUE(config["rope_theta"].is_number_float());
  EXPECT_TRUE(config["rope_scaling"]["original_max_position_embeddings"].is_number_integer());
  EXPECT_NE(text.find("\"rms_norm_eps\": 1e-06"), std::string::npos) << text;

  spec.rope = ApplyRopeText(TinySpec().rope, "default", 128);
  EXPECT_FALSE(json::parse(HfConfigText(spec, DType::kF32)).contains("rope_scaling"));
  spec.rope = ApplyRopeText(spec.rope, "dynamic:factor=4", 128);
  EXPECT_EQ(json::parse(HfConfigText(spec, DType::kF32))["max_position_embeddings"], 128);

  spec.sliding_window = 64;
  ExpectError(ErrorKind::kUsage, {"llama", "64", "mistral"}, [&] { HfConfigText(spec, DType::kF32); });
  spec.family = "mistral";
  EXPECT_EQ(RoundTrip(spec), spec);
  spec.sliding_window = 0;
  EXPECT_TRUE(json::parse(HfConfigText(spec, DType::kF32))["sliding_window"].is_null());
  spec.eos = {};
  spec.bos = -1;
  EXPECT_EQ(RoundTrip(spec), spec);
  spec.eos = {4, 2};
  EXPECT_EQ(RoundTrip(spec), spec);
  bool has_side_file = false;
  const RopeSpec plain = spec.rope;
  for (const char* rope : {"eabf", "linear:factor=2,original=64,q_temp=floor_log,q_context=64,q_first=1"}) {
    spec.rope = ApplyRopeText(plain, rope, 128);
    EXPECT_EQ(RoundTrip(spec, &has_side_file), spec) << rope;
    EXPECT_TRUE(has_side_file) << "queries that grow are nothing that config.json knows";
  }
  spec.rope = plain;
  spec.softmax = ParseSoftmax("self-adjust:nb=0.1");
  spec.segments = {.places = 7, .separators = {3, 5, 60}};
  EXPECT_EQ(RoundTrip(spec, &has_side_file), spec);
  EXPECT_TRUE(has_side_file);
}

TEST(HfConfigTest, ASideFileThatDisagreesIsRefused) {
  ModelSpec spec = TinySpec({.context = 128});
  spec.rope = ApplyRopeText(spec.rope, "yarn:factor=4,ramp=rotations", 128);
  const std::string config = HfConfigText(spec, DType::kF32);
  const ModelSpec parsed = ParseHfConfig(config);
  EXPECT_EQ(MergeSideFile(parsed, ""), parsed);  // others read it as longrope
  for (const char* side :
       {R"({"context": 128, "rope": "default"})", R"({"context": 128, "rope": "yarn:factor=4,original=128"})",
        R"({"context": 128, "rope": "yarn:factor=4,original=64,ramp=rotations"})",
        R"({"context": 128, "rope": "yarn:factor=4,original=128,ramp=rotations,attention_factor=2"})",
        R"({"context": 128, "rope": "yarn:factor=4,original=128,ramp=rotations", "softmax": "hard"})",
        R"({"context": 128, "rope": "yarn:factor=4,original=128,ramp=rotations", "segment_places": 4,
            "segment_separators": [3, 3]})",
        R"({"context": 128, "rope": "yarn:factor=4,original=128,ramp=rotations", "segment_places": -4})",
        R"({"context": 128, "rope": "spiral"})", R"({"context": 0, "rope": "default"})", R"({"context": 128})"}) {
    ExpectError(ErrorKind::kFormat, {}, [&] { MergeSideFile(parsed, side); });
  }
  EXPECT_EQ(MergeSideFile(parsed, R"({"context": 99, "rope": "yarn:factor=4,original=128,ramp=rotations"})").context,
            99);
}

}  // namespace
}  // namespace hawser
