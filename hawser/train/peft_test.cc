#include "hawser/train/peft.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <set>
#include <utility>

#include "hawser/base/file.h"
#include "hawser/device/registry.h"
#include "hawser/io/json.h"
#include "hawser/io/safetensors.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/peft_golden.h"
#include "hawser/zoo/families.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLoraContext = 64;

ModelSpec AdaptedSpec() {
  return TinySpec(
      {.vocab = 32, .heads = 4, .kv_heads = 2, .head_dim = 8, .width = 32, .mlp_width = 24, .context = kLoraContext});
}

uint32_t Crc32(const std::string& text) {
  uint32_t crc = ~0u;
  for (const char c : text) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

/// The values that scripts/goldens/adapters.py gives the tensor of this name.
void Fill(const std::string& name, int64_t size, float* out) {
  const double centre = name.find("norm") != name.npos ? 1.0 : 0.0;
  uint32_t state = Crc32(name);
  for (int64_t i = 0; i < size; ++i) {
    state = state * 1664525u + 1013904223u;
    out[i] = static_cast<float>(centre + ((state >> 24) - 127.5) / 256.0);
  }
}

ParamStore GoldenModel() {
  ParamStore params(AdaptedSpec(), DType::kF32);
  for (const ParamInfo& info : params.layout().params()) Fill(info.name, info.size(), params.At(info).Row<float>(0));
  return params;
}

/// The shape of an adapter of the model above with this rank.
std::vector<int64_t> Shape(const std::string& name, int64_t rank) {
  const bool a = name.find("lora_A") != name.npos;
  const bool down = name.find("down_proj") != name.npos, mlp = name.find(".mlp.") != name.npos;
  const bool kv = name.find("k_proj") != name.npos || name.find("v_proj") != name.npos;
  const int64_t in = down ? 24 : 32, out = mlp && !down ? 24 : kv ? 16 : 32;
  return a ? std::vector<int64_t>{rank, in} : std::vector<int64_t>{out, rank};
}

/// Writes the folder that PEFT saved.
void WriteGolden(const PeftGolden& golden, const fs::path& folder, DType dtype = DType::kF32) {
  MakeDirectories(folder);
  WriteBytes(folder / "adapter_config.json", golden.config);
  const int64_t rank = ParseJson(golden.config)["r"];
  std::vector<std::vector<float>> values;
  std::vector<TensorToWrite> tensors;
  for (const std::string& name : golden.tensors) {
    const std::vector<int64_t> shape = Shape(name, rank);
    values.emplace_back(static_cast<size_t>(shape[0] * shape[1]));
    Fill(name, shape[0] * shape[1], values.back().data());
  }
  for (size_t i = 0; i < values.size(); ++i) {
    tensors.push_back(
        {golden.tensors[i], {DType::kF32, Shape(golden.tensors[i], rank), std::as_bytes(std::span(values[i]))}, dtype});
  }
  WriteSafetensors(folder / "adapter_model.safetensors", std::move(tensors));
}

class PeftTest : public ::testing::Test {
 protected:
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<float> Logits(const ParamStore& params) {
    const auto rows = static_cast<int64_t>(kPeftIds.size());
    Decoder decoder(backend_.get(), &params);
    KvCache cache = NewKvCache(backend_.get(), decoder.spec(), ParseKvForm("full"), {}, DType::kF32, rows);
    std::vector<float> all;
    for (const int32_t id : kPeftIds) {
      std::vector<float> logits(32);
      decoder.Extend(std::span(&id, 1), &cache, {logits.data(), DType::kF32, 1, 32, 32});
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  }
  const PeftGolden& Golden(const std::string& name) const {
    for (const PeftGolden& golden : kPeftGoldens) {
      if (golden.name == name) return golden;
    }
    throw std::logic_error(name);
  }

  const fs::path folder_ = FreshFolder("peft");
  const std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST_F(PeftTest, LogitsAreThoseOfPeft) {
  const std::vector<float> without = Logits(GoldenModel());
  for (const PeftGolden& golden : kPeftGoldens) {
    WriteGolden(golden, folder_ / golden.name);
    ParamStore params = GoldenModel();
    MergePeft(folder_ / golden.name, backend_.get(), &params);
    const std::vector<float> logits = Logits(params);
    ASSERT_EQ(logits.size(), golden.logits.size());
    double worst = 0, effect = 0, size = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      worst = std::max(worst, std::abs(double{logits[i]} - golden.logits[i]));
      effect = std::max(effect, std::abs(double{without[i]} - golden.logits[i]));
      size = std::max(size, std::abs(double{golden.logits[i]}));
    }
    EXPECT_LT(worst, 1e-5 * size) << golden.name;
    EXPECT_GT(effect, 0.01 * size) << golden.name << ": the adapters change nothing";
  }
}

TEST_F(PeftTest, SaysWhatItAdapts) {
  const ModelSpec all = AdaptedSpec();
  WriteGolden(Golden("plain"), folder_ / "run/adapter");
  const LoraSpec plain = ReadPeftSpec(folder_ / "run", all);  // a run folder that holds adapters
  EXPECT_EQ(plain.rank, 3);
  EXPECT_EQ(plain.alpha, 7);
  EXPECT_EQ(plain.targets, (std::vector<std::string>{"down_proj", "q_proj", "v_proj"}));
  WriteGolden(Golden("rslora"), folder_ / "rs");
  EXPECT_DOUBLE_EQ(ReadPeftSpec(folder_ / "rs", all).scale(), 5 / std::sqrt(2.0));
  // Only a layer of two: whole names.
  WriteGolden(Golden("regex"), folder_ / "regex");
  EXPECT_EQ(ReadPeftSpec(folder_ / "regex", all).targets,
            (std::vector<std::string>{"model.layers.1.mlp.gate_proj", "model.layers.1.self_attn.q_proj"}));
}

TEST_F(PeftTest, WhatIsSavedIsReadBackToTheBit) {
  WriteGolden(Golden("plain"), folder_ / "first");
  const LoraSpec lora = ReadPeftSpec(folder_ / "first", AdaptedSpec());
  const ParamStore adapters = ReadPeft(folder_ / "first", AdaptedSpec());
  SavePeft(adapters, lora, "base", folder_ / "second");
  const ParamStore again = ReadPeft(folder_ / "second", AdaptedSpec());
  ASSERT_EQ(again.size(), adapters.size());
  EXPECT_EQ(std::memcmp(again.arena().data, adapters.arena().data, static_cast<size_t>(again.size()) * 4), 0);
  EXPECT_EQ(ReadPeftSpec(folder_ / "second", AdaptedSpec()).scale(), lora.scale());
  // Half precision is read exactly.
  WriteGolden(Golden("plain"), folder_ / "half", DType::kBF16);
  const ParamStore half = ReadPeft(folder_ / "half", AdaptedSpec()), rounded = Cast(adapters, DType::kBF16);
  EXPECT_EQ(
      std::memcmp(Cast(half, DType::kBF16).arena().data, rounded.arena().data, static_cast<size_t>(half.size()) * 2),
      0);
}

/// A small model of a family, all of whose matrices are drawn from their names.
ParamStore ModelOf(const std::string& family, const std::function<void(ModelSpec&)>& change) {
  ModelSpec spec = AdaptedSpec();
  spec.family = family;
  spec.block = FindFamily(family).block;
  change(spec);
  ParamStore params(spec, DType::kF32);
  for (const ParamInfo& info : params.layout().params()) Fill(info.name, info.size(), params.At(info).Row<float>(0));
  return params;
}

// What a family fuses or calls otherwise is written as its classes have it, and merges to the same weights.
TEST_F(PeftTest, AdaptersOfFusedModulesAreThoseOfTheFamily) {
  struct Case {
    const char* family;
    std::function<void(ModelSpec&)> change;
    std::vector<std::string> modules;  // of the first layer, sorted
    int64_t rank;                      // of the fused module
  };
  const auto alone = [](ModelSpec&) {};
  const Case cases[] = {
      {"gpt_neox",
       [](ModelSpec& s) { s.kv_heads = 4, s.block.residual = Residual::kParallelTwoNorms; },
       {"gpt_neox.layers.0.attention.query_key_value", "gpt_neox.layers.0.mlp.dense_4h_to_h",
        "gpt_neox.layers.0.mlp.dense_h_to_4h"},
       6},
      {"falcon",
       [](ModelSpec& s) { s.block.residual = Residual::kParallelTwoNorms; },
       {"transformer.h.0.mlp.dense_4h_to_h", "transformer.h.0.mlp.dense_h_to_4h",
        "transformer.h.0.self_attention.query_key_value"},
       6},
      {"phi3",
       alone,
       {"model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate_up_proj", "model.layers.0.self_attn.qkv_proj"},
       6},
      {"baichuan",
       [](ModelSpec& s) { s.kv_heads = 4; },
       {"model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.W_pack"},
       6},
      {"llama",
       alone,
       {"model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj"},
       3},
  };
  const LoraSpec lora{.rank = 3, .alpha = 5, .targets = {"q_proj", "v_proj", "up_proj", "down_proj"}};
  for (const Case& c : cases) {
    const ParamStore params = ModelOf(c.family, c.change);
    ParamStore adapters(params.spec(), LoraLayout(params.layout(), lora), DType::kF32);
    for (const ParamInfo& info : adapters.layout().params()) {
      Fill(info.name, info.size(), adapters.At(info).Row<float>(0));
    }
    SavePeft(adapters, lora, "base", folder_ / c.family);
    const auto config = ParseJson(ReadFile(folder_ / c.family / "adapter_config.json"));
    std::vector<std::string> modules;
    for (const std::string name : config["target_modules"]) {
      if (name.find(".0.") != name.npos) modules.push_back(name);
    }
    std::ranges::sort(modules);
    EXPECT_EQ(modules, c.modules) << c.family;
    for (const auto& [name, rank] : config["rank_pattern"].items()) {
      EXPECT_EQ(rank, c.rank) << name;
      EXPECT_EQ(config["alpha_pattern"][name], c.rank / 3 * 5) << name;
    }
    // The matrices themselves come back, and so does what they add.
    const LoraSpec again = ReadPeftSpec(folder_ / c.family, params.spec());
    EXPECT_EQ(again.rank, 3);
    EXPECT_EQ(again.alpha, 5);
    EXPECT_EQ(std::set(again.targets.begin(), again.targets.end()), std::set(lora.targets.begin(), lora.targets.end()));
    const ParamStore read = ReadPeft(folder_ / c.family, params.spec());
    ASSERT_EQ(read.size(), adapters.size()) << c.family;
    EXPECT_EQ(std::memcmp(read.arena().data, adapters.arena().data, static_cast<size_t>(read.size()) * sizeof(float)),
              0)
        << c.family;
  }
}

// One A for all that is fused, as the library trains it, ranks and scales that differ.
TEST_F(PeftTest, AnAdapterOfAFusedModuleAdaptsEachOfItsMatrices) {
  const ParamStore params = ModelOf("gpt_neox", [](ModelSpec& s) { s.kv_heads = 4; });
  const std::string fused = "gpt_neox.layers.1.attention.query_key_value", down = "gpt_neox.layers.1.mlp.dense_4h_to_h";
  std::vector<std::vector<float>> values;
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const std::string& module, const char* side, std::vector<int64_t> shape) {
    const std::string name = "base_model.model." + module + ".lora_" + side + ".weight";
    values.emplace_back(static_cast<size_t>(shape[0] * shape[1]));
    Fill(name, shape[0] * shape[1], values.back().data());
    tensors.push_back({name, {DType::kF32, shape, std::as_bytes(std::span(values.back()))}, DType::kF32});
  };
  values.reserve(4);
  add(fused, "A", {2, 32});
  add(fused, "B", {96, 2});
  add(down, "A", {4, 24});
  add(down, "B", {32, 4});
  MakeDirectories(folder_ / "a");
  WriteSafetensors(folder_ / "a/adapter_model.safetensors", tensors);
  WriteBytes(
      folder_ / "a/adapter_config.json",
      R"({"r": 2, "lora_alpha": 3, "rank_pattern": {"dense_4h_to_h": 4}, "alpha_pattern": {"dense_4h_to_h": 5}})");
  ParamStore merged = Cast(params, DType::kF32);
  MergePeft(folder_ / "a", backend_.get(), &merged);
  double worst = 0;
  const auto check = [&](Role role, int64_t row, int64_t file_row, const std::vector<float>& a,
                         const std::vector<float>& b, int64_t rank, double scale) {
    for (int64_t col = 0; col < merged.Get(role, 1).cols; ++col) {
      double wanted = params.Get(role, 1).Row<float>(row)[col];
      for (int64_t r = 0; r < rank; ++r) {
        wanted += scale * double{b[static_cast<size_t>(file_row * rank + r)]} *
                  a[static_cast<size_t>(r * merged.Get(role, 1).cols + col)];
      }
      worst = std::max(worst, std::abs(wanted - merged.Get(role, 1).Row<float>(row)[col]));
    }
  };
  // Rows of a head: 8 queries, 8 keys, 8 values.
  check(Role::kQuery, 11, 24 + 3, values[0], values[1], 2, 1.5);
  check(Role::kKey, 17, 48 + 8 + 1, values[0], values[1], 2, 1.5);
  check(Role::kValue, 30, 72 + 16 + 6, values[0], values[1], 2, 1.5);
  check(Role::kDown, 5, 5, values[2], values[3], 4, 1.25);
  EXPECT_LT(worst, 1e-5);
  EXPECT_EQ(TargetsInModel(params.spec(), {"query_key_value", "o_proj", "mlp.dense_4h_to_h"}),
            (std::vector<std::string>{"k_proj", "q_proj", "v_proj", "o_proj", "down_proj"}));
  EXPECT_EQ(TargetsInModel(params.spec(), {"layers.0.attention.query_key_value", "nothing"}),
            (std::vector<std::string>{"model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.q_proj",
                                      "model.layers.0.self_attn.v_proj", "nothing"}));
}

TEST_F(PeftTest, WhatComputesSomethingElseIsNamed) {
  const ModelSpec all = AdaptedSpec();
  const auto with = [&](const char* key, const nlohmann::json& value) {
    WriteGolden(Golden("plain"), folder_ / "a");
    nlohmann::json config = ParseJson(Golden("plain").config);
    config[key] = value;
    WriteBytes(folder_ / "a/adapter_config.json", config.dump());
    return [&] { ReadPeftSpec(folder_ / "a", all); };
  };
  const std::pair<const char*, nlohmann::json> kUnsupportedKeys[] = {{"peft_type", "IA3"},
                                                                     {"bias", "all"},
                                                                     {"use_dora", true},
                                                                     {"lora_bias", true},
                                                                     {"fan_in_fan_out", true},
                                                                     {"init_lora_weights", "pissa"},
                                                                     {"rank_pattern", {{"(q|k)_proj", 4}}},
                                                                     {"alpha_pattern", {{"^model", 4}}},
                                                                     {"modules_to_save", {"lm_head"}},
                                                                     {"layer_replication", {{0, 1}}},
                                                                     {"something_new", 3}};
  for (const auto& [key, value] : kUnsupportedKeys) ExpectError(ErrorKind::kUnsupported, {key}, with(key, value));
  ExpectError(ErrorKind::kFormat, {"r"}, with("r", 0));
  for (const double alpha : {0.0, 1e-300, 1e300}) {
    ExpectError(ErrorKind::kFormat, {"lora_alpha must be"}, with("lora_alpha", alpha));
  }
  ExpectError(ErrorKind::kUsage, {"lora_A", "[4, 32]", "[3, 32]"}, with("r", 4));
  EXPECT_NO_THROW(with("lora_dropout", 0.1)());
  EXPECT_NO_THROW(with("init_lora_weights", "gaussian")());

  // Tensors of another model, and tensors that are no adapters.
  WriteGolden(Golden("plain"), folder_ / "b");
  const ModelSpec wide = TinySpec({.vocab = 32, .head_dim = 8, .width = 40, .mlp_width = 24, .context = kLoraContext});
  ExpectError(ErrorKind::kUsage, {"lora_A"}, [&] { ReadPeftSpec(folder_ / "b", wide); });
  PeftGolden other = Golden("plain");
  other.tensors[0].replace(other.tensors[0].find("layers.0"), 8, "layers.7");
  WriteGolden(other, folder_ / "c");
  EXPECT_THROW(ReadPeftSpec(folder_ / "c", all), Error);
  other.tensors = {"base_model.model.model.embed_tokens.lora_embedding_A"};
  WriteGolden(other, folder_ / "d");
  ExpectError(ErrorKind::kUsage, {"adapter_model.safetensors", "lora_embedding_A"},
              [&] { ReadPeftSpec(folder_ / "d", all); });
  ExpectError(ErrorKind::kIo, {"adapter_config.json"}, [&] { ReadPeftSpec(folder_ / "none", all); });
}

}  // namespace
}  // namespace hawser
