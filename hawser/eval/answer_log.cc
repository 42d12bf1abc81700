#include "hawser/eval/answer_log.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"
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

NumberedAnswer ParseAnswer(const nlohmann::json& json, size_t requests) {
  const JsonObject object(json, "answer");
  NumberedAnswer numbered{.request = static_cast<size_t>(object.Int("i", 0, static_cast<int64_t>(requests) - 1))};
  numbered.answer.prompt_tokens = object.Int("prompt");
  numbered.answer.text = object.StringOr("text", "");
  numbered.answer.new_tokens = object.IntOr("new", 0);
  const nlohmann::json* list = object.Find("ll");
  if (list == nullptr) return numbered;
  for (const nlohmann::json& l : *list) {
    const bool whole =
        l.is_array() && l.size() == 3 && l[0].is_number() && l[1].is_boolean() && l[2].is_number_integer();
    if (!whole) Fail(ErrorKind::kFormat, "\"ll\" holds {}, which is no likelihood", ShownJson(l));
    numbered.answer.likelihoods.push_back({l[0].get<double>(), l[1].get<bool>(), l[2].get<int64_t>()});
  }
  return numbered;
}

/// The first thing in which two runs differ, for people.
std::string Difference(const nlohmann::json& held, const nlohmann::json& asked) {
  for (const auto& [key, value] : asked.items()) {
    const nlohmann::json other = held.is_object() && held.contains(key) ? held[key] : nlohmann::json();
    if (other == value) continue;
    if (value.is_object() && other.is_object()) return Difference(other, value);
    return fmt::format("{} {}, this one {}", key, ShownJson(other), ShownJson(value));
  }
  return "more than this one";
}

}  // namespace

AnswerLog::AnswerLog(const std::filesystem::path& folder, const nlohmann::json& run,
                     std::span<const LmRequest> requests, bool resume)
    : lock_(folder), path_(folder / "answers.jsonl"), answers_(requests.size()) {
  nlohmann::json header = {{"hawser_eval", kFormatVersion}, {"run", run}, {"requests", requests.size()}};
  header["hash"] = HashOf(requests);
  std::error_code code;
  const std::string text = std::filesystem::exists(path_, code) ? ReadFile(path_) : std::string();
  const size_t whole = text.rfind('\n') == text.npos ? 0 : text.rfind('\n') + 1;
  if (whole == 0) {
    started_ =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
    header["started"] = started_;
    WriteFileAtomically(path_, header.dump() + "\n");
  } else {
    size_t begin = 0, number = 0;
    while (begin < whole) {
      const size_t end = text.find('\n', begin);
      ++number;
      WithFrame(fmt::format("{}:{}", path_.string(), number), [&] {
        const nlohmann::json line = ParseJson(std::string_view(text).substr(begin, end - begin));
        if (number == 1) {
          const JsonObject object(line, "run");
          started_ = object.Int("started", 0, int64_t{1} << 53);
          for (const char* key : {"hawser_eval", "run", "requests", "hash"}) {
            if (line.contains(key) && line[key] == header[key]) continue;
            Fail(ErrorKind::kUsage, "this folder holds another run, with {}; choose another folder",
                 Difference(line, header));
          }
          if (!resume) Fail(ErrorKind::kUsage, "this folder holds this run already; --resume goes on with it");
          return;
        }
        if (!line.is_array()) Fail(ErrorKind::kFormat, "wanted a list of answers, found {}", ShownJson(line));
        for (const nlohmann::json& answer : line) {
          NumberedAnswer numbered = ParseAnswer(answer, requests.size());
          known_ += answers_[numbered.request] ? 0 : 1;
          answers_[numbered.request] = std::move(numbered.answer);
        }
      });
      begin = end + 1;
    }
    if (whole < text.size()) TruncateFile(path_, whole);
  }
  file_ = std::make_unique<AppendFile>(path_);
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
  file_->Append(line.dump() + "\n");
}

}  // namespace hawser
