// eval/data_pull.h - data sets from the public places where their authors keep them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

struct DataPull {
  std::filesystem::path folder;  // DataCache()
  struct File {
    std::string path;
    int64_t bytes = 0;
    bool fetched = false;  // it was not there
  };
  std::vector<File> files;
};

/// Brings the files of a set (data_files.h) into the cache of data, each checked by size and SHA-256 before it gets its
/// name. HAWSER_DATA_ENDPOINT stands in for https://raw.githubusercontent.com. Errors: kUsage for an unknown set;
/// kUnsupported for one that has no such place, saying so; kIo (no connection in the end); kFormat (another file).
DataPull PullData(std::string_view set);

}  // namespace hawser
