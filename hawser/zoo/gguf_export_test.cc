// Models written as GGUF: the same bits again, what stays in larger types, and what cannot be said is refused by name.
#include "hawser/zoo/gguf_export.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "hawser/base/file.h"
#include "hawser/io/gguf_writer.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/byte_level.h"
#include "hawser/zoo/gguf_families.h"
#include "hawser/zoo/gguf_model.h"
#include "hawser/zoo/gguf_rope.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

class GgufExportTest : public ::testing::Test {
 protected:
  void SetUp() override { folder_ = FreshFolder("gguf_export"); }
  fs::path Path(const std::string& name) const { return folder_ / name; }

  LoadedModel Model(const ModelSpec& spec, DType rounded = DType::kF32) const {
    LoadedModel model{.format = "test", .file_dtype = rounded, .spec = spec, .params = TinyModel(spec, 5)};
    if (rounded != DType::kF32) model.params = Cast(Cast(model.params, rounded), DType::kF32);
    return model;
  }
  GgufExport Export(const ModelSpec& spec, std::optional<DType> type, DType rounded = DType::kF32) const {
    return ExportGguf(Model(spec, rounded), {.model = folder_}, type, Path("x.gguf"));
  }
  static void ExpectSameBits(const ParamStore& a, const ParamStore& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const ParamInfo& info : a.layout().params()) {
      EXPECT_EQ(std::memcmp(a.At(info).data, b.At(info).data, static_cast<size_t>(info.size()) * sizeof(float)), 0)
          << info.name;
    }
  }

  fs::path folder_;
};

TEST_F(GgufExportTest, ComesBackInTheSameBits) {
  for (const bool tied : {false, true}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      ModelSpec spec = TinySpec({.tie = tied});
      spec.rope.theta = 500000;
      Export(spec, std::nullopt, dtype);
      const LoadedModel again = LoadModel(Path("x.gguf"));
      EXPECT_EQ(again.spec, spec);
      EXPECT_EQ(again.file_dtype, dtype);
      ExpectSameBits(again.params, Model(spec, dtype).params);
    }
  }
}

TEST_F(GgufExportTest, EveryArchitectureComesBack) {
  std::vector<std::pair<std::string, BlockSpec>> cases = {{"llama", {}}, {"qwen2", {}}, {"qwen3", {}}, {"olmo2", {}}};
  cases[0].second.qkv_bias = cases[0].second.out_bias = cases[0].second.mlp_bias = true;
  cases[1].second.qkv_bias = true;
  cases[2].second.qk_norm = QkNorm::kHead;
  cases[3].second.qk_norm = QkNorm::kWidth;
  cases[3].second.pre_norms = false;
  cases[3].second.post_norms = true;
  for (const auto& [family, block] : cases) {
    ModelSpec spec = TinySpec();
    spec.family = family;
    spec.block = block;
    LoadedModel model = Model(spec);
    for (const ParamInfo& info : model.params.layout().params()) {  // biases begin as zeros
      float* value = model.params.At(info).Row<float>(0);
      for (int64_t i = 0; info.vector && i < info.cols; ++i) value[i] += 0.01f * static_cast<float>(i);
    }
    const ParamStore params = Cast(model.params, DType::kF32);
    ExportGguf(std::move(model), {.model = folder_}, DType::kF32, Path("x.gguf"));
    EXPECT_EQ(ReadGguf(Path("x.gguf")).Text("general.architecture"), family);
    const LoadedModel again = LoadModel(Path("x.gguf"));
    EXPECT_EQ(again.spec, spec) << family;
    ExpectSameBits(again.params, params);
  }
}

