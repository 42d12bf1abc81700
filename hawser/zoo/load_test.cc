#include "hawser/zoo/load.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "hawser/base/file.h"
#include "hawser/io/convert.h"
#include "hawser/io/safetensors.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/test_data.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/families.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr TinyDims kSmall{.vocab = 9, .layers = 1, .heads = 2, .kv_heads = 1, .width = 6, .mlp_width = 5};

void ExpectSameBits(const ParamStore& a, const ParamStore& b) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.arena().data, b.arena().data, static_cast<size_t>(a.size()) * SizeOf(a.dtype())), 0);
}

/// The folder's tensors with `change` applied, written back.
void Rewrite(const fs::path& folder, const std::function<void(std::vector<TensorToWrite>&)>& change) {
  const fs::path path = folder / "model.safetensors";
  const TensorSource source = ReadSafetensors(path);
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, view] : source.tensors()) tensors.push_back({name, view, view.dtype});
  change(tensors);
  WriteSafetensors(path, tensors);
}
TensorToWrite& Named(std::vector<TensorToWrite>& tensors, std::string_view name) {
  return *std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) { return tensor.name == name; });
}

TEST(LoadTest, WhatIsSavedLoadsBackEqual) {
  const fs::path folder = FreshFolder("load_round");
  for (const bool tie : {false, true}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      ModelSpec spec = TinySpec({.tie = tie});
      spec.rope = ApplyRopeText(spec.rope, "yarn:factor=4", 32);
      const ParamStore params = TinyModel(spec, 7, dtype == DType::kBF16 ? DType::kBF16 : DType::kF32);
      SaveHuggingFace(params, nullptr, dtype, folder);
      const LoadedModel model = LoadModel(folder);
      EXPECT_EQ(model.spec, spec);
      EXPECT_EQ(model.params.spec(), spec);
      EXPECT_EQ(LoadSpec(folder), spec);
      EXPECT_EQ(model.file_dtype, dtype);
      EXPECT_EQ(model.format, "Hugging Face folder");
      EXPECT_EQ(model.tokenizer, nullptr);
      EXPECT_EQ(InspectModel(folder).file_dtype, dtype);
      if (dtype == DType::kF16) {  // rounded once: saved again it is the same file
        const std::string before = ReadFile(folder / "model.safetensors");
        SaveHuggingFace(model.params, nullptr, dtype, folder);
        EXPECT_EQ(ReadFile(folder / "model.safetensors"), before);
      } else {
        ExpectSameBits(Cast(model.params, dtype), params);
      }
    }
  }
}

TEST(LoadTest, StandsByTheNamesOfHuggingFace) {
  const fs::path folder = FreshFolder("load_names");
  SaveHuggingFace(TinyModel(TinySpec(kSmall), 1), nullptr, DType::kF32, folder);
  const TensorSource source = ReadSafetensors(folder / "model.safetensors");
  const std::string layer = "model.layers.0.";
  const std::vector<std::pair<std::string, std::vector<int64_t>>> wanted = {
      {"model.embed_tokens.weight", {9, 6}},
      {layer + "input_layernorm.weight", {6}},
      {layer + "self_attn.q_proj.weight", {16, 6}},
      {layer + "self_attn.k_proj.weight", {8, 6}},
      {layer + "self_attn.v_proj.weight", {8, 6}},
      {layer + "self_attn.o_proj.weight", {6, 16}},
      {layer + "post_attention_layernorm.weight", {6}},
      {layer + "mlp.gate_proj.weight", {5, 6}},
      {layer + "mlp.up_proj.weight", {5, 6}},
      {layer + "mlp.down_proj.weight", {6, 5}},
      {"model.norm.weight", {6}},
      {"lm_head.weight", {9, 6}}};
  EXPECT_EQ(source.tensors().size(), wanted.size());
  for (const auto& [name, shape] : wanted) {
    ASSERT_NE(source.Find(name), nullptr) << name;
    EXPECT_EQ(source.Find(name)->shape, shape) << name;
  }
}

