// Files that no writer of models or texts makes: every command ends with one printable line and an exit code that says
// whose fault it is.
#include <sys/stat.h>

#include <algorithm>

#include "hawser/base/file.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/tok/byte_level.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;
using testing::RunHawser;

class HostileFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("cli_hostile");
    SaveHuggingFace(TinyModel(TinySpec({.vocab = 300}), 1), nullptr, DType::kF32, folder_ / "model");
    WriteBytes(folder_ / "model" / "tokenizer.json", ByteLevelTokenizerJson({}));
    WriteBytes(folder_ / "text.txt", "some words to train on\n");
  }
  fs::path Model(const char* name) const { return folder_ / "model" / name; }
  std::string Quoted(const fs::path& path) const { return " '" + path.string() + "'"; }

  /// One printable line that holds `words`, and exit code 3.
  void ExpectRefused(const std::string& arguments, std::string_view words, int code = 3) {
    const CommandResult run = RunHawser(arguments + " 2>&1 >/dev/null </dev/null");
    EXPECT_EQ(run.code, code) << arguments << ": " << run.out;
    EXPECT_NE(run.out.find(words), std::string::npos) << arguments << ": " << run.out;
    EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 1) << run.out;
    EXPECT_TRUE(std::all_of(run.out.begin(), run.out.end(), [](char c) {
      return c == '\n' || static_cast<unsigned char>(c) >= ' ';
    })) << run.out;
    EXPECT_LT(run.out.size(), 1100u);
  }

  fs::path folder_;
};

TEST_F(HostileFiles, PipesAreRefusedWhereverAFileIsRead) {
  const auto pipe = [&](const fs::path& path) {
    fs::remove(path);
    ASSERT_EQ(mkfifo(path.c_str(), 0644), 0);
  };
  const fs::path model = folder_ / "model";
  for (const char* name : {"config.json", "generation_config.json", "hawser_spec.json", "model.safetensors",
                           "tokenizer.json", "tokenizer_config.json"}) {
    const fs::path copy = folder_ / "copy";
    fs::remove_all(copy);
    fs::copy(model, copy);
    pipe(copy / name);
    ExpectRefused("info" + Quoted(copy), "a pipe");
  }
  pipe(folder_ / "pipe");
  pipe(folder_ / "pipe.jsonl");
  pipe(folder_ / "pipe.tokens");
  const std::string text = Quoted(folder_ / "text.txt"), fifo = Quoted(folder_ / "pipe");
  ExpectRefused("info" + fifo, "a pipe");
  ExpectRefused("info" + Quoted(model) + " --tokenizer" + fifo, "a pipe");
  ExpectRefused("eval" + Quoted(model) + " ppl --data" + fifo, "a pipe");
  ExpectRefused("inspect data" + Quoted(model) + " --context 64 --data" + Quoted(folder_ / "pipe.tokens"), "a pipe");
  ExpectRefused("eval" + Quoted(model) + " ppl --data" + Quoted(folder_), "a pipe");
  ExpectRefused("eval" + Quoted(model) + " ppl --data /dev/zero", "a device");
  ExpectRefused("tokenize" + Quoted(model) + " --file" + fifo, "a pipe");
  ExpectRefused("generate" + Quoted(model) + " --prompt x --load-state" + fifo, "a pipe");
  ExpectRefused("train" + fifo + " --out" + Quoted(folder_ / "run"), "a pipe");
  ExpectRefused("plot" + fifo + " --out" + Quoted(folder_ / "a.svg"), "a pipe");
}

// There is no such model: an output that cannot be written is what ends a command first.
TEST_F(HostileFiles, OutputsAreTriedBeforeTheWork) {
  const fs::path fifo = folder_ / "pipe";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0644), 0);
  for (const char* command :
       {"generate /no/model --prompt x --save-state", "eval /no/model ppl --data /no/data --nll",
        "plot /no/results --out", "corpus --documents 100000000 --out", "inspect pattern full --docs 3,3 --svg",
        "inspect data /no/model --context 64 --data /no/data --svg"}) {
    const std::string start = std::string(command) + " ";
    ExpectRefused(start + "/no/folder/x.svg", "/no/folder/x.svg: cannot create");
    ExpectRefused(start + Quoted(folder_ / "text.txt" / "x.svg"), "x.svg: cannot create");
    ExpectRefused(start + Quoted(folder_), "a folder");
    ExpectRefused(start + Quoted(fifo), "a pipe");
    ExpectRefused(start + "/dev/null", "a device");
  }
  EXPECT_TRUE(fs::is_fifo(fifo));
}

