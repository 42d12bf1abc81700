#include "hawser/eval/harness.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/python_random.h"

namespace hawser {
namespace {

constexpr uint64_t kExampleSeed = 1234;

std::string AsExample(const HarnessDoc& doc, const std::string& delimiter) {
  const bool in_context = !doc.contexts.empty();
  const std::string& query = in_context ? doc.contexts[static_cast<size_t>(doc.gold)] : doc.query;
  const std::string& right = in_context            ? doc.choices.at(0)
                             : !doc.target.empty() ? doc.target
                                                   : doc.choices.at(doc.gold);
  return query + delimiter + right + "\n\n";
}

size_t Likeliest(std::span<const double> values) {
  return static_cast<size_t>(std::ranges::max_element(values) - values.begin());  // the first of equals
}

}  // namespace

int64_t Shots(const TaskInput& input, int64_t fallback) { return input.options.Int("shots", fallback, 0, 1000); }

std::vector<Prompted> HarnessPrompts(const TaskInput& input, const HarnessSet& set, int64_t shots) {
  const auto wanted = static_cast<size_t>(shots);
  const std::vector<HarnessDoc>& pool = set.exclude_doc ? set.docs : set.pool;
  const size_t drawn = wanted + (set.exclude_doc && shots > 0 ? 1 : 0);
  if (drawn > pool.size()) {
    Fail(ErrorKind::kUsage, "{} examples are wanted, and there are {}", shots, pool.size());
  }
  PythonRandom random(input.seed_given ? input.seed : kExampleSeed);
  std::vector<Prompted> prompts;
  for (size_t d = 0; d < set.docs.size(); ++d) {
    if (input.limit > 0 && static_cast<int64_t>(d) == input.limit) break;
    std::string before = set.description;
    if (shots > 0) {
      std::vector<size_t> examples;
      if (set.first_examples) {
        for (size_t i = 0; i < wanted; ++i) examples.push_back(i);
      } else {
        examples = random.SampleIndices(pool.size(), drawn);
        if (set.exclude_doc) std::erase(examples, d);
        examples.resize(wanted);
      }
      for (const size_t i : examples) before += AsExample(pool[i], set.delimiter);
    }
    const HarnessDoc& doc = set.docs[d];
    Prompted prompt{.doc = &doc};
    for (const std::string& context : doc.contexts) prompt.contexts.push_back(before + context);
    if (doc.contexts.empty()) prompt.contexts.push_back(before + doc.query);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

std::vector<Sample> ChoiceSamples(const TaskInput& input, const HarnessSet& set, int64_t shots) {
  const std::string delimiter = input.chat ? "" : set.delimiter;
  std::vector<Sample> samples;
  for (Prompted& prompt : HarnessPrompts(input, set, shots)) {
    Sample sample{.row = set.row, .groups = set.groups, .id = static_cast<int64_t>(samples.size())};
    sample.doc = prompt.doc->doc;
    sample.gold = prompt.doc->gold;
    sample.target = std::to_string(sample.gold);
    sample.choices = prompt.doc->choices;
    for (std::string& context : prompt.contexts) {
      LmRequest request{.context = std::move(context)};
      for (const std::string& choice : prompt.doc->choices) request.continuations.push_back(delimiter + choice);
      sample.requests.push_back(std::move(request));
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

SampleScore ScoreChoice(const Sample& sample, std::span<const LmAnswer> answers) {
  std::vector<double> ll, by_length;
  for (const LmAnswer& answer : answers) {
    for (size_t c = 0; c < answer.likelihoods.size(); ++c) {
      ll.push_back(answer.likelihoods[c].ll);
      const int64_t length = sample.choices.empty() ? answer.likelihoods[c].tokens : CodePoints(sample.choices[c]);
      by_length.push_back(ll.back() / static_cast<double>(std::max<int64_t>(1, length)));
    }
  }
  const auto gold = static_cast<size_t>(sample.gold);
  return {.values = {{Likeliest(ll) == gold ? 1.0 : 0.0}, {Likeliest(by_length) == gold ? 1.0 : 0.0}}};
}

std::vector<Metric> ChoiceMetrics() { return {{.name = "acc"}, {.name = "acc_norm"}}; }

int64_t CodePoints(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace hawser