TEST_F(GgufExportTest, EverySchemeOfPositionsComesBack) {
  for (const char* rope :
       {"default", "theta=123456.789", "linear:factor=4", "ntk:factor=8", "yarn:factor=4,original=32",
        "yarn:factor=4,original=32,beta_fast=16,beta_slow=2", "yarn:factor=40,original=32,mscale=1,mscale_all_dim=0.8",
        "yarn:factor=4,original=32,attention_factor=1.3", "llama3:factor=8,original=96,low=1,high=4",
        "llama3:factor=5,original=40,low=2,high=7"}) {
    ModelSpec spec = TinySpec({.head_dim = 16, .context = 512});
    spec.rope = ApplyRopeText(spec.rope, rope, 128);
    Export(spec, DType::kF16);
    EXPECT_EQ(ToString(LoadSpec(Path("x.gguf")).rope), ToString(spec.rope));
    // What others read: the same frequencies, without the key that only hawser knows.
    const GgufFile file = ReadGguf(Path("x.gguf"));
    std::vector<GgufField> fields;
    for (const auto& [key, value] : file.metadata()) {
      if (key == kGgufRopeText) continue;
      if (const auto* text = std::get_if<std::string_view>(&value)) fields.push_back({key, std::string(*text)});
      if (const auto* whole = std::get_if<int64_t>(&value)) fields.push_back({key, static_cast<uint32_t>(*whole)});
      if (const auto* real = std::get_if<double>(&value)) fields.push_back({key, static_cast<float>(*real)});
    }
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, view] : file.tensors.tensors()) tensors.push_back({name, view, view.dtype});
    WriteGguf(Path("plain.gguf"), fields, tensors);
    const RopeFrequencies ours = ComputeFrequencies(spec.rope, 512),
                          theirs = ComputeFrequencies(LoadSpec(Path("plain.gguf")).rope, 512);
    EXPECT_NEAR(ours.multiplier, theirs.multiplier, 1e-6) << rope;
    for (size_t i = 0; i < ours.inv_freq.size(); ++i) {
      EXPECT_NEAR(theirs.inv_freq[i] / ours.inv_freq[i], 1, 1e-6) << rope;
    }
  }
}

TEST_F(GgufExportTest, ATextOfPositionsThatDisagreesIsRefused) {
  ModelSpec spec = TinySpec();
  spec.rope = ApplyRopeText(spec.rope, "yarn:factor=4,original=32", 128);
  Export(spec, DType::kF32);
  std::string bytes = ReadFile(Path("x.gguf"));
  const size_t at = bytes.find("yarn:factor=4");
  ASSERT_NE(at, bytes.npos);
  bytes[at + 12] = '8';
  WriteBytes(Path("x.gguf"), bytes);
  ExpectError(ErrorKind::kFormat, {"hawser.rope", "yarn:factor=8", "other rotations"},
              [&] { LoadSpec(Path("x.gguf")); });
  bytes.replace(at, 4, "nray");
  WriteBytes(Path("x.gguf"), bytes);
  ExpectError(ErrorKind::kFormat, {"hawser.rope", "nray"}, [&] { LoadSpec(Path("x.gguf")); });
}

TEST_F(GgufExportTest, StoresWhatMattersMoreInMoreBits) {
  const auto type = [](const ModelSpec& spec, Role role, int32_t layer, DType asked) {
    return GgufStoredType(spec, ParamLayout(spec).Find(role, layer), asked);
  };
  ModelSpec spec = TinySpec({.layers = 16, .width = 256, .mlp_width = 512});
  for (const DType asked : GgufTypes()) EXPECT_EQ(type(spec, Role::kAttnNorm, 0, asked), DType::kF32);
  for (const DType asked : {DType::kF32, DType::kF16, DType::kBF16}) {
    EXPECT_EQ(type(spec, Role::kHead, -1, asked), asked);
  }
  EXPECT_EQ(type(spec, Role::kHead, -1, DType::kQ8_0), DType::kQ8_0);
  for (const DType asked : {DType::kQ4_0, DType::kQ4_1, DType::kQ4K, DType::kQ6K}) {
    EXPECT_EQ(type(spec, Role::kHead, -1, asked), DType::kQ6K);
    EXPECT_EQ(type(spec, Role::kEmbedding, -1, asked), asked);
    EXPECT_EQ(type(spec, Role::kGate, 0, asked), asked);
  }
  std::string layers;
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const DType value = type(spec, Role::kValue, layer, DType::kQ4K);
    EXPECT_EQ(value, type(spec, Role::kDown, layer, DType::kQ4K));
    layers += value == DType::kQ6K ? '6' : '4';
  }
  EXPECT_EQ(layers, "6644644644644666");
  spec.tie_embeddings = true;
  EXPECT_EQ(type(spec, Role::kEmbedding, -1, DType::kQ4_0), DType::kQ6K);
  // Rows that are no whole blocks.
  const ModelSpec odd = TinySpec({.layers = 16, .width = 96, .mlp_width = 520});
  EXPECT_EQ(type(odd, Role::kQuery, 4, DType::kQ4K), DType::kQ5_0);
  EXPECT_EQ(type(odd, Role::kValue, 0, DType::kQ4K), DType::kQ8_0);
  EXPECT_EQ(type(odd, Role::kHead, -1, DType::kQ4K), DType::kQ8_0);
  EXPECT_EQ(type(odd, Role::kDown, 4, DType::kQ4_0), DType::kF16);
}

