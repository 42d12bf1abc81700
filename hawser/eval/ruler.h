// eval/ruler.h - RULER (arXiv 2404.06654): thirteen synthetic tasks at any length. Samples equal those of the original
// generators to the byte, given its seed and a tokenizer that counts as its does.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/tok/tokenizer.h"

namespace hawser {

enum class RulerKind : uint8_t { kNiah, kTracking, kCommonWords, kFrequentWords, kSquad, kHotpot };
enum class RulerHaystack : uint8_t { kNoise, kEssay, kNeedle };
enum class RulerValue : uint8_t { kNumbers, kWords, kUuids };

/// One of the thirteen.
struct RulerTask {
  std::string_view name;
  RulerKind kind;
  int64_t max_new;  // tokens of an answer
  // Needles: what they hide in, what names and what answers are, and how many keys, values a key, and keys asked for.
  RulerHaystack haystack = RulerHaystack::kNoise;
  RulerValue key = RulerValue::kWords, value = RulerValue::kNumbers;
  int keys = 1, values = 1, queries = 1;

  /// Whether one reference in the answer is enough; else their share counts.
  bool any() const { return kind == RulerKind::kSquad || kind == RulerKind::kHotpot; }
};

/// In the order of the paper.
std::span<const RulerTask> RulerTasks();
/// `text`: "all", or names, families (niah, qa) and globs joined by '+' or ','. Errors: kUsage with the known names.
std::vector<const RulerTask*> ParseRulerTasks(std::string_view text);

/// What stands around a prompt for a family of models: base, llama2-chat, llama3, phi3.
struct RulerTemplate {
  std::string_view name, before, after;
};
/// Errors: kUsage with the known names.
const RulerTemplate& FindRulerTemplate(std::string_view name);

struct RulerOptions {
  int64_t length = 4096;  // tokens of prompt and answer together
  int64_t samples = 500;
  uint64_t seed = 42;
  std::string model_template = "base";
  std::string haystack = "pg19";        // of the essay tasks (haystack.h)
  std::filesystem::path data_dir;       // has pg19/test/ and qa/; empty: where data are else
  std::filesystem::path squad, hotpot;  // of qa_1 and qa_2; empty: those of the data
};

struct RulerSample {
  int64_t index = 0;
  std::string input;          // up to the answer prefix
  std::string answer_prefix;  // what the answer goes on from
  std::vector<std::string> outputs;
  int64_t length = 0;  // tokens of input and prefix, and those kept for the answer
  // Of needles: where the first answer stands in `input`, in characters and in tokens.
  std::optional<int64_t> answer_char, answer_token;
};

/// What was drawn on for one task, for labels: "noise", "pg19", "xquad.en.json"; empty where there is nothing to say.
std::string RulerSource(const RulerTask& task, const RulerOptions& options);

/// options.samples of them, or as many as there are questions (qa). Errors: kUsage where the length is too short for
/// the task; kIo, kFormat for the texts.
std::vector<RulerSample> MakeRulerSamples(const RulerTask& task, const RulerOptions& options,
                                          const Tokenizer& tokenizer);

}  // namespace hawser
