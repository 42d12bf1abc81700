// RULER on a model: its samples as requests.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/eval/lengths.h"
#include "hawser/eval/ruler.h"
#include "hawser/eval/ruler_score.h"
#include "hawser/eval/tasks.h"

namespace hawser {
namespace {

std::vector<Sample> RulerSamples(const TaskInput& input) {
  RulerOptions options{.data_dir = input.data_dir};
  const std::vector<int64_t> lengths = TaskLengths(input, "length", "4096");
  std::string names;
  for (const std::string& name : input.options.List("tasks", "all")) names += (names.empty() ? "" : "+") + name;
  const std::vector<const RulerTask*> tasks = ParseRulerTasks(names);
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
        if (names != "all+" || error.kind() != ErrorKind::kUsage) throw;
        left_out = error;
        LogLine(fmt::format("note: left out at {} tokens: {}", length, error.what()));
        continue;
      }
      const std::string source = RulerSource(*task, options);
      for (RulerSample& made : all_made) {
        Sample sample{.row = fmt::format("ruler_{}_{}", length, task->name),
                      .groups = {fmt::format("ruler_{}", length), "ruler"},
                      .id = made.index};
        sample.requests = {{.kind = LmRequest::Kind::kGenerate,
                            .context = made.input,
                            .answer_prefix = made.answer_prefix,
                            .max_new = task->max_new}};
        sample.references = made.outputs;
        sample.at = {{"length", static_cast<double>(length)}};
        sample.facts = {{"prompt_tokens", static_cast<double>(made.length - task->max_new)}};
        if (made.answer_token) sample.facts.emplace_back("answer_token", static_cast<double>(*made.answer_token));
        nlohmann::ordered_json doc = {{"task", task->name}, {"outputs", made.outputs}, {"length", made.length}};
        if (!source.empty()) doc["source"] = source;
        sample.target = made.outputs.front();
        sample.doc = std::make_shared<const nlohmann::ordered_json>(std::move(doc));
        samples.push_back(std::move(sample));
      }
    }
  }
  if (samples.empty() && left_out) throw *left_out;
  return samples;
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
                     .options =
                         "length=L+L, tasks=all|NAME+NAME, samples=K, haystack=pg19|PATH, squad=FILE, "
                         "hotpot=FILE"};

}  // namespace hawser
