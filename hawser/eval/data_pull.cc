#include "hawser/eval/data_pull.h"

#include <chrono>
#include <cstdlib>
#include <optional>
#include <thread>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/eval/data_files.h"
#include "hawser/io/http.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr int kTries = 4;

constexpr int64_t kMostBytes = int64_t{1} << 28;  // of a file whose size is not known

/// The whole file, which is to have `bytes`; 0: nobody knows. `part`: of a file that has a bar.
std::string Fetch(const std::string& url, int64_t bytes, bool part = false) {
  std::string why;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    if (attempt > 0) {
      LogLine(fmt::format("{}: {}; trying again", url, why));
      std::this_thread::sleep_for(std::chrono::milliseconds(500 << attempt));
    }
    std::string text;
    std::optional<ProgressBar> bar;
    if (!part) bar.emplace(url.substr(url.rfind('/') + 1), bytes);
    const HttpResponse response = Http({.url = url}, [&](const HttpResponse& head, std::string_view piece) {
      if (head.status != 200) return false;
      text.append(piece);
      if (bar) bar->Update(static_cast<int64_t>(text.size()));
      return static_cast<int64_t>(text.size()) <= (bytes > 0 ? bytes : kMostBytes);
    });
    if (response.status == 200 && response.failure.empty()) return text;
    why = response.failure.empty() ? fmt::format("the server answers {}", response.status) : response.failure;
    const bool passing = response.status == 0 || response.status == 200 || response.status == 429 ||
                         response.status >= 500 || !response.failure.empty();
    if (!passing) break;
  }
  Fail(ErrorKind::kIo, "{}: {}", url, why);
}

/// `file` out of the files that it is made from.
std::string Make(const DataFile& file, const std::string& endpoint) {
  std::optional<ProgressBar> bar;
  const auto part = [&](const std::string& path, int64_t number, int64_t count) {
    if (!bar) bar.emplace(std::string(file.path.substr(file.path.rfind('/') + 1)), count);
    std::string text = Fetch(endpoint + "/" + path, /*bytes=*/0, /*part=*/true);
    bar->Update(number + 1);
    return text;
  };
  try {
    return file.make(file.place, part);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kIo) throw;  // names its address
    Fail(error.kind(), "{}/{}", endpoint, error.what());
  }
}

}  // namespace

DataPull PullData(std::string_view set) {
  DataPull pull{.folder = DataCache()};
  std::vector<std::string_view> sets;
  const char* variable = std::getenv("HAWSER_DATA_ENDPOINT");
  const bool given = variable != nullptr && *variable != '\0';
  const std::string endpoint = given ? variable : "https://raw.githubusercontent.com";
  for (const DataFile& file : DataFiles()) {
    if (sets.empty() || sets.back() != file.set) sets.push_back(file.set);
    if (file.set != set) continue;
    if (file.place.empty()) {
      Fail(ErrorKind::kUnsupported, "data:{}: {} is made from files of other forms; docs/EVAL.md says how", set,
           file.path);
    }
  }
  for (const DataFile& file : DataFiles()) {
    if (file.set != set) continue;
    const fs::path path = pull.folder / file.path;
    std::error_code code;
    const bool there = fs::exists(path, code);
    if (there) {
      CheckDataFile(file, path, ReadFile(path), "; delete it, and it is fetched again");
    } else {
      const std::string url = endpoint + "/" + std::string(file.place);
      const std::string text = file.make != nullptr ? Make(file, endpoint) : Fetch(url, file.bytes);
      CheckDataFile(file, file.make != nullptr ? "made of " + url : url, text);
      MakeDirectories(ParentFolder(path));
      WriteFileAtomically(path, text);
    }
    pull.files.push_back({std::string(file.path), static_cast<int64_t>(fs::file_size(path)), !there});
  }
  if (pull.files.empty()) Fail(ErrorKind::kUsage, "unknown data set '{}'{}", set, SuggestName(set, sets));
  return pull;
}

}  // namespace hawser