TEST(LoadTest, NamesTensorsThatDoNotFit) {
  const fs::path folder = FreshFolder("load_misfit");
  const ParamStore params = TinyModel(TinySpec(kSmall), 1);
  struct Case {
    ErrorKind kind;
    std::vector<std::string_view> words;
    std::function<void(std::vector<TensorToWrite>&)> change;
  };
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  const std::vector<std::byte> bytes(240);
  const auto view = [&](DType dtype, std::vector<int64_t> shape) {
    const size_t size = static_cast<size_t>(*TensorBytes(shape, dtype));
    return TensorView{dtype, std::move(shape), std::span(bytes).first(size)};
  };
  const Case cases[] = {
      {ErrorKind::kFormat,
       {down, "missing", "[6, 5]"},
       [&](auto& t) { t.erase(t.begin() + (&Named(t, down) - t.data())); }},
      {ErrorKind::kFormat,
       {"lm_head.weight", "missing"},
       [&](auto& t) { t.erase(t.begin() + (&Named(t, "lm_head.weight") - t.data())); }},
      {ErrorKind::kFormat,
       {down, "[5, 6]", "[6, 5]"},
       [&](auto& t) {
         Named(t, down).view.shape = {5, 6};
       }},
      {ErrorKind::kFormat,
       {"model.norm.weight", "[1, 6]", "[6]"},
       [&](auto& t) {
         Named(t, "model.norm.weight").view.shape = {1, 6};
       }},
      {ErrorKind::kFormat,
       {"model.layers.1.mlp.up_proj.weight", "not part"},
       [&](auto& t) {
         t.push_back({"model.layers.1.mlp.up_proj.weight", view(DType::kF32, {5, 6}), DType::kF32});
       }},
      {ErrorKind::kFormat,
       {"q_proj.bias", "[16]"},
       [&](auto& t) {
         t.push_back({"model.layers.0.self_attn.q_proj.bias", view(DType::kF32, {16}), DType::kF32});
       }},
      {ErrorKind::kUnsupported,
       {down, "i64"},
       [&](auto& t) {
         Named(t, down) = {down, view(DType::kI64, {6, 5}), DType::kI64};
       }},
  };
  for (const Case& c : cases) {
    SaveHuggingFace(params, nullptr, DType::kF32, folder);
    Rewrite(folder, c.change);
    for (const std::string_view word : c.words)
      ExpectError(c.kind, {folder.string(), word}, [&] { LoadModel(folder); });
    ExpectError(c.kind, {}, [&] { InspectModel(folder); });
  }
  // What may be there without need, and other float dtypes.
  SaveHuggingFace(params, nullptr, DType::kF32, folder);
  Rewrite(folder, [&](auto& tensors) {
    for (TensorToWrite& tensor : tensors) tensor.dtype = DType::kF64;
  });
  const LoadedModel wide = LoadModel(folder);
  EXPECT_EQ(wide.file_dtype, DType::kF64);
  ExpectSameBits(wide.params, params);
}

TEST(LoadTest, ATiedModelMayStoreItsHead) {
  const fs::path folder = FreshFolder("load_tied");
  TinyDims dims = kSmall;
  dims.tie = true;
  const ParamStore params = TinyModel(TinySpec(dims), 2);
  SaveHuggingFace(params, nullptr, DType::kF32, folder);
  EXPECT_EQ(ReadSafetensors(folder / "model.safetensors").Find("lm_head.weight"), nullptr);
  Rewrite(folder, [](auto& tensors) {
    TensorToWrite head = Named(tensors, "model.embed_tokens.weight");
    head.name = "lm_head.weight";
    tensors.push_back(head);
  });
  ExpectSameBits(LoadModel(folder).params, params);
}

/// The tensor `of` once more under `name`, its values times `scale`.
void Duplicate(const fs::path& folder, const char* of, const char* name, float scale, DType dtype) {
  std::vector<float> values;
  Rewrite(folder, [&](auto& tensors) {
    TensorToWrite copy = Named(tensors, of);
    values.resize(static_cast<size_t>(copy.view.size()));
    ConvertToF32(copy.view.dtype, copy.view.bytes.data(), copy.view.size(), values.data());
    for (float& value : values) value *= scale;
    copy.name = name;
    copy.view.dtype = DType::kF32;
    copy.view.bytes = std::as_bytes(std::span(values));
    copy.dtype = dtype;
    tensors.push_back(copy);
  });
}

