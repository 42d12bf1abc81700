#include "hawser/eval/harness.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/python_random.h"

namespace hawser {
namespace {

constexpr uint64_t kExampleSeed = 1234;

struct Example {
  std::string query, answer;
};

Example AsExample(const HarnessDoc& doc) {
  const auto gold = static_cast<size_t>(doc.gold);
  if (!doc.contexts.empty()) return {doc.contexts[gold], doc.choices.at(0)};
  return {doc.query, doc.target.empty() ? doc.choices.at(gold) : doc.target};
}

/// `wanted` of the pool, without `doc` itself.
std::vector<size_t> DrawExamples(const HarnessSet& set, const HarnessDoc& doc, size_t wanted, PythonRandom* random) {
  if (!set.spare_example) return random->SampleIndices(set.pool.size(), wanted);
  const auto same = [&](size_t i) { return set.pool[i].doc != nullptr && *set.pool[i].doc == *doc.doc; };
  std::vector<size_t> examples = random->SampleIndices(set.pool.size(), wanted + 1);
  std::erase_if(examples, same);
  if (examples.size() < wanted) {  // the document stands there more than once
    std::vector<size_t> others(set.pool.size());
    std::iota(others.begin(), others.end(), size_t{0});
    std::erase_if(others, same);
    if (others.size() < wanted) {
      Fail(ErrorKind::kUsage, "{} examples are wanted, and {} are no copies of the question", wanted, others.size());
    }
    examples = random->SampleIndices(others.size(), wanted);
    for (size_t& i : examples) i = others[i];
  }
  examples.resize(wanted);
  return examples;
}

size_t Likeliest(std::span<const double> values) {
  return static_cast<size_t>(std::ranges::max_element(values) - values.begin());  // the first of equals
}

}  // namespace

int64_t Shots(const TaskInput& input, int64_t fallback) { return input.options.Int("shots", fallback, 0, 1000); }

std::vector<Prompted> HarnessPrompts(const TaskInput& input, const HarnessSet& set, int64_t shots) {
  const auto wanted = static_cast<size_t>(shots);
  const size_t drawn = wanted + (set.spare_example && shots > 0 ? 1 : 0);
  if (drawn > set.pool.size()) {
    Fail(ErrorKind::kUsage, "{} examples are wanted of {}; at most {} can be drawn", shots, set.pool.size(),
         set.pool.size() - std::min<size_t>(set.pool.size(), set.spare_example ? 1 : 0));
  }
  PythonRandom random(input.seed_given ? input.seed : kExampleSeed);
  std::vector<Prompted> prompts;
  for (size_t d = 0; d < set.docs.size(); ++d) {
    if (input.limit > 0 && static_cast<int64_t>(d) == input.limit) break;
    const HarnessDoc& doc = set.docs[d];
    Prompted prompt{.doc = &doc};
    std::string before;
    if (input.chat && !set.description.empty()) prompt.before.push_back({"system", set.description});
    if (!input.chat) before = set.description;
    std::vector<size_t> examples;
    if (set.first_examples) {
      for (size_t i = 0; i < wanted; ++i) examples.push_back(i);
    } else if (shots > 0) {
      examples = DrawExamples(set, doc, wanted, &random);
    }
    for (const size_t i : examples) {
      Example example = AsExample(set.pool[i]);
      if (input.chat) {
        prompt.before.push_back({"user", std::move(example.query)});
        prompt.before.push_back({"assistant", std::move(example.answer)});
      } else {
        before += example.query + set.delimiter + example.answer + "\n\n";
      }
    }
    for (const std::string& context : doc.contexts) prompt.contexts.push_back(before + context);
    if (doc.contexts.empty()) prompt.contexts.push_back(before + doc.query);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

std::vector<Sample> ChoiceSamples(const TaskInput& input, const HarnessSet& set, int64_t shots) {
  const std::string delimiter = input.chat || set.bare_choices ? "" : set.delimiter;
  std::vector<Sample> samples;
  for (Prompted& prompt : HarnessPrompts(input, set, shots)) {
    Sample sample{.row = set.row, .groups = set.groups, .id = static_cast<int64_t>(samples.size())};
    sample.of = std::ssize(set.docs);
    sample.doc = prompt.doc->doc;
    sample.gold = prompt.doc->gold;
    sample.target = prompt.contexts.size() > 1 ? prompt.doc->choices.at(0) : std::to_string(sample.gold);
    sample.choices = prompt.doc->choices;
    for (std::string& context : prompt.contexts) {
      LmRequest request{.context = std::move(context), .before = prompt.before};
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
