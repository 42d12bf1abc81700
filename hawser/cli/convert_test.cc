// The info and convert commands as people and scripts run them.
#include <nlohmann/json.hpp>

#include "hawser/base/file.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/test_data.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::CommandResult;
using testing::RunHawser;

class ConvertCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("cli_convert");
    spec_ = TinySpec();
    spec_.rope = ApplyRopeText(spec_.rope, "yarn:factor=4", 32);
    SaveHuggingFace(TinyModel(spec_, 1), nullptr, DType::kF32, Path("a model"));
  }
  fs::path Path(const std::string& name) const { return folder_ / name; }
  std::string Quoted(const std::string& name) const { return " '" + Path(name).string() + "'"; }

  fs::path folder_;
  ModelSpec spec_;
};

TEST_F(ConvertCommand, InfoShowsTheModel) {
  const CommandResult run = RunHawser("info --json" + Quoted("a model"));
  ASSERT_EQ(run.code, 0) << run.out;
  const json info = json::parse(run.out);
  const json wanted = {{"architecture", "llama"},
                       {"layers", 2},
                       {"width", 32},
                       {"heads", 4},
                       {"kv_heads", 2},
                       {"head_dim", 8},
                       {"mlp_width", 48},
                       {"vocab", 64},
                       {"context", 128},
                       {"tied", false},
                       {"dtype", "f32"},
                       {"tokenizer", nullptr},
                       {"format", "Hugging Face folder"},
                       {"sliding_window", nullptr},
                       {"positions", ToString(spec_.rope)},
                       {"parameters", NumParameters(spec_)},
                       {"kv_bytes_per_token", {{"f32", 2 * 2 * 16 * 4}, {"bf16", 2 * 2 * 16 * 2}}}};
  for (const auto& [key, value] : wanted.items()) EXPECT_EQ(info[key], value) << key;
  const CommandResult people = RunHawser("info" + Quoted("a model"));
  EXPECT_EQ(people.code, 0);
  for (const std::string& line :
       {std::string("positions    ") + ToString(spec_.rope), std::string("context      128")}) {
    EXPECT_NE(people.out.find("\n" + line), std::string::npos) << people.out;
  }
}

TEST_F(ConvertCommand, ConvertsAndKeepsWhatIsThere) {
  const CommandResult run = RunHawser("convert --json --dtype bf16" + Quoted("a model") + Quoted("b"));
  ASSERT_EQ(run.code, 0) << run.out;
  EXPECT_EQ(json::parse(run.out)["dtype"], "bf16");
  const LoadedModel model = LoadModel(Path("b"));
  EXPECT_EQ(model.spec, spec_);
  EXPECT_EQ(model.file_dtype, DType::kBF16);
  const std::string before = ReadFile(Path("b") / "model.safetensors");
  const CommandResult again = RunHawser("convert" + Quoted("a model") + Quoted("b") + " 2>&1");
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.out.find("--force"), std::string::npos) << again.out;
  EXPECT_EQ(ReadFile(Path("b") / "model.safetensors"), before);
  fs::create_directories(Path("c.bin"));  // whoever made it wants a folder
  EXPECT_EQ(RunHawser("convert" + Quoted("b") + Quoted("c.bin")).code, 0);
  EXPECT_EQ(RunHawser("convert" + Quoted("b") + Quoted("D.GGUF")).code, 0);
  EXPECT_EQ(LoadModel(Path("D.GGUF")).spec, spec_);
  // Over itself too, and in the dtype it has where none is asked for.
  EXPECT_EQ(RunHawser("convert --force" + Quoted("b") + Quoted("b")).code, 0);
  EXPECT_EQ(ReadFile(Path("b") / "model.safetensors"), before);
}

TEST_F(ConvertCommand, ExitCodesTellWhatWasWrong) {
  WriteBytes(Path("x.gguf"), "GGUF....");
  WriteBytes(Path("x.bin"), "no model");
  fs::create_directories(Path("empty"));
  struct Case {
    std::string arguments;
    int code;
    const char* word;
  };
  for (const Case& c :
       {Case{"info", 2, "MODEL"}, Case{"info" + Quoted("none"), 3, "none"},
        Case{"info" + Quoted("empty"), 3, "config.json"}, Case{"info" + Quoted("x.gguf"), 4, "GGUF"},
        Case{"info" + Quoted("x.bin"), 3, "x.bin"},
        Case{"info" + Quoted("a model") + " --tokenizer" + Quoted("none"), 3, "none"},
        Case{"convert" + Quoted("a model"), 2, "DST"},
        Case{"convert --dtype q8" + Quoted("a model") + Quoted("c"), 2, "bf16"},
        Case{"convert" + Quoted("a model") + Quoted("c.bin"), 2, "end in .gguf"},
        Case{"convert" + Quoted("a model") + Quoted("c.safetensors"), 2, "named as a file"},
        Case{"convert --random 1m" + Quoted("c.bin"), 2, ""},
        Case{"average" + Quoted("a model") + " --last 2 --out" + Quoted("c.pt"), 2, "named as a file"},
        Case{"extend" + Quoted("a model") + " --context 64 --data x --out" + Quoted("c.gguf"), 2, "named as a file"},
        Case{"eval" + Quoted("a model") + " piqa --output" + Quoted("c.json"), 2, "named as a file"},
        Case{"convert" + Quoted("a model") + " /dev/null/c", 3, "/dev/null/c"},
        Case{"info" + Quoted("a model") + " >/dev/full", 3, ""}}) {
    const CommandResult run = RunHawser(c.arguments + " 2>&1");
    EXPECT_EQ(run.code, c.code) << c.arguments << ": " << run.out;
    EXPECT_NE(run.out.find(c.word), std::string::npos) << run.out;
  }
}

