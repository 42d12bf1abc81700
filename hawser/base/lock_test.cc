#include "hawser/base/lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "hawser/base/file.h"
#include "hawser/base/file_fault.h"
#include "hawser/testing/fault_walk.h"
#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

/// Of the files below `folder`, by their paths in it.
Names FilesIn(const fs::path& folder) {
  Names names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_directory()) names.insert(entry.path().lexically_relative(folder).string());
  }
  return names;
}

/// A process that does `body` and ends without cleaning up. Returns its status.
int InProcess(const std::function<void()>& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return status;
}

/// As after a kill: the file is there, its process is not.
void LeaveTemporary(const fs::path& target) {
  InProcess([&] {
    const TemporaryFile file(target);
    FileWriter(file.fd()).Append("half");
    _exit(0);
  });
}

TEST(FileTest, OnlyRegularFilesAreWritten) {
  const fs::path folder = FreshFolder("base_targets");
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0644), 0);
  WriteFileAtomically(folder / "old", "old");
  fs::create_symlink(folder / "pipe", folder / "link");
  const std::pair<fs::path, std::string_view> wrong[] = {{folder / "pipe", "a pipe"},
                                                         {folder / "link", "a pipe"},
                                                         {folder, "a folder"},
                                                         {"/dev/null", "a device"},
                                                         {folder / "none" / "a", "cannot create"},
                                                         {folder / "old" / "a", "cannot create"},
                                                         {folder / "", "wanted the name of a file"},
                                                         {"", "wanted the name of a file"}};
  for (const auto& [target, words] : wrong) {
    ExpectError(ErrorKind::kIo, {words}, [&] { CheckTarget(target); });
    ExpectError(ErrorKind::kIo, {words}, [&] { WriteFileAtomically(target, "new"); });
    ExpectError(ErrorKind::kIo, {words}, [&] { AppendFile file(target); });
  }
  EXPECT_NO_THROW(CheckTarget(folder / "old"));
  EXPECT_NO_THROW(CheckTarget(folder / "new"));
  EXPECT_EQ(FilesIn(folder), (Names{"pipe", "old", "link"}));
}

TEST(FileFaultTest, EveryFaultOfAWriteLeavesOldOrNewAndNoLitterAfterTheNext) {
  const WalkFolder folder;
  const fs::path path = folder / "a.json";
  const std::string old(300, 'o'), fresh(200, 'n');
  for (const char* kind : {"fail", "full", "cut", "short"}) {
    const FaultWalk walk = WalkFaults(
        kind, [&] { WriteFileAtomically(path, old); }, [&] { WriteFileAtomically(path, fresh); },
        [&](bool threw) {
          const std::string found = ReadFile(path);
          EXPECT_TRUE(found == fresh || (threw && found == old));
          WriteFileAtomically(path, old);
          EXPECT_EQ(FilesIn(folder.path()), Names{"a.json"});
        });
    EXPECT_EQ(walk.errors >= 2, kind != std::string_view("short")) << kind;
  }
}

TEST(FileFaultTest, AKilledProcessLeavesWhatCutLeaves) {
  const fs::path folder = FreshFolder("kills");
  const auto contents = [&] {
    std::multiset<std::string> all;
    for (const std::string& name : FilesIn(folder)) all.insert(ReadFile(folder / name));
    return all;
  };
  for (int64_t k = 1; k <= 5; ++k) {  // create, write, sync, rename, sync of the folder
    const auto reset = [&] {
      fs::remove_all(folder);
      MakeDirectories(folder);
      WriteBytes(folder / "a.json", "old");
    };
    reset();
    {
      const FileFault fault(fmt::format("cut@{}", k));
      try {
        WriteFileAtomically(folder / "a.json", "new!");
      } catch (const Error&) {
      }
    }
    const auto cut = contents();
    reset();
    const auto write_under = [&](const char* kind) {
      return InProcess([&] {
        const FileFault fault(fmt::format("{}@{}", kind, k));
        WriteFileAtomically(folder / "a.json", "new!");
      });
    };
    EXPECT_TRUE(WIFSIGNALED(write_under("kill"))) << k;
    EXPECT_EQ(contents(), cut) << k;
    reset();
    EXPECT_TRUE(WIFSIGNALED(write_under("tear"))) << k;
    EXPECT_EQ(contents().count("ne"), k == 2);  // half of the write
  }
}

TEST(FileFaultTest, TextThatIsNoFaultIsRefused) {
  for (const char* text : {"", "kill", "kill@", "kill@0", "kill@-1", "kill@x", "burn@3", "trace@1"}) {
    ExpectError(ErrorKind::kUsage, {"KIND@K"}, [&] { const FileFault fault(text); });
  }
}