TEST_F(HostileFiles, WhatIsReadIsNotWrittenOver) {
  const fs::path text = folder_ / "text.txt", model = folder_ / "model.gguf", link = folder_ / "link.txt";
  ASSERT_EQ(RunHawser("convert" + Quoted(folder_ / "model") + Quoted(model)).code, 0);
  fs::create_hard_link(text, link);
  const std::string kept = ReadFile(text), weights = ReadFile(model);
  const std::string of = Quoted(model) + " ";
  const std::pair<std::string, std::string> rows[] = {
      {"index" + of + "--prefix" + Quoted(text) + " --out" + Quoted(text), "--out would write over"},
      {"index" + of + "--prefix" + Quoted(text) + " --out" + Quoted(link), "which --prefix reads"},
      {"index" + of + "--prefix" + Quoted(text) + " --out" + Quoted(model), "which MODEL reads"},
      {"eval" + of + "ppl --data" + Quoted(text) + " --nll" + Quoted(text), "which --data reads"},
      {"eval" + of + "ppl --data" + Quoted(text) + " --nll" + Quoted(model), "which MODEL reads"},
      {"generate" + of + "--prompt-file" + Quoted(text) + " --save-state" + Quoted(text), "which --prompt-file reads"},
      {"generate" + of + "--grammar" + Quoted(text) + " --save-state" + Quoted(text), "which --grammar reads"},
      {"report" + Quoted(text) + " --out" + Quoted(text), "--out would write over"}};
  for (const auto& [command, words] : rows) ExpectRefused(command, words, 2);
  EXPECT_EQ(ReadFile(text), kept);
  EXPECT_EQ(ReadFile(model), weights);
}

TEST_F(HostileFiles, WhatAFileSaysIsEscapedAndShortened) {
  const std::string ill = "\\u001b[31m\\n\\u0000" + std::string(200'000, 'x');
  WriteBytes(Model("config.json"), "{\"model_type\": \"" + ill + "\"}");
  ExpectRefused("info" + Quoted(folder_ / "model"), "\\x1b[31m\\n\\x00xxx", 4);
  std::string lines(100'000, '\n');
  WriteBytes(folder_ / "recipe.toml", "steps = '''" + lines + "'''\n");
  ExpectRefused("train" + Quoted(folder_ / "recipe.toml") + " --out" + Quoted(folder_ / "run"), "steps", 2);
  WriteBytes(folder_ / "\x1b[2J\n", "{");
  ExpectRefused("plot" + Quoted(folder_ / "\x1b[2J\n") + " --out" + Quoted(folder_ / "a.svg"), "\\x1b[2J\\n");
}

TEST_F(HostileFiles, DeepNestingIsRefused) {
  const std::string deep(100'000, '['), ends(100'000, ']');
  const std::string object = "{\"a\": " + deep + ends + "}";
  for (const char* name : {"config.json", "generation_config.json", "hawser_spec.json", "tokenizer_config.json",
                           "special_tokens_map.json", "tokenizer.json"}) {
    const fs::path copy = folder_ / "copy";
    fs::remove_all(copy);
    fs::copy(folder_ / "model", copy);
    WriteBytes(copy / name, object);
    ExpectRefused("convert" + Quoted(copy) + Quoted(folder_ / "to"), "deeper than 64");
  }
  WriteBytes(folder_ / "deep.jsonl", object + "\n");
  ExpectRefused("eval" + Quoted(folder_ / "model") + " ppl --data" + Quoted(folder_ / "deep.jsonl"), "deeper than 64");
  WriteBytes(folder_ / "recipe.toml", "x = " + deep + ends);
  ExpectRefused("train" + Quoted(folder_ / "recipe.toml") + " --out" + Quoted(folder_ / "run"), "deeper than 64");
  WriteBytes(folder_ / "plot.json", object);
  ExpectRefused("plot" + Quoted(folder_ / "plot.json") + " --out" + Quoted(folder_ / "a.svg"), "deeper than 64");
}

}  // namespace
}  // namespace hawser