TEST(LoadTest, AStoredHeadThatDiffersUntiesTheModel) {
  const fs::path folder = FreshFolder("load_untied");
  TinyDims dims = kSmall;
  dims.tie = true;
  const ParamStore params = Cast(TinyModel(TinySpec(dims), 2), DType::kBF16);
  constexpr const char *kEmbed = "model.embed_tokens.weight", *kHead = "lm_head.weight";
  for (const DType dtype : {DType::kBF16, DType::kF32}) {  // stored in another dtype it is still the same matrix
    SaveHuggingFace(params, nullptr, DType::kBF16, folder);
    Duplicate(folder, kEmbed, kHead, 1, dtype);
    EXPECT_TRUE(LoadSpec(folder).tie_embeddings);
    EXPECT_TRUE(LoadModel(folder).spec.tie_embeddings);

    SaveHuggingFace(params, nullptr, DType::kBF16, folder);
    Duplicate(folder, kEmbed, kHead, 2, dtype);
    EXPECT_FALSE(LoadSpec(folder).tie_embeddings);
    EXPECT_FALSE(InspectModel(folder).spec.tie_embeddings);
    const LoadedModel model = LoadModel(folder);
    EXPECT_FALSE(model.spec.tie_embeddings);
    EXPECT_EQ(model.params.spec(), model.spec);
    EXPECT_EQ(model.params.Head().Row<float>(3)[1], 2 * model.params.Get(Role::kEmbedding).Row<float>(3)[1]);
  }
  SaveHuggingFace(params, nullptr, DType::kBF16, folder);  // the one matrix under its other name
  Rewrite(folder, [&](auto& tensors) { Named(tensors, kEmbed).name = kHead; });
  ExpectSameBits(Cast(LoadModel(folder).params, DType::kBF16), params);
  SaveHuggingFace(params, nullptr, DType::kBF16, folder);
  Rewrite(folder, [&](auto& tensors) {
    TensorToWrite head = Named(tensors, "model.norm.weight");
    head.name = kHead;
    tensors.push_back(head);
  });
  ExpectError(ErrorKind::kFormat, {kHead, "[6]", "[9, 6]"}, [&] { LoadSpec(folder); });
  ExpectError(ErrorKind::kFormat, {kHead, "[6]", "[9, 6]"}, [&] { LoadModel(folder); });
}

TEST(LoadTest, StoredRotationsMustBeThoseOfTheConfiguration) {
  const fs::path folder = FreshFolder("load_inv_freq");
  const char* name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  for (const char* rope : {"default", "ntk:factor=4", "linear:factor=4", "llama3:factor=8"}) {
    ModelSpec spec = TinySpec(kSmall);
    spec.rope = ApplyRopeText(spec.rope, rope, 32);
    RopeSpec plain = spec.rope;
    plain.scaling = {};
    const ParamStore params = TinyModel(spec, 1);
    const auto load_with = [&](const std::vector<double>& frequencies, double scale, DType dtype) {
      SaveHuggingFace(params, nullptr, DType::kF32, folder);
      std::vector<float> values;
      for (const double frequency : frequencies) values.push_back(static_cast<float>(frequency * scale));
      const TensorView view{DType::kF32, {static_cast<int64_t>(values.size())}, std::as_bytes(std::span(values))};
      Rewrite(folder, [&](auto& tensors) { tensors.push_back({name, view, dtype}); });
      LoadModel(folder);
    };
    for (const RopeSpec& of : {plain, spec.rope}) {
      const std::vector<double> good = ComputeFrequencies(of, spec.context).inv_freq;
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) load_with(good, 1, dtype);
      ExpectError(ErrorKind::kFormat, {name, "rope_theta"}, [&] { load_with(good, 1.03, DType::kBF16); });
      ExpectError(ErrorKind::kFormat, {name}, [&] { load_with(good, 1.001, DType::kF32); });
      ExpectError(ErrorKind::kFormat, {name}, [&] { load_with(good, std::nan(""), DType::kF32); });
      ExpectError(ErrorKind::kFormat, {name}, [&] { load_with({good[0], good[1]}, 1, DType::kF32); });
    }
  }
}

