#include "hawser/base/folder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/lock.h"
#include "hawser/testing/fault_walk.h"
#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

bool IsModel(const std::string& name) { return name.starts_with("model"); }

/// An old folder with a model of two files, and things of the user's.
fs::path OldFolder(const char* name) {
  const fs::path folder = FreshFolder(name) / "m";
  fs::create_directories(folder / "checkpoints" / "1");
  WriteBytes(folder / "model.a", "old");
  WriteBytes(folder / "model.b", "old");
  WriteBytes(folder / "notes.txt", "mine");
  WriteBytes(folder / "checkpoints" / "1" / "state", "mine");
  return folder;
}

size_t Entries(const fs::path& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(ReplaceFolderTest, ReplacesWhatIsStaleAndKeepsTheRest) {
  const fs::path folder = OldFolder("replace_keeps");
  ReplaceFolder(folder, IsModel, [&](const fs::path& to) {
    EXPECT_EQ(ReadFile(folder / "model.a"), "old");  // still there, and may be read
    WriteBytes(to / "model.a", "new");
  });
  EXPECT_EQ(ReadFile(folder / "model.a"), "new");
  EXPECT_FALSE(fs::exists(folder / "model.b"));
  EXPECT_EQ(ReadFile(folder / "notes.txt"), "mine");
  EXPECT_EQ(ReadFile(folder / "checkpoints" / "1" / "state"), "mine");
  EXPECT_EQ(Entries(folder.parent_path()), 1u);
}

TEST(ReplaceFolderTest, AFailureChangesNothing) {
  const fs::path folder = OldFolder("replace_fails");
  ExpectError(ErrorKind::kIo, {"no space"}, [&] {
    ReplaceFolder(folder, IsModel, [](const fs::path& to) {
      WriteBytes(to / "model.a", "new");
      Fail(ErrorKind::kIo, "no space");
    });
  });
  EXPECT_EQ(ReadFile(folder / "model.a"), "old");
  EXPECT_EQ(ReadFile(folder / "model.b"), "old");
  EXPECT_EQ(Entries(folder.parent_path()), 1u);
}

TEST(ReplaceFolderTest, MakesAFolderAndFollowsALink) {
  const fs::path folder = FreshFolder("replace_link");
  ReplaceFolder(folder / "deep" / "m" / "", IsModel, [](const fs::path& to) { WriteBytes(to / "model.a", "1"); });
  EXPECT_EQ(ReadFile(folder / "deep" / "m" / "model.a"), "1");
  fs::create_directory_symlink(folder / "deep" / "m", folder / "link");
  ReplaceFolder(folder / "link", IsModel, [](const fs::path& to) { WriteBytes(to / "model.a", "2"); });
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(ReadFile(folder / "deep" / "m" / "model.a"), "2");
}

TEST(ReplaceFolderTest, WhatAKilledProcessLeftIsRemoved) {
  const fs::path folder = OldFolder("replace_killed");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const FolderLock lock(folder);
    ReplaceFolder(folder, IsModel, [](const fs::path& to) {
      WriteBytes(to / "model.a", "new");
      kill(getpid(), SIGKILL);
    });
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(ReadFile(folder / "model.a"), "old");
  EXPECT_EQ(Entries(folder.parent_path()), 2u);
  fs::create_directory(folder.string() + ".x.tmp");
  fs::create_directory(folder.string() + fmt::format(".{}.tmp", getppid()));  // its number is in use again
  const FolderLock lock(folder);
  ReplaceFolder(folder, IsModel, [](const fs::path& to) { WriteBytes(to / "model.a", "new"); });
  EXPECT_EQ(ReadFile(folder / "model.a"), "new");
  EXPECT_TRUE(fs::exists(folder.string() + ".x.tmp"));
  EXPECT_EQ(Entries(folder.parent_path()), 2u);
}

TEST(ReplaceFolderTest, EveryFaultLeavesOldOrNewAndNoLitterAfterTheNext) {
  const WalkFolder parent;
  const fs::path folder = parent / "m";
  const auto write = [&](const std::string& text) {
    const FolderLock lock(folder);
    ReplaceFolder(folder, IsModel, [&](const fs::path& fresh) {
      WriteFileAtomically(fresh / "model.a", text);
      MakeDirectories(fresh / "model_sub");
      WriteFileAtomically(fresh / "model_sub" / "w", text);
    });
  };
  for (const char* kind : {"fail", "full", "cut", "short"}) {
    const FaultWalk walk = WalkFaults(
        kind,
        [&] {
          write("old");
          WriteBytes(folder / "model.b", "of the old one");
          WriteBytes(folder / "notes.txt", "mine");
        },
        [&] { write("new"); },
        [&](bool threw) {
          const std::string text = ReadFile(folder / "model.a");
          EXPECT_EQ(ReadFile(folder / "model_sub" / "w"), text);
          EXPECT_EQ(fs::exists(folder / "model.b"), text == "old");
          EXPECT_EQ(ReadFile(folder / "notes.txt"), "mine");
          EXPECT_TRUE(text == "new" || threw);
          write("last");
          EXPECT_EQ(Entries(parent.path()), 1u);
          EXPECT_EQ(Entries(folder), 3u);
        });
    EXPECT_EQ(walk.errors > 5, kind != std::string_view("short")) << kind;
  }
}

TEST(FolderTest, TreesAreRemovedAndLinksNotFollowed) {
  const fs::path folder = FreshFolder("tree");
  MakeDirectories(folder / "a" / "b" / "c");
  MakeDirectories(folder / "kept");
  WriteBytes(folder / "kept" / "x", "x");
  WriteBytes(folder / "a" / "b" / "y", "y");
  fs::create_directory_symlink(folder / "kept", folder / "a" / "link");
  RemoveTree(folder / "a");
  RemoveTree(folder / "a");
  EXPECT_EQ(Entries(folder), 1u);
  EXPECT_EQ(ReadFile(folder / "kept" / "x"), "x");
  EXPECT_FALSE(fs::exists(folder / "a"));
}

TEST(FolderTest, MakesFoldersWithAndWithoutASlashAtTheEnd) {
  const fs::path folder = FreshFolder("make");
  MakeDirectories(folder / "a" / "b");
  MakeDirectories((folder / "c" / "d").string() + "/");
  EXPECT_TRUE(fs::is_directory(folder / "a" / "b") && fs::is_directory(folder / "c" / "d"));
  WriteBytes(folder / "file", "");
  ExpectError(ErrorKind::kIo, {"file"}, [&] { MakeDirectories(folder / "file" / "below"); });
  ExpectError(ErrorKind::kIo, {"file"}, [&] { MakeDirectories(folder / "file"); });
}

}  // namespace
}  // namespace hawser
