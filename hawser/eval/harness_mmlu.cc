// MMLU as lm-evaluation-harness asks it, in its present form and the earlier one, and as llm.c does.
#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/eval/data_files.h"
#include "hawser/eval/harness.h"
#include "hawser/eval/mmlu_subjects.h"
#include "hawser/eval/python_text.h"
#include "hawser/eval/tasks.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 3> kPrompts = {"letters", "texts", "llmc"};

/// A line of the data as `prompt` asks it.
HarnessDoc MakeDoc(const nlohmann::json& line, std::string_view prompt) {
  const JsonObject doc(line, "mmlu");
  HarnessDoc out{.gold = static_cast<int32_t>(doc.Int("answer", 0, 3))};
  const auto choices = line.at("choices").get<std::vector<std::string>>();
  if (choices.size() != 4) Fail(ErrorKind::kFormat, "mmlu: {} choices, wanted 4", choices.size());
  const std::string question = doc.String("question");
  std::string listed;
  for (size_t i = 0; i < 4; ++i) listed += std::string(1, static_cast<char>('A' + i)) + ". " + choices[i] + "\n";
  if (prompt == "letters") {
    out.query = std::string(PythonStrip(question)) + "\n" + listed + "Answer:";
    out.choices = {"A", "B", "C", "D"};
  } else if (prompt == "texts") {
    out.query = "Question: " + question + "\nChoices:\n" + listed + "Answer:";
    out.choices = choices;
  } else {
    out.query = "Question: " + question + "\n\nAnswer:";
    out.choices = choices;
  }
  out.doc = std::make_shared<const Json>(
      Json{{"question", question}, {"subject", doc.String("subject")}, {"choices", choices}, {"answer", out.gold}});
  return out;
}

std::map<std::string, std::vector<HarnessDoc>> ReadSubjects(const TaskInput& input, const char* path,
                                                            std::string_view prompt) {
  std::map<std::string, std::vector<HarnessDoc>> subjects;
  for (const nlohmann::json& line : ReadDataLines(input.data_dir, path)) {
    subjects[JsonObject(line, path).String("subject")].push_back(MakeDoc(line, prompt));
  }
  return subjects;
}

std::vector<Sample> MmluSamples(const TaskInput& input) {
  const int64_t shots = input.options.Int("shots", 0, 0, 5);
  const std::string prompt = input.options.OneOf("prompt", "letters", kPrompts);
  const std::vector<std::string> wanted = input.options.List("subjects", "all");
  std::vector<std::string_view> known = {"all"};
  for (const MmluCategory& category : MmluCategories()) {
    known.push_back(category.name);
    for (const std::string_view subject : SplitWords(category.subjects, " ")) known.push_back(subject);
  }
  for (const std::string& name : wanted) {
    if (std::ranges::find(known, name) != known.end()) continue;
    Fail(ErrorKind::kUsage, "no subject or category '{}'{}", name, SuggestName(name, known));
  }
  const auto is_wanted = [&](std::string_view name) { return std::ranges::find(wanted, name) != wanted.end(); };
  auto tests = ReadSubjects(input, "mmlu/test.jsonl", prompt);
  auto examples = shots > 0 ? ReadSubjects(input, "mmlu/dev.jsonl", prompt) : decltype(tests)();
  std::vector<Sample> samples;
  for (const MmluCategory& category : MmluCategories()) {
    for (const std::string_view subject : SplitWords(category.subjects, " ")) {
      if (!is_wanted("all") && !is_wanted(category.name) && !is_wanted(subject)) continue;
      const std::string name(subject);
      HarnessSet set{.row = "mmlu_" + name,
                     .groups = {"mmlu_" + std::string(category.name), "mmlu"},
                     .docs = std::move(tests[name]),
                     .pool = std::move(examples[name]),
                     .first_examples = true};
      if (prompt != "llmc") {
        std::string topic = name;
        std::ranges::replace(topic, '_', ' ');
        set.description = "The following are multiple choice questions (with answers) about " + topic + ".\n\n";
      }
      if (prompt == "texts" && shots == 0) set.description.clear();
      for (Sample& sample : ChoiceSamples(input, set, shots)) {
        if (prompt == "llmc") sample.choices.clear();  // lengths are those of tokens
        samples.push_back(std::move(sample));
      }
    }
  }
  return samples;
}

/// Of letters there is no acc_norm: all are as long.
SampleScore ScoreMmlu(const Sample& sample, std::span<const LmAnswer> answers) {
  SampleScore score = ScoreChoice(sample, answers);
  const bool letters = !sample.choices.empty() && sample.choices[0] == "A" && sample.choices.back() == "D";
  if (letters) score.values[1].value = std::numeric_limits<double>::quiet_NaN();
  return score;
}

}  // namespace

const Task kMmlu = {.name = "mmlu",
                    .summary = "57 subjects of schools and professions, 4 choices",
                    .samples = MmluSamples,
                    .score = ScoreMmlu,
                    .metrics = ChoiceMetrics(),
                    .options = "shots=K, subjects=A+B, prompt=letters|texts|llmc",
                    .data = "mmlu"};

}  // namespace hawser
