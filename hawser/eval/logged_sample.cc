#include "hawser/eval/logged_sample.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "hawser/eval/wikitext.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using nlohmann::json;

std::optional<double> AsNumber(const json& value) {
  double number = value.is_number() ? value.get<double>() : NAN;
  if (const auto* text = value.get_ptr<const std::string*>()) {
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
    if (error != std::errc() || end != text->data() + text->size()) return std::nullopt;
  }
  if (std::isnan(number)) return std::nullopt;
  return number;
}

/// [[LL, GREEDY]], [LL] or what stands in them.
Likelihood ReadAnswer(const json& resp, bool* greedy_told) {
  const json* answer = &resp;
  while (answer->is_array() && answer->size() == 1) answer = &answer->front();
  const bool pair = answer->is_array() && answer->size() == 2;
  const auto ll = AsNumber(pair ? answer->front() : *answer);
  const json greedy = pair ? answer->back() : json(false);
  const bool yes = greedy == true || greedy == "True", no = greedy == false || greedy == "False";
  if (!ll || *ll > 1e-3 || (!yes && !no)) {
    Fail(ErrorKind::kFormat, "\"resps\": wanted log-likelihoods, found {}", ShownJson(resp));
  }
  *greedy_told = pair;
  return {.ll = *ll, .greedy = yes};
}

json Member(const json& object, const std::string& key) {
  return object.is_object() && object.contains(key) ? object[key] : json();
}

/// Of a file {"gen_args_0": {"arg_0": FIRST, "arg_1": SECOND}, ...}, of the harness itself [[FIRST, SECOND], ...].
std::optional<std::string> SecondArgument(const json& arguments, size_t i) {
  json second = Member(Member(arguments, fmt::format("gen_args_{}", i)), "arg_1");
  if (arguments.is_array() && i < arguments.size() && arguments[i].is_array() && arguments[i].size() == 2) {
    second = arguments[i].back();
  }
  return second.is_string() ? std::optional(second.get<std::string>()) : std::nullopt;
}

/// `one_choice`: behind several contexts, so that its text says nothing.
int32_t ReadGold(const json& line, const std::vector<std::string>& choices, bool one_choice) {
  const json target = Member(line, "target"), doc = Member(line, "doc"), answer = Member(doc, "answer");
  const auto named = target.is_string() ? std::ranges::find(choices, target.get<std::string>()) : choices.end();
  std::optional<double> gold = one_choice ? AsNumber(Member(doc, "gold")) : AsNumber(target);
  if (!gold && one_choice && AsNumber(answer)) gold = *AsNumber(answer) - 1;
  if (!gold) gold = AsNumber(target);
  if (!gold && !one_choice && named != choices.end()) gold = static_cast<double>(named - choices.begin());
  if (!gold || *gold != std::floor(*gold) || *gold < 0 || *gold >= static_cast<double>(choices.size())) {
    Fail(ErrorKind::kFormat, "\"target\": wanted one of {} choices or its number, found {}", choices.size(),
         ShownJson(target));
  }
  return static_cast<int32_t>(*gold);
}

}  // namespace

LoggedSample ReadLoggedSample(const json& line) {
  if (!line.is_object() || !line.contains("resps") || !line["resps"].is_array() || line["resps"].empty()) {
    Fail(ErrorKind::kFormat, "wanted a line of a sample log with answers in \"resps\", found {}", ShownJson(line));
  }
  LoggedSample out;
  Sample& sample = out.sample;
  for (const json& resp : line["resps"]) out.answer.likelihoods.push_back(ReadAnswer(resp, &out.greedy_told));
  const size_t answers = out.answer.likelihoods.size();
  const json arguments = Member(line, "arguments");
  for (size_t i = 0; i < answers; ++i) {
    const std::optional<std::string> text = SecondArgument(arguments, i);
    if (!text) break;
    std::string choice = *text;
    if (choice.starts_with(' ')) choice.erase(0, 1);
    sample.choices.push_back(std::move(choice));
  }
  if (answers > 1 && sample.choices.size() != answers) {
    Fail(ErrorKind::kFormat, "\"arguments\": wanted {} choices, found {}", answers, sample.choices.size());
  }
  out.one_choice = answers > 1 && std::ranges::count(sample.choices, sample.choices[0]) == std::ssize(sample.choices);
  if (answers > 1) sample.gold = ReadGold(line, sample.choices, out.one_choice);
  if (const json tokens = Member(line, "choice_tokens"); tokens.is_array() && tokens.size() == answers) {
    for (size_t i = 0; i < answers; ++i) {
      if (tokens[i].is_number_integer()) out.answer.likelihoods[i].tokens = tokens[i].get<int64_t>();
    }
    sample.choices.clear();
  }
  if (const json doc = Member(line, "doc"); doc.is_object() && doc.contains("page")) {
    const std::string page = JsonObject(doc, "doc").String("page");
    sample.numbers = {static_cast<double>(WikitextWords(page)), static_cast<double>(page.size())};
  }
  return out;
}

}  // namespace hawser