TEST_F(GgufExportTest, EveryTypeIsReadBackNear) {
  const ModelSpec spec = TinySpec({.layers = 1, .width = 256, .mlp_width = 256});
  for (const DType asked : GgufTypes()) {
    const GgufExport done = Export(spec, asked);
    EXPECT_EQ(done.type, asked);
    EXPECT_EQ(done.bytes, static_cast<int64_t>(fs::file_size(Path("x.gguf"))));
    const LoadedModel again = LoadModel(Path("x.gguf")), model = Model(spec);
    EXPECT_EQ(again.file_dtype, asked);
    double error = 0, size = 0;
    const ConstMat a = again.params.Get(Role::kQuery, 0), b = model.params.Get(Role::kQuery, 0);
    for (int64_t i = 0; i < b.rows * b.cols; ++i) {
      error += std::pow(a.Row<float>(0)[i] - b.Row<float>(0)[i], 2);
      size += std::pow(b.Row<float>(0)[i], 2);
    }
    EXPECT_LT(error / size, 0.02) << Name(asked);
  }
}

TEST_F(GgufExportTest, AnUnchangedFileIsCopiedAsItLies) {
  const ModelSpec spec = TinySpec({.layers = 1, .width = 256, .mlp_width = 256});
  Export(spec, DType::kQ4K);
  const GgufFile before = ReadGguf(Path("x.gguf"));
  const auto again = [&](std::optional<DType> type, bool changed) {
    ExportGguf(LoadModel(Path("x.gguf")), {.model = Path("x.gguf"), .changed = changed}, type, Path("y.gguf"));
    return ReadGguf(Path("y.gguf"));
  };
  for (const std::optional<DType> type : {std::optional<DType>(), std::optional(DType::kQ4K)}) {
    const GgufFile after = again(type, false);
    EXPECT_EQ(after.metadata(), before.metadata());
    for (const auto& [name, view] : before.tensors.tensors()) {
      EXPECT_TRUE(std::ranges::equal(after.tensors.Find(name)->bytes, view.bytes)) << name;
    }
  }
  EXPECT_EQ(again(std::nullopt, true).tensors.Find("blk.0.ffn_up.weight")->dtype, DType::kQ4K);
  EXPECT_EQ(again(DType::kQ8_0, false).tensors.Find("blk.0.ffn_up.weight")->dtype, DType::kQ8_0);
}

TEST_F(GgufExportTest, TokenizersComeAlong) {
  ModelSpec spec = TinySpec({.vocab = 300});
  LoadedModel model = Model(spec);
  auto tokenizer = std::make_shared<BpeTokenizer>(ByteLevelTokenizerJson({" red", "the"}));
  tokenizer->set_bos(tokenizer->IdOf("<|bos|>"));
  tokenizer->set_eos(tokenizer->IdOf("<|eos|>"));
  tokenizer->set_chat_template("{{ messages[0].content }}");
  const std::string json = tokenizer->JsonText();
  spec.bos = tokenizer->bos();
  spec.eos = {5, tokenizer->eos(), 6};
  model.params = std::move(model.params).WithSpec(spec);
  model.spec = spec;
  model.tokenizer = tokenizer;
  ExportGguf(std::move(model), {.model = folder_}, DType::kF32, Path("x.gguf"));
  const LoadedModel again = LoadModel(Path("x.gguf"));
  EXPECT_EQ(dynamic_cast<const BpeTokenizer&>(*again.tokenizer).JsonText(), json);
  EXPECT_EQ(again.tokenizer->chat_template(), "{{ messages[0].content }}");
  EXPECT_EQ(again.spec.eos, (std::vector<int32_t>{tokenizer->eos(), 5, 6}));
  EXPECT_EQ(again.tokenizer->eos(), tokenizer->eos());
}