TEST(LockTest, OnlyFilesWithoutALivingWriterAreAbandoned) {
  const fs::path folder = FreshFolder("abandoned");
  LeaveTemporary(folder / "a.json");
  LeaveTemporary(folder / "b.json");
  const TemporaryFile alive(folder / "a.json");
  for (const char* name : {"a.json.tmp", "a.json.x1.tmp", ".12.tmp", "12.tmp", "a.json.12.tmpx", "other.txt"}) {
    WriteBytes(folder / name, "of others");
  }
  fs::create_symlink(folder / "other.txt", folder / "a.json.77.tmp");
  fs::create_directory(folder / "a.json.78.tmp");
  ASSERT_EQ(FilesIn(folder).size(), 10u);
  const std::string kept = alive.path().filename().string();
  RemoveAbandonedOf(folder / "a.json");
  Names names = FilesIn(folder);
  EXPECT_EQ(names.size(), 9u);  // of a.json that of the dead process is gone
  EXPECT_TRUE(names.contains(kept));
  RemoveAbandoned(folder);
  names = FilesIn(folder);
  EXPECT_EQ(names.size(), 8u);  // and that of b.json
  EXPECT_TRUE(names.contains(kept));
  EXPECT_EQ(ReadFile(folder / "other.txt"), "of others");
}

TEST(LockTest, APidThatIsInUseAgainDoesNotKeepAFile) {
  const fs::path folder = FreshFolder("pid_reused"), mine = folder / fmt::format("a.json.{}.tmp", getpid());
  WriteBytes(mine, "of a process that had this number before");
  WriteFileAtomically(folder / "a.json", "whole");
  EXPECT_EQ(FilesIn(folder), Names{"a.json"});
  // And one that a process on another machine, with the same number, is writing.
  WriteBytes(mine, "");
  const int other = open(mine.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(other, LOCK_EX), 0);
  WriteFileAtomically(folder / "a.json", "again");
  EXPECT_EQ(ReadFile(folder / "a.json"), "again");
  EXPECT_EQ(FilesIn(folder), (Names{"a.json", mine.filename().string()}));
  close(other);
}

TEST(LockTest, AFolderWithNothingButLeftoversIsUnused) {
  const fs::path folder = FreshFolder("unused");
  EXPECT_TRUE(IsUnused(folder));
  EXPECT_TRUE(IsUnused(folder / "absent"));
  LeaveTemporary(folder / "recipe.toml");
  EXPECT_TRUE(IsUnused(folder));
  InProcess([&] {
    const FolderLock lock(folder);
    _exit(0);
  });
  EXPECT_TRUE(fs::exists(folder / ".hawser.lock"));
  EXPECT_TRUE(IsUnused(folder));
  {
    const TemporaryFile alive(folder / "recipe.toml");
    EXPECT_FALSE(IsUnused(folder));
  }
  WriteBytes(folder / "x", "");
  EXPECT_FALSE(IsUnused(folder));
  EXPECT_FALSE(IsUnused(folder / "x"));
}

TEST(LockTest, ALockSaysWhoHoldsItAndEndsWithItsProcess) {
  const fs::path folder = FreshFolder("lock") / "made" / "here";
  {
    const FolderLock lock(folder);
    const std::string pid = fmt::format("process {} on ", getpid());
    ExpectError(ErrorKind::kUsage, {folder.string(), "in use by", pid, " since 20", " UTC"},
                [&] { const FolderLock second(folder); });
    const int status = InProcess([&] {
      try {
        const FolderLock third(folder);
      } catch (const Error&) {
        _exit(7);
      }
    });
    EXPECT_EQ(WEXITSTATUS(status), 7);
    const FolderLock elsewhere(folder.parent_path());
  }
  EXPECT_FALSE(fs::exists(folder.parent_path()));  // they were made for the lock alone
  fs::create_directories(folder);
  InProcess([&] {
    const FolderLock lock(folder);
    kill(getpid(), SIGKILL);
  });
  EXPECT_FALSE(fs::is_empty(folder));
  { const FolderLock lock(folder); }
  EXPECT_TRUE(fs::is_empty(folder));
}

TEST(LockTest, EveryFaultOfALockLeavesTheFolderFree) {
  const WalkFolder memory;
  const fs::path& folder = memory.path();
  for (const char* kind : {"fail", "full", "cut"}) {
    for (int64_t k = 1; k <= 4; ++k) {
      const FileFault fault(fmt::format("{}@{}", kind, k));
      try {
        const FolderLock lock(folder);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kIo) << error.what();
      }
    }
    { const FolderLock lock(folder); }
    EXPECT_TRUE(fs::is_empty(folder)) << kind;
  }
}

}  // namespace
}  // namespace hawser
