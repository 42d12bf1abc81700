// Runs that end before their time: killed, interrupted, out of disk, damaged; and what resumes them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>

#include "hawser/base/file.h"
#include "hawser/base/rng.h"
#include "hawser/testing/train_command.h"
#include "hawser/train/checkpoint.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;
using testing::RunHawser;

class TrainResume : public TrainCommand {
 protected:
  /// The command as a child process of its own, with a limit on the size of files it writes (0: none).
  pid_t Start(const std::string& out, rlim_t file_limit = 0) const {
    const std::string recipe = (folder_ / "r.toml").string(), folder = (folder_ / out).string();
    const pid_t pid = fork();
    if (pid != 0) return pid;
    if (file_limit > 0) {
      const rlimit limit{file_limit, file_limit};
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    execl(HAWSER_BINARY, HAWSER_BINARY, "train", recipe.c_str(), "--out", folder.c_str(), "--threads", "1", "--quiet",
          "--resume", nullptr);
    _exit(127);
  }
  /// Waits until the run has logged `step` or ended. True if it is still alive then.
  bool WaitForStep(pid_t pid, const std::string& out, int64_t step) const {
    while (waitpid(pid, &status_, WNOHANG) == 0) {
      const auto lines = Metrics(out);
      if (!lines.empty() && lines.back()["step"] >= step) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // polling only; nothing depends on how long
    }
    return false;
  }

  /// Kills runs of the recipe at random steps until one gets through, and compares it with one that was left alone.
  void ExpectKillsChangeNothing() const;

  mutable int status_ = 0;
};

void TrainResume::ExpectKillsChangeNothing() const {
  ASSERT_EQ(Train("straight").code, 0);
  int kills = 0;
  Rng rng{42};
  // On a busy machine a whole run may go by before this process looks at it: then another run is killed.
  for (int run = 0; run < 50 && kills < 2; ++run) {
    fs::remove_all(folder_ / "killed");
    for (;;) {
      const pid_t pid = Start("killed");
      const auto lines = Metrics("killed");
      const int64_t done = lines.empty() ? 0 : lines.back()["step"].get<int64_t>();
      if (!WaitForStep(pid, "killed", done + static_cast<int64_t>(rng.Below(12)))) break;
      kill(pid, SIGKILL);
      waitpid(pid, &status_, 0);
      if (WIFEXITED(status_)) break;  // it was done before the signal came
      ++kills;
      ASSERT_LT(kills, 200);
    }
    ASSERT_TRUE(WIFEXITED(status_) && WEXITSTATUS(status_) == 0);
    ExpectSameRun("straight", "killed");
  }
  EXPECT_GE(kills, 2);
}

TEST_F(TrainResume, KilledAnywhereAndResumedGivesTheSameBits) {
  ExpectKillsChangeNothing();
  EXPECT_EQ(Metrics("straight").size(), size_t{kSteps});
}

TEST_F(TrainResume, AdaptersKilledAndResumedGiveTheSameBits) {
  WriteRecipe(
      "steps = 32\ncheckpoint_every = 4\nlora_rank = 4\ntrain_only = \"*norm*\"\nfreeze = \"model.norm.weight\"\n"
      "dtype = \"bf16\"");
  ExpectKillsChangeNothing();
  for (const char* file : {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"}) {
    EXPECT_EQ(ReadFile(folder_ / "straight" / file), ReadFile(folder_ / "killed" / file)) << file;
  }
}

TEST_F(TrainResume, AFinishedRunSaysSo) {
  WriteRecipe("steps = 4");
  ASSERT_EQ(Train("run").code, 0);
  const std::string before = Model("run");
  const CommandResult again = Train("run", "--resume --json");
  EXPECT_EQ(again.code, 0);
  const auto json = nlohmann::json::parse(again.out);
  EXPECT_EQ(json["finished_before"], true);
  EXPECT_EQ(json["steps"], 4);
  EXPECT_EQ(json["tokens"], 4 * 256);
  EXPECT_EQ(before, Model("run"));
  // The recipe of the folder trains the same model.
  const std::string copy = (folder_ / "copy").string();
  EXPECT_EQ(RunHawser("train '" + (folder_ / "run/recipe.toml").string() + "' --quiet --out '" + copy + "'").code, 0);
  EXPECT_EQ(before, Model("copy"));
}

TEST_F(TrainResume, AFinishedRunWithoutItsModelWritesItAgain) {
  WriteRecipe("steps = 4");
  ASSERT_EQ(Train("run").code, 0);
  const std::string before = Model("run");
  const std::function<void(const fs::path&)> losses[] = {
      [](const fs::path& run) { fs::remove(run / "model.safetensors"); },
      [](const fs::path& run) { fs::resize_file(run / "model.safetensors", 1000); },
      [](const fs::path& run) { fs::remove(run / "config.json"); },
      [](const fs::path& run) { WriteFileAtomically(run / "hawser.json", "{}"); }};
  for (const auto& lose : losses) {
    lose(folder_ / "run");
    const CommandResult again = RunHawser(fmt::format("train '{}' --out '{}' --resume --json 2>/dev/null",
                                                      (folder_ / "r.toml").string(), (folder_ / "run").string()));
    ASSERT_EQ(again.code, 0) << again.out;
    EXPECT_EQ(nlohmann::json::parse(again.out)["finished_before"], false);
    EXPECT_TRUE(before == Model("run"));
  }
  fs::remove_all(folder_ / "run/checkpoints");
  EXPECT_EQ(Train("run", "--resume").code, 0);  // all that is needed is there
  fs::remove(folder_ / "run/model.safetensors");
  const CommandResult nothing = Train("run", "--resume");
  EXPECT_EQ(nothing.code, 2);
  EXPECT_NE(nothing.out.find("no checkpoint"), std::string::npos) << nothing.out;
}

TEST_F(TrainResume, ARunIsMadeLonger) {
  const auto check = [&](const char* out, const char* from, const char* pairs) {
    const std::string recipe = ReadFile(folder_ / out / "recipe.toml");
    EXPECT_NE(recipe.find(fmt::format("lengthened = {}\n", pairs)), std::string::npos) << recipe;
    ASSERT_EQ(RunHawser(fmt::format("train '{}/recipe.toml' --out '{}' --threads 1 --quiet 2>&1",
                                    (folder_ / out).string(), (folder_ / from).string()))
                  .code,
              0);
    ExpectSameRun(out, from);
  };
  WriteRecipe("steps = 4\ncheckpoint_every = 3");
  ASSERT_EQ(Train("run").code, 0);
  const CommandResult shorter = Train("run", "--resume --steps 3");
  EXPECT_EQ(shorter.code, 2);
  EXPECT_NE(shorter.out.find("longer, not shorter"), std::string::npos) << shorter.out;
  EXPECT_EQ(Train("run", "--resume --steps 8 --lr 1e-3").code, 2);
  ASSERT_EQ(Train("run", "--resume --steps 8").code, 0);
  EXPECT_EQ(Metrics("run").size(), 8u);
  check("run", "copy", "[4, 4]");
  ASSERT_EQ(Train("run", "--resume --tokens 2304").code, 0);  // 9 steps of 256
  check("run", "again", "[4, 4, 8, 8]");
  for (const char* steps : {"3", "8"}) {  // below and at what it has been
    const CommandResult less =
        RunHawser(fmt::format("train --resume '{}' --steps {} 2>&1", (folder_ / "run").string(), steps));
    EXPECT_EQ(less.code, 2);
    EXPECT_NE(less.out.find("longer, not shorter"), std::string::npos) << less.out;
  }
  // One that is not finished: it was killed after step 6 of 8.
  WriteRecipe("steps = 8\ncheckpoint_every = 3");
  ASSERT_EQ(Train("cut").code, 0);
  fs::remove(folder_ / "cut/hawser.json");
  fs::remove_all(folder_ / "cut/checkpoints/step_000008");
  ASSERT_EQ(Train("cut", "--resume --steps 10").code, 0);
  check("cut", "copy_of_cut", "[6, 8]");
}

TEST_F(TrainResume, AnInterruptSavesAndStops) {
  const pid_t pid = Start("run");
  ASSERT_TRUE(WaitForStep(pid, "run", 2));
  kill(pid, SIGTERM);
  waitpid(pid, &status_, 0);
  ASSERT_TRUE(WIFEXITED(status_));
  EXPECT_EQ(WEXITSTATUS(status_), 130);
  const int64_t last = Metrics("run").back()["step"];
  EXPECT_TRUE(fs::exists(folder_ / "run/checkpoints" / fmt::format("step_{:06}", last) / "manifest.json"));
  EXPECT_EQ(Train("run", "--resume").code, 0);
  ASSERT_EQ(Train("straight").code, 0);
  ExpectSameRun("straight", "run");
}

TEST_F(TrainResume, FoldersInUseAreLeftAlone) {
  WriteRecipe("steps = 2");
  ASSERT_EQ(Train("run").code, 0);
  const CommandResult again = Train("run");
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.out.find("--resume"), std::string::npos) << again.out;
  EXPECT_EQ(Train("text").code, 2);  // a folder with other files
  EXPECT_EQ(Train("text", "--resume").code, 2);
  EXPECT_EQ(Train("r.toml").code, 2);      // a file
  EXPECT_EQ(Train("r.toml/run").code, 3);  // cannot be made
  EXPECT_FALSE(fs::exists(folder_ / "text/recipe.toml"));
  // A run that never began leaves nothing in the way.
  EXPECT_EQ(Train("fresh", "--set tokenizer=none").code, 3);
  EXPECT_EQ(Train("fresh").code, 0);
}

TEST_F(TrainResume, ResumeWithARunAloneGoesOnByItsOwnRecipe) {
  WriteRecipe("steps = 4\ncheckpoint_every = 2\n");
  ASSERT_EQ(Train("straight", "--lora 2").code, 0);
  ASSERT_EQ(Train("run", "--lora 2").code, 0);
  for (const char* file : {"run/hawser.json", "run/model.safetensors"}) fs::remove(folder_ / file);
  fs::remove_all(folder_ / "run/checkpoints/step_000004");
  fs::remove(folder_ / "r.toml");
  const std::string run = (folder_ / "run").string();
  ASSERT_EQ(RunHawser(fmt::format("train --threads 1 --quiet --resume '{}' 2>&1", run)).code, 0);
  ExpectSameRun("straight", "run");
  // Finished, and by the other command that trains.
  const CommandResult again = RunHawser(fmt::format("extend --resume '{}' --json --quiet 2>&1", run));
  EXPECT_EQ(again.code, 0) << again.out;
  EXPECT_NE(again.out.find("\"finished_before\":true"), std::string::npos) << again.out;
  EXPECT_EQ(RunHawser(fmt::format("train --resume '{}' 2>&1", (folder_ / "text").string())).code, 2);
  EXPECT_EQ(RunHawser(fmt::format("train '{0}/recipe.toml' --resume '{0}' --out '{0}' 2>&1", run)).code, 2);
  EXPECT_EQ(RunHawser("train 2>&1").code, 2);
  // Behind --out, --resume takes no argument: the word that follows is the recipe.
  const CommandResult flag = RunHawser(fmt::format("train --out '{0}' --resume '{0}/recipe.toml' 2>&1", run));
  EXPECT_EQ(flag.code, 0) << flag.out;
}

TEST_F(TrainResume, AnotherRecipeOrOtherTextCannotResume) {
  WriteRecipe("steps = 4");
  const pid_t pid = Start("run");
  waitpid(pid, &status_, 0);
  fs::remove(folder_ / "run/hawser.json");  // as if it had been killed just before the end
  const CommandResult other = Train("run", "--resume --lr 1e-4 --set log_every=2");
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.out.find("\"lr\""), std::string::npos) << other.out;
  EXPECT_EQ(other.out.find("log_every"), std::string::npos) << other.out;
  WriteFileAtomically(folder_ / "text/00.txt", "changed");
  const CommandResult text = Train("run", "--resume");
  EXPECT_EQ(text.code, 2);
  EXPECT_NE(text.out.find("\"data\""), std::string::npos) << text.out;
}

