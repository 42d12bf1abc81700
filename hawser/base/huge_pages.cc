#include "hawser/base/huge_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "hawser/base/limits.h"

namespace hawser {
namespace {

constexpr uintptr_t kHuge = uintptr_t{2} << 20;

bool KernelHasHugePages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string text;
  std::getline(file, text);
  return text.find("[always]") != text.npos || text.find("[madvise]") != text.npos;
}

/// `bytes` of anonymous memory in huge pages, at a multiple of their size, or null.
std::byte* NewPiece(size_t bytes) {
  void* wide = mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (wide == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(wide);
  const uintptr_t at = (begin + kHuge - 1) / kHuge * kHuge;
  if (at > begin) munmap(wide, at - begin);
  if (at - begin < kHuge) munmap(reinterpret_cast<void*>(at + bytes), kHuge - (at - begin));
  auto* piece = reinterpret_cast<std::byte*>(at);
  if (madvise(piece, bytes, MADV_HUGEPAGE) == 0) return piece;
  munmap(piece, bytes);
  return nullptr;
}

/// Whether `piece`, once written, lies in huge pages; where the kernel cannot be asked, it is taken to.
bool IsHuge(std::byte* piece, size_t bytes) {
#ifndef MADV_COLLAPSE
  constexpr int MADV_COLLAPSE = 25;  // Linux 6.1
#endif
  return madvise(piece, bytes, MADV_COLLAPSE) == 0 || errno == EINVAL;
}

/// False: no huge page is to be had.
bool MovePiece(const std::byte* map, size_t bytes) {
  std::byte* piece = NewPiece(bytes);
  if (piece == nullptr) return false;
  std::memcpy(piece, map, bytes);
  const bool moved =
      IsHuge(piece, bytes) && mprotect(piece, bytes, PROT_READ) == 0 &&
      mremap(piece, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, const_cast<std::byte*>(map)) != MAP_FAILED;
  if (!moved) munmap(piece, bytes);
  return moved;
}

}  // namespace

HugePages::HugePages(std::vector<std::span<const std::byte>> maps) {
  size_t bytes = 0;
  for (const auto& map : maps) bytes += map.size();
  const bool worth = static_cast<int64_t>(bytes) >= kLeast && KernelHasHugePages() &&
                     FreeMemoryBytes() / 2 >= static_cast<int64_t>(bytes);
  if (worth) thread_ = std::thread([this, maps = std::move(maps)]() mutable { Run(std::move(maps)); });
}

HugePages::~HugePages() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

int64_t HugePages::Wait() {
  if (thread_.joinable()) thread_.join();
  return moved_;
}

void HugePages::Run(std::vector<std::span<const std::byte>> maps) {
  for (const std::span<const std::byte> map : maps) {
    const auto begin = reinterpret_cast<uintptr_t>(map.data());
    const uintptr_t end = (begin + map.size()) / kHuge * kHuge;
    // A thousand pieces of a map at most: a process may have some 65,000.
    const uintptr_t size = std::max(kHuge, (map.size() / 1000 + kHuge - 1) / kHuge * kHuge);
    for (uintptr_t at = (begin + kHuge - 1) / kHuge * kHuge; at < end; at += size) {
      const uintptr_t bytes = std::min(size, end - at);
      if (stop_ || !MovePiece(reinterpret_cast<const std::byte*>(at), bytes)) return;
      moved_ += static_cast<int64_t>(bytes);
    }
  }
}

}  // namespace hawser
