// base/huge_pages.h - maps of files, moved into huge pages while they are read: a matrix that is read once a token is
// several times as large as what a core has small pages at hand for.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

namespace hawser {

/// Copies `maps`, parts of read-only maps of files, piece by piece into memory of huge pages, each of which then takes
/// the place of what was mapped, at the same addresses and in one step: who reads meanwhile reads the same bytes. What
/// is not a whole piece stays mapped. It happens on a thread of its own and uses no more memory than was resident, but
/// what can be dropped and read again from a map is then there to stay: nothing is moved where the machine has less
/// than twice as much free, where the kernel has no huge pages, or for less than kLeast bytes.
class HugePages {
 public:
  static constexpr int64_t kLeast = int64_t{16} << 20;

  /// Begins. The maps outlive this.
  explicit HugePages(std::vector<std::span<const std::byte>> maps);
  /// Ends behind the piece that it is at.
  ~HugePages();
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;

  /// Until all is moved that can be. Returns the bytes that were.
  int64_t Wait();

 private:
  void Run(std::vector<std::span<const std::byte>> maps);

  std::atomic<bool> stop_ = false;
  std::atomic<int64_t> moved_ = 0;
  std::thread thread_;
};

}  // namespace hawser
