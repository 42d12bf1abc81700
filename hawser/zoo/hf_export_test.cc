#include "hawser/zoo/hf_export.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "hawser/base/file.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/hf_config.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Notes that it was saved.
class PlainTokenizer : public Tokenizer {
 public:
  std::string Kind() const override { return "test"; }
  int32_t vocab_size() const override { return 1; }
  std::vector<int32_t> Encode(std::string_view, bool, bool) const override { return {}; }
  std::string Piece(int32_t) const override { return {}; }
  std::string Display(int32_t) const override { return {}; }
  void Save(const fs::path& folder) const override { WriteBytes(folder / "tokenizer.json", "saved anew"); }
};

class HfExportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("hf_export");
    SaveHuggingFace(params_, nullptr, DType::kF32, Source());
    json config = json::parse(ReadFile(Source() / "config.json"));
    EXPECT_TRUE(config["pad_token_id"].is_null()) << "or readers take one of the family's own vocabulary";
    config.update({{"pad_token_id", 7},
                   {"attention_dropout", 0.25},
                   {"id2label", {{"0", "a"}}},
                   {"auto_map", {{"AutoConfig", "configuration_x.X"}}},
                   {"rope_scaling", nullptr},
                   {"quantization_config", nullptr}});
    Put("config.json", config.dump());
    Put("generation_config.json", R"({"temperature": 0.6, "top_p": 0.9, "max_length": 128, "eos_token_id": [2, 5]})");
    Put("tokenizer.json", "{ a tokenizer }");
    Put("tokenizer_config.json", R"({"chat_template": "{{x}}", "model_max_length": 128, "eos_token": "</s>"})");
    Put("special_tokens_map.json", "{}");
    Put("added_tokens.json", "{\"<x>\": 9}");
    Put("chat_template.jinja", "{{ messages }}");
    fs::create_directories(Source() / "additional_chat_templates");
    Put("additional_chat_templates/tool.jinja", "{{ tools }}");
    Put("LICENSE", "free\n");
    Put("Notice.txt", "noted\n");
    Put("README.md", "---\nlicense: apache-2.0\n---\n# A model\r\n");
    Put("pytorch_model.bin", "stale");
    Put("configuration_x.py", "code");
  }
  fs::path Source() const { return folder_ / "source"; }  // written without one
  void Put(const std::string& name, std::string_view text) const { WriteBytes(Source() / name, text); }
  std::string Got(const std::string& name) const { return ReadFile(folder_ / "out" / name); }
  json GotJson(const std::string& name) const { return json::parse(Got(name)); }

  /// The model with a context of 512, NTK-scaled.
  ParamStore Extended() const {
    ParamStore params = Cast(params_, DType::kF32);
    ChangeSpec(&params, [&](ModelSpec& spec) { spec.rope = ApplyRopeText(spec_.rope, "ntk:factor=4", 128); });
    ChangeSpec(&params, [&](ModelSpec& spec) { spec.context = 512; });
    return params;
  }

  fs::path folder_;
  ModelSpec spec_ = TinySpec({.layers = 1});
  ParamStore params_ = TinyModel(spec_, 3);
  PlainTokenizer tokenizer_;
};

