#include "hawser/train/peft.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "hawser/base/file.h"
#include "hawser/device/registry.h"
#include "hawser/io/json.h"
#include "hawser/io/safetensors.h"
#include "hawser/model/decoder.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/peft_golden.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kContext = 64;

ModelSpec Spec() {
  return TinySpec(
      {.vocab = 32, .heads = 4, .kv_heads = 2, .head_dim = 8, .width = 32, .mlp_width = 24, .context = kContext});
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
  ParamStore params(Spec(), DType::kF32);
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
    KvCache cache(backend_.get(), decoder.spec(), ParseKvForm("full"), {}, DType::kF32, rows);
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

  const fs::path folder_ = FreshFolder("peft_test_" + std::to_string(getpid()));
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
  const ParamLayout all(Spec());
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
  const LoraSpec lora = ReadPeftSpec(folder_ / "first", ParamLayout(Spec()));
  const ParamStore adapters = ReadPeft(folder_ / "first", Spec());
  SavePeft(adapters, lora, "base", folder_ / "second");
  const ParamStore again = ReadPeft(folder_ / "second", Spec());
  ASSERT_EQ(again.size(), adapters.size());
  EXPECT_EQ(std::memcmp(again.arena().data, adapters.arena().data, static_cast<size_t>(again.size()) * 4), 0);
  EXPECT_EQ(ReadPeftSpec(folder_ / "second", ParamLayout(Spec())).scale(), lora.scale());
  // Half precision is read exactly.
  WriteGolden(Golden("plain"), folder_ / "half", DType::kBF16);
  const ParamStore half = ReadPeft(folder_ / "half", Spec()), rounded = Cast(adapters, DType::kBF16);
  EXPECT_EQ(
      std::memcmp(Cast(half, DType::kBF16).arena().data, rounded.arena().data, static_cast<size_t>(half.size()) * 2),
      0);
}

TEST_F(PeftTest, WhatComputesSomethingElseIsNamed) {
  const ParamLayout all(Spec());
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
                                                                     {"rank_pattern", {{"q_proj", 4}}},
                                                                     {"alpha_pattern", {{"q_proj", 4}}},
                                                                     {"modules_to_save", {"lm_head"}},
                                                                     {"layer_replication", {{0, 1}}},
                                                                     {"something_new", 3}};
  for (const auto& [key, value] : kUnsupportedKeys) ExpectError(ErrorKind::kUnsupported, {key}, with(key, value));
  ExpectError(ErrorKind::kFormat, {"r"}, with("r", 0));
  ExpectError(ErrorKind::kUsage, {"lora_A", "[4, 32]", "[3, 32]"}, with("r", 4));
  EXPECT_NO_THROW(with("lora_dropout", 0.1)());
  EXPECT_NO_THROW(with("init_lora_weights", "gaussian")());

  // Tensors of another model, and tensors that are no adapters.
  WriteGolden(Golden("plain"), folder_ / "b");
  const ModelSpec wide = TinySpec({.vocab = 32, .head_dim = 8, .width = 40, .mlp_width = 24, .context = kContext});
  ExpectError(ErrorKind::kUsage, {"lora_A"}, [&] { ReadPeftSpec(folder_ / "b", ParamLayout(wide)); });
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
