// eval/harness.h - what tasks of lm-evaluation-harness share: prompts out of documents and examples, and scores of
// choices.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "hawser/eval/task.h"

namespace hawser {

struct HarnessDoc {
  std::string query = {};                  // the prompt's own part
  std::vector<std::string> contexts = {};  // in its place, one a choice: the choice stands in the prompt
  std::vector<std::string> choices = {};   // continuations without the delimiter; one for all of `contexts`
  int32_t gold = 0;                        // of choices, or of contexts
  std::string target = {};                 // of an example; empty: the right choice
  std::string id = {};
  std::shared_ptr<const nlohmann::ordered_json> doc = {};  // for the log
};

/// prompt = description + examples, each query + delimiter + target + "\n\n", + query; a choice stands behind the
/// delimiter. In a chat the system says the description, and examples are turns; a choice is the whole answer.
struct HarnessSet {
  std::string row = {};  // of results; empty: the task's name
  std::vector<std::string> groups = {};
  std::string description = {};
  std::vector<HarnessDoc> docs = {};
  std::vector<HarnessDoc> pool = {};  // examples come from here
  bool first_examples = false;        // the first ones for every document; else drawn by CPython's generator
  bool spare_example = false;         // one more is drawn, for the document itself to be left out where it is there
  std::string delimiter = " ";
  bool bare_choices = false;  // a choice has what stands before it
};

/// Option "shots". Errors: kUsage for more than the pool has.
int64_t Shots(const TaskInput& input, int64_t fallback);

/// The examples and prompts of the first `input.limit` documents. The generator (seed 1234, or that of --seed) runs on
/// from document to document, so that a limit keeps the prompts.
struct Prompted {
  const HarnessDoc* doc = nullptr;
  std::vector<LmTurn> before;         // of a chat
  std::vector<std::string> contexts;  // one, or one of each of doc->contexts
};
std::vector<Prompted> HarnessPrompts(const TaskInput& input, const HarnessSet& set, int64_t shots);

/// Multiple choice.
std::vector<Sample> ChoiceSamples(const TaskInput& input, const HarnessSet& set, int64_t shots);
/// acc: the likeliest choice, the first of equals; acc_norm: the likeliest a character (code point) of sample.choices,
/// or a token where that is empty.
SampleScore ScoreChoice(const Sample& sample, std::span<const LmAnswer> answers);
std::vector<Metric> ChoiceMetrics();  // acc and acc_norm

int64_t CodePoints(std::string_view text);

}  // namespace hawser
