// base/lock.h - folders that one process writes at a time, and what killed processes left in them.
//
// A file in the making is called NAME.PID.tmp beside NAME, and its writer holds a lock (flock) on it. The lock ends
// with the process, however that ends: a file of such a name without a lock is abandoned, whoever has its PID now.
// Where the file system has no locks nothing counts as abandoned.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

namespace hawser {

/// The file in a locked folder that holds the lock.
inline constexpr const char* kLockName = ".hawser.lock";

/// The NAME of "NAME.PID.tmp"; empty for other names.
std::string_view TemporaryTarget(std::string_view name);

/// Whether a file may be written under this name: there is none yet, or a regular one, in a folder that takes files.
/// Commands ask before their work, writers before they write. Errors: kIo naming the target.
void CheckTarget(const std::filesystem::path& target);

/// An empty file in the making for `target`, removed at the end unless released.
class TemporaryFile {
 public:
  /// Errors: kIo naming the target.
  explicit TemporaryFile(const std::filesystem::path& target);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  int fd() const { return fd_; }
  const std::filesystem::path& path() const { return path_; }
  void Release() { released_ = true; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  bool released_ = false;
};

/// Removes the abandoned files in the making of `target`.
void RemoveAbandonedOf(const std::filesystem::path& target);
/// Removes those of all targets in `folder`, which is one that only hawser writes: not in folders below it.
void RemoveAbandoned(const std::filesystem::path& folder);

/// True where there is no such folder, or nothing in it but what processes left that died before their first file was
/// whole.
bool IsUnused(const std::filesystem::path& folder);

/// Keeps other processes from writing into a folder while alive, by a lock on the file kLockName in it, which
/// tells who holds it and goes with it.
class FolderLock {
 public:
  /// Makes the folder where it is absent; it goes again with the lock if nothing else came to be in it. Errors: kUsage
  /// naming the process that holds it and since when; kIo.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  void Release();

  std::vector<std::filesystem::path> made_;  // folders, the innermost first
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace hawser
