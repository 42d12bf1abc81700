// Two processes on one folder, and processes killed by a fault of files: the binary as people run it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "hawser/base/file.h"
#include "hawser/data/synthetic.h"
#include "hawser/testing/fault_walk.h"
#include "hawser/testing/run_command.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;
using testing::RunHawser;

class RunFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    MakeDirectories(folder_ / "text");
    WriteFileAtomically(folder_ / "tokenizer.json", ByteLevelTokenizerJson({"sea", " ship"}));
    for (uint64_t i = 0; i < 3; ++i) {
      WriteFileAtomically(folder_ / "text" / fmt::format("{}.txt", i), MakeSyntheticDocument(1, i, 40).text);
    }
    WriteFileAtomically(folder_ / "r.toml",
                        "tokenizer = \".\"\ndata = \"text\"\ncontext = 16\nbatch_tokens = 16\nsteps = 2\nwarmup = 1\n"
                        "checkpoint_every = 1\n[model]\nwidth = 8\nlayers = 1\nheads = 1\n");
  }
  std::string Path(const std::string& name) const { return " '" + (folder_ / name).string() + "'"; }
  std::string TrainTo(const std::string& out) const {
    return "train" + Path("r.toml") + " --threads 1 --quiet --out" + Path(out);
  }

  /// `arguments` in a process that stops before its K-th call that changes the disk.
  pid_t StartAndStop(const std::string& arguments, int64_t k) const {
    const pid_t pid = fork();
    if (pid == 0) {
      setenv("HAWSER_FILE_FAULT", fmt::format("delay@{}", k).c_str(), 1);
      const std::string command = fmt::format("exec '{}' {} >/dev/null 2>&1", HAWSER_BINARY, arguments);
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, WUNTRACED);
    EXPECT_TRUE(WIFSTOPPED(status)) << arguments;
    return pid;
  }
  static int GoOn(pid_t pid) {
    kill(pid, SIGCONT);
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  static CommandResult Under(const std::string& fault, const std::string& arguments) {
    setenv("HAWSER_FILE_FAULT", fault.c_str(), 1);
    CommandResult result = RunHawser(arguments + " 2>&1");
    unsetenv("HAWSER_FILE_FAULT");
    return result;
  }

  const WalkFolder folder_;
};

TEST_F(RunFolder, TheSecondProcessSaysWhoHoldsIt) {
  const std::string commands[] = {TrainTo("run"), "convert builtin" + Path("model"),
                                  "tokenize builtin --data" + Path("text") + " --out" + Path("tokens"),
                                  "average" + Path("run") + " --last 1 --out" + Path("mean")};
  for (const std::string& command : commands) {
    const pid_t pid = StartAndStop(command, 12);
    for (const char* more : {"", " --resume"}) {
      if (*more != '\0' && !command.starts_with("train")) continue;
      const CommandResult second = RunHawser(command + more + " 2>&1");
      EXPECT_EQ(second.code, 2) << second.out;
      EXPECT_NE(second.out.find(fmt::format("in use by process {} on ", pid)), std::string::npos) << second.out;
      EXPECT_NE(second.out.find(" since 20"), std::string::npos) << second.out;
    }
    EXPECT_EQ(GoOn(pid), 0) << command;
  }
  for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
    EXPECT_NE(entry.path().filename(), ".hawser.lock") << entry.path();
  }
}

TEST_F(RunFolder, ARunKilledAtItsFirstFileBeginsAnew) {
  ASSERT_EQ(RunHawser(TrainTo("whole")).code, 0);
  const std::string model = ReadFile(folder_ / "whole" / "model.safetensors");
  // Folder, lock and what it says, then the recipe: its file made, written, synced and renamed.
  for (const char* fault : {"kill@2", "tear@3", "kill@5", "tear@5", "kill@7", "kill@8"}) {
    fs::remove_all(folder_ / "run");
    EXPECT_NE(Under(fault, TrainTo("run")).code, 0) << fault;
    const bool begun = fs::exists(folder_ / "run" / "recipe.toml");
    EXPECT_EQ(begun, std::string_view(fault) == "kill@8");
    const CommandResult next = RunHawser(TrainTo("run") + (begun ? " --resume" : "") + " 2>&1");
    EXPECT_EQ(next.code, 0) << fault << ": " << next.out;
    EXPECT_TRUE(ReadFile(folder_ / "run" / "model.safetensors") == model);
    for (const auto& entry : fs::directory_iterator(folder_ / "run")) {
      EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
    }
  }
}

TEST_F(RunFolder, AnUnfinishedSetOfTokenFilesIsRefusedByName) {
  const std::string tokenize =
      "tokenize builtin --shard-tokens 20 --data" + Path("text") + " --out" + Path("tokens") + " 2>&1";
  EXPECT_NE(Under("kill@18", tokenize).code, 0);
  ASSERT_TRUE(fs::exists(folder_ / "tokens" / "00000.tokens"));
  for (const char* data : {"tokens", "tokens/00000.tokens", "."}) {
    for (const std::string& command :
         {"inspect data builtin --context 16 --data" + Path(data), TrainTo("run") + " --data" + Path(data)}) {
      const CommandResult refused = RunHawser(command + " 2>&1");
      EXPECT_EQ(refused.code, 3) << command;
      EXPECT_NE(refused.out.find((folder_ / "tokens").string() + ": an unfinished set"), std::string::npos);
    }
  }
  EXPECT_EQ(RunHawser(tokenize).code, 0);
  EXPECT_EQ(RunHawser("inspect data builtin --context 16 --data" + Path("tokens")).code, 0);
}

TEST_F(RunFolder, AFailedCommandLeavesNoFolder) {
  EXPECT_EQ(RunHawser("convert" + Path("none") + Path("a/b") + " 2>/dev/null").code, 3);
  EXPECT_FALSE(fs::exists(folder_ / "a"));
}

}  // namespace
}  // namespace hawser
