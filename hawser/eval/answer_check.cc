#include "hawser/eval/answer_check.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"
#include "hawser/base/text.h"
#include "hawser/eval/longbench.h"
#include "hawser/eval/mmlu_subjects.h"
#include "hawser/eval/ruler.h"
#include "hawser/eval/task.h"

namespace hawser {
namespace {

using nlohmann::json;

constexpr std::string_view kMmluRows = "mmlu_";

/// A member that documents of some tasks have, and of no others.
struct Mark {
  const char* member;
  std::string_view tasks;  // by blanks
};
constexpr Mark kMarks[] = {{"endings", "hellaswag"},
                           {"answerKey", "arc_easy arc_challenge"},
                           {"goal", "piqa"},
                           {"option1", "winogrande"},
                           {"continuation", "winogrande"},
                           {"page", "wikitext"},
                           {"variant", "passkey"},
                           {"haystack", "niah"},
                           {"difficulty", "longbench_v2"}};

bool IsSubject(std::string_view name) {
  const std::vector<std::string_view> subjects = MmluSubjects();
  return std::ranges::find(subjects, name) != subjects.end();
}

bool IsRuler(std::string_view name) {
  return std::ranges::any_of(RulerTasks(), [&](const RulerTask& of) { return of.name == name; });
}

/// Whose document it is, one of these; empty: it does not tell.
std::vector<std::string> OwnersOf(const json& doc) {
  if (!doc.is_object()) return {};
  if (const auto subject = doc.find("subject"); subject != doc.end() && subject->is_string()) {
    const std::string& name = subject->get_ref<const std::string&>();
    return {IsSubject(name) ? std::string(kMmluRows) + name : "mmlu"};
  }
  if (const auto task = doc.find("task"); task != doc.end() && task->is_string() && IsRuler(task->get<std::string>())) {
    return {task->get<std::string>()};
  }
  if (const auto set = doc.find("dataset"); set != doc.end() && set->is_string()) {
    if (const auto name = set->get<std::string>(); FindLongBenchSet(name) != nullptr) return {name};
  }
  std::vector<std::string> owners;
  for (const Mark& mark : kMarks) {
    if (!doc.contains(mark.member)) continue;
    for (const std::string_view task : SplitWords(mark.tasks)) owners.emplace_back(task);
    return owners;
  }
  if (doc.size() == 1 && doc.contains("text")) return {"lambada_openai"};
  if (doc.size() == 2 && doc.contains("question") && doc.contains("answer")) return {"gsm8k", "gsm8k_cot"};
  return {};
}

/// A data set of LongBench without the mark of its even lengths.
std::string_view LongBenchName(std::string_view set) {
  if (set.ends_with("_e")) set.remove_suffix(2);
  return set;
}

/// Whether what is of `owner` may be scored as `task`: rows of MMLU within its groups, those of RULER and
/// LongBench within these.
bool Covers(std::string_view task, std::string_view owner) {
  if (task == owner) return true;
  if (owner == "ruler") return IsRuler(task);
  if (FindLongBenchSet(owner) != nullptr) return LongBenchName(task) == LongBenchName(owner);
  const bool both = (task == "mmlu" || task.starts_with(kMmluRows)) && owner.starts_with("mmlu");
  if (!both) return false;
  if (task == "mmlu" || owner == "mmlu") return true;
  const auto group = std::ranges::find(MmluCategories(), task.substr(kMmluRows.size()), &MmluCategory::name);
  if (group == MmluCategories().end()) return false;
  const std::vector<std::string_view> subjects = SplitWords(group->subjects);
  return std::ranges::find(subjects, owner.substr(kMmluRows.size())) != subjects.end();
}

/// The task that a log is named after, with its date or length behind; empty: none that is known.
std::string NamedAfter(std::string_view file) {
  constexpr std::string_view kPrefix = "samples_";
  if (!file.starts_with(kPrefix)) return {};
  file.remove_prefix(kPrefix.size());
  const auto is = [&](std::string_view name) {
    if (!file.starts_with(name)) return false;
    const std::string_view behind = file.substr(name.size());
    return behind.starts_with('.') || (behind.size() > 1 && behind[0] == '_' && behind[1] >= '0' && behind[1] <= '9');
  };
  for (const Task* task : Tasks()) {
    if (task->name == "longbench") continue;  // its rows are those of its sets: longbench_2wikimqa
    if (is(task->name)) return std::string(task->name);
  }
  for (const LongBenchSet& set : LongBenchSets()) {
    if (is(std::string("longbench_").append(set.name))) return std::string(set.name);
  }
  for (const std::string_view subject : MmluSubjects()) {
    if (const std::string row = std::string(kMmluRows).append(subject); is(row)) return row;
  }
  return {};
}

}  // namespace

void CheckLogName(std::string_view task, const std::filesystem::path& path) {
  const std::string owner = NamedAfter(path.filename().string());
  if (owner.empty() || Covers(task, owner)) return;
  Fail(ErrorKind::kUsage, "{}: by its name a log of {}, and it is to be scored as {}: pass --task {}, or rename it",
       path.string(), owner, task, owner);
}

void AnswerCheck::See(const json& line) {
  if (!line.is_object()) return;
  const auto found = line.find("doc");
  const json doc = found != line.end() ? *found : json();
  const std::vector<std::string> owners = OwnersOf(doc);
  if (!owners.empty() && std::ranges::none_of(owners, [&](const std::string& of) { return Covers(task_, of); })) {
    Fail(ErrorKind::kFormat, "its \"doc\" is one of {}, and it is to be scored as {}", fmt::join(owners, " or "),
         task_);
  }
  for (const char* key : {"doc_id", "_id", "index", "id"}) {
    const auto id = line.find(key);
    if (id == line.end() || id->is_null()) continue;
    json about = doc;
    if (doc.is_null()) {
      about = line;
      for (const char* answer : {"pred", "prediction", "response"}) about.erase(answer);
    }
    const std::string text = about.dump(-1, ' ', false, json::error_handler_t::replace);
    const std::string name = id->dump(-1, ' ', false, json::error_handler_t::replace);
    if (!seen_.insert(Hash64(std::as_bytes(std::span(text)), Hash64(std::as_bytes(std::span(name))))).second) {
      Fail(ErrorKind::kFormat, "the document of \"{}\" {} comes a second time, and would count twice", key, name);
    }
    return;
  }
}

void AnswerCheck::Compare(std::span<const Beside> scores) {
  const auto says = [](const Beside& score) { return !std::isnan(score.told) && !std::isnan(score.found); };
  told_ += std::ranges::any_of(scores, says);
  differ_ += std::ranges::any_of(
      scores, [&](const Beside& score) { return says(score) && std::abs(score.told - score.found) > 1e-6; });
}

void AnswerCheck::SeeFiltered(const json& line) {
  const auto given = line.find("resps"), filtered = line.find("filtered_resps");
  if (given == line.end() || filtered == line.end() || !given->is_array() || !filtered->is_array()) return;
  const auto bare = [](json answer) {
    while (answer.is_array() && answer.size() == 1) answer = json(answer.front());
    return answer;
  };
  filtered_ += !std::ranges::equal(*given, *filtered, {}, bare, bare);
}

std::string AnswerCheck::Contradictions() const {
  std::string text;
  if (differ_ > 0) {
    text =
        fmt::format("lines that say another score of themselves than their answers have: {} of {}; ", differ_, told_);
  }
  if (filtered_ > 0) text += fmt::format("lines whose \"filtered_resps\" are not their \"resps\": {}; ", filtered_);
  return text.empty() ? text : text + "the answers in \"resps\" count";
}

}  // namespace hawser
