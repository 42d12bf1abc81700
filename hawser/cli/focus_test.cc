// FocusLLM as people use it: candidates trained beside a model, read by generate and eval, refused elsewhere.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/data/synthetic.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/test_folder.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/zoo/focus_file.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;
using testing::RunHawser;

class FocusCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshPath("focus_command");
    MakeDirectories(folder_ / "text");
    MakeDirectories(folder_ / "base");
    WriteFileAtomically(folder_ / "tokenizer.json", ByteLevelTokenizerJson(SyntheticWords()));
    for (uint64_t i = 0; i < 12; ++i) {
      WriteFileAtomically(folder_ / "text" / fmt::format("{:02}.txt", i), MakeSyntheticDocument(1, i, 190).text);
    }
    const auto tokenizer = LoadTokenizer(folder_);
    ModelSpec spec;
    spec.vocab = tokenizer->vocab_size();
    spec.width = 32;
    spec.layers = 2;
    spec.heads = 4;
    spec.kv_heads = 2;
    spec.head_dim = 8;
    spec.mlp_width = 48;
    spec.context = 64;
    spec.rope.rotary_dim = 8;
    spec.bos = tokenizer->bos();
    ParamStore weights(spec, DType::kF32);
    InitializeParams(weights, 3);
    SaveHuggingFace(weights, tokenizer.get(), DType::kF32, folder_ / "base");
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  CommandResult Extend(const std::string& out, const std::string& more, int threads = 1) const {
    return RunHawser(fmt::format(
        "extend '{}' --data '{}' --out '{}' --threads {} --quiet --dtype f32 --set batch_tokens=512 --steps 4 "
        "--set lr=1e-2 --objective focus:tokens=192,chunk=8+16,prompt=6,local=20,targets=4 {} 2>&1",
        Path("base"), Path("text"), Path(out), threads, more));
  }
  std::string Candidates(const std::string& run) const { return ReadFile(folder_ / run / kFocusFileName); }

  fs::path folder_;
};

TEST_F(FocusCommand, TrainsReadsAndIsTheSameAfterAKill) {
  const CommandResult run = Extend("run", "");
  ASSERT_EQ(run.code, 0) << run.out;
  EXPECT_FALSE(fs::exists(folder_ / "run" / "config.json")) << "the model stays where it is";
  const auto mark = nlohmann::json::parse(ReadFile(folder_ / "run" / "hawser.json"));
  EXPECT_EQ(mark["objective"], "focus:tokens=192,chunk=8+16,prompt=6,local=20,least=20,targets=4");
  EXPECT_EQ(Extend("run", "--resume").code, 0) << "finished before";

  ASSERT_EQ(Extend("again", "--set checkpoint_every=2", /*threads=*/2).code, 0);
  EXPECT_TRUE(Candidates("again") == Candidates("run"));
  fs::remove_all(folder_ / "again" / "checkpoints" / "step_000004");
  fs::remove(folder_ / "again" / kFocusFileName);
  const CommandResult resumed = Extend("again", "--set checkpoint_every=2 --resume");
  ASSERT_EQ(resumed.code, 0) << resumed.out;
  EXPECT_TRUE(Candidates("again") == Candidates("run"));

  const std::string prompt = MakeSyntheticDocument(2, 7, 150).text;
  WriteFileAtomically(folder_ / "prompt.txt", prompt);
  const auto generate = [&](const std::string& more) {
    return RunHawser(fmt::format("generate '{}' --prompt-file '{}' --ignore-eos --quiet {}", Path("base"),
                                 Path("prompt.txt"), more));
  };
  const CommandResult read = generate(fmt::format("--focus '{}' -n 5 --json", Path("run")));
  ASSERT_EQ(read.code, 0) << read.out;
  const auto json = nlohmann::json::parse(read.out);
  EXPECT_EQ(json["focus"]["chunk"], 16);
  EXPECT_EQ(json["focus"]["local"], 20);
  EXPECT_EQ(json["new_tokens"], 5);
  const int64_t tokens = json["prompt_tokens"], memory = json["focus"]["memory"], chunks = json["focus"]["chunks"];
  EXPECT_EQ(memory, tokens - 20);
  EXPECT_EQ(chunks, (memory + 15) / 16);
  EXPECT_EQ(json["focus"]["candidate_rows"], 5 * chunks) << "the prompt's, and those of four tokens that are fed back";
  const CommandResult other = generate(fmt::format("--focus '{},chunk=12,local=24,prompt=8,sync=3' -n 5 --json",
                                                   Path("run/" + std::string(kFocusFileName))));
  ASSERT_EQ(other.code, 0) << other.out;
  EXPECT_EQ(nlohmann::json::parse(other.out)["focus"]["chunks"], (tokens - 24 + 11) / 12);

  // Tasks are answered through it too, of prompts six times as long as the context.
  const CommandResult eval =
      RunHawser(fmt::format("eval '{}' passkey:lengths=400,depths=2,trials=1 --focus '{}' --context 400 --json --quiet",
                            Path("base"), Path("run")));
  ASSERT_EQ(eval.code, 0) << eval.out;
  const auto results = nlohmann::json::parse(eval.out);
  EXPECT_EQ(results["engine"]["focus"]["chunk"], 16);
  EXPECT_EQ(results["engine"]["max_length"], 400);
}

