// LongBench on a model, from the user's files.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/eval/context_lines.h"
#include "hawser/eval/haystack.h"
#include "hawser/eval/longbench.h"
#include "hawser/eval/python_text.h"
#include "hawser/eval/tasks.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

/// Tokens of a prompt before its middle is cut: 3500 of 4K, 7500 of 8K, 31500 of 32K, as published.
int64_t PromptTokens(const TaskInput& input, int64_t max_new) {
  const int64_t length = input.max_length;
  const int64_t fallback = length >= 2048 ? length / 1024 * 1000 - 500 : length - max_new - 8;
  return input.options.Int("prompt-tokens", std::max<int64_t>(fallback, 2), 2, int64_t{1} << 30);
}

fs::path FileOf(const TaskInput& input, const std::string& name) {
  const fs::path own = FindData(input.data_dir, "longbench/data/" + name + ".jsonl");
  std::error_code code;
  if (fs::exists(own, code)) return own;
  const fs::path flat = FindData(input.data_dir, "longbench/" + name + ".jsonl");
  if (fs::exists(flat, code)) return flat;
  Fail(ErrorKind::kIo,
       "{}: not found; LongBench's data.zip, unpacked, goes to longbench/ of a data folder (--data-dir)", own.string());
}

std::vector<Sample> V1Samples(const TaskInput& input) {
  std::vector<std::string> names = input.options.List("sets", "all");
  if (names == std::vector<std::string>{"all"}) {
    names.clear();
    for (const LongBenchSet& set : LongBenchSets()) names.emplace_back(set.name);
  }
  const std::map<std::string, std::string> prompts = ReadLongBenchPrompts(input.data_dir);
  std::vector<Sample> samples;
  for (const std::string& name : names) {
    const LongBenchSet* set = FindLongBenchSet(name);
    if (set == nullptr) {
      std::vector<std::string_view> known = {"all"};
      for (const LongBenchSet& one : LongBenchSets()) known.push_back(one.name);
      Fail(ErrorKind::kUsage, "unknown set '{}'{}", name, SuggestName(name, known));
    }
    const int64_t most = PromptTokens(input, set->max_new);
    int64_t id = 0;
    const bool by_length = name.ends_with("_e");
    const fs::path file = FileOf(input, name);
    for (const ContextLine& line : ReadContextLines(file, input.limit)) {
      WithFrame(fmt::format("{}: item {}", file.string(), line.id),
                [&] { CheckLongBenchLine(*set, by_length, line.classes, line.length); });
      Sample sample{
          .row = "longbench_" + name, .groups = {fmt::format("longbench_{}", set->group), "longbench"}, .id = id++};
      sample.requests = {
          {.kind = LmRequest::Kind::kGenerate,
           .context = CutMiddle(LongBenchPrompt(prompts.at(std::string(set->name)), line.context, line.input), most,
                                *input.tokenizer),
           .max_new = set->max_new}};
      sample.references = line.answers;
      sample.choices = line.classes;
      sample.target = line.answers[0];
      if (by_length) {
        sample.at = {{"from", line.length < 4000 ? 0 : line.length < 8000 ? 4000 : 8000}};
      }
      if (line.length >= 0) sample.facts = {{"words", static_cast<double>(line.length)}};
      sample.doc = std::make_shared<const Json>(Json{{"_id", line.id},
                                                     {"dataset", name},
                                                     {"input", line.input},
                                                     {"answers", line.answers},
                                                     {"all_classes", line.classes},
                                                     {"length", line.length}});
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

SampleScore V1Score(const Sample& sample, std::span<const LmAnswer> answers) {
  const LongBenchSet& set = *FindLongBenchSet((*sample.doc)["dataset"].get<std::string>());
  return {.values = {{LongBenchScore(set, answers[0].text, sample.references, sample.choices)}}};
}

std::vector<Sample> V2Samples(const TaskInput& input) {
  const std::string given = input.options.Text("file", "");
  const fs::path path =
      given.empty() ? NeedData(input.data_dir, "longbench_v2/data.json", "file=PATH") : fs::path(given);
  constexpr int64_t kMaxNew = 128;
  const int64_t most = PromptTokens(input, kMaxNew);
  std::vector<Sample> samples;
  ReadJsonItems(path, [&](const nlohmann::json& value) {
    const JsonObject item(value, "item");
    std::string prompt = fmt::format(
        "Please read the following text and answer the question below.\n\n<text>\n{}\n</text>\n\nWhat is the correct "
        "answer to this question: {}\nChoices:\n(A) {}\n(B) {}\n(C) {}\n(D) {}\n\nFormat your response as follows: "
        "\"The "
        "correct answer is (insert answer here)\".",
        PythonStrip(item.String("context")), PythonStrip(item.String("question")), PythonStrip(item.String("choice_A")),
        PythonStrip(item.String("choice_B")), PythonStrip(item.String("choice_C")),
        PythonStrip(item.String("choice_D")));
    Sample sample{.row = fmt::format("longbench_v2_{}_{}", item.String("difficulty"), item.String("length")),
                  .groups = {"longbench_v2"},
                  .also = {"longbench_v2_" + item.String("difficulty"), "longbench_v2_" + item.String("length")},
                  .id = static_cast<int64_t>(samples.size())};
    sample.requests = {
        {.kind = LmRequest::Kind::kGenerate, .context = CutMiddle(prompt, most, *input.tokenizer), .max_new = kMaxNew}};
    sample.target = item.String("answer");
    sample.references = {sample.target};
    sample.doc = std::make_shared<const Json>(Json{{"_id", item.StringOr("_id", "")},
                                                   {"domain", item.StringOr("domain", "")},
                                                   {"difficulty", item.String("difficulty")},
                                                   {"length", item.String("length")},
                                                   {"answer", sample.target}});
    samples.push_back(std::move(sample));
    return input.limit == 0 || static_cast<int64_t>(samples.size()) < input.limit;
  });
  if (samples.empty()) Fail(ErrorKind::kFormat, "{}: no items", path.string());
  return samples;
}

SampleScore V2Score(const Sample& sample, std::span<const LmAnswer> answers) {
  const char letter = LongBenchChoice(answers[0].text);
  return {.values = {{letter != 0 && sample.target == std::string(1, letter) ? 1.0 : 0.0}}};
}

}  // namespace

const Task kLongBench = {.name = "longbench",
                         .summary = "LongBench: 21 data sets of long documents, from your files",
                         .samples = V1Samples,
                         .score = V1Score,
                         .metrics = {{.name = "score"}},
                         .rows_weigh_alike = true,
                         .options = "sets=all|NAME+NAME_e, prompt-tokens=N"};
const Task kLongBenchV2 = {.name = "longbench_v2",
                           .summary = "LongBench v2: 503 choices of four on long documents, from your file",
                           .samples = V2Samples,
                           .score = V2Score,
                           .metrics = {{.name = "acc"}},
                           .options = "file=PATH, prompt-tokens=N"};

}  // namespace hawser
