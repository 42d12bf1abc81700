#include "hawser/data/corpus.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/parallel.h"
#include "hawser/io/json.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

std::string FolderName(const fs::path& file) {
  std::error_code code;
  const fs::path absolute = fs::absolute(file, code).lexically_normal();
  return (code ? file : absolute).parent_path().filename().string();
}

TextDocument ParseLine(std::string_view line, const fs::path& file, int64_t number) {
  return WithFrame(fmt::format("{}: line {}", file.string(), number), [&]() -> TextDocument {
    const nlohmann::json value = ParseJson(line);
    const JsonObject object(value, "document");
    return {
        .source = object.StringOr("source", FolderName(file)), .path = file.string(), .text = object.String("text")};
  });
}

}  // namespace

int64_t InvalidUtf8At(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = CodePointAt(text, at).length;
    if (length == 0) return static_cast<int64_t>(at);
    at += length;
  }
  return -1;
}

std::vector<fs::path> ListDataFiles(const std::vector<fs::path>& paths) {
  std::vector<fs::path> files;
  for (const fs::path& path : paths) {
    std::error_code code;
    const fs::file_status status = fs::status(path, code);
    if (!fs::exists(status)) Fail(ErrorKind::kIo, "{}: no such file or folder", path.string());
    if (!fs::is_directory(status)) {
      files.push_back(path);
      continue;
    }
    std::vector<fs::path> found;
    try {
      for (const fs::directory_entry& entry : fs::recursive_directory_iterator(path)) {
        const fs::path extension = entry.path().extension();
        if ((extension == ".txt" || extension == ".jsonl") && entry.is_regular_file()) found.push_back(entry.path());
      }
    } catch (const fs::filesystem_error& error) {
      Fail(ErrorKind::kIo, "{}: cannot read folder: {}", path.string(), error.code().message());
    }
    if (found.empty()) Fail(ErrorKind::kFormat, "{}: no .txt or .jsonl file in this folder", path.string());
    std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

std::vector<TextDocument> ReadDocuments(const std::vector<fs::path>& files) {
  std::vector<TextDocument> documents;
  bool any_text = false;
  for (const fs::path& file : files) {
    std::string contents = ReadFile(file);
    if (const int64_t at = InvalidUtf8At(contents); at >= 0) {
      Fail(ErrorKind::kFormat, "{}: not UTF-8 text: byte {} is 0x{:02x}; convert it with iconv", file.string(), at,
           static_cast<unsigned char>(contents[at]));
    }
    if (contents.starts_with(kByteOrderMark)) contents.erase(0, kByteOrderMark.size());
    if (contents.empty()) Fail(ErrorKind::kFormat, "{}: the file is empty", file.string());
    if (file.extension() != ".jsonl") {
      documents.push_back({.source = FolderName(file), .path = file.string(), .text = std::move(contents)});
      any_text = true;
      continue;
    }
    int64_t number = 0;
    for (size_t begin = 0; begin < contents.size();) {
      const size_t end = std::min(contents.find('\n', begin), contents.size());
      const std::string_view line = std::string_view(contents).substr(begin, end - begin);
      begin = end + 1;
      ++number;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      documents.push_back(ParseLine(line, file, number));
      any_text = any_text || !documents.back().text.empty();
    }
  }
  if (!any_text) {
    Fail(ErrorKind::kFormat, "no documents with text in {}{}",
         files.empty() ? std::string("an empty list of files") : files.front().string(),
         files.size() > 1 ? " and the other files" : "");
  }
  return documents;
}

FileSplit HoldOutFiles(std::vector<fs::path> files, int64_t held_out) {
  const auto count = static_cast<int64_t>(files.size());
  if (held_out < 0 || held_out >= count) {
    Fail(ErrorKind::kUsage, "cannot hold out {} of {} data files: at least one must be left to train on", held_out,
         count);
  }
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  const auto cut = files.end() - held_out;
  return {.train = {files.begin(), cut}, .validation = {cut, files.end()}};
}

std::vector<Document> TokenizeDocuments(const std::vector<TextDocument>& texts, const Tokenizer& tokenizer) {
  std::vector<Document> documents(texts.size());
  std::vector<std::exception_ptr> errors(texts.size());
  ParallelFor(static_cast<int64_t>(texts.size()), [&](int64_t i) {
    try {
      documents[i] = {
          .id = i,
          .tokens = tokenizer.Encode(texts[i].text),
          .tag = texts[i].source.empty() ? std::vector<int32_t>{} : tokenizer.Encode(texts[i].source + "\n")};
    } catch (...) {
      errors[i] = std::current_exception();
    }
  });
  for (size_t i = 0; i < texts.size(); ++i) {
    if (errors[i]) WithFrame(texts[i].path, [&] { std::rethrow_exception(errors[i]); });
  }
  return documents;
}

}  // namespace hawser
