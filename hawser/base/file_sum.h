// base/file_sum.h - size and checksum of a file that may be larger than memory.
#pragma once

#include <cstdint>
#include <filesystem>

namespace hawser {

struct FileSum {
  int64_t bytes = 0;
  uint64_t hash = 0;  // Hash64 of them
};

/// Of the bytes of `path` from `begin` on, `bytes` at most (-1: all). Read piece by piece: mapped, they would count as
/// memory of the process. Errors: kIo naming the path.
FileSum SumFile(const std::filesystem::path& path, int64_t begin = 0, int64_t bytes = -1);

}  // namespace hawser
