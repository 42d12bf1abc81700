// cli/demo_report.h - what `hawser demo` measured, as one self-contained page.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/eval/perplexity.h"
#include "hawser/eval/retrieval.h"
#include "hawser/train/run.h"

namespace hawser {

struct DemoModel {
  std::string name;     // "short context", "AnchorAttention", "full attention"
  std::string pattern;  // text form it was trained with
  int64_t context = 0;  // trained to, in tokens
  RunSummary training;
  PplReport ppl;  // windowed, at the long context
  std::vector<RetrievalBucket> retrieval;
};

/// Questions about one fact at a place in texts of one length.
struct DemoNeedle {
  int64_t length = 0;  // tokens
  double depth = 0;
  int64_t questions = 0, correct = 0;
};

/// The model that is part of the program, as it is.
struct DemoBuiltin {
  ModelSpec spec;
  std::string prompt;
  std::vector<std::pair<std::string, std::string>> texts;  // cache policy, what the model wrote under it
  std::vector<RetrievalBucket> retrieval;                  // at its whole context
  std::vector<DemoNeedle> needles;                         // by length, then depth
};

struct DemoStream {
  std::string policy;
  PplReport ppl;
  double mean_formula = 0;  // (a + s + w + c) / 2; 0 where it does not apply
};

struct DemoResult {
  ModelSpec spec;
  int64_t parameters = 0;
  int64_t short_context = 0, long_context = 0;
  uint64_t seed = 0;
  std::string machine;
  DemoBuiltin builtin;
  std::string sample;             // a few sentences of the corpus
  std::vector<DemoModel> models;  // before, anchor, full
  std::vector<DemoStream> streams;
  double seconds = 0;
};

/// A text that was cut anywhere, without the word it was cut in and with an ellipsis.
std::string EndAtWord(std::string_view text);

nlohmann::json ToJson(const DemoResult& result);
std::string DemoPage(const DemoResult& result);
/// The same figures as tables for a terminal.
std::string BuiltinText(const DemoBuiltin& builtin);
std::string DemoText(const DemoResult& result);

}  // namespace hawser
