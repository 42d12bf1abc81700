// eval/data_files.h - the files of public data sets that tasks read, known by name, size and SHA-256, or by the hash of
// the repository that holds them. Where to get each, and under which licence: docs/EVAL.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/eval/data_made.h"

namespace hawser {

struct DataFile {
  std::string_view set;         // "mmlu", of `hawser pull data:mmlu`
  std::string_view path;        // in a folder of data: "mmlu/test.jsonl"
  int64_t bytes = 0;            // 0: not known
  std::string_view hash;        // SHA-256; of 40 digits: the file's name as a blob of git
  std::string_view place = "";  // on raw.githubusercontent.com; empty: docs/EVAL.md says how to make it
  // Null: the file lies in `place` as it is. Else what it is made from does.
  std::string (*make)(std::string_view place, const PartFetcher& fetch) = nullptr;
};
std::span<const DataFile> DataFiles();
/// The one in `path`. REQUIRES: there is one.
const DataFile& KnownDataFile(std::string_view path);

/// Where data are: `given` (--data-dir), else HAWSER_DATA, else the cache, HAWSER_CACHE/data,
/// XDG_CACHE_HOME/hawser/data or HOME/.cache/hawser/data. What is not in the first two is looked for in the cache.
std::vector<std::filesystem::path> DataFolders(const std::filesystem::path& given);
std::filesystem::path DataCache();

/// Errors: kFormat where `text`, found in `place`, has another size or hash than `file`, naming both, with
/// `advice` behind.
void CheckDataFile(const DataFile& file, const std::filesystem::path& place, std::string_view text,
                   std::string_view advice = "");

/// The contents of one of DataFiles. Errors: kIo where no folder has it, with the command that fetches it; kFormat for
/// another size or hash, naming both.
std::string ReadDataFile(const std::filesystem::path& given, std::string_view path);
bool HasDataFile(const std::filesystem::path& given, std::string_view path);

/// Its lines as JSON objects, in order; errors name the line.
std::vector<nlohmann::json> ReadDataLines(const std::filesystem::path& given, std::string_view path);

}  // namespace hawser
