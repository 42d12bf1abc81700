#include "hawser/eval/answer_log.h"

#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"
#include "hawser/base/size.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

constexpr int kFormatVersion = 1;

std::string HashOf(std::span<const LmRequest> requests) {
  Hasher64 all;
  const auto add = [&](std::string_view text) {
    // Each text by its own hash: pieces that are no whole words end a Hasher64.
    const uint64_t hash = Hash64(std::as_bytes(std::span(text)));
    all.Add(std::as_bytes(std::span(&hash, 1)));
  };
  for (const LmRequest& r : requests) {
    add(r.context);
    add(r.answer_prefix);
    if (r.special) add("special");
    for (const LmTurn& turn : r.before) add(turn.role + ":" + turn.text);
    for (const std::string& text : r.continuations) add(text);
    add("|");
    for (const std::string& text : r.stops) add(text);
    add(fmt::format("{} {} {}", static_cast<int>(r.kind), static_cast<int>(r.split), r.max_new));
  }
  return fmt::format("{:016x}", all.Finish());
}

nlohmann::json ToJson(const NumberedAnswer& numbered) {
  const LmAnswer& a = numbered.answer;
  nlohmann::json json = {{"i", numbered.request}, {"prompt", a.prompt_tokens}};
  for (const Likelihood& l : a.likelihoods) json["ll"].push_back({l.ll, l.greedy, l.tokens});
  if (a.new_tokens > 0 || a.likelihoods.empty()) json.update({{"text", a.text}, {"new", a.new_tokens}});
  return json;
}

NumberedAnswer ParseAnswer(const nlohmann::json& json, std::span<const LmRequest> requests) {
  const JsonObject object(json, "answer");
  NumberedAnswer numbered{.request = static_cast<size_t>(object.Int("i", 0, std::ssize(requests) - 1))};
  const LmRequest& asked = requests[numbered.request];
  numbered.answer.prompt_tokens = object.Int("prompt");
  numbered.answer.text = object.StringOr("text", "");
  numbered.answer.new_tokens = object.IntOr("new", 0);
  const nlohmann::json* list = object.Find("ll");
  if (list != nullptr && !list->is_array()) Fail(ErrorKind::kFormat, "\"ll\" is {}, no list", ShownJson(*list));
  const size_t wanted = asked.kind == LmRequest::Kind::kLogLikelihood ? asked.continuations.size()
                        : asked.kind == LmRequest::Kind::kRolling     ? 1
                                                                      : 0;
  const size_t found = list == nullptr ? 0 : list->size();
  if (found != wanted || (wanted == 0 && object.Find("text") == nullptr)) {
    Fail(ErrorKind::kFormat, "question {} wants {}, found {}", numbered.request,
         wanted == 0 ? "a text" : Counted(static_cast<int64_t>(wanted), "likelihood"), ShownJson(json));
  }
  if (list == nullptr) return numbered;
  for (const nlohmann::json& l : *list) {
    const bool whole = l.is_array() && l.size() == 3 && l[0].is_number() && l[1].is_boolean() &&
                       l[2].is_number_integer() && l[0].get<double>() <= 1e-3 && l[2].get<int64_t>() >= 0;
    if (!whole) Fail(ErrorKind::kFormat, "\"ll\" holds {}, which is no likelihood", ShownJson(l));
    numbered.answer.likelihoods.push_back({l[0].get<double>(), l[1].get<bool>(), l[2].get<int64_t>()});
  }
  return numbered;
}

}  // namespace

AnswerLog::AnswerLog(const std::filesystem::path& folder, const nlohmann::json& run,
                     std::span<const LmRequest> requests, bool resume)
    : log_(folder, "answers.jsonl",
           {{"hawser_eval", kFormatVersion}, {"run", run}, {"requests", requests.size()}, {"hash", HashOf(requests)}},
           resume),
      answers_(requests.size()) {
  for (size_t row = 0; row < log_.rows().size(); ++row) {
    WithFrame(log_.Place(row), [&] {
      const nlohmann::json& line = log_.rows()[row];
      if (!line.is_array()) Fail(ErrorKind::kFormat, "wanted a list of answers, found {}", ShownJson(line));
      for (const nlohmann::json& answer : line) {
        NumberedAnswer numbered = ParseAnswer(answer, requests);
        known_ += answers_[numbered.request] ? 0 : 1;
        answers_[numbered.request] = std::move(numbered.answer);
      }
    });
  }
}

AnswerLog::~AnswerLog() = default;

void AnswerLog::Add(std::span<const NumberedAnswer> answers) {
  if (answers.empty()) return;
  nlohmann::json line = nlohmann::json::array();
  for (const NumberedAnswer& numbered : answers) {
    line.push_back(ToJson(numbered));
    known_ += answers_[numbered.request] ? 0 : 1;
    answers_[numbered.request] = numbered.answer;
  }
  log_.Add(line);
}

}  // namespace hawser
