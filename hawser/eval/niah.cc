#include "hawser/eval/niah.h"

#include <algorithm>
#include <numeric>

#include "hawser/eval/answer_text.h"
#include "hawser/eval/python_text.h"

namespace hawser {
namespace {

std::string Text(std::span<const int32_t> ids, bool at_start, const Tokenizer& tokenizer) {
  return tokenizer.Decode({ids.begin(), ids.end()}, at_start);
}

}  // namespace

int JudgeNeedle(std::string_view answer) {
  std::string text = " ";
  for (const std::string& word : AnswerWords(answer)) text += word + " ";
  const int found = (text.find("sandwich") != text.npos) + (text.find("dolores park") != text.npos);
  return found == 2 ? 10 : found == 1 ? 5 : 1;
}

double NumbersFound(std::string_view answer, std::span<const std::string> numbers) {
  const auto stands = [&](const std::string& number) { return answer.find(number) != answer.npos; };
  return static_cast<double>(std::ranges::count_if(numbers, stands)) / static_cast<double>(numbers.size());
}

HiddenText HideNeedle(std::span<const int32_t> haystack, int64_t tokens, std::string_view needle, double depth,
                      const Tokenizer& tokenizer) {
  haystack = haystack.first(static_cast<size_t>(std::min<int64_t>(tokens, static_cast<int64_t>(haystack.size()))));
  auto at = static_cast<size_t>(static_cast<double>(haystack.size()) * depth);
  const auto ends_sentence = [&](int32_t id) { return PythonStrip(tokenizer.Piece(id)).ends_with('.'); };
  if (depth < 1) {
    while (at > 0 && !ends_sentence(haystack[at - 1])) --at;
  }
  return {.text = Text(haystack.first(at), true, tokenizer) + std::string(needle) +
                  Text(haystack.subspan(at), at == 0, tokenizer),
          .places = {static_cast<int64_t>(at)}};
}

HiddenText HideNeedles(std::span<const int32_t> haystack, int64_t tokens, std::span<const std::string> needles,
                       std::span<const double> depths, const Tokenizer& tokenizer) {
  haystack = haystack.first(static_cast<size_t>(std::min<int64_t>(tokens, static_cast<int64_t>(haystack.size()))));
  std::vector<size_t> order(needles.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return depths[i]; });
  HiddenText out;
  out.places.resize(needles.size());
  size_t begin = 0;
  for (const size_t i : order) {
    const auto at = static_cast<size_t>(static_cast<double>(haystack.size()) * depths[i]);
    out.text += Text(haystack.subspan(begin, at - begin), begin == 0, tokenizer) + needles[i];
    out.places[i] = static_cast<int64_t>(at);
    begin = at;
  }
  out.text += Text(haystack.subspan(begin), begin == 0, tokenizer);
  return out;
}

}  // namespace hawser