TEST_F(HfExportTest, KeepsWhatAUserNeeds) {
  HfSource source = SourceOf(Source(), {});
  source.note = "Trained on.";
  ExportHuggingFace(Extended(), &tokenizer_, DType::kBF16, source, folder_ / "out");
  for (const char* name : {"tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                           "additional_chat_templates/tool.jinja", "LICENSE", "Notice.txt"}) {
    EXPECT_EQ(Got(name), ReadFile(Source() / name)) << name;
  }
  EXPECT_EQ(GotJson("tokenizer_config.json"),
            json({{"chat_template", "{{x}}"}, {"model_max_length", 512}, {"eos_token", "</s>"}}));
  EXPECT_EQ(Got("README.md"), "---\nlicense: apache-2.0\n---\n# A model\n\nTrained on.\n");
  const json generation = GotJson("generation_config.json");
  EXPECT_EQ(generation["temperature"], 0.6);
  EXPECT_EQ(generation["top_p"], 0.9);
  EXPECT_EQ(generation["max_length"], 512);
  EXPECT_FALSE(generation.contains("_from_model_config"));
  const json config = GotJson("config.json");
  EXPECT_EQ(config["pad_token_id"], 7);
  EXPECT_EQ(config["attention_dropout"], 0.25);
  EXPECT_EQ(config["id2label"], json({{"0", "a"}}));
  EXPECT_EQ(config["dtype"], "bfloat16");
  EXPECT_EQ(config["max_position_embeddings"], 512);
  for (const char* key : {"auto_map", "rope_scaling"}) EXPECT_FALSE(config.contains(key)) << key;
  for (const char* name : {"pytorch_model.bin", "configuration_x.py"}) EXPECT_FALSE(fs::exists(folder_ / "out" / name));
  EXPECT_EQ(LoadSpec(folder_ / "out").rope, Extended().spec().rope);
}

TEST_F(HfExportTest, LimitsStayWhereTheContextDoes) {
  Put("generation_config.json", R"({"max_length": 128})");
  Put("tokenizer_config.json", R"({"model_max_length":  64})");
  ExportHuggingFace(params_, &tokenizer_, DType::kF32, SourceOf(Source(), {}), folder_ / "out");
  EXPECT_EQ(Got("tokenizer_config.json"), R"({"model_max_length":  64})");  // to the byte
  EXPECT_EQ(GotJson("generation_config.json")["max_length"], 128);
  Put("tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
  ExportHuggingFace(Extended(), &tokenizer_, DType::kF32, SourceOf(Source(), {}), folder_ / "out");
  EXPECT_EQ(Got("tokenizer_config.json"), R"({"model_max_length": 1000000000000000019884624838656})");
}

TEST_F(HfExportTest, AnotherTokenizerBringsItsOwnFiles) {
  const fs::path other = folder_ / "other";
  fs::create_directories(other);
  WriteBytes(other / "tokenizer.json", "{ another }");
  WriteBytes(other / "chat_template.json", "{}");
  for (const fs::path& given : {other, other / "tokenizer.json"}) {
    fs::remove_all(folder_ / "out");
    ExportHuggingFace(params_, &tokenizer_, DType::kF32, SourceOf(Source(), given), folder_ / "out");
    EXPECT_EQ(Got("tokenizer.json"), "{ another }");
    EXPECT_EQ(Got("chat_template.json"), "{}");
    EXPECT_EQ(Got("LICENSE"), "free\n");
    for (const char* name : {"chat_template.jinja", "added_tokens.json", "tokenizer_config.json"}) {
      EXPECT_FALSE(fs::exists(folder_ / "out" / name)) << name;
    }
  }
  fs::remove_all(folder_ / "out");
  ExportHuggingFace(params_, &tokenizer_, DType::kF32, SourceOf(Source(), folder_ / "t.model"), folder_ / "out");
  EXPECT_EQ(Got("tokenizer.json"), "saved anew");
  EXPECT_FALSE(fs::exists(folder_ / "out" / "chat_template.jinja"));
}

TEST_F(HfExportTest, ASourceThatIsGoneIsDoneWithout) {
  const HfSource source = SourceOf(Source(), {});
  fs::remove_all(Source());
  ExportHuggingFace(params_, &tokenizer_, DType::kF32, source, folder_ / "out");
  EXPECT_EQ(Got("tokenizer.json"), "saved anew");
  EXPECT_EQ(LoadSpec(folder_ / "out"), spec_);
}

TEST_F(HfExportTest, ReplacesAModelAsAWholeOrNotAtAll) {
  const HfSource source = SourceOf(Source(), {});
  ExportHuggingFace(params_, &tokenizer_, DType::kF32, source, folder_ / "out");
  WriteBytes(folder_ / "out" / "tokenizer.model", "stale");
  WriteBytes(folder_ / "out" / "mine.txt", "kept");
  const std::string before = Got("model.safetensors");
  const ParamStore other = TinyModel(spec_, 4);
  WithFileLimit(1 << 12, [&] {
    ExpectError(ErrorKind::kIo, {"model.safetensors"},
                [&] { ReplaceHuggingFace(other, &tokenizer_, DType::kF32, source, folder_ / "out"); });
  });
  EXPECT_EQ(Got("model.safetensors"), before);
  EXPECT_EQ(Got("tokenizer.model"), "stale");
  ReplaceHuggingFace(other, &tokenizer_, DType::kF32, source, folder_ / "out");
  EXPECT_NE(Got("model.safetensors"), before);
  EXPECT_FALSE(fs::exists(folder_ / "out" / "tokenizer.model"));
  EXPECT_EQ(Got("mine.txt"), "kept");
  // Onto itself: what is carried over is read first.
  ReplaceHuggingFace(other, &tokenizer_, DType::kF32, SourceOf(folder_ / "out", {}), folder_ / "out");
  EXPECT_EQ(Got("LICENSE"), "free\n");
  EXPECT_EQ(GotJson("config.json")["pad_token_id"], 7);
}

TEST_F(HfExportTest, FileModesFollowTheMask) {
  const mode_t before = umask(0027);
  ExportHuggingFace(params_, &tokenizer_, DType::kF32, SourceOf(Source(), {}), folder_ / "out");
  umask(before);
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "README.md"}) {
    EXPECT_EQ(static_cast<int>(fs::status(folder_ / "out" / name).permissions()), 0640) << name;
  }
}

}  // namespace
}  // namespace hawser