TEST_F(TrainResume, ACheckpointWithOtherRotationsIsRefused) {
  WriteRecipe("steps = 2");
  ASSERT_EQ(Train("run").code, 0);
  fs::remove(folder_ / "run/hawser.json");
  const fs::path manifest = folder_ / "run/checkpoints/step_000002/manifest.json";
  auto json = nlohmann::json::parse(ReadFile(manifest));
  const std::string hash = json["rope_hash"];
  json["rope_hash"] = "0123456789abcdef";
  SealManifest(&json);
  WriteFileAtomically(manifest, json.dump());
  const CommandResult resumed = Train("run", "--resume");
  EXPECT_EQ(resumed.code, 2);
  for (const std::string& text : {std::string("0123456789abcdef"), hash, std::string("\"default\" over 64 tokens")}) {
    EXPECT_NE(resumed.out.find(text), std::string::npos) << text << ": " << resumed.out;
  }
  json["rope_hash"] = hash;
  SealManifest(&json);
  WriteFileAtomically(manifest, json.dump());
  EXPECT_EQ(Train("run", "--resume").code, 0);
}

TEST_F(TrainResume, ADamagedCheckpointFallsBack) {
  const auto newest = [&] {
    std::set<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(folder_ / "run/checkpoints")) folders.insert(entry.path());
    return *folders.rbegin();
  };
  const pid_t pid = Start("run");
  ASSERT_TRUE(WaitForStep(pid, "run", 10));
  kill(pid, SIGKILL);
  waitpid(pid, &status_, 0);
  const fs::path state = newest() / "state.safetensors";
  fs::resize_file(state, fs::file_size(state) - 100);
  const CommandResult resumed = RunHawser(fmt::format("train '{}' --out '{}' --threads 1 --resume 2>&1",
                                                      (folder_ / "r.toml").string(), (folder_ / "run").string()));
  EXPECT_EQ(resumed.code, 0);
  EXPECT_NE(resumed.out.find("damaged"), std::string::npos) << resumed.out;
  ASSERT_EQ(Train("straight").code, 0);
  ExpectSameRun("straight", "run");
}

TEST_F(TrainResume, AFullDiskStopsAndIsResumable) {
  struct Case {
    const char* name;
    const char* recipe;
    rlim_t limit;  // bytes of a file: more than the recipe, less than what the case is named after
  };
  for (const Case& c : {Case{"state", "steps = 12\ncheckpoint_every = 4", 20000},
                        Case{"metrics", "steps = 12\ncheckpoint_every = 0", 1600}}) {
    WriteRecipe(c.recipe);
    const pid_t pid = Start(c.name, c.limit);
    waitpid(pid, &status_, 0);
    ASSERT_TRUE(WIFEXITED(status_)) << c.name << ": signal " << WTERMSIG(status_);
    EXPECT_EQ(WEXITSTATUS(status_), 3) << c.name;
    EXPECT_FALSE(fs::exists(folder_ / c.name / "config.json"));
    EXPECT_EQ(Train(c.name, "--resume").code, 0);
  }
  ASSERT_EQ(Train("straight").code, 0);
  ExpectSameRun("straight", "state");
  ExpectSameRun("straight", "metrics");
}

}  // namespace
}  // namespace hawser