TEST_F(GgufExportTest, WhatCannotBeSaidIsRefused) {
  const auto refuse = [&](ErrorKind kind, std::initializer_list<std::string_view> words, auto change) {
    ModelSpec spec = TinySpec();
    change(spec);
    ExpectError(kind, words, [&] { Export(spec, DType::kF32); });
    EXPECT_FALSE(fs::exists(Path("x.gguf")));
  };
  refuse(ErrorKind::kUnsupported, {"dynamic:factor=4", "ntk"},
         [](ModelSpec& s) { s.rope = ApplyRopeText(s.rope, "dynamic:factor=4", 32); });
  refuse(ErrorKind::kUnsupported, {"ramp=rotations"},
         [](ModelSpec& s) { s.rope = ApplyRopeText(s.rope, "yarn:factor=4,ramp=rotations", 32); });
  refuse(ErrorKind::kUnsupported, {"softmax", "self-adjust"},
         [](ModelSpec& s) { s.softmax = ParseSoftmax("self-adjust"); });
  refuse(ErrorKind::kUnsupported, {"queries that grow", "q_temp=logn"},
         [](ModelSpec& s) { s.rope = ApplyRopeText(s.rope, "eabf", 32); });
  refuse(ErrorKind::kUnsupported, {"'other'", "qwen2"}, [](ModelSpec& s) { s.family = "other"; });
  refuse(ErrorKind::kUnsupported, {"llama3", "qwen2"}, [](ModelSpec& s) {
    s.family = "qwen2";
    s.rope = ApplyRopeText(s.rope, "llama3:factor=8,original=32", 32);
  });
  refuse(ErrorKind::kUnsupported, {"which layers have no positions"}, [](ModelSpec& s) {
    s.family = "smollm3";
    s.unplaced_layers = {0};
  });
  refuse(ErrorKind::kUnsupported, {"alibi:linear"}, [](ModelSpec& s) {
    s.family = "mpt";
    s.block = FindFamily("mpt").block;
    s.places = Places::kAlibi;
    s.alibi = ApplyAlibiText({}, "alibi:linear,factor=2", 32);
  });
  refuse(ErrorKind::kUnsupported, {"activation"}, [](ModelSpec& s) { s.block.act = Act::kRelu; });
  refuse(ErrorKind::kUnsupported, {"no soft cap", "gemma2"}, [](ModelSpec& s) {
    s.family = "gemma2";
    s.block = FindFamily("gemma2").block;
    s.embedding_scale = std::sqrt(static_cast<float>(s.width));
    s.tie_embeddings = true;
  });
  refuse(ErrorKind::kUnsupported, {"a part of a head"}, [](ModelSpec& s) { s.rope.rotary_dim = 4; });
  refuse(ErrorKind::kUnsupported, {"biases", "qwen3"}, [](ModelSpec& s) {
    s.family = "qwen3";
    s.block.qkv_bias = true;
  });
  refuse(ErrorKind::kUnsupported, {"all of what", "llama"}, [](ModelSpec& s) { s.block.qkv_clip = 3; });
}

TEST_F(GgufExportTest, WindowsOfAnyLayersComeBack) {
  struct Case {
    const char* family;
    std::vector<int32_t> full;
    bool pattern;  // said by a key
  };
  for (const Case& c : {Case{"mistral", {}, false}, Case{"qwen2", {0, 1}, true}, Case{"mistral", {1, 3, 5}, true},
                        Case{"qwen2", {5}, true}}) {
    ModelSpec spec = TinySpec({.layers = 6});
    spec.family = c.family;
    spec.block = FindFamily(c.family).block;
    spec.sliding_window = 16;
    spec.full_layers = c.full;
    const GgufExport done = Export(spec, DType::kF32);
    EXPECT_EQ(LoadSpec(Path("x.gguf")), spec);
    EXPECT_EQ(ReadGguf(Path("x.gguf"))
                  .Has(fmt::format("{}.attention.sliding_window_pattern",
                                   GgufArchitectureOf(std::string_view(c.family)).name)),
              c.pattern);
    ASSERT_FALSE(done.left_out.empty());
    EXPECT_NE(done.left_out[0].find("sliding window"), std::string::npos);
  }
}

TEST_F(GgufExportTest, AnActivationThatReadersDoNotExpectIsTold) {
  for (const auto& [act, told] :
       {std::pair<Act, bool>{Act::kSilu, false}, {Act::kGelu, true}, {Act::kGeluTanh, true}}) {
    ModelSpec spec = TinySpec({});
    spec.block.act = act;
    const GgufExport done = Export(spec, DType::kF32);
    EXPECT_EQ(LoadSpec(Path("x.gguf")), spec);
    const bool found = std::ranges::any_of(
        done.left_out, [](const std::string& part) { return part.find("GELU") != std::string::npos; });
    EXPECT_EQ(found, told);
  }
}

