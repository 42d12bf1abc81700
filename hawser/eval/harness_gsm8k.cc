// GSM8K as lm-evaluation-harness asks it: five worked examples, or eight chains of thought.
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/eval/data_files.h"
#include "hawser/eval/gsm8k.h"
#include "hawser/eval/harness.h"
#include "hawser/eval/tasks.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

std::vector<HarnessDoc> Docs(const TaskInput& input, const char* path, std::string_view before,
                             std::string_view after) {
  std::vector<HarnessDoc> docs;
  for (const nlohmann::json& line : ReadDataLines(input.data_dir, path)) {
    const JsonObject doc(line, path);
    HarnessDoc out{.query = std::string(before) + doc.String("question") + std::string(after),
                   .target = doc.String("answer")};
    out.doc = std::make_shared<const Json>(Json{{"question", doc.String("question")}, {"answer", out.target}});
    docs.push_back(std::move(out));
  }
  return docs;
}

std::vector<Sample> Samples(const TaskInput& input, const HarnessSet& set, int64_t shots, const char* question) {
  const int64_t max_new = input.options.Int("max_new", 256, 1, 1 << 20);
  std::vector<Sample> samples;
  for (Prompted& prompt : HarnessPrompts(input, set, shots)) {
    Sample sample{.id = static_cast<int64_t>(samples.size()), .doc = prompt.doc->doc, .target = prompt.doc->target};
    sample.of = std::ssize(set.docs);
    sample.requests.push_back({.kind = LmRequest::Kind::kGenerate,
                               .context = std::move(prompt.contexts[0]),
                               .before = std::move(prompt.before),
                               .stops = {question, "</s>", "<|im_end|>"},
                               .max_new = max_new});
    samples.push_back(std::move(sample));
  }
  return samples;
}

std::vector<Sample> Gsm8kSamples(const TaskInput& input) {
  const int64_t shots = Shots(input, 5);
  HarnessSet set{.docs = Docs(input, "gsm8k/test.jsonl", "Question: ", "\nAnswer:")};
  if (shots > 0) set.pool = Docs(input, "gsm8k/train.jsonl", "Question: ", "\nAnswer:");
  return Samples(input, set, shots, "Question:");
}

std::vector<Sample> Gsm8kCotSamples(const TaskInput& input) {
  const int64_t shots = input.options.Int("shots", 8, 0, 8);
  HarnessSet set{.docs = Docs(input, "gsm8k/test.jsonl", "Q: ", "\nA:"), .first_examples = true};
  if (shots > 0) {
    for (const nlohmann::json& example : ParseJson(ReadDataFile(input.data_dir, "gsm8k/cot_exemplars_8shot.json"))) {
      const JsonObject doc(example, "exemplar");
      set.pool.push_back({.query = "Q: " + doc.String("question") + "\nA:", .target = doc.String("target")});
    }
  }
  std::vector<Sample> samples = Samples(input, set, shots, "Q:");
  for (Sample& sample : samples) sample.target = Gsm8kGold(sample.target);
  return samples;
}

template <bool kCot>
SampleScore ScoreGsm8k(const Sample& sample, std::span<const LmAnswer> answers) {
  const std::string strict = kCot ? Gsm8kCotStrict(answers[0].text) : Gsm8kStrict(answers[0].text);
  const std::string flexible = Gsm8kFlexible(answers[0].text);
  const auto right = [&](const std::string& found) {
    return Gsm8kNormalized(found) == Gsm8kNormalized(sample.target) ? 1.0 : 0.0;
  };
  return {.values = {{right(strict)}, {right(flexible)}},
          .filtered = {{"strict-match", strict}, {"flexible-extract", flexible}}};
}

std::vector<Metric> Metrics() {
  return {{.name = "exact_match", .filter = "strict-match"}, {.name = "exact_match", .filter = "flexible-extract"}};
}

}  // namespace

const Task kGsm8k = {.name = "gsm8k",
                     .summary = "word problems of schools, worked out",
                     .version = 3,
                     .samples = Gsm8kSamples,
                     .score = ScoreGsm8k<false>,
                     .metrics = Metrics(),
                     .options = "shots=5, max_new=256",
                     .data = "gsm8k"};
const Task kGsm8kCot = {.name = "gsm8k_cot",
                        .summary = "the same behind eight fixed chains of thought",
                        .version = 3,
                        .samples = Gsm8kCotSamples,
                        .score = ScoreGsm8k<true>,
                        .metrics = Metrics(),
                        .options = "shots=8, max_new=256",
                        .data = "gsm8k"};

}  // namespace hawser
