#include "hawser/base/limits.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/out_of_memory.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

std::atomic<bool> g_allow_too_large = false;

/// The number after `key` at the beginning of a line of `text`.
std::optional<int64_t> ValueOf(std::string_view text, std::string_view key) {
  for (const std::string_view line : SplitAt(text, '\n')) {
    const std::vector<std::string_view> words = SplitWords(line);
    if (words.size() >= 2 && words[0] == key) return ParseNumber<int64_t>(words[1]);
  }
  return std::nullopt;
}

std::optional<int64_t> FirstNumber(const std::optional<std::string>& text, size_t word = 0) {
  if (!text) return std::nullopt;
  const std::vector<std::string_view> words = SplitWords(*text, " \t\n");
  return word < words.size() ? ParseNumber<int64_t>(words[word]) : std::nullopt;
}

/// A mounted hierarchy of control groups.
struct Mount {
  fs::path folder;
  fs::path root;  // the group that lies at `folder`
  bool v2 = false;
};

template <class T>
void Lower(std::optional<T>* least, T value) {
  *least = *least ? std::min(**least, value) : value;
}

/// Above this a v1 limit means that there is none (it is the largest whole number of pages in an int64).
constexpr int64_t kNoLimit = int64_t{1} << 60;

std::optional<int64_t> PositiveNumber(const char* text) {
  if (text == nullptr) return std::nullopt;
  const std::string_view list(text);
  std::string_view first = list.substr(0, list.find(','));  // the outermost level of parallel regions
  while (first.starts_with(' ')) first.remove_prefix(1);
  while (first.ends_with(' ')) first.remove_suffix(1);
  const std::optional<int64_t> number = ParseNumber<int64_t>(first);
  return number && *number > 0 ? number : std::nullopt;
}

}  // namespace

