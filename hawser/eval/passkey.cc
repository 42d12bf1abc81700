#include "hawser/eval/passkey.h"

#include <fmt/format.h>

#include <algorithm>

#include "hawser/eval/answer_text.h"
#include "hawser/eval/python_text.h"

namespace hawser {
namespace {

constexpr std::string_view kTask =
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
    "about the important information there.";
constexpr std::string_view kFiller =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
constexpr std::string_view kQuestion = "What is the pass key? The pass key is";

constexpr PasskeyVariant kVariants[] = {
    {"landmark", PasskeyLayout::kLandmark, PasskeyUnit::kCharacters, 10, "five lines, filler cut anywhere"},
    {"yarn", PasskeyLayout::kYarn, PasskeyUnit::kCharacters, 10, "as landmark, lengths in steps of 128 characters"},
    {"pose", PasskeyLayout::kPose, PasskeyUnit::kFillers, 10, "as landmark, whole fillers without blanks between"},
    {"pi", PasskeyLayout::kPi, PasskeyUnit::kFillers, 10, "whole fillers, keys of five digits, by distance"},
    {"focusllm", PasskeyLayout::kFocusLlm, PasskeyUnit::kCharacters, 10, "the task comes behind the text"},
    {"llamacpp", PasskeyLayout::kLlamaCpp, PasskeyUnit::kFillers, 16, "all in one line"},
    {"infinitebench", PasskeyLayout::kInfiniteBench, PasskeyUnit::kFillers, 6, "contexts and keys from a file"},
    {"yarn-hard", PasskeyLayout::kYarnHard, PasskeyUnit::kFillers, 10, "several keys in a real text, one asked for"},
};

/// `count` fillers with `between` between them.
std::string Fillers(int64_t count, std::string_view between) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text.append(i > 0 ? between : "").append(kFiller);
  return text;
}

std::string FillerCharacters(int64_t count) {
  const auto each = static_cast<int64_t>(kFiller.size()) + 1;
  return Fillers(count / each + 1, " ").substr(0, static_cast<size_t>(count));
}

std::string_view WithoutZeros(std::string_view digits) {
  while (digits.size() > 1 && digits.front() == '0') digits.remove_prefix(1);
  return digits;
}

}  // namespace

std::span<const PasskeyVariant> PasskeyVariants() { return kVariants; }

std::string PasskeyPrompt(PasskeyLayout layout, int64_t before, int64_t after, std::string_view key) {
  const std::string info = fmt::format("The pass key is {0}. Remember it. {0} is the pass key.", key);
  const auto lines = [&](const std::string& front, const std::string& back) {
    return fmt::format("{}\n{}\n{}\n{}\n{}", kTask, front, info, back, kQuestion);
  };
  switch (layout) {
    case PasskeyLayout::kLandmark:
    case PasskeyLayout::kYarn:
      return lines(FillerCharacters(before), FillerCharacters(after));
    case PasskeyLayout::kPose:
      return lines(Fillers(before, ""), Fillers(after, ""));
    case PasskeyLayout::kPi:
      return lines(Fillers(before, " "), Fillers(after, " "));
    case PasskeyLayout::kFocusLlm:
      return fmt::format("{}\n{}\n{}\n{}\n{}", FillerCharacters(before), info, FillerCharacters(after), kTask,
                         kQuestion);
    default: {
      std::string text(kTask);
      if (before > 0) text += " " + Fillers(before, " ");
      text += " " + info;
      if (after > 0) text += " " + Fillers(after, " ");
      return text.append(" ").append(kQuestion);
    }
  }
}

bool PasskeyFound(std::string_view variant, std::string_view answer, std::string_view key) {
  if (variant == "focusllm") return PythonStrip(answer) == key;
  if (variant == "yarn-hard") return PythonStrip(answer).starts_with(key);
  return variant == "infinitebench" ? FirstDigitsAre(answer, key) : FirstNumberIs(answer, key);
}

double LargestDistance(std::vector<std::pair<double, double>> found) {
  std::ranges::sort(found);
  double largest = 0;
  for (size_t begin = 0, end; begin < found.size(); begin = end) {
    double sum = 0;
    for (end = begin; end < found.size() && found[end].first == found[begin].first; ++end) sum += found[end].second;
    if (sum < 0.2 * static_cast<double>(end - begin)) break;
    largest = found[begin].first;
  }
  return largest;
}

std::string Ordinal(int64_t n) {
  const int64_t tens = n % 100, ones = n % 10;
  const bool teen = tens >= 11 && tens <= 13;
  return fmt::format("{}{}", n, teen ? "th" : ones == 1 ? "st" : ones == 2 ? "nd" : ones == 3 ? "rd" : "th");
}

bool FirstNumberIs(std::string_view answer, std::string_view key) {
  const std::vector<std::string> runs = DigitRuns(answer);
  return !runs.empty() && WithoutZeros(runs[0]) == WithoutZeros(key);
}

bool FirstDigitsAre(std::string_view answer, std::string_view key) {
  const std::vector<std::string> runs = DigitRuns(answer);
  return !runs.empty() && runs[0] == key;
}

}  // namespace hawser
