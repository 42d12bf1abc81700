#include "hawser/base/folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/file_fault.h"
#include "hawser/base/lock.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

/// A hard link where it is possible, a copy elsewhere; folders entry by entry.
void KeepEntry(const fs::path& from, const fs::path& to) {
  std::error_code code;
  const fs::file_status status = fs::symlink_status(from, code);
  if (fs::is_directory(status)) {
    MakeDirectories(to);
    for (const fs::path& entry : EntriesOf(from)) KeepEntry(entry, to / entry.filename());
  } else if (disk::Link(from.c_str(), to.c_str()) != 0) {
    const int error = errno;
    if (!fs::is_regular_file(status)) FailIo(from, "keep", error);
    const MappedFile file(from);
    WriteFileAtomically(to, [&](FileWriter& out) { out.Append(file.bytes().data(), file.bytes().size()); });
  }
  fs::permissions(to, status.permissions(), fs::perm_options::replace | fs::perm_options::nofollow, code);
}

void Exchange(const fs::path& staged, const fs::path& target) {
  if (disk::Exchange(staged.c_str(), target.c_str()) == 0) return;
  const fs::path old = staged.string() + ".old";
  RenamePath(target, old);
  if (disk::Rename(staged.c_str(), target.c_str()) != 0) {
    const int error = errno;
    disk::Rename(old.c_str(), target.c_str());
    FailIo(target, "replace", error);
  }
  RenamePath(old, staged);
}

}  // namespace

void FailNotRegular(const fs::path& path, unsigned mode) {
  const char* found = S_ISDIR(mode) ? "a folder" : S_ISFIFO(mode) ? "a pipe" : S_ISSOCK(mode) ? "a socket" : "a device";
  Fail(ErrorKind::kIo, "{}: not a regular file, but {}", path.string(), found);
}

void FailIo(const fs::path& path, std::string_view action, int code) {
  Fail(ErrorKind::kIo, "{}: cannot {}: {}", path.empty() ? "''" : path.string(), action, std::strerror(code));
}

fs::path ParentFolder(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

std::vector<fs::path> EntriesOf(const fs::path& folder) {
  std::error_code code;
  std::vector<fs::path> entries;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    entries.push_back(it->path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

void SyncFolder(const fs::path& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  disk::Sync(fd);
  close(fd);
}

void RemoveFile(const fs::path& path) {
  if (disk::Unlink(path.c_str()) != 0 && errno != ENOENT) FailIo(path, "remove", errno);
}

void RemoveTree(const fs::path& path) {
  std::error_code code;
  if (!fs::is_directory(fs::symlink_status(path, code))) return RemoveFile(path);
  for (const fs::path& entry : EntriesOf(path)) RemoveTree(entry);
  if (disk::RemoveFolder(path.c_str()) != 0 && errno != ENOENT) FailIo(path, "remove", errno);
}

void RemoveQuietly(const fs::path& path) {
  try {
    RemoveTree(path);
  } catch (const Error&) {
  }
}

void RenamePath(const fs::path& from, const fs::path& to) {
  if (disk::Rename(from.c_str(), to.c_str()) != 0) FailIo(to, "rename to it", errno);
}

void ReplaceFolder(const fs::path& path, const std::function<bool(const std::string&)>& stale,
                   const std::function<void(const fs::path&)>& write) {
  std::error_code code;
  fs::path target = fs::weakly_canonical(path, code);
  if (code) FailIo(path, "resolve", code.value());
  if (!target.has_filename()) target = target.parent_path();
  const fs::path parent = target.parent_path();
  MakeDirectories(parent);
  for (const fs::path& entry : EntriesOf(parent)) {
    if (TemporaryTarget(entry.filename().string()) == target.filename().string()) RemoveTree(entry);
  }
  const fs::path staged = fmt::format("{}.{}.tmp", target.string(), getpid());
  try {
    MakeDirectories(staged);
    write(staged);
    const bool replaces = fs::exists(target, code);
    for (const fs::path& entry : EntriesOf(target)) {
      const std::string name = entry.filename().string();
      if (name == kLockName || stale(name) || fs::exists(fs::symlink_status(staged / name, code))) continue;
      KeepEntry(entry, staged / name);
    }
    if (replaces) fs::permissions(staged, fs::status(target).permissions(), code);
    SyncFolder(staged);
    replaces ? Exchange(staged, target) : RenamePath(staged, target);
  } catch (...) {
    RemoveQuietly(staged);
    throw;
  }
  SyncFolder(parent);
  RemoveQuietly(staged);  // now what was there before
}

}  // namespace hawser
