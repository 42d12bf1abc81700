#include "hawser/eval/row_log.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"

namespace hawser {
namespace {

/// The first thing in which two runs differ, for people: one that a user gave rather than a number that follows from
/// it.
std::string Difference(const nlohmann::json& held, const nlohmann::json& asked) {
  std::string plain;
  for (const auto& [key, value] : asked.items()) {
    const nlohmann::json other = held.is_object() && held.contains(key) ? held[key] : nlohmann::json();
    if (other == value) continue;
    if (value.is_object() && other.is_object()) return Difference(other, value);
    if (plain.empty()) plain = fmt::format("{} {}, this one {}", key, ShownJson(other), ShownJson(value));
  }
  return plain.empty() ? "more than this one" : plain;
}

/// What other runs leave in their folders.
constexpr std::pair<const char*, std::string_view> kMarks[] = {
    {"answers.jsonl", "an evaluation"}, {"methods.jsonl", "a comparison"}, {"recipe.toml", "a training run"}};

/// Errors: kUsage where `folder` has a run of another kind than the one that writes `name`.
void CheckKind(const std::filesystem::path& folder, const std::string& name) {
  std::error_code code;
  if (std::filesystem::exists(folder / name, code)) return;
  for (const auto& [mark, what] : kMarks) {
    if (name == mark || !std::filesystem::exists(folder / mark, code)) continue;
    Fail(ErrorKind::kUsage, "{}: this folder holds {} ({}); choose another folder", folder.string(), what, mark);
  }
}

}  // namespace

RowLog::RowLog(const std::filesystem::path& folder, const std::string& name, const nlohmann::json& header, bool resume)
    : lock_(folder), path_(folder / name) {
  CheckKind(folder, name);
  const nlohmann::json asked = ParseJson(JsonText(header));  // as it is written, names of files too
  std::error_code code;
  const std::string text = std::filesystem::exists(path_, code) ? ReadFile(path_) : std::string();
  const size_t whole = text.rfind('\n') == text.npos ? 0 : text.rfind('\n') + 1;
  if (whole == 0) {
    started_ =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
    nlohmann::json first = asked;
    first["started"] = started_;
    WriteFileAtomically(path_, JsonText(first) + "\n");
  } else {
    for (size_t begin = 0, number = 0; begin < whole; ++number) {
      const size_t end = text.find('\n', begin);
      WithFrame(fmt::format("{}:{}", path_.string(), number + 1), [&] {
        nlohmann::json line;
        try {
          line = ParseJson(std::string_view(text).substr(begin, end - begin));
        } catch (const Error& error) {
          Fail(error.kind(), "{}; {}", error.what(),
               number > 0 ? "delete the line, and what it held is done again" : "choose another folder");
        }
        if (number > 0) {
          rows_.push_back(std::move(line));
          return;
        }
        started_ = JsonObject(line, "run").Int("started", 0, int64_t{1} << 53);
        for (const auto& [key, value] : asked.items()) {
          if (line.contains(key) && line[key] == value) continue;
          Fail(ErrorKind::kUsage, "this folder holds another run, with {}; choose another folder",
               Difference(line, asked));
        }
        if (!resume) Fail(ErrorKind::kUsage, "this folder holds this run already; --resume goes on with it");
      });
      begin = end + 1;
    }
    if (whole < text.size()) TruncateFile(path_, whole);
  }
  file_ = std::make_unique<AppendFile>(path_);
}

RowLog::~RowLog() = default;

std::string RowLog::Place(size_t row) const { return fmt::format("{}:{}", path_.string(), row + 2); }

void RowLog::Add(const nlohmann::json& row) { file_->Append(JsonText(row) + "\n"); }

}  // namespace hawser
