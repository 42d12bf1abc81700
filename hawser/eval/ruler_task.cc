// RULER on a model: its samples as requests.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/eval/lengths.h"
#include "hawser/eval/ruler.h"
#include "hawser/eval/ruler_files.h"
#include "hawser/eval/ruler_score.h"
#include "hawser/eval/tasks.h"

namespace hawser {
namespace {

/// Where samples came from.
struct RulerOrigin {
  int64_t length = 0;  // tokens that were asked for; 0: not told
  std::string source;
  bool file = false;  // whose prompts may bring a template
};

/// "ruler_4096", or "ruler" without a length.
std::string LengthRow(int64_t length) { return length > 0 ? fmt::format("ruler_{}", length) : "ruler"; }

void AddSamples(const RulerTask& task, const RulerOrigin& origin, std::vector<RulerSample> all_made,
                std::vector<Sample>* samples) {
  for (RulerSample& made : all_made) {
    Sample sample{
        .row = fmt::format("{}_{}", LengthRow(origin.length), task.name), .groups = {"ruler"}, .id = made.index};
    if (origin.length > 0) {
      sample.groups.insert(sample.groups.begin(), LengthRow(origin.length));
      sample.at = {{"length", static_cast<double>(origin.length)}};
    }
    sample.requests = {{.kind = LmRequest::Kind::kGenerate,
                        .context = std::move(made.input),
                        .special = origin.file,
                        .answer_prefix = std::move(made.answer_prefix),
                        .max_new = task.max_new}};
    if (made.length > 0) sample.facts = {{"prompt_tokens", static_cast<double>(made.length - task.max_new)}};
    if (made.answer_token) sample.facts.emplace_back("answer_token", static_cast<double>(*made.answer_token));
    nlohmann::ordered_json doc = {{"task", task.name}, {"outputs", made.outputs}, {"length", made.length}};
    if (!origin.source.empty()) doc["source"] = origin.source;
    sample.target = made.outputs.front();
    sample.references = std::move(made.outputs);
    sample.doc = std::make_shared<const nlohmann::ordered_json>(std::move(doc));
    samples->push_back(std::move(sample));
  }
}

/// Tasks of the option "tasks"; `names` is its text.
std::vector<const RulerTask*> AskedTasks(const TaskInput& input, std::string* names) {
  for (const std::string& name : input.options.List("tasks", "all")) *names += (names->empty() ? "" : "+") + name;
  return ParseRulerTasks(*names);
}

std::vector<Sample> SamplesOfFiles(const TaskInput& input) {
  const std::filesystem::path folder = input.options.Text("data", "");
  std::string names;
  const std::vector<const RulerTask*> tasks = AskedTasks(input, &names);
  int64_t most = input.options.Int("samples", 0, 0, int64_t{1} << 20);
  if (input.limit > 0 && (most == 0 || input.limit < most)) most = input.limit;
  const int64_t length = input.options.Int("length", 0, 0, int64_t{1} << 30);
  std::vector<Sample> samples;
  for (const RulerTask* task : tasks) {
    const auto file = FindRulerData(folder, *task);
    if (!file && names == "all") continue;
    if (!file) {
      Fail(ErrorKind::kIo, "{}: no samples of {}; wanted {}.jsonl or {}/validation.jsonl", folder.string(), task->name,
           task->name, task->name);
    }
    std::vector<RulerSample> read = ReadRulerData(*file, most);
    for (const RulerSample& sample : read) {
      const auto prompt = static_cast<int64_t>(
          input.tokenizer->Encode(sample.input + sample.answer_prefix, /*parse_special=*/true).size());
      if (prompt + task->max_new <= TaskRoom(input, input.max_length)) continue;
      Fail(ErrorKind::kUsage,
           "{}: sample {} takes {} tokens and {} of an answer, beyond the longest input of {}; --context N declares "
           "more",
           file->string(), sample.index, prompt, task->max_new, input.max_length);
    }
    AddSamples(*task, {.length = length, .source = file->string(), .file = true}, std::move(read), &samples);
  }
  if (samples.empty()) {
    Fail(ErrorKind::kUsage, "{}: no samples; wanted files such as niah_single_1.jsonl, which eval ruler gen makes",
         folder.string());
  }
  return samples;
}

std::vector<Sample> RulerSamples(const TaskInput& input) {
  if (input.options.Given("data")) return SamplesOfFiles(input);
  RulerOptions options{.data_dir = input.data_dir};
  const std::vector<int64_t> lengths = TaskLengths(input, "length", "4096");
  std::string names;
  const std::vector<const RulerTask*> tasks = AskedTasks(input, &names);
  options.samples = input.options.Int("samples", 500, 1, int64_t{1} << 20);
  options.haystack = input.options.Text("haystack", "pg19");
  options.squad = input.options.Text("squad", "");
  options.hotpot = input.options.Text("hotpot", "");
  options.seed = input.seed_given ? input.seed : 42;
  if (input.limit > 0) options.samples = std::min(options.samples, input.limit);

  std::vector<Sample> samples;
  std::optional<Error> left_out;
  for (const int64_t length : lengths) {
    options.length = TaskRoom(input, length);
    for (const RulerTask* task : tasks) {
      std::vector<RulerSample> all_made;
      try {
        all_made = MakeRulerSamples(*task, options, *input.tokenizer);
      } catch (const Error& error) {
        if (names != "all" || error.kind() != ErrorKind::kUsage) throw;
        left_out = error;
        LogLine(fmt::format("note: left out at {} tokens: {}", length, error.what()));
        continue;
      }
      AddSamples(*task, {.length = length, .source = RulerSource(*task, options)}, std::move(all_made), &samples);
    }
  }
  if (samples.empty() && left_out) throw *left_out;
  return samples;
}

/// TASK.jsonl, or LENGTH/TASK.jsonl where there are several lengths.
std::map<std::string, std::string> RulerPredictions(std::span<const Sample> samples,
                                                    std::span<const std::vector<LmAnswer>> answers) {
  const auto length = [](const Sample& sample) {
    return sample.at.empty() ? int64_t{0} : static_cast<int64_t>(sample.at.front().second);
  };
  const bool one_length =
      std::ranges::all_of(samples, [&](const Sample& sample) { return length(sample) == length(samples.front()); });
  std::map<std::string, std::string> files;
  for (size_t s = 0; s < samples.size(); ++s) {
    const Sample& sample = samples[s];
    const LmRequest& request = sample.requests.front();
    const std::string file = (*sample.doc)["task"].get<std::string>() + ".jsonl";
    files[one_length ? file : fmt::format("{}/{}", length(sample), file)] +=
        RulerPredictionLine({.index = sample.id,
                             .input = request.context,
                             .answer_prefix = request.answer_prefix,
                             .outputs = sample.references,
                             .length = (*sample.doc)["length"].get<int64_t>()},
                            answers[s].front().text);
  }
  return files;
}

SampleScore ScoreRuler(const Sample& sample, std::span<const LmAnswer> answers) {
  const std::string name = (*sample.doc)["task"].get<std::string>();
  const RulerTask& task = *ParseRulerTasks(name).front();
  return {.values = {{ScoreRuler(task, answers[0].text, sample.references)}}};
}

}  // namespace

const Task kRuler = {.name = "ruler",
                     .summary = "RULER: needles, variables, words and questions at a length",
                     .samples = RulerSamples,
                     .score = ScoreRuler,
                     .metrics = {{.name = "score"}},
                     .rows_weigh_alike = true,
                     .options =
                         "length=L+L, tasks=all|NAME+NAME, samples=K, haystack=pg19|PATH, squad=FILE, "
                         "hotpot=FILE; or data=FOLDER, tasks=, samples=, length=L as it was made for",
                     .predictions = RulerPredictions};

}  // namespace hawser
