#include "hawser/base/file_fault.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

enum class Kind { kNone, kFail, kFull, kShort, kCut, kKill, kTear, kDelay, kTrace };
constexpr std::pair<std::string_view, Kind> kKinds[] = {
    {"fail", Kind::kFail}, {"full", Kind::kFull}, {"short", Kind::kShort}, {"cut", Kind::kCut},
    {"kill", Kind::kKill}, {"tear", Kind::kTear}, {"delay", Kind::kDelay}};

struct Fault {
  Kind kind = Kind::kNone;
  int64_t at = 0;
};

Fault Parse(std::string_view text) {
  if (text == "trace") return {.kind = Kind::kTrace};
  const size_t sign = std::min(text.find('@'), text.size());
  const auto at = ParseNumber<int64_t>(text.substr(std::min(sign + 1, text.size())));
  for (const auto& [name, kind] : kKinds) {
    if (text.substr(0, sign) == name && at && *at > 0) return {.kind = kind, .at = *at};
  }
  Fail(ErrorKind::kUsage, "\"{}\" is no fault of files; wanted KIND@K, as in kill@3", text);
}

Fault FromEnvironment() {
  const char* text = std::getenv("HAWSER_FILE_FAULT");
  return text == nullptr || *text == '\0' ? Fault() : Parse(text);
}

struct State {
  State() : fault(FromEnvironment()), on(fault.kind != Kind::kNone) {}
  Fault fault;
  std::atomic<bool> on;
  std::atomic<int64_t> calls = 0;
};

State& TheState() {
  static State state;
  return state;
}

[[noreturn]] void Die() {
  raise(SIGKILL);
  std::abort();
}

/// What becomes of a call: nothing (it happens as asked), an errno, or only half of it, and then perhaps death.
struct Verdict {
  int error = 0;
  bool half = false, die = false;
};

Verdict Judge(State& state, const char* call, const char* path, bool takes_space, bool writes) {
  const int64_t number = ++state.calls;
  const auto [kind, at] = state.fault;
  const bool here = number == at, since = number >= at;
  switch (kind) {
    case Kind::kNone:
      break;
    case Kind::kTrace:
      std::fprintf(stderr, "file call %lld: %s %s\n", static_cast<long long>(number), call, path);
      break;
    case Kind::kFail:
      return {.error = here ? EIO : 0};
    case Kind::kFull:
      return {.error = since && takes_space ? ENOSPC : 0};
    case Kind::kCut:
      return {.error = since ? EIO : 0};
    case Kind::kShort:
      return {.half = since && writes};
    case Kind::kTear:
      if (here && writes) return {.half = true, .die = true};
      [[fallthrough]];
    case Kind::kKill:
      if (here) Die();
      break;
    case Kind::kDelay:
      if (here) raise(SIGSTOP);
      break;
  }
  return {};
}

/// Runs `act`, unless a fault is set that says otherwise.
template <class Act>
auto Pass(const char* call, const char* path, bool takes_space, Act&& act) -> decltype(act()) {
  State& state = TheState();
  if (state.on.load(std::memory_order_relaxed)) {
    if (const Verdict verdict = Judge(state, call, path, takes_space, /*writes=*/false); verdict.error != 0) {
      errno = verdict.error;
      return -1;
    }
  }
  return act();
}

}  // namespace

FileFault::FileFault(std::string_view text) {
  State& state = TheState();
  HAWSER_CHECK(!state.on);
  state.fault = Parse(text);
  state.calls = 0;
  state.on = true;
}

FileFault::~FileFault() { TheState().on = false; }

int64_t FileFault::calls() { return TheState().calls; }

namespace disk {

int Create(const char* path, int flags) {
  return Pass("create", path, true, [&] { return open(path, flags | O_CREAT | O_CLOEXEC, 0666); });
}

ssize_t Write(int fd, const void* data, size_t bytes) {
  State& state = TheState();
  if (!state.on.load(std::memory_order_relaxed)) return write(fd, data, bytes);
  const Verdict verdict = Judge(state, "write", "", /*takes_space=*/true, /*writes=*/true);
  if (verdict.error != 0) {
    errno = verdict.error;
    return -1;
  }
  const ssize_t written = write(fd, data, verdict.half ? (bytes + 1) / 2 : bytes);
  if (verdict.die) Die();
  return written;
}

int Sync(int fd) {
  return Pass("sync", "", false, [&] { return fsync(fd); });
}
int Truncate(const char* path, off_t bytes) {
  return Pass("truncate", path, false, [&] { return truncate(path, bytes); });
}
int Rename(const char* from, const char* to) {
  return Pass("rename", to, false, [&] { return rename(from, to); });
}
int Exchange(const char* a, const char* b) {
  return Pass("exchange", b, false, [&] { return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE); });
}
int Link(const char* from, const char* to) {
  return Pass("link", to, true, [&] { return link(from, to); });
}
int Unlink(const char* path) {
  return Pass("unlink", path, false, [&] { return unlink(path); });
}
int RemoveFolder(const char* path) {
  return Pass("rmdir", path, false, [&] { return rmdir(path); });
}
int MakeFolder(const char* path) {
  return Pass("mkdir", path, true, [&] { return mkdir(path, 0777); });
}

}  // namespace disk
}  // namespace hawser
