// What docs/RELIABILITY.md promises of runs, tokens and states, with every call that changes a disk going wrong in
// turn.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "hawser/base/file.h"
#include "hawser/base/lock.h"
#include "hawser/base/progress.h"
#include "hawser/data/corpus.h"
#include "hawser/data/shards.h"
#include "hawser/data/synthetic.h"
#include "hawser/device/registry.h"
#include "hawser/eval/run_report.h"
#include "hawser/io/json.h"
#include "hawser/kv/state.h"
#include "hawser/model/decoder.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/fault_walk.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/tok/byte_level.h"
#include "hawser/train/average.h"
#include "hawser/train/checkpoint.h"
#include "hawser/train/metrics.h"
#include "hawser/train/run.h"
#include "hawser/zoo/hf_export.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKinds[] = {"cut", "fail", "full", "short"};

class FileFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    SetQuiet(true);
    WriteFileAtomically(folder_ / "tokenizer.json", ByteLevelTokenizerJson({"sea", " ship", " moon"}));
    MakeDirectories(folder_ / "text");
    for (uint64_t i = 0; i < 4; ++i) {
      WriteFileAtomically(folder_ / "text" / fmt::format("{}.txt", i), MakeSyntheticDocument(1, i, 30).text);
    }
  }
  void TearDown() override { SetQuiet(false); }

  TrainConfig Config() const {
    TrainConfig config;
    config.tokenizer = folder_.path().string();
    config.data = {(folder_ / "text").string()};
    config.dims = {.width = 8, .layers = 1, .heads = 1, .mlp_width = 8};
    config.context = 16;
    config.batch_tokens = 16;
    config.steps = 2;
    config.warmup = 1;
    config.checkpoint_every = 1;
    config.keep = 1;
    config.average_last = 0;
    return config;
  }

  /// The files of a run folder but for the numbers in the names of event files.
  static std::multiset<std::string> Files(const fs::path& run) {
    std::multiset<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(run)) {
      std::string name = entry.path().lexically_relative(run).string();
      if (name.starts_with("events.")) name = "events";
      names.insert(std::move(name));
    }
    return names;
  }
  static std::vector<double> Losses(const fs::path& run) {
    std::vector<double> losses;
    for (const nlohmann::json& line : ReadMetrics(run / "metrics.jsonl")) {
      EXPECT_EQ(line["step"], losses.size() + 1);
      losses.push_back(line["loss"].get<double>());
    }
    return losses;
  }

  /// A run of `config` with every fault, gone on with afterwards.
  void ExpectRunsGoOn(const TrainConfig& config, const std::vector<std::string>& kinds);

  const WalkFolder folder_;
  const std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

void FileFaults::ExpectRunsGoOn(const TrainConfig& config, const std::vector<std::string>& kinds) {
  const TrainPlan plan = MakePlan(config);
  const fs::path straight = folder_ / "straight", broken = folder_ / "broken";
  const auto train = [&](const fs::path& out) {
    return RunTraining(plan, out, /*resume=*/true, backend_.get(), WriteRunReport);
  };
  train(straight);
  const auto files = Files(straight);
  const std::vector<double> losses = Losses(straight);
  const std::string model = ReadFile(straight / "model.safetensors");
  for (const std::string& kind : kinds) {
    const FaultWalk walk = WalkFaults(
        kind, [&] { fs::remove_all(broken); }, [&] { train(broken); },
        [&](bool threw) {
          std::error_code code;
          EXPECT_TRUE(threw || ReadFile(broken / "model.safetensors") == model);
          for (const int64_t step : CheckpointSteps(broken / "checkpoints")) {  // one that has its name is whole
            EXPECT_TRUE(LoadCheckpointOf(broken / "checkpoints", step, TrainState()).has_value());
          }
          if (fs::exists(broken / "config.json", code)) {  // and a model that has this file
            EXPECT_TRUE(ReadFile(broken / "model.safetensors") == model);
          }
          const RunSummary summary = train(broken);
          EXPECT_EQ(summary.steps, config.steps);
          EXPECT_TRUE(ReadFile(broken / "model.safetensors") == model);
          EXPECT_EQ(Losses(broken), losses);
          auto left = Files(broken);
          left.erase("events");
          left.insert("events");  // each start has a file of its own
          EXPECT_EQ(left, files);
        });
    EXPECT_GT(walk.calls, 80) << kind;
    EXPECT_GT(walk.errors, 20) << kind;
  }
  fs::remove_all(straight);
}

TEST_F(FileFaults, ARunGoesOnToTheSameBits) { ExpectRunsGoOn(Config(), {"cut", "fail"}); }

