#include "hawser/base/buffer.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "hawser/base/limits.h"
#include "hawser/base/out_of_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hawser {

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t alignment = bytes >= 2 * kHuge ? kHuge : 64;
  // Small ones are not worth a look at the machine's state.
  constexpr size_t kLarge = size_t{64} << 20;
  constexpr size_t kMost = INT64_MAX - kHuge;
  if (bytes >= kLarge) CheckFits("a buffer", static_cast<int64_t>(std::min(bytes, kMost)));
  if (bytes > kMost) Fail(ErrorKind::kUsage, "a buffer of {} bytes is more than any machine has", bytes);
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  data_ = std::aligned_alloc(alignment, rounded);
  if (data_ == nullptr) {
    throw OutOfMemory(ErrorKind::kUsage,
                      fmt::format("out of memory: {} more were wanted", BytesText(static_cast<int64_t>(bytes))));
  }
#if defined(__linux__)
  if (alignment == kHuge) madvise(data_, rounded, MADV_HUGEPAGE);
#endif
  std::memset(data_, 0, rounded);
}

}  // namespace hawser
