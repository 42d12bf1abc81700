#include "hawser/eval/longbench.h"

#include <algorithm>

#include "hawser/base/error.h"
#include "hawser/eval/data_files.h"
#include "hawser/eval/python_text.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using enum LongBenchMetric;

constexpr LongBenchSet kSets[] = {
    {"narrativeqa", "single_doc_qa", kF1, 128, false, true},
    {"qasper", "single_doc_qa", kF1, 128, false, true},
    {"multifieldqa_en", "single_doc_qa", kF1, 64, false, true},
    {"multifieldqa_zh", "single_doc_qa", kF1Zh, 64, false, true},
    {"hotpotqa", "multi_doc_qa", kF1, 32, false, true},
    {"2wikimqa", "multi_doc_qa", kF1, 32, false, true},
    {"musique", "multi_doc_qa", kF1, 32, false, true},
    {"dureader", "multi_doc_qa", kRougeZh, 128, false, true},
    {"gov_report", "summaries", kRouge, 512, false, true},
    {"qmsum", "summaries", kRouge, 512, false, true},
    {"multi_news", "summaries", kRouge, 512, false, true},
    {"vcsum", "summaries", kRougeZh, 512, false, true},
    {"trec", "few_shot", kClass, 64, true, false},
    {"triviaqa", "few_shot", kF1, 32, true, false},
    {"samsum", "few_shot", kRouge, 128, true, false},
    {"lsht", "few_shot", kClass, 64, true, false},
    {"passage_count", "synthetic", kCount, 32, false, true},
    {"passage_retrieval_en", "synthetic", kRetrieval, 32, false, true},
    {"passage_retrieval_zh", "synthetic", kRetrievalZh, 32, false, true},
    {"lcc", "code", kCode, 64, false, false},
    {"repobench-p", "code", kCode, 64, false, false},
};

/// The letter behind `before` (and an opening bracket, if `bracket`), or 0.
char LetterBehind(std::string_view text, std::string_view before, bool bracket) {
  for (size_t at = 0; (at = text.find(before, at)) != text.npos; ++at) {
    std::string_view rest = text.substr(at + before.size());
    if (bracket && rest.size() >= 3 && rest[0] == '(' && rest[1] >= 'A' && rest[1] <= 'D' && rest[2] == ')') {
      return rest[1];
    }
    if (!bracket && !rest.empty() && rest[0] >= 'A' && rest[0] <= 'D') return rest[0];
  }
  return 0;
}

}  // namespace

std::span<const LongBenchSet> LongBenchSets() { return kSets; }

const LongBenchSet* FindLongBenchSet(std::string_view name) {
  if (name.ends_with("_e")) name.remove_suffix(2);
  const auto found = std::ranges::find(kSets, name, &LongBenchSet::name);
  return found == std::end(kSets) ? nullptr : &*found;
}

void CheckLongBenchLine(const LongBenchSet& set, bool by_length, const std::vector<std::string>& classes,
                        int64_t length) {
  if (set.metric == kClass && classes.empty()) {
    Fail(ErrorKind::kFormat, "{} is scored by classes: wanted a list \"all_classes\"", set.name);
  }
  if (by_length && length < 0) {
    Fail(ErrorKind::kFormat, "{}_e is split by length: wanted a number \"length\"", set.name);
  }
}

std::map<std::string, std::string> ReadLongBenchPrompts(const std::filesystem::path& data_dir) {
  const nlohmann::json root = ParseJson(ReadDataFile(data_dir, "longbench/dataset2prompt.json"));
  std::map<std::string, std::string> prompts;
  for (const LongBenchSet& set : kSets) {
    const std::string name(set.name);
    prompts[name] = JsonObject(root, "dataset2prompt.json").String(name.c_str());
  }
  return prompts;
}

std::string LongBenchPrompt(std::string_view form, std::string_view context, std::string_view input) {
  std::string prompt;
  for (std::string_view rest = form; !rest.empty();) {
    const bool is_context = rest.starts_with("{context}"), is_input = rest.starts_with("{input}");
    if (is_context || is_input) {
      prompt += is_context ? context : input;
      rest.remove_prefix(is_context ? 9 : 7);
    } else {
      prompt += rest.front();
      rest.remove_prefix(1);
    }
  }
  return prompt;
}

std::string CutMiddle(const std::string& text, int64_t most, const Tokenizer& tokenizer) {
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  const auto half = static_cast<std::ptrdiff_t>(most / 2);
  if (static_cast<int64_t>(ids.size()) <= most) return text;
  return tokenizer.Decode({ids.begin(), ids.begin() + half}) + tokenizer.Decode({ids.end() - half, ids.end()});
}

char LongBenchChoice(std::string_view answer) {
  std::string text(PythonStrip(answer));
  std::erase(text, '*');
  if (text.size() == 1 && text[0] >= 'A' && text[0] <= 'D') return text[0];  // extracted before
  constexpr std::string_view kBefore = "The correct answer is ";
  const char letter = LetterBehind(text, kBefore, /*bracket=*/true);
  return letter != 0 ? letter : LetterBehind(text, kBefore, /*bracket=*/false);
}

}  // namespace hawser
