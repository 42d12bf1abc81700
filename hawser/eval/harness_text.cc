// Texts as lm-evaluation-harness predicts them: the last words of lambada_openai, whole pages of wikitext.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/eval/data_files.h"
#include "hawser/eval/harness.h"
#include "hawser/eval/tasks.h"
#include "hawser/eval/wikitext.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

std::vector<Sample> LambadaSamples(const TaskInput& input) {
  HarnessSet set{.bare_choices = true};
  for (const nlohmann::json& line : ReadDataLines(input.data_dir, "lambada/lambada_openai_test.jsonl")) {
    const JsonObject doc(line, "lambada");
    HarnessDoc out{.query = doc.String("context"), .choices = {" " + doc.String("continuation")}};
    out.doc = std::make_shared<const Json>(Json{{"text", out.query + out.choices[0]}});
    set.docs.push_back(std::move(out));
  }
  const int64_t shots = Shots(input, 0);
  if (shots > 0) set.pool = set.docs;  // the document itself may be among its examples
  std::vector<Sample> samples = ChoiceSamples(input, set, shots);
  for (Sample& sample : samples) sample.target = sample.choices[0];
  return samples;
}

SampleScore ScoreLambada(const Sample&, std::span<const LmAnswer> answers) {
  const Likelihood& word = answers[0].likelihoods.at(0);
  return {.values = {{word.ll}, {word.greedy ? 1.0 : 0.0}}};
}

std::vector<Sample> WikitextSamples(const TaskInput& input) {
  std::vector<Sample> samples;
  const std::vector<std::string> pages = WikitextPages(ReadDataFile(input.data_dir, "wikitext/wiki.test.raw"));
  for (const std::string& page : pages) {
    if (input.limit > 0 && static_cast<int64_t>(samples.size()) == input.limit) break;
    Sample sample{.id = static_cast<int64_t>(samples.size())};
    sample.of = std::ssize(pages);
    sample.doc = std::make_shared<const Json>(Json{{"page", page}});
    sample.target = WikitextDetokenized(page);
    sample.requests.push_back({.kind = LmRequest::Kind::kRolling, .context = sample.target});
    sample.numbers = {static_cast<double>(WikitextWords(page)), static_cast<double>(page.size())};
    samples.push_back(std::move(sample));
  }
  return samples;
}

SampleScore ScoreWikitext(const Sample& sample, std::span<const LmAnswer> answers) {
  const double ll = answers[0].likelihoods.at(0).ll;
  const double words = sample.numbers[0], bytes = sample.numbers[1];
  return {.values = {{ll, words}, {ll, bytes}, {ll, bytes}}};
}

}  // namespace

const Task kLambada = {
    .name = "lambada_openai",
    .summary = "the last word of a passage",
    .samples = LambadaSamples,
    .score = ScoreLambada,
    .metrics = {{.name = "perplexity", .mean = Mean::kPerplexity, .higher_is_better = false}, {.name = "acc"}},
    .options = "shots=K",
    .data = "lambada"};

const Task kWikitext = {.name = "wikitext",
                        .summary = "WikiText-2, whole pages, by word and byte of the original text",
                        .version = 2,
                        .samples = WikitextSamples,
                        .score = ScoreWikitext,
                        .metrics = {{.name = "word_perplexity", .mean = Mean::kPerUnit, .higher_is_better = false},
                                    {.name = "byte_perplexity", .mean = Mean::kPerUnit, .higher_is_better = false},
                                    {.name = "bits_per_byte", .mean = Mean::kBitsPerUnit, .higher_is_better = false}},
                        .data = "wikitext"};

}  // namespace hawser
