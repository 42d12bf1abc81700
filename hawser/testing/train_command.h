// testing/train_command.h - small runs of `hawser train` in a folder of their own. For tests built with HAWSER_BINARY.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hawser/base/file.h"
#include "hawser/data/synthetic.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/test_folder.h"
#include "hawser/tok/byte_level.h"

namespace hawser {

class TrainCommand : public ::testing::Test {
 protected:
  static constexpr int kSteps = 40;

  void SetUp() override {
    folder_ = FreshPath("train_command");
    MakeDirectories(folder_ / "text");
    WriteFileAtomically(folder_ / "tokenizer.json", ByteLevelTokenizerJson(SyntheticWords()));
    for (uint64_t i = 0; i < 40; ++i) {
      WriteFileAtomically(folder_ / "text" / fmt::format("{:02}.txt", i), MakeSyntheticDocument(1, i, 120).text);
    }
    WriteRecipe(fmt::format("steps = {}\ncheckpoint_every = 4", kSteps));
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void WriteRecipe(const std::string& more) {
    WriteFileAtomically(folder_ / "r.toml",
                        "tokenizer = \".\"\ndata = \"text\"\ncontext = 64\nattention = \"anchor\"\nbatch_tokens = 256\n"
                        "lr = 3e-3\nwarmup = 5\n" +
                            more + "\n[model]\nwidth = 32\nlayers = 2\nheads = 4\nkv_heads = 2\n");
  }
  std::string Arguments(const std::string& out) const {
    return fmt::format("train '{}' --out '{}' --threads 1 --quiet ", (folder_ / "r.toml").string(),
                       (folder_ / out).string());
  }
  testing::CommandResult Train(const std::string& out, const std::string& more = "") const {
    return testing::RunHawser(Arguments(out) + more + " 2>&1");
  }
  std::string Model(const std::string& out) const { return ReadFile(folder_ / out / "model.safetensors"); }

  /// Steps in metrics.jsonl, in order; a last line that is cut off does not count.
  std::vector<nlohmann::json> Metrics(const std::string& out) const {
    std::vector<nlohmann::json> lines;
    const std::filesystem::path path = folder_ / out / "metrics.jsonl";
    if (!std::filesystem::exists(path)) return lines;
    const std::string text = ReadFile(path);
    for (size_t begin = 0, end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) {
      lines.push_back(nlohmann::json::parse(text.substr(begin, end - begin)));
    }
    return lines;
  }
  void ExpectSameRun(const std::string& a, const std::string& b) const {
    EXPECT_TRUE(Model(a) == Model(b)) << a << " and " << b << " trained different weights";
    const auto left = Metrics(a), right = Metrics(b);
    ASSERT_EQ(left.size(), right.size());
    for (size_t i = 0; i < left.size(); ++i) {
      EXPECT_EQ(left[i]["step"], i + 1);
      for (const char* key : {"step", "loss", "grad_norm", "tokens", "lr", "density"}) {
        EXPECT_EQ(left[i][key], right[i][key]) << key << " of line " << i;
      }
    }
  }

  std::filesystem::path folder_;
};

}  // namespace hawser
