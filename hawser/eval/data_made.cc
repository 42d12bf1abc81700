#include "hawser/eval/data_made.h"

#include <fmt/format.h>

#include <map>
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

/// Reads out of JSON from elsewhere; a member that is missing or of another kind is an error of the file `path`.
template <class Read>
auto FromJson(std::string_view path, Read&& read) {
  return WithFrame(path, [&] {
    try {
      return read();
    } catch (const nlohmann::json::exception& error) {
      Fail(ErrorKind::kFormat, "not of the form expected: {}", error.what());
    }
  });
}

std::string QuotedList(const std::vector<std::string>& texts) {
  std::string list;
  for (const std::string& text : texts) list += (list.empty() ? "" : ", ") + Quoted(text);
  return "[" + list + "]";
}

struct ArcQuestion {
  std::string id, question;
  std::vector<std::string> choices, labels;
  std::string key;

  std::string Line() const {
    return fmt::format("{{\"id\": {}, \"question\": {}, \"choices\": {}, \"labels\": {}, \"answerKey\": {}}}\n",
                       Quoted(id), Quoted(question), QuotedList(choices), QuotedList(labels), Quoted(key));
  }
};

/// The JSON objects of a file of lines.
std::vector<nlohmann::json> JsonLines(std::string_view path, std::string_view text) {
  std::vector<nlohmann::json> lines;
  for (const std::string_view line : SplitAt(text, '\n')) {
    if (!line.empty()) lines.push_back(WithFrame(path, [&] { return ParseJson(line); }));
  }
  return lines;
}

std::vector<ArcQuestion> ArcQuestions(std::string_view path, std::string_view text) {
  std::vector<ArcQuestion> questions;
  for (const nlohmann::json& line : JsonLines(path, text)) {
    FromJson(path, [&] {
      const nlohmann::json& question = line.at("question");
      ArcQuestion made{.id = line.at("id"), .question = question.at("stem"), .key = line.at("answerKey")};
      for (const nlohmann::json& choice : question.at("choices")) {
        made.choices.push_back(choice.at("text"));
        made.labels.push_back(choice.at("label"));
      }
      questions.push_back(std::move(made));
    });
  }
  return questions;
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
  if (examples.empty()) Fail(ErrorKind::kFormat, "{}: no example: wanted lines \"  - question: ...\"", place);
  std::string list;
  for (const auto& [question, target] : examples) {
    list += fmt::format("{}{{\"question\": {}, \"target\": {}}}", list.empty() ? "" : ", ", Quoted(question),
                        Quoted(target));
  }
  return "[" + list + "]";
}

std::string MakeArc(std::string_view place, const PartFetcher& fetch) {
  std::string lines;
  for (const ArcQuestion& question : ArcQuestions(place, fetch(std::string(place), 0, 1))) lines += question.Line();
  return lines;
}

std::string MakeArcChallengeTest(std::string_view place, const PartFetcher& fetch) {
  constexpr std::string_view kKeys =
      "allenai/aristo-leaderboard/60d5be31b5a7d36f29d13223ece29a8d2bfa8b5f/arc/data-challenge/question-answers.jsonl";
  constexpr std::string_view kAll =
      "mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/scripts/eval/local_data/world_knowledge/"
      "arc_challenge.jsonl";
  constexpr std::string_view kBefore = "Question: ";
  std::map<std::string, ArcQuestion> known;
  for (ArcQuestion& question : ArcQuestions(place, fetch(std::string(place), 0, 3))) {
    std::string id = question.id;
    known.emplace(std::move(id), std::move(question));
  }
  const std::vector<nlohmann::json> keys = JsonLines(kKeys, fetch(std::string(kKeys), 1, 3));
  const std::vector<nlohmann::json> all = JsonLines(kAll, fetch(std::string(kAll), 2, 3));
  std::string lines;
  for (size_t i = 0; i < keys.size(); ++i) {
    ArcQuestion question{
        .id = FromJson(kKeys, [&] { return keys[i].at("id").get<std::string>(); }), .question = {}, .key = {}};
    if (const auto found = known.find(question.id); found != known.end()) {
      question = found->second;
    } else if (i < all.size()) {
      FromJson(kAll, [&] {
        const auto query = all[i].at("query").get<std::string>();
        if (!query.starts_with(kBefore))
          Fail(ErrorKind::kFormat, "wanted \"{}...\", found {}", kBefore, ShownJson(all[i].at("query")));
        question.question = query.substr(kBefore.size());
        for (const nlohmann::json& choice : all[i].at("choices")) {
          question.labels.emplace_back(1, static_cast<char>('A' + question.choices.size()));
          question.choices.push_back(choice);
        }
      });
    }
    question.key = FromJson(kKeys, [&] { return keys[i].at("answerKey").get<std::string>(); });
    lines += question.Line();
  }
  return lines;
}

std::string MakeWikitext(std::string_view place, const PartFetcher& fetch) {
  constexpr std::string_view kRows =
      "pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2/test.txt";
  const std::string text = fetch(std::string(place), 0, 2), layout = fetch(std::string(kRows), 1, 2);
  const std::vector<std::string_view> rows = SplitAt(text, '\n');
  std::string made;
  size_t next = 0;
  for (std::string_view row : SplitAt(layout, '\n')) {
    if (row.empty()) continue;  // behind the last line end
    if (row.find_first_not_of(' ') != row.npos) {
      if (next == rows.size()) Fail(ErrorKind::kFormat, "{}: has {} rows, {} has more", place, next, kRows);
      row = rows[next++];
      if (row.ends_with('\r')) row.remove_suffix(1);
    }
    made.append(row).append("\n");
  }
  return made;
}

std::string MakeHotpot(std::string_view place, const PartFetcher& fetch) {
  const std::string text = fetch(std::string(place), 0, 1);
  const nlohmann::json questions = WithFrame(place, [&] { return ParseJson(text); });
  std::string list;
  FromJson(place, [&] {
    for (const nlohmann::json& question : questions) {
      std::string facts, context;
      const auto pair = [](std::string* out, const nlohmann::json& title, const std::string& of) {
        *out += fmt::format("{}[{}, {}]", out->empty() ? "" : ", ", Quoted(title), of);
      };
      const nlohmann::json &wanted = question.at("supporting_facts"), &given = question.at("context");
      for (size_t i = 0; i < wanted.at("title").size(); ++i) {
        pair(&facts, wanted.at("title").at(i), fmt::format("{}", wanted.at("sent_id").at(i).get<int64_t>()));
      }
      for (size_t i = 0; i < given.at("title").size(); ++i) {
        pair(&context, given.at("title").at(i), QuotedList(given.at("sentences").at(i)));
      }
      list += list.empty() ? "{" : ", {";
      for (const char* key : {"question", "answer", "type", "level"}) {
        list += fmt::format("\"{}\": {}, ", key, Quoted(question.at(key)));
      }
      list += fmt::format("\"supporting_facts\": [{}], \"context\": [{}]}}", facts, context);
    }
  });
  return "[" + list + "]";
}

}  // namespace hawser
