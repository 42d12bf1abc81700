#include "hawser/base/file_sum.h"

#include <span>

#include "hawser/base/file.h"
#include "hawser/base/hash.h"

namespace hawser {

FileSum SumFile(const std::filesystem::path& path, int64_t begin, int64_t bytes) {
  FileSum sum;
  Hasher64 hasher;
  const auto add = [&](std::span<const std::byte> piece) {
    hasher.Add(piece);
    sum.bytes += static_cast<int64_t>(piece.size());
  };
  ReadPieces(path, add, begin, bytes);
  sum.hash = hasher.Finish();
  return sum;
}

}  // namespace hawser
