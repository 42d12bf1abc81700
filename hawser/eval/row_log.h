// eval/row_log.h - results of a run as they come, in a file of its folder, so that a run that was killed does nothing
// twice: a line of JSON that says which run it is, then a line for each result.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "hawser/base/file.h"
#include "hawser/base/lock.h"

namespace hawser {

class RowLog {
 public:
  /// Opens FOLDER/NAME for the run that `header`, an object, describes; holds the folder's lock from here on. A last
  /// line that was cut off is taken away. Errors: kUsage where the file is of another run, or of the same one and
  /// `resume` is not set, and where the folder holds a run of another kind; kFormat for lines that are no JSON.
  RowLog(const std::filesystem::path& folder, const std::string& name, const nlohmann::json& header, bool resume);
  ~RowLog();

  int64_t started() const { return started_; }  // seconds since 1970, of the first start
  /// What was held when it was opened.
  const std::vector<nlohmann::json>& rows() const { return rows_; }
  /// "folder/answers.jsonl:3", for errors about rows()[row].
  std::string Place(size_t row) const;
  void Add(const nlohmann::json& row);

 private:
  FolderLock lock_;
  std::filesystem::path path_;
  int64_t started_ = 0;
  std::vector<nlohmann::json> rows_;
  std::unique_ptr<AppendFile> file_;
};

}  // namespace hawser