TEST(LoadTest, AnAdapterBesideAModelIsNotDropped) {
  const fs::path folder = FreshFolder("load_adapter");
  SaveHuggingFace(TinyModel(TinySpec(kSmall), 1), nullptr, DType::kF32, folder);
  WriteBytes(folder / "adapter_config.json", "{}");
  ExpectError(ErrorKind::kUnsupported, {"adapter_config.json"}, [&] { LoadModel(folder); });
}

TEST(LoadTest, ReadsShards) {
  const fs::path folder = FreshFolder("load_shards");
  const ParamStore params = TinyModel(TinySpec(), 3);
  SaveHuggingFace(params, nullptr, DType::kF32, folder);
  nlohmann::json map;
  {
    const TensorSource source = ReadSafetensors(folder / "model.safetensors");
    std::vector<TensorToWrite> shards[3];
    for (const auto& [name, view] : source.tensors()) {
      const size_t shard = map.size() % 3;
      shards[shard].push_back({name, view, view.dtype});
      map[name] = fmt::format("model-0000{}-of-00003.safetensors", shard + 1);
    }
    for (int i = 0; i < 3; ++i)
      WriteSafetensors(folder / fmt::format("model-0000{}-of-00003.safetensors", i + 1), shards[i]);
  }
  fs::remove(folder / "model.safetensors");
  ExpectError(ErrorKind::kIo, {folder.string(), "model.safetensors.index.json"}, [&] { LoadModel(folder); });
  WriteBytes(folder / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  ExpectSameBits(LoadModel(folder).params, params);
  nlohmann::json shorter = map;  // what is stored counts, listed or not
  shorter.erase("model.layers.0.mlp.up_proj.weight");
  WriteBytes(folder / "model.safetensors.index.json", nlohmann::json{{"weight_map", shorter}}.dump());
  ExpectSameBits(LoadModel(folder).params, params);
  fs::remove(folder / "model-00002-of-00003.safetensors");
  ExpectError(ErrorKind::kIo, {"model-00002-of-00003.safetensors"}, [&] { LoadModel(folder); });
}

TEST(LoadTest, NamesPathsThatAreNoModels) {
  const fs::path folder = FreshFolder("load_paths");
  ExpectError(ErrorKind::kIo, {"nowhere", "no such"}, [&] { LoadModel(folder / "nowhere"); });
  ExpectError(ErrorKind::kIo, {folder.string(), "config.json"}, [&] { LoadModel(folder); });
  WriteBytes(folder / "x.gguf", std::string_view("GGUF\3\0\0\0", 8));
  ExpectError(ErrorKind::kFormat, {"x.gguf", "truncated"}, [&] { LoadModel(folder / "x.gguf"); });
  ExpectError(ErrorKind::kFormat, {"x.gguf", "truncated"}, [&] { LoadSpec(folder / "x.gguf"); });
  WriteBytes(folder / "m.safetensors", "");
  ExpectError(ErrorKind::kUnsupported, {"folder"}, [&] { LoadModel(folder / "m.safetensors"); });
  WriteBytes(folder / "m.bin", "this is a text, not a model");
  ExpectError(ErrorKind::kFormat, {"m.bin"}, [&] { LoadModel(folder / "m.bin"); });
}

TEST(LoadTest, AHugeConfigurationDoesNotAllocate) {
  const fs::path folder = FreshFolder("load_huge");
  SaveHuggingFace(TinyModel(TinySpec(kSmall), 1), nullptr, DType::kF32, folder);
  nlohmann::json config = nlohmann::json::parse(ReadFile(folder / "config.json"));
  config["hidden_size"] = 1 << 18;
  config["intermediate_size"] = 1 << 20;
  config["num_hidden_layers"] = 1 << 12;
  WriteBytes(folder / "config.json", config.dump());
  ExpectError(ErrorKind::kFormat, {"model.embed_tokens.weight", "[9, 262144]", "[9, 6]"}, [&] { LoadModel(folder); });
}

TEST(LoadTest, SurvivesTruncationAndFlippedBits) {
  const fs::path folder = FreshFolder("load_flips");
  SaveHuggingFace(TinyModel(TinySpec(kSmall), 1), nullptr, DType::kF32, folder);
  for (const char* name : {"config.json", "generation_config.json"}) {
    const std::string bytes = ReadFile(folder / name);
    const std::string text = bytes.substr(0, bytes.size() - 1);  // the last newline may be missing
    ExpectTruncationsFail(folder / name, text, [&] { LoadModel(folder); });
    EXPECT_GT(FlipBits(folder / name, text, text.size(), [&] { LoadModel(folder); }), 100);
    WriteBytes(folder / name, bytes);
  }
  // Cutting weights short is tested with their format; here the names and shapes must still fit the model.
  const std::string weights = ReadFile(folder / "model.safetensors");
  EXPECT_GT(FlipBits(folder / "model.safetensors", weights, 400, [&] { LoadModel(folder); }), 2000);
}

/// Writes a file when saved, and notes whether the folder counted as whole by then.
class NotingTokenizer : public Tokenizer {
 public:
  explicit NotingTokenizer(bool fails) : fails_(fails) {}
  std::string Kind() const override { return "test"; }
  int32_t vocab_size() const override { return 1; }
  std::vector<int32_t> Encode(std::string_view, bool, bool) const override { return {}; }
  std::string Piece(int32_t) const override { return {}; }
  std::string Display(int32_t) const override { return {}; }
  void Save(const fs::path& folder) const override {
    EXPECT_FALSE(fs::exists(folder / "config.json"));
    EXPECT_TRUE(fs::exists(folder / "model.safetensors"));
    if (fails_) Fail(ErrorKind::kIo, "tokenizer.json: no space left");
    WriteBytes(folder / "saved", "x");
  }

 private:
  bool fails_;
};

TEST(SaveTest, ConfigComesLastAndAnOldOneGoesFirst) {
  const fs::path folder = FreshFolder("save_order") / "new" / "folder";
  const ParamStore params = TinyModel(TinySpec(kSmall), 1);
  for (int round = 0; round < 2; ++round) {
    const NotingTokenizer tokenizer(false);
    SaveHuggingFace(params, &tokenizer, DType::kBF16, folder);
    EXPECT_TRUE(fs::exists(folder / "saved") && fs::exists(folder / "config.json"));
  }
  const NotingTokenizer broken(true);
  ExpectError(ErrorKind::kIo, {"no space"}, [&] { SaveHuggingFace(params, &broken, DType::kBF16, folder); });
  EXPECT_FALSE(fs::exists(folder / "config.json"));
}

TEST(SaveTest, AFullDiskLeavesNoModel) {
  const fs::path folder = FreshFolder("save_full");
  const ParamStore params = TinyModel(TinySpec(), 1);
  WithFileLimit(1 << 13, [&] {
    ExpectError(ErrorKind::kIo, {"model.safetensors"}, [&] { SaveHuggingFace(params, nullptr, DType::kF32, folder); });
  });
  EXPECT_TRUE(fs::is_empty(folder));
}

TEST(SaveTest, RefusesOtherDtypes) {
  const fs::path folder = FreshFolder("save_dtype");
  ExpectError(ErrorKind::kUsage, {"i32", "bf16"},
              [&] { SaveHuggingFace(TinyModel(TinySpec(kSmall), 1), nullptr, DType::kI32, folder); });
  EXPECT_TRUE(fs::is_empty(folder));
}

/// A version 1 file whose floats count up from 0.
std::string CountingLlama2c() {
  std::string bytes;
  const auto put = [&](auto value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  put(uint32_t{0x616b3432});
  for (const int32_t value : {1, 16, 3, 2, 2, 1, 4, 6}) put(value);
  put(uint8_t{0});
  bytes.resize(256, '\0');
  const int floats = 2 * 2 * 16 + 16 + 4 * 16 + 2 * (2 * 256 + 2 * 128 + 3 * 48) + 4 * 16;
  for (int i = 0; i < floats; ++i) put(static_cast<float>(i));
  return bytes;
}

TEST(Llama2cLoadTest, PermutesQueryAndKeyRowsOnly) {
  const fs::path path = FreshFolder("load_llama2c") / "m.bin";
  WriteBytes(path, CountingLlama2c());
  const LoadedModel model = LoadModel(path);
  EXPECT_EQ(model.format, "llama2.c v1");
  EXPECT_EQ(model.spec.head_dim, 8);
  EXPECT_EQ(model.spec.norm_eps, 1e-5f);
  EXPECT_EQ(model.spec.rope.pairing, RopePairing::kHalf);
  EXPECT_EQ(model.spec.bos, 1);
  EXPECT_EQ(LoadSpec(path), model.spec);
  const int wq = 5 * 16 + 4 * 16, wk = wq + 512, wv = wk + 256, wo = wv + 256;
  const int w1 = wo + 512, w2 = w1 + 96, w3 = w2 + 96, output = w3 + 96;
  const auto first = [&](Role role, int32_t layer, int64_t row) {
    return model.params.Get(role, layer).Row<float>(row)[0];
  };
  // Row r of a head of 8 holds channel 2r of the file for r < 4, and 2(r - 4) + 1 from there on.
  const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (int layer = 0; layer < 2; ++layer) {
    for (int row = 0; row < 16; ++row) {
      EXPECT_EQ(first(Role::kQuery, layer, row), wq + 256 * layer + 16 * (row / 8 * 8 + order[row % 8]));
      EXPECT_EQ(first(Role::kAttnOut, layer, row), wo + 256 * layer + 16 * row);
      EXPECT_EQ(first(Role::kDown, layer, row), w2 + 48 * layer + 3 * row);
    }
    for (int row = 0; row < 8; ++row) {
      EXPECT_EQ(first(Role::kKey, layer, row), wk + 128 * layer + 16 * order[row]);
      EXPECT_EQ(first(Role::kValue, layer, row), wv + 128 * layer + 16 * row);
    }
    EXPECT_EQ(first(Role::kGate, layer, 0), w1 + 48 * layer);
    EXPECT_EQ(first(Role::kUp, layer, 0), w3 + 48 * layer);
    EXPECT_EQ(first(Role::kAttnNorm, layer, 0), 16 * layer);
    EXPECT_EQ(first(Role::kMlpNorm, layer, 0), 32 + 16 * layer);
  }
  EXPECT_EQ(first(Role::kFinalNorm, -1, 0), 64);
  EXPECT_EQ(first(Role::kEmbedding, -1, 0), 80);
  EXPECT_EQ(first(Role::kHead, -1, 0), output);
}

TEST(Llama2cLoadTest, LegacyTablesMustBeThoseItComputes) {
  const fs::path path = FreshFolder("load_llama2c_legacy") / "m.bin";
  const auto write = [&](double theta, float last) {
    std::string bytes;
    const auto put = [&](auto value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
    for (const int32_t value : {16, 3, 1, 2, 1, 4, 6}) put(value);
    const int floats = 4 * 16 + 16 + 2 * 256 + 2 * 128 + 16 + 3 * 48 + 16;
    for (int i = 0; i < floats; ++i) put(static_cast<float>(i));
    for (const bool sine : {false, true}) {
      for (int position = 0; position < 6; ++position) {
        for (int i = 0; i < 4; ++i) {
          const double angle = position * std::pow(theta, -i / 4.0);
          put(static_cast<float>(sine ? std::sin(angle) : std::cos(angle)));
        }
      }
    }
    std::memcpy(&bytes[bytes.size() - sizeof(last)], &last, sizeof(last));
    WriteBytes(path, bytes);
  };
  const auto good = static_cast<float>(std::sin(5 * std::pow(1e4, -0.75)));
  write(1e4, good);
  EXPECT_EQ(LoadModel(path).format, "llama2.c legacy");
  write(5e5, good);
  ExpectError(ErrorKind::kUnsupported, {"m.bin", "theta 10000", "position 1"}, [&] { LoadModel(path); });
  write(1e4, std::nanf(""));
  ExpectError(ErrorKind::kUnsupported, {"pair 3 at position 5"}, [&] { LoadModel(path); });
}

TEST(Llama2cLoadTest, SurvivesFlippedBits) {
  const fs::path path = FreshFolder("load_llama2c_flips") / "m.bin";
  EXPECT_GT(FlipBits(path, CountingLlama2c(), 40, [&] { LoadModel(path); }), 200);
}

class StoriesTest : public ::testing::Test {
 protected:
  void SetUp() override { HAWSER_NEEDS_DATA("models/stories260k"); }
  const fs::path folder_ = TestData() / "models/stories260k";
};

TEST_F(StoriesTest, BothFilesAreOneModelAndSurviveConversion) {
  const LoadedModel v1 = LoadModel(folder_ / "checkpoint_v1.bin", folder_ / "tokenizer.bin");
  const LoadedModel legacy = LoadModel(folder_ / "checkpoint_legacy.bin");
  EXPECT_EQ(v1.spec, legacy.spec);
  EXPECT_EQ(legacy.format, "llama2.c legacy");
  EXPECT_EQ(legacy.tokenizer, nullptr);
  ExpectSameBits(v1.params, legacy.params);
  EXPECT_EQ(NumParameters(v1.spec), 260032);
  ASSERT_NE(v1.tokenizer, nullptr);
  EXPECT_EQ(v1.tokenizer->vocab_size(), 512);

  const fs::path folder = FreshFolder("load_stories");
  SaveHuggingFace(v1.params, v1.tokenizer.get(), DType::kF32, folder);
  const LoadedModel back = LoadModel(folder);
  EXPECT_EQ(back.spec, v1.spec);
  ExpectSameBits(back.params, v1.params);
  ASSERT_NE(back.tokenizer, nullptr);
  for (const char* text : {"Once upon a time, there was a little girl.", "x\n\ty  z", "\xc3\xa9t\xc3\xa9"}) {
    EXPECT_EQ(back.tokenizer->Encode(text), v1.tokenizer->Encode(text)) << text;
  }
  EXPECT_EQ(back.tokenizer->bos(), v1.tokenizer->bos());
  EXPECT_EQ(back.tokenizer->eos(), v1.tokenizer->eos());
}

TEST_F(StoriesTest, ATokenizerLargerThanTheModelIsRefused) {
  const fs::path folder = FreshFolder("load_small_vocab");
  SaveHuggingFace(TinyModel(TinySpec(kSmall), 1), nullptr, DType::kF32, folder);
  ExpectError(ErrorKind::kFormat, {"tokenizer.bin", "512", "9"},
              [&] { InspectModel(folder, folder_ / "tokenizer.bin"); });
}

TEST(LoadTest, NamesWithoutThePrefixOfTheFamily) {
  const fs::path folder = FreshFolder("load_bare");
  ModelSpec spec = TinySpec(kSmall);
  const ParamStore params = TinyModel(spec, 1);
  SaveHuggingFace(params, nullptr, DType::kF32, folder);
  Rewrite(folder, [](auto& tensors) {
    for (TensorToWrite& tensor : tensors) {
      if (tensor.name.starts_with("model.")) tensor.name = tensor.name.substr(6);
    }
  });
  ExpectSameBits(LoadModel(folder).params, params);
}

TEST(LoadTest, MasksThatOldFilesStoreAreNoParameters) {
  const fs::path folder = FreshFolder("load_masks");
  ModelSpec spec = TinySpec({.heads = 2, .kv_heads = 2, .head_dim = 16});
  spec.family = "gpt_neox";
  const Family& family = FindFamily("gpt_neox");
  spec.block = family.block;
  spec.block.residual = Residual::kParallelTwoNorms;
  spec.rope.rotary_dim = 4;
  const ParamStore params = TinyModel(spec, 1);
  SaveHuggingFace(params, nullptr, DType::kF32, folder);
  const std::vector<std::byte> mask(64);
  const auto add = [&](const std::string& name, DType dtype, std::vector<int64_t> shape) {
    const auto bytes = std::span(mask).first(static_cast<size_t>(*TensorBytes(shape, dtype)));
    Rewrite(folder, [&](auto& tensors) { tensors.push_back({name, {dtype, shape, bytes}, dtype}); });
  };
  add("gpt_neox.layers.0.attention.bias", DType::kU8, {1, 1, 8, 8});
  add("gpt_neox.layers.0.attention.masked_bias", DType::kF32, {1});
  ExpectSameBits(LoadModel(folder).params, params);
  add("gpt_neox.layers.0.attention.more", DType::kF32, {1});
  ExpectError(ErrorKind::kFormat, {"attention.more", "not part"}, [&] { LoadModel(folder); });
}

}  // namespace
}  // namespace hawser