TEST_F(FileFaults, ARunOfAdaptersGoesOnToTheSameBits) {
  RunTraining(MakePlan(Config()), folder_ / "base", false, backend_.get());
  TrainConfig config = Config();
  config.tokenizer.clear();
  config.dims = {};
  config.model = (folder_ / "base").string();
  config.lora_rank = 2;
  config.steps = 1;
  ExpectRunsGoOn(config, {"cut"});
}

TEST_F(FileFaults, AnExportIsWholeOrNoModel) {
  const TrainConfig config = Config();
  const TrainPlan plan = MakePlan(config);
  RunTraining(plan, folder_ / "run", false, backend_.get());
  const LoadedModel model = InspectModel(folder_ / "run");
  const ParamStore mean =
      AverageCheckpoints(folder_ / "run" / "checkpoints", {2}, plan.spec, plan.config, backend_.get());
  const fs::path out = folder_ / "mean";
  const auto save = [&] { SaveHuggingFace(mean, model.tokenizer.get(), DType::kF32, out); };
  save();
  const auto files = Files(out);
  const std::string weights = ReadFile(out / "model.safetensors");
  for (const char* kind : kKinds) {
    WalkFaults(
        kind, [&] { fs::remove_all(out); }, save,
        [&](bool threw) {
          std::error_code code;
          EXPECT_TRUE(threw || fs::exists(out / "config.json", code));
          if (fs::exists(out / "config.json", code)) {
            EXPECT_EQ(Files(out), files);
            EXPECT_TRUE(ReadFile(out / "model.safetensors") == weights);
          }
          save();
          EXPECT_EQ(Files(out), files);
        });
  }
}

TEST_F(FileFaults, ASetOfTokenFilesIsWholeOrRefused) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadTokenizer(folder_.path());
  const fs::path out = folder_ / "shards";
  const auto write = [&] {
    const FolderLock lock(out);
    ShardWriter writer(out, *tokenizer, 50);
    for (int32_t d = 0; d < 4; ++d) writer.Add("s", std::vector<int32_t>(40, d));
    writer.Finish();
  };
  write();
  const auto files = Files(out);
  EXPECT_EQ(files, (std::multiset<std::string>{"00000.tokens", "00001.tokens"}));
  for (const char* kind : kKinds) {
    WalkFaults(
        kind, [&] { fs::remove_all(out); }, write,
        [&](bool threw) {
          std::error_code code;
          if (fs::exists(out / "00000.tokens", code)) {
            for (const fs::path& data : {out, folder_.path(), out / "00000.tokens"}) {
              try {
                const std::vector<fs::path> found = ListDataFiles({data});
                EXPECT_EQ(std::ranges::count(found, ".tokens", [](const fs::path& p) { return p.extension(); }),
                          data == out / "00000.tokens" ? 1 : 2);
              } catch (const Error& error) {
                EXPECT_TRUE(threw) << error.what();
                EXPECT_NE(std::string_view(error.what()).find(out.string() + ": an unfinished set"), std::string::npos);
              }
            }
          } else {
            EXPECT_TRUE(threw);
          }
          write();
          EXPECT_EQ(Files(out), files);
        });
  }
}

TEST_F(FileFaults, AStateIsTheOldOrTheNewOne) {
  const ModelSpec spec = TinySpec({.layers = 1});
  const ParamStore params = TinyModel(spec, 1);
  Decoder decoder(backend_.get(), &params);
  KvCache cache = NewKvCache(backend_.get(), spec, ParseKvForm("sink:2,4"), {}, DType::kF32, 64);
  Matrix logits(1, spec.vocab);
  const fs::path states = folder_ / "states", path = states / "s.kv";
  MakeDirectories(states);
  std::map<int64_t, std::string> bytes;
  for (const int count : {3, 5}) {
    decoder.Extend(std::vector<int32_t>(count, 7), &cache, logits);
    SaveKvState(cache, ModelFingerprint(params), path, nullptr);
    bytes[cache.seen()] = ReadFile(path);
  }
  for (const char* kind : kKinds) {
    WalkFaults(
        kind, [&] { WriteBytes(path, bytes[3]); }, [&] { SaveKvState(cache, ModelFingerprint(params), path, nullptr); },
        [&](bool threw) {
          const int64_t seen = ReadKvStateInfo(path).seen;
          EXPECT_TRUE(seen == 8 || (threw && seen == 3));
          EXPECT_TRUE(ReadFile(path) == bytes[seen]);
          SaveKvState(cache, ModelFingerprint(params), path, nullptr);
          EXPECT_EQ(Files(states), std::multiset<std::string>{"s.kv"});
        });
  }
}

}  // namespace
}  // namespace hawser