std::optional<std::string> MachineFiles::Read(const fs::path& path) const {
  std::ifstream file(root_ / path.relative_path(), std::ios::binary);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void MachineFiles::VisitGroups(std::string_view controller,
                               const std::function<void(const fs::path& folder, bool v2)>& visit) const {
  const auto has = [](std::string_view list, std::string_view name) {
    const std::vector<std::string_view> names = SplitAt(list, ',');
    return std::ranges::find(names, name) != names.end();
  };
  // id parent device root folder options ... - type source options
  std::vector<Mount> mounts;
  const std::string mountinfo = Read("proc/self/mountinfo").value_or("");
  for (const std::string_view line : SplitAt(mountinfo, '\n')) {
    const std::vector<std::string_view> words = SplitWords(line, " ");
    const auto dash = std::ranges::find(words, "-");
    if (words.size() < 6 || std::distance(dash, words.end()) < 4) continue;
    const bool v2 = dash[1] == "cgroup2";
    if (v2 || (dash[1] == "cgroup" && has(dash[3], controller))) mounts.push_back({words[4], words[3], v2});
  }
  // number:controllers:group, with 0 and no controllers for v2
  const std::string groups = Read("proc/self/cgroup").value_or("");
  for (const std::string_view line : SplitAt(groups, '\n')) {
    const size_t first = line.find(':'), second = line.find(':', std::min(first, line.size() - 1) + 1);
    if (first == line.npos || second == line.npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = line.substr(0, first) == "0" && controllers.empty();
    if (!v2 && !has(controllers, controller)) continue;
    const fs::path group(line.substr(second + 1));
    for (const Mount& mount : mounts) {
      if (mount.v2 != v2) continue;
      // A container that sees only its own part has that part at the mount, whatever its name outside.
      fs::path within = group.lexically_relative(mount.root);
      if (within.empty() || *within.begin() == "..") within = ".";
      for (fs::path folder = (mount.folder / within).lexically_normal();; folder = folder.parent_path()) {
        if (!folder.has_filename()) folder = folder.parent_path();
        visit(folder, v2);
        if (folder == mount.folder || !folder.has_relative_path()) break;
      }
    }
  }
}

std::optional<double> MachineFiles::CpuQuota() const {
  std::optional<double> least;
  VisitGroups("cpu", [&](const fs::path& folder, bool v2) {
    const auto quota = v2 ? FirstNumber(Read(folder / "cpu.max")) : FirstNumber(Read(folder / "cpu.cfs_quota_us"));
    const auto period = v2 ? FirstNumber(Read(folder / "cpu.max"), 1) : FirstNumber(Read(folder / "cpu.cfs_period_us"));
    if (quota && period && *quota > 0 && *period > 0) {  // "max" is no number, and v1 writes -1
      Lower(&least, static_cast<double>(*quota) / static_cast<double>(*period));
    }
  });
  return least;
}

std::optional<int64_t> MachineFiles::FreeBytes() const {
  std::optional<int64_t> least;
  const std::string meminfo = Read("proc/meminfo").value_or("");
  if (const auto available = ValueOf(meminfo, "MemAvailable:")) Lower(&least, *available * 1024);
  VisitGroups("memory", [&](const fs::path& folder, bool v2) {
    const auto limit = FirstNumber(Read(folder / (v2 ? "memory.max" : "memory.limit_in_bytes")));
    if (!limit || *limit < 0 || *limit >= kNoLimit) return;
    const auto used = FirstNumber(Read(folder / (v2 ? "memory.current" : "memory.usage_in_bytes")));
    const std::string stat = Read(folder / "memory.stat").value_or("");
    const int64_t droppable = ValueOf(stat, v2 ? "inactive_file" : "total_inactive_file").value_or(0);
    Lower(&least, std::clamp<int64_t>(*limit - used.value_or(0) + droppable, 0, *limit));
  });
  return least;
}

int DefaultThreads(const MachineFiles& machine, int processors, const char* omp_num_threads,
                   const char* omp_thread_limit) {
  int64_t threads = std::max(1, processors);
  for (const char* text : {omp_num_threads, omp_thread_limit}) {
    if (const auto number = PositiveNumber(text)) threads = std::min(threads, *number);
  }
  if (const auto quota = machine.CpuQuota()) {
    threads = std::min(threads, static_cast<int64_t>(std::ceil(std::min(*quota, 1e6))));
  }
  return static_cast<int>(std::max<int64_t>(1, threads));
}

int DefaultThreads() {
  // A mask may be wider than cpu_set_t.
  int processors = 0;
  for (size_t sets = 1; sets <= 64 && processors == 0; sets *= 2) {
    std::vector<cpu_set_t> mask(sets);
    if (sched_getaffinity(0, sets * sizeof(cpu_set_t), mask.data()) == 0) {
      processors = CPU_COUNT_S(sets * sizeof(cpu_set_t), mask.data());
    }
  }
  if (processors == 0) processors = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return DefaultThreads(MachineFiles(), processors, std::getenv("OMP_NUM_THREADS"), std::getenv("OMP_THREAD_LIMIT"));
}

int64_t FreeMemoryBytes() {
  int64_t free = MachineFiles().FreeBytes().value_or(INT64_MAX);
  struct rlimit limit {};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    std::ifstream statm("/proc/self/statm");
    int64_t pages = 0;
    statm >> pages;
    const int64_t used = pages * sysconf(_SC_PAGESIZE);
    const auto most = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT64_MAX));
    free = std::min(free, std::max<int64_t>(0, most - used));
  }
  return free;
}

void AllowTooLarge(bool allow) { g_allow_too_large = allow; }

void CheckFits(std::string_view what, int64_t bytes) {
  if (g_allow_too_large) return;
  const int64_t there = FreeMemoryBytes();
  if (bytes <= there) return;
  throw OutOfMemory(ErrorKind::kUsage,
                    fmt::format("{}: {} of memory wanted, {} there: does not fit; ask for less, or try with --force",
                                what, BytesText(bytes), BytesText(there)));
}

std::string BytesText(int64_t bytes) {
  constexpr std::array<std::string_view, 7> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace hawser