TEST_F(FocusCommand, WhatCannotBeIsRefusedByName) {
  ASSERT_EQ(Extend("run", "").code, 0);
  const auto refused = [&](const CommandResult& result, int code, const std::string& reason) {
    EXPECT_EQ(result.code, code) << result.out;
    EXPECT_NE(result.out.find(reason), std::string::npos) << result.out << "\nwanted: " << reason;
  };
  const auto generate = [&](const std::string& model, const std::string& more) {
    return RunHawser(fmt::format("generate '{}' --prompt ' the old sailor' --quiet {} 2>&1", model, more));
  };
  const std::string focus = fmt::format("--focus '{}", Path("run"));
  refused(generate("builtin", focus + "'"), 2, "trained for another model");
  refused(generate(Path("run"), ""), 2, "this folder with --focus");
  refused(generate(Path("base"), focus + "' --rope ntk:factor=2"), 2, "read under \"ntk:factor=2");
  refused(generate(Path("base"), focus + "' --kv sink:2,16"), 2, "--focus does not go with --kv");
  refused(generate(Path("base"), focus + "' --save-state x"), 2, "--focus does not go with --save-state");
  refused(generate(Path("base"), focus + ",chunks=8'"), 2, "did you mean 'chunk'");
  refused(generate(Path("base"), focus + ",chunk=0'"), 2, "chunk='0'");
  refused(generate(Path("base"), focus + ",prompt=30,local=20'"), 2, "prompt=30");
  refused(generate(Path("base"), focus + "' -n 100"), 2, "100 new tokens do not fit");
  refused(generate(Path("base"), "--focus '" + Path("nothing") + "'"), 3, "nothing");
  refused(generate(Path("base"), "--focus '" + Path("tokenizer.json") + "'"), 3, "tokenizer.json");
  refused(RunHawser(fmt::format("eval '{}' ppl --data '{}' {}' 2>&1", Path("base"), Path("text"), focus)), 2,
          "takes no --focus");
  refused(RunHawser(fmt::format("average '{}' --last 1 --out '{}' 2>&1", Path("run"), Path("mean"))), 2,
          "trained candidates");

  for (const auto& [more, reason] : std::initializer_list<std::pair<const char*, const char*>>{
           {"--attention anchor", "does not go with attention"},
           {"--set average_last=2 --set checkpoint_every=1", "does not go with average_last"},
           {"--lora 2", "does not go with lora_rank"},
           {"--positions pose:window=64", "does not go with positions"},
           {"--set train_only=*q_proj*", "does not go with train_only"},
           {"--context 128", "stay as they are, found context = 128"},
           {"--rope dynamic:factor=4", "depend on the length"}}) {
    refused(Extend("wrong", more), std::string(more).starts_with("--rope") ? 4 : 2, reason);
    EXPECT_FALSE(fs::exists(folder_ / "wrong" / kFocusFileName));
  }
  const CommandResult dry = Extend("dry", "--dry-run");
  EXPECT_EQ(dry.code, 0) << dry.out;
  EXPECT_NE(dry.out.find("objective focus:"), std::string::npos) << dry.out;
}

}  // namespace
}  // namespace hawser
