// base/limits.h - what this process may use of the machine: processors and memory, by the strictest of the limits that
// users, schedulers and containers set.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace hawser {

/// Limits as the kernel's files below `root` tell them ("/" but in tests): control groups v2, v1 and both at once, each
/// group with all that it lies in.
class MachineFiles {
 public:
  explicit MachineFiles(std::filesystem::path root = "/") : root_(std::move(root)) {}

  /// Processors' worth of time that the quota of the control groups allows; nothing where there is none.
  std::optional<double> CpuQuota() const;
  /// Bytes that can still be taken before the system or a control group runs out; nothing where neither tells. What a
  /// group holds of files that can be dropped counts as free.
  std::optional<int64_t> FreeBytes() const;

 private:
  std::optional<std::string> Read(const std::filesystem::path& path) const;
  /// Calls `visit` with the folder of this process's group for `controller` and of every group above it, and whether
  /// the hierarchy is v2.
  void VisitGroups(std::string_view controller,
                   const std::function<void(const std::filesystem::path& folder, bool v2)>& visit) const;

  std::filesystem::path root_;
};

/// Threads to start where nobody said how many: the fewest of the processors in the affinity mask, OMP_NUM_THREADS,
/// OMP_THREAD_LIMIT and the quota of the control groups, rounded up. 1 or more.
int DefaultThreads(const MachineFiles& machine, int processors, const char* omp_num_threads,
                   const char* omp_thread_limit);
int DefaultThreads();

/// FreeBytes of this machine, or less where a limit on the address space (ulimit -v) leaves less; INT64_MAX where
/// nothing tells.
int64_t FreeMemoryBytes();

/// --force: CheckFits lets all pass.
void AllowTooLarge(bool allow);

/// Errors: kUsage, "what: 46.3 GiB of memory wanted, 23.0 GiB there: does not fit", where `bytes` more than are in use
/// already are not to be had.
void CheckFits(std::string_view what, int64_t bytes);

std::string BytesText(int64_t bytes);  // 12.3 MiB

}  // namespace hawser
