// The questions on documents of RULER's qa tasks.
#include <algorithm>
#include <map>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/eval/ruler_text.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The sorted set of documents, and the place of each in it.
class DocumentList {
 public:
  void Add(const std::string& text) { places_.emplace(text, 0); }
  /// Once all are added.
  std::vector<std::string> Sorted() {
    std::vector<std::string> texts;
    for (auto& [text, place] : places_) {
      place = texts.size();
      texts.push_back(text);
    }
    return texts;
  }
  size_t Place(const std::string& text) const { return places_.at(text); }

 private:
  std::map<std::string, size_t> places_;  // by code points, as UTF-8 sorts
};

json ReadJson(const fs::path& path) {
  const std::string text = ReadFile(path);
  return WithFrame(path.string(), [&] { return ParseJson(text); });
}

const json& ListOf(const json& value, const char* key, std::string_view where) {
  const auto member = value.is_object() ? value.find(key) : value.end();
  if (!value.is_object() || member == value.end() || !member->is_array()) {
    Fail(ErrorKind::kFormat, "{}: wanted a list \"{}\", found {}", where, key, ShownJson(value));
  }
  return *member;
}

std::string TextOf(const json& value, const char* key, const std::string& where) {
  return JsonObject(value, where).String(key);
}

/// "title\nsentences" of a paragraph [title, [sentence, ...]].
std::string HotpotDocument(const json& paragraph, const std::string& where) {
  if (!paragraph.is_array() || paragraph.size() != 2 || !paragraph[0].is_string() || !paragraph[1].is_array()) {
    Fail(ErrorKind::kFormat, "{}: wanted [title, [sentence, ...]], found {}", where, ShownJson(paragraph));
  }
  std::string text = paragraph[0].get<std::string>() + "\n";
  for (const json& sentence : paragraph[1]) {
    if (!sentence.is_string()) Fail(ErrorKind::kFormat, "{}: wanted sentences, found {}", where, ShownJson(sentence));
    text += sentence.get<std::string>();
  }
  return text;
}

void RequireQuestions(const RulerQuestions& set, const fs::path& path) {
  if (set.questions.empty()) Fail(ErrorKind::kFormat, "{}: no questions", path.string());
}

}  // namespace

RulerQuestions ReadSquad(const fs::path& path) {
  const std::string where = path.string();
  const json root = ReadJson(path);
  const json& articles = ListOf(root, "data", where);
  DocumentList list;
  for (const json& article : articles) {
    for (const json& paragraph : ListOf(article, "paragraphs", where)) list.Add(TextOf(paragraph, "context", where));
  }
  RulerQuestions set{.documents = list.Sorted(), .questions = {}};
  for (const json& article : articles) {
    std::vector<size_t> places;
    for (const json& paragraph : article["paragraphs"])
      places.push_back(list.Place(TextOf(paragraph, "context", where)));
    for (size_t i = 0; i < places.size(); ++i) {
      std::vector<size_t> more;
      std::ranges::copy_if(places, std::back_inserter(more), [&](size_t place) { return place != places[i]; });
      for (const json& asked : ListOf(article["paragraphs"][i], "qas", where)) {
        if (JsonObject(asked, where).BoolOr("is_impossible", false)) continue;
        RulerQuestions::Question question{
            .text = TextOf(asked, "question", where), .answers = {}, .documents = {places[i]}, .more = more};
        for (const json& answer : ListOf(asked, "answers", where)) {
          question.answers.push_back(TextOf(answer, "text", where));
        }
        if (question.answers.empty()) {
          Fail(ErrorKind::kFormat, "{}: no answer to {}; wanted one, or \"is_impossible\": true", where,
               ShownJson(asked));
        }
        set.questions.push_back(std::move(question));
      }
    }
  }
  RequireQuestions(set, path);
  return set;
}

RulerQuestions ReadHotpot(const fs::path& path) {
  const std::string where = path.string();
  const json root = ReadJson(path);
  if (!root.is_array()) Fail(ErrorKind::kFormat, "{}: wanted a list of questions, found {}", where, ShownJson(root));
  DocumentList list;
  for (const json& asked : root) {
    for (const json& paragraph : ListOf(asked, "context", where)) list.Add(HotpotDocument(paragraph, where));
  }
  RulerQuestions set{.documents = list.Sorted(), .questions = {}};
  for (const json& asked : root) {
    RulerQuestions::Question question{.text = TextOf(asked, "question", where),
                                      .answers = {TextOf(asked, "answer", where)},
                                      .documents = {},
                                      .more = {}};
    for (const json& paragraph : asked["context"]) {
      question.documents.push_back(list.Place(HotpotDocument(paragraph, where)));
    }
    set.questions.push_back(std::move(question));
  }
  RequireQuestions(set, path);
  return set;
}

}  // namespace hawser
