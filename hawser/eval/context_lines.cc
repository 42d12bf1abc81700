#include "hawser/eval/context_lines.h"

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/text.h"
#include "hawser/eval/python_text.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using nlohmann::json;

std::vector<std::string> Texts(const JsonObject& item, const char* key) {
  const json* list = item.Find(key);
  std::vector<std::string> texts;
  if (list == nullptr) return texts;
  for (const json& text : list->is_array() ? *list : json::array({*list})) {
    texts.push_back(text.is_string() ? text.get<std::string>() : text.dump());
  }
  return texts;
}

}  // namespace

void ReadJsonItems(const std::filesystem::path& path, const std::function<bool(const json& item)>& take) {
  const std::string text = ReadFile(path);
  if (PythonStrip(text).starts_with('[')) {
    WithFrame(path.string(), [&] {
      const json list = ParseJson(NonFiniteAsNull(text));
      for (const json& item : list) {
        if (!take(item)) return;
      }
    });
    return;
  }
  int64_t number = 0;
  bool more = true;
  for (const std::string_view line : SplitAt(text, '\n')) {
    ++number;
    if (PythonStrip(line).empty()) continue;
    WithFrame(fmt::format("{}: line {}", path.string(), number),
              [&] { more = take(ParseJson(NonFiniteAsNull(line))); });
    if (!more) return;
  }
}

std::vector<ContextLine> ReadContextLines(const std::filesystem::path& path, int64_t most) {
  std::vector<ContextLine> lines;
  ReadJsonItems(path, [&](const json& value) {
    const JsonObject item(value, "item");
    ContextLine line{.id = item.StringOr("_id", std::to_string(lines.size())),
                     .context = item.String("context"),
                     .input = item.StringOr("input", ""),
                     .answers = Texts(item, item.Has("answers") ? "answers" : "answer"),
                     .classes = Texts(item, "all_classes"),
                     .length = item.IntOr("length", -1)};
    if (line.answers.empty()) Fail(ErrorKind::kFormat, "no answers: wanted a list \"answers\"");
    lines.push_back(std::move(line));
    return most == 0 || static_cast<int64_t>(lines.size()) < most;
  });
  if (lines.empty()) Fail(ErrorKind::kFormat, "{}: no items", path.string());
  return lines;
}

}  // namespace hawser