TEST_F(ConvertCommand, ThereAndBackThroughGguf) {
  const CommandResult run = RunHawser("convert --json" + Quoted("a model") + Quoted("m.gguf"));
  ASSERT_EQ(run.code, 0) << run.out;
  EXPECT_EQ(json::parse(run.out)["dtype"], "f32");
  EXPECT_EQ(json::parse(run.out)["format"], "GGUF");
  ASSERT_EQ(RunHawser("convert" + Quoted("m.gguf") + Quoted("again")).code, 0);
  for (const char* name : {"config.json", "model.safetensors", "generation_config.json"}) {
    EXPECT_EQ(ReadFile(Path("again") / name), ReadFile(Path("a model") / name)) << name;
  }
  const std::string before = ReadFile(Path("m.gguf"));
  EXPECT_EQ(RunHawser("convert" + Quoted("a model") + Quoted("m.gguf")).code, 2);
  EXPECT_EQ(RunHawser("convert --force" + Quoted("m.gguf") + Quoted("m.gguf")).code, 0);
  const json info = json::parse(RunHawser("info --json" + Quoted("m.gguf")).out);
  EXPECT_EQ(info["positions"], ToString(spec_.rope));
  // 32 and 48 values a row: what q4_k cannot be is named.
  const CommandResult small = RunHawser("convert --type q4_k" + Quoted("a model") + Quoted("q.gguf") + " 2>&1");
  EXPECT_EQ(small.code, 0) << small.out;
  EXPECT_NE(small.out.find("rows of 32 values are no whole blocks"), std::string::npos) << small.out;
  EXPECT_EQ(RunHawser("convert --type q4_k" + Quoted("a model") + Quoted("folder")).code, 2);
  EXPECT_EQ(RunHawser("convert --type f64" + Quoted("a model") + Quoted("f.gguf")).code, 2);
}

TEST_F(ConvertCommand, RandomWeightsOfAShape) {
  const std::string shape = " --random layers=1,width=64,vocab=96,mlp=96,context=32 ";
  for (const char* to : {"r.gguf", "r"}) {
    const CommandResult run = RunHawser("convert --json --seed 5 --type f32" + shape + Quoted(to));
    ASSERT_EQ(run.code, 0) << run.out;
    EXPECT_EQ(json::parse(run.out)["from"], "random weights");
  }
  const LoadedModel file = LoadModel(Path("r.gguf")), folder = LoadModel(Path("r"));
  EXPECT_EQ(file.spec, folder.spec);
  EXPECT_EQ(file.spec.context, 32);
  EXPECT_TRUE(
      std::ranges::equal(std::span(file.params.arena().Row<float>(0), static_cast<size_t>(file.params.size())),
                         std::span(folder.params.arena().Row<float>(0), static_cast<size_t>(file.params.size()))));
  ASSERT_EQ(RunHawser("convert --force --seed 6 --type f32" + shape + Quoted("r.gguf")).code, 0);
  EXPECT_NE(file.params.Get(Role::kQuery, 0).Row<float>(0)[0],
            LoadModel(Path("r.gguf")).params.Get(Role::kQuery, 0).Row<float>(0)[0]);
  for (const char* wrong : {"2.2b", "layers=0,width=64", "layers=2", "width=64,1.1b", "layers=2,width=64,depth=3",
                            "layers=2,width=64,heads=5,kv_heads=3", "layers=2,,width=64"}) {
    const CommandResult run = RunHawser(std::string("convert --random ") + wrong + Quoted("w") + " 2>&1");
    EXPECT_EQ(run.code, 2) << wrong << ": " << run.out;
    EXPECT_NE(run.out.find("--random"), std::string::npos) << run.out;
  }
  EXPECT_EQ(RunHawser("convert" + shape + Quoted("a model") + Quoted("w")).code, 2);
}

TEST_F(ConvertCommand, Stories260kFromLlama2c) {
  HAWSER_NEEDS_DATA("models/stories260k");
  const fs::path stories = TestData() / "models/stories260k";
  const std::string source = " '" + (stories / "checkpoint_legacy.bin").string() + "'";
  const std::string tokenizer = " --tokenizer '" + (stories / "tokenizer.bin").string() + "'";
  ASSERT_EQ(RunHawser("convert" + source + Quoted("stories") + tokenizer).code, 0);
  const json from = json::parse(RunHawser("info --json" + source + tokenizer).out);
  json to = json::parse(RunHawser("info --json" + Quoted("stories")).out);
  EXPECT_EQ(from["format"], "llama2.c legacy");
  EXPECT_EQ(to["format"], "Hugging Face folder");
  EXPECT_EQ(to["parameters"], 260032);
  to["format"] = from["format"];
  to["tokenizer"]["kind"] = from["tokenizer"]["kind"];
  EXPECT_EQ(to, from);
}

}  // namespace
}  // namespace hawser
