#include "hawser/eval/data_made.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/eval/mmlu_subjects.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

/// A text as Python's json.dumps(ensure_ascii=False) writes it.
std::string Quoted(const std::string& text) {
  return WithFrame("a text", [&] {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      Fail(ErrorKind::kFormat, "wanted UTF-8, found other bytes");
    }
  });
}

std::string MakeMmlu(std::string_view place, std::string_view part, const PartFetcher& fetch) {
  std::string lines;
  const std::vector<std::string_view> subjects = MmluSubjects();
  for (size_t s = 0; s < subjects.size(); ++s) {
    const std::string path = fmt::format("{}/{}_{}.csv", place, subjects[s], part);
    const auto rows = CsvRows(fetch(path, static_cast<int64_t>(s), std::ssize(subjects)));
    for (const std::vector<std::string>& row : std::span(rows).subspan(rows.empty() ? 0 : 1)) {
      if (row.size() != 6 || row[5].size() != 1 || row[5][0] < '0' || row[5][0] > '3') {
        Fail(ErrorKind::kFormat, "{}: wanted a question, four choices and 0 to 3 in each row, found {} fields", path,
             row.size());
      }
      lines += fmt::format("{{\"subject\": {}, \"question\": {}, \"choices\": [{}, {}, {}, {}], \"answer\": {}}}\n",
                           Quoted(std::string(subjects[s])), Quoted(row[0]), Quoted(row[1]), Quoted(row[2]),
                           Quoted(row[3]), Quoted(row[4]), row[5]);
    }
  }
  return lines;
}

}  // namespace

std::vector<std::vector<std::string>> CsvRows(std::string_view text) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> row;
  std::string field;
  bool begun = false, quoted = false;
  const auto end_row = [&] {
    if (begun || !row.empty()) {
      row.push_back(std::exchange(field, {}));
      rows.push_back(std::exchange(row, {}));
    }
    begun = false;
  };
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c != '"') {
        field += c;
      } else if (at + 1 < text.size() && text[at + 1] == '"') {
        field += text[++at];
      } else {
        quoted = false;
      }
    } else if (c == '"' && field.empty()) {
      quoted = begun = true;
    } else if (c == ',') {
      row.push_back(std::exchange(field, {}));
      begun = true;
    } else if (c == '\n' || c == '\r') {
      end_row();
    } else {
      field += c;
      begun = true;
    }
  }
  end_row();
  return rows;
}

std::string MakeMmluDev(std::string_view place, const PartFetcher& fetch) { return MakeMmlu(place, "dev", fetch); }
std::string MakeMmluTest(std::string_view place, const PartFetcher& fetch) { return MakeMmlu(place, "test", fetch); }

std::string MakeGsm8kExamples(std::string_view place, const PartFetcher& fetch) {
  const std::string text = fetch(std::string(place), 0, 1);
  std::vector<std::pair<std::string, std::string>> examples;  // question, target
  std::string* last = nullptr;
  for (const std::string_view line : SplitAt(text, '\n')) {
    constexpr std::string_view kQuestion = "  - question: ", kTarget = "    target: ", kMore = "      ";
    if (line.starts_with(kQuestion)) {
      last = &examples.emplace_back().first;
      *last = line.substr(kQuestion.size());
    } else if (line.starts_with(kTarget) && !examples.empty()) {
      last = &examples.back().second;
      *last = line.substr(kTarget.size());
    } else if (line.starts_with(kMore) && last != nullptr) {
      last->append(" ").append(line.substr(kMore.size()));
    } else {
      last = nullptr;
    }
  }
  std::string list;
  for (const auto& [question, target] : examples) {
    list += fmt::format("{}{{\"question\": {}, \"target\": {}}}", list.empty() ? "" : ", ", Quoted(question),
                        Quoted(target));
  }
  return "[" + list + "]";
}

}  // namespace hawser
