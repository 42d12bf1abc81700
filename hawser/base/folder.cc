#include "hawser/base/folder.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".tmp";

void Check(const std::error_code& code, const fs::path& path, std::string_view action) {
  if (code) Fail(ErrorKind::kIo, "{}: cannot {}: {}", path.string(), action, code.message());
}

void SyncFolder(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

/// Removes "NAME.PID.tmp" of processes that are no more.
void RemoveLeftovers(const fs::path& target) {
  const std::string prefix = target.filename().string() + ".";
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(target.parent_path(), code)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(kSuffix) || name.size() <= prefix.size() + kSuffix.size())
      continue;
    const auto pid = ParseNumber<int32_t>(
        std::string_view(name).substr(prefix.size(), name.size() - prefix.size() - kSuffix.size()));
    if (!pid || *pid < 1 || (kill(*pid, 0) == 0 || errno != ESRCH)) continue;
    fs::remove_all(entry.path(), code);
  }
}

/// Hard links where they are possible, copies elsewhere.
void KeepEntries(const fs::path& from, const fs::path& into, const std::function<bool(const std::string&)>& stale) {
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (stale(name) || fs::exists(fs::symlink_status(into / name, code))) continue;
    const auto options = fs::copy_options::recursive | fs::copy_options::copy_symlinks;
    fs::copy(entry.path(), into / name, options | fs::copy_options::create_hard_links, code);
    if (!code) continue;
    fs::remove_all(into / name, code);
    fs::copy(entry.path(), into / name, options, code);
    Check(code, entry.path(), "keep");
  }
}

void Exchange(const fs::path& staged, const fs::path& target) {
  if (renameat2(AT_FDCWD, staged.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) {
    Fail(ErrorKind::kIo, "{}: cannot replace: {}", target.string(), std::strerror(errno));
  }
  const fs::path old = staged.string() + ".old";
  std::error_code code;
  fs::rename(target, old, code);
  Check(code, target, "replace");
  fs::rename(staged, target, code);
  if (code) {
    std::error_code back;
    fs::rename(old, target, back);
    Check(code, target, "replace");
  }
  fs::rename(old, staged, code);
  Check(code, old, "rename");
}

}  // namespace

void ReplaceFolder(const fs::path& path, const std::function<bool(const std::string&)>& stale,
                   const std::function<void(const fs::path&)>& write) {
  std::error_code code;
  fs::path target = fs::weakly_canonical(path, code);
  Check(code, path, "resolve");
  if (!target.has_filename()) target = target.parent_path();
  MakeDirectories(target.parent_path());
  RemoveLeftovers(target);
  const fs::path staged = fmt::format("{}.{}{}", target.string(), getpid(), kSuffix);
  fs::remove_all(staged, code);
  try {
    MakeDirectories(staged);
    write(staged);
    if (fs::exists(target, code)) {
      KeepEntries(target, staged, stale);
      fs::permissions(staged, fs::status(target).permissions(), code);
      SyncFolder(staged);
      Exchange(staged, target);
    } else {
      SyncFolder(staged);
      fs::rename(staged, target, code);
      Check(code, target, "create");
    }
  } catch (const fs::filesystem_error& error) {
    fs::remove_all(staged, code);
    Fail(ErrorKind::kIo, "{}", error.what());
  } catch (...) {
    fs::remove_all(staged, code);
    throw;
  }
  SyncFolder(target.parent_path());
  fs::remove_all(staged, code);  // now what was there before
}

}  // namespace hawser