TEST_F(GgufExportTest, NormsThatFilesHoldWithTheirOneComeBackToTheBit) {
  ModelSpec spec = TinySpec({.tie = true});
  spec.family = "gemma";
  spec.block = FindFamily("gemma").block;
  spec.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(spec.width)));
  LoadedModel model = Model(spec);
  const float values[] = {-0.0f, 1e-30f, -0.3f, 1.2345678f, 1e-4f, -1.0f, 3e5f, -1e-9f};
  for (const ParamInfo& info : model.params.layout().params()) {
    if (!info.vector) continue;
    for (int64_t i = 0; i < info.cols; ++i) model.params.At(info).Row<float>(0)[i] = values[i % 8];
  }
  const ParamStore params = Cast(model.params, DType::kF32);
  ExportGguf(std::move(model), {.model = folder_}, DType::kF32, Path("x.gguf"));
  const GgufFile file = ReadGguf(Path("x.gguf"));
  float third;
  std::memcpy(&third, file.tensors.Find("blk.1.ffn_norm.weight")->bytes.data() + 2 * sizeof(float), sizeof(float));
  EXPECT_EQ(third, 1.0f - 0.3f);
  ExpectSameBits(LoadModel(Path("x.gguf")).params, params);
  // As it lies, and in another type.
  ExportGguf(LoadModel(Path("x.gguf")), {.model = Path("x.gguf")}, DType::kBF16, Path("y.gguf"));
  const LoadedModel other = LoadModel(Path("y.gguf"));
  for (const ParamInfo& info : params.layout().params()) {
    if (!info.vector) continue;
    EXPECT_EQ(std::memcmp(other.params.At(info).data, params.At(info).data, info.size() * sizeof(float)), 0);
  }
}

TEST_F(GgufExportTest, AHeadThatIsTheEmbeddingIsStoredTwiceWhereReadersWantIt) {
  ModelSpec spec = TinySpec({.tie = true});
  spec.family = "gpt_neox";
  spec.block = FindFamily("gpt_neox").block;
  spec.block.residual = Residual::kParallelTwoNorms;
  Export(spec, DType::kF16);
  const GgufFile file = ReadGguf(Path("x.gguf"));
  EXPECT_TRUE(
      std::ranges::equal(file.tensors.Find("output.weight")->bytes, file.tensors.Find("token_embd.weight")->bytes));
  EXPECT_EQ(LoadSpec(Path("x.gguf")), spec);
}

TEST_F(GgufExportTest, TheSharpestBiasOfMptComesBack) {
  ModelSpec spec = TinySpec({.kv_heads = 4, .tie = true});
  spec.family = "mpt";
  spec.block = FindFamily("mpt").block;
  spec.places = Places::kAlibi;
  spec.rope = {};
  for (const char* text : {"alibi", "alibi:max_bias=16", "alibi:bmax,factor=4"}) {
    spec.alibi = ApplyAlibiText({}, text, spec.context);
    Export(spec, DType::kF32);
    EXPECT_EQ(LoadSpec(Path("x.gguf")), spec) << text;
    const auto bias = ReadGguf(Path("x.gguf")).Number("mpt.attention.max_alibi_bias");
    EXPECT_FLOAT_EQ(static_cast<float>(bias.value()), static_cast<float>(BakeMaxBias(spec.alibi).max_bias));
  }
}

TEST_F(GgufExportTest, ValuesBeyondTheTypeAreNamed) {
  struct Case {
    float value;
    DType type;
    bool fits;
  };
  constexpr float kInfinite = std::numeric_limits<float>::infinity();
  for (const Case& c :
       {Case{65504.0f, DType::kF16, true}, Case{-65504.0f, DType::kQ8_0, true}, Case{65520.0f, DType::kF16, false},
        Case{-1e9f, DType::kQ4_0, false}, Case{1e9f, DType::kBF16, true}, Case{NAN, DType::kQ8_0, false},
        Case{kInfinite, DType::kQ4_1, false}, Case{kInfinite, DType::kBF16, true}}) {
    LoadedModel model = Model(TinySpec({.width = 64, .mlp_width = 64}));
    model.params.Get(Role::kDown, 1).Row<float>(3)[7] = c.value;
    const auto write = [&] { ExportGguf(std::move(model), {.model = folder_}, c.type, Path("x.gguf")); };
    if (c.fits) {
      write();
    } else {
      fs::remove(Path("x.gguf"));
      ExpectError(ErrorKind::kNumeric, {"blk.1.ffn_down.weight", Name(c.type)}, write);
      EXPECT_FALSE(fs::exists(Path("x.gguf")));
    }
  }
}

}  // namespace
}  // namespace hawser
