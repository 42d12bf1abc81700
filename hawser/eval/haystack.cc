#include "hawser/eval/haystack.h"

#include <system_error>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/text.h"
#include "hawser/data/corpus.h"
#include "hawser/eval/data_files.h"
#include "hawser/eval/python_text.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

std::string ReadText(const fs::path& file) {
  std::string text = ReadFile(file);
  if (file.extension() == ".json") {
    text = WithFrame(file.string(), [&] {
      const nlohmann::json root = ParseJson(text);
      return JsonObject(root, "haystack").String("text");
    });
  }
  if (const int64_t at = InvalidUtf8At(text); at >= 0) {
    Fail(ErrorKind::kFormat, "{}: not UTF-8 at byte {}", file.string(), at);
  }
  return text;
}

}  // namespace

fs::path FindData(const fs::path& given, std::string_view path) {
  const std::vector<fs::path> folders = DataFolders(given);
  std::error_code code;
  for (const fs::path& folder : folders) {
    if (fs::exists(folder / path, code)) return folder / path;
  }
  return folders.empty() ? fs::path(path) : folders.front() / path;
}

fs::path NeedData(const fs::path& given, std::string_view path, std::string_view option) {
  const fs::path place = FindData(given, path);
  std::error_code code;
  if (fs::exists(place, code)) return place;
  Fail(ErrorKind::kIo, "{}: not found; give such a file by {}, or the folder of data that has it by --data-dir",
       place.string(), option);
}

std::string ReadHaystack(const std::string& source, const fs::path& data_dir, int64_t words) {
  const bool books = source == "pg19";
  const fs::path place = books ? FindData(data_dir, "pg19/test") : fs::path(source);
  std::error_code code;
  const bool folder = fs::is_directory(place, code);
  if (books && !folder) {
    Fail(ErrorKind::kIo, "no books in {}: give a folder with pg19/test/*.txt (--data-dir), or a text as the haystack",
         place.string());
  }
  std::string text;
  int64_t found = 0;
  for (const fs::path& file : folder ? ListDataFiles({place}) : std::vector<fs::path>{place}) {
    const std::string more = ReadText(file);
    found += static_cast<int64_t>(PythonWords(more).size());
    text.append(text.empty() ? "" : "\n").append(more);
    if (found >= words) break;
  }
  if (found == 0) Fail(ErrorKind::kFormat, "{}: no words", place.string());
  return text;
}

std::string HaystackLabel(const std::string& source) {
  return source == "pg19" ? source : fs::path(source).filename().string();
}

}  // namespace hawser
