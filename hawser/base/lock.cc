#include "hawser/base/lock.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/file_fault.h"
#include "hawser/base/folder.h"
#include "hawser/base/progress.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporary = ".tmp";

enum class Hold { kOurs, kOthers, kNoLocks };

Hold TryLock(int fd) {
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    return errno == EWOULDBLOCK ? Hold::kOthers : Hold::kNoLocks;
  }
  return Hold::kOurs;
}

/// True if `path` still names the open file: whoever held the lock before may have removed it.
bool IsNamed(int fd, const fs::path& path) {
  struct stat open_file {
  }, named{};
  return fstat(fd, &open_file) == 0 && lstat(path.c_str(), &named) == 0 && open_file.st_ino == named.st_ino &&
         open_file.st_dev == named.st_dev;
}

bool IsAbandoned(const fs::path& path) {
  std::error_code code;
  if (!fs::is_regular_file(fs::symlink_status(path, code))) return false;
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return false;
  const bool abandoned = TryLock(fd) == Hold::kOurs;
  close(fd);
  return abandoned;
}

std::string ReadLock(int fd) {
  char text[256];
  const ssize_t size = pread(fd, text, sizeof(text), 0);
  std::string holder(text, size > 0 ? static_cast<size_t>(size) : 0);
  holder.resize(std::min(holder.find('\n'), holder.size()));
  return holder.empty() ? "another process" : holder;
}

std::string Holder() {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return fmt::format("process {} on {} since {:%Y-%m-%d %H:%M:%S} UTC", getpid(), host,
                     fmt::gmtime(std::time(nullptr)));
}

fs::path WithoutSlash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

}  // namespace

std::string_view TemporaryTarget(std::string_view name) {
  if (!name.ends_with(kTemporary)) return {};
  name.remove_suffix(kTemporary.size());
  const size_t digits = name.find_last_not_of("0123456789") + 1;
  if (digits == name.size() || digits < 2 || name[digits - 1] != '.') return {};
  return name.substr(0, digits - 1);
}

void CheckTarget(const fs::path& target) {
  if (!target.has_filename()) Fail(ErrorKind::kIo, "'{}': wanted the name of a file", target.string());
  struct stat info {};
  if (stat(target.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) FailNotRegular(target, info.st_mode);
  } else if (errno != ENOENT) {
    FailIo(target, "create", errno);
  }
  if (access(ParentFolder(target).c_str(), W_OK | X_OK) != 0) FailIo(target, "create", errno);
}

TemporaryFile::TemporaryFile(const fs::path& target) {
  // Between being made and being locked a file looks abandoned, and the name may be taken by a process of the same PID
  // on another machine: then it is made again, or under the next name.
  for (int64_t number = getpid(); fd_ < 0; ++number) {
    path_ = fmt::format("{}.{}{}", target.string(), number, kTemporary);
    fd_ = disk::Create(path_.c_str(), O_RDWR | O_EXCL);
    if (fd_ < 0 && errno != EEXIST) FailIo(target, "create", errno);
    if (fd_ >= 0 && (TryLock(fd_) == Hold::kOthers || !IsNamed(fd_, path_))) close(std::exchange(fd_, -1));
  }
}

TemporaryFile::~TemporaryFile() {
  if (!released_) disk::Unlink(path_.c_str());
  close(fd_);
}

void RemoveAbandonedOf(const fs::path& target) {
  const std::string name = target.filename().string();
  for (const fs::path& entry : EntriesOf(ParentFolder(target))) {
    if (TemporaryTarget(entry.filename().string()) == name && IsAbandoned(entry)) disk::Unlink(entry.c_str());
  }
}

void RemoveAbandoned(const fs::path& folder) {
  for (const fs::path& entry : EntriesOf(folder)) {
    if (!TemporaryTarget(entry.filename().string()).empty() && IsAbandoned(entry)) disk::Unlink(entry.c_str());
  }
}

bool IsUnused(const fs::path& folder) {
  std::error_code code;
  if (!fs::exists(folder, code)) return true;
  if (!fs::is_directory(folder, code)) return false;
  const std::vector<fs::path> entries = EntriesOf(folder);
  return std::all_of(entries.begin(), entries.end(), [](const fs::path& entry) {
    const std::string name = entry.filename().string();
    return name == kLockName || (!TemporaryTarget(name).empty() && IsAbandoned(entry));
  });
}

FolderLock::FolderLock(const fs::path& folder) : path_(folder / kLockName) {
  std::error_code code;
  for (fs::path path = WithoutSlash(folder); !path.empty() && !fs::exists(path, code); path = path.parent_path()) {
    made_.push_back(path);
  }
  try {
    while (fd_ < 0) {
      MakeDirectories(folder);
      const int fd = disk::Create(path_.c_str(), O_RDWR | O_NOFOLLOW);
      if (fd < 0 && errno == ENOENT) continue;  // whoever held the lock has just removed the folder
      if (fd < 0) FailIo(path_, "create", errno);
      const Hold hold = TryLock(fd);
      if (hold == Hold::kOthers) {
        const std::string holder = ReadLock(fd);
        close(fd);
        Fail(ErrorKind::kUsage, "{}: in use by {}; wait for it, or give another folder", folder.string(), holder);
      }
      if (hold == Hold::kNoLocks) {
        LogLine(fmt::format("{}: this file system has no locks; see to it that no other process writes there",
                            folder.string()));
      }
      if (IsNamed(fd, path_)) {
        fd_ = fd;
      } else {
        close(fd);
      }
    }
    const std::string holder = Holder() + "\n";
    if (ftruncate(fd_, 0) != 0) FailIo(path_, "write", errno);
    WithFrame(path_.string(), [&] { FileWriter(fd_).Append(holder); });
  } catch (...) {
    Release();
    throw;
  }
}

FolderLock::~FolderLock() { Release(); }

void FolderLock::Release() {
  if (fd_ >= 0) {
    if (IsNamed(fd_, path_)) disk::Unlink(path_.c_str());
    close(fd_);
  }
  for (const fs::path& folder : made_) {
    if (disk::RemoveFolder(folder.c_str()) != 0) break;  // there is something in it
  }
}

}  // namespace hawser
