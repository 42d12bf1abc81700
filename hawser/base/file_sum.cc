#include "hawser/base/file_sum.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <span>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"

namespace hawser {

FileSum SumFile(const std::filesystem::path& path, int64_t begin, int64_t bytes) {
  std::ifstream file(path, std::ios::binary);
  if (!file || !file.seekg(begin)) Fail(ErrorKind::kIo, "{}: cannot open", path.string());
  const int64_t most = bytes < 0 ? std::numeric_limits<int64_t>::max() : bytes;
  FileSum sum;
  Hasher64 hasher;
  std::vector<char> piece(size_t{1} << 20);
  while (sum.bytes < most) {
    file.read(piece.data(), std::min(static_cast<int64_t>(piece.size()), most - sum.bytes));
    if (file.gcount() == 0) break;
    hasher.Add(std::as_bytes(std::span(piece).first(static_cast<size_t>(file.gcount()))));
    sum.bytes += file.gcount();
  }
  if (file.bad()) Fail(ErrorKind::kIo, "{}: cannot read", path.string());
  sum.hash = hasher.Finish();
  return sum;
}

}  // namespace hawser
