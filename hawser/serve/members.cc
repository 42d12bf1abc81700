#include "hawser/serve/members.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/io/json.h"
#include "hawser/serve/openai.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;
using Kind = MemberRow::Kind;
using Of = MemberRow::Of;
using Most = MemberRow::Most;

constexpr double kMostTokens = 0x1p40;

constexpr MemberRow kRows[] = {
    {"model", Kind::kText, Of::kBoth, 0, 0, "any name, unless the server was started with --strict-model"},
    {"max_tokens", Kind::kWhole, Of::kBoth, 0, kMostTokens,
     "new tokens at most; prompt and answer must fit the context where the cache keeps everything"},
    {"max_completion_tokens", Kind::kWhole, Of::kBoth, 0, kMostTokens, "the same, and goes before it"},
    {"n", Kind::kWhole, Of::kBoth, 1, 0, "answers to each prompt", Most::kChoices},
    {"temperature", Kind::kNumber, Of::kBoth, 0, 100, "0: the most probable token"},
    {"top_p", Kind::kNumber, Of::kBoth, 0, 1, "0: the most probable token"},
    {"top_k", Kind::kWhole, Of::kBoth, -1, std::numeric_limits<int32_t>::max(), "0 and -1: all"},
    {"min_p", Kind::kNumber, Of::kBoth, 0, 1, "of the probability of the most probable token"},
    {"repetition_penalty", Kind::kNumber, Of::kBoth, 1e-3, 1e3, "1: none"},
    {"repeat_penalty", Kind::kNumber, Of::kBoth, 1e-3, 1e3, "another name of repetition_penalty"},
    {"frequency_penalty", Kind::kNumber, Of::kBoth, -2, 2},
    {"presence_penalty", Kind::kNumber, Of::kBoth, -2, 2},
    {"seed", Kind::kWhole, Of::kBoth, -0x1p63, 0x1p63, "the same seed gives the same text, whoever else is served"},
    {"stream", Kind::kFlag, Of::kBoth, 0, 0, "answers by server-sent events, the last of which is [DONE]"},
    {"stream_options.include_usage", Kind::kFlag, Of::kBoth, 0, 0, "the last chunk tells the usage"},
    {"return_progress", Kind::kFlag, Of::kBoth, 0, 0, "a stream tells how much of the prompt is read"},
    {"ignore_eos", Kind::kFlag, Of::kBoth, 0, 0, "the text goes on where the model would end it"},
    {"cache_prompt", Kind::kFlag, Of::kBoth, 0, 0,
     "whether what earlier prompts have in common with this one is read again; it is, with a seed"},
    {"priority", Kind::kWhole, Of::kBoth, -1e6, 1e6, "higher ones first"},
    {"timeout", Kind::kNumber, Of::kBoth, 0, 1e6, "seconds from the request to its end; 0: any number"},
    {"grammar", Kind::kText, Of::kBoth, 0, 0,
     "what the text may be, in GBNF; one of this, json_schema and response_format", Most::kHigh, "gbnf"},
    {"hawser.kv", Kind::kText, Of::kBoth, 0, 0, "the policy of the cache, as --kv takes it", Most::kHigh, "kv-policy"},
    {"hawser.keep", Kind::kNumber, Of::kBoth, 1e-6, 1,
     "what is read of the indexed prefix, where the prompt begins with that: a share of its keys"},
    {"hawser.keep", Kind::kText, Of::kBoth, 0, 0, "text: as --keep takes it", Most::kHigh, "keep-rule"},
    {"hawser.cache", Kind::kFlag, Of::kBoth, 0, 0, "the usage tells what the cache holds"},
    {"hawser.session", Kind::kText, Of::kBoth, 0, 0, "goes on behind this session"},
    {"logprobs", Kind::kFlag, Of::kChat, 0, 0, "the log-probability of each token"},
    {"top_logprobs", Kind::kWhole, Of::kChat, 0, 0, "of so many of the most probable tokens too; wants logprobs",
     Most::kLogprobs},
    {"add_generation_prompt", Kind::kFlag, Of::kChat, 0, 0, "the text ends where an assistant's turn begins: true"},
    {"continue_final_message", Kind::kFlag, Of::kChat, 0, 0, "the answer goes on with the last message"},
    {"logprobs", Kind::kWhole, Of::kCompletions, 0, 0, "most probable tokens whose log-probabilities are told",
     Most::kLogprobs},
    {"logprobs", Kind::kFlag, Of::kCompletions, 0, 0, "true: 1"},
    {"echo", Kind::kFlag, Of::kCompletions, 0, 0, "the text begins with the prompt"}};

}  // namespace

double MemberRow::Highest(const CallLimits& limits) const {
  return most == Most::kChoices ? limits.choices : most == Most::kLogprobs ? limits.logprobs : high;
}

std::span<const MemberRow> MemberRows() { return kRows; }

std::string Shown(const Json& value) { return ShownJson(nlohmann::json(value)); }

bool ReadWhole(const Json& value, int64_t* number) {
  if (value.is_number_float()) {
    const auto found = value.get<double>();
    // -2^63 may be the nearest to something beyond.
    if (std::floor(found) != found || !(found > -0x1p63 && found < 0x1p63)) return false;
    *number = static_cast<int64_t>(found);
    return true;
  }
  const bool beyond = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (!value.is_number_integer() || beyond) return false;
  *number = value.get<int64_t>();
  return true;
}

const Json* Members::Find(std::string_view key) const {
  const auto found = body_.find(key);
  return found == body_.end() || found->is_null() ? nullptr : &*found;
}

const MemberRow& Members::RowOf(std::string_view key, Kind kind) const {
  const auto row = std::ranges::find_if(
      kRows, [&](const MemberRow& r) { return r.kind == kind && r.name == prefix_ + std::string(key); });
  HAWSER_CHECK(row != std::end(kRows));
  return *row;
}

double Members::Number(std::string_view key, double fallback) const {
  const MemberRow& row = RowOf(key, Kind::kNumber);
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number()) Wrong(key, "a number", *value);
  const auto number = value->get<double>();
  const double high = row.Highest(limits_);
  if (!(number >= row.low && number <= high)) Wrong(key, fmt::format("from {} to {}", row.low, high), *value);
  return number;
}

int64_t Members::Whole(std::string_view key, int64_t fallback) const {
  const MemberRow& row = RowOf(key, Kind::kWhole);
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  const double high = row.Highest(limits_);
  const auto low = static_cast<int64_t>(row.low);
  const int64_t most = high >= 0x1p63 ? INT64_MAX : static_cast<int64_t>(high);
  int64_t number = 0;
  if (!ReadWhole(*value, &number) || number < low || number > most) {
    Wrong(key, fmt::format("a whole number from {} to {}", low, most), *value);
  }
  return number;
}

bool Members::Flag(std::string_view key, bool fallback) const {
  RowOf(key, Kind::kFlag);
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) Wrong(key, "true or false", *value);
  return value->get<bool>();
}

std::string Members::Text(std::string_view key) const {
  RowOf(key, Kind::kText);
  const Json* value = Find(key);
  if (value == nullptr) return "";
  if (!value->is_string()) Wrong(key, "text", *value);
  return value->get<std::string>();
}

Members Members::Inner(std::string_view key) const {
  static const Json none = Json::object();
  const Json* value = Find(key);
  if (value != nullptr && !value->is_object()) Wrong(key, "an object", *value);
  return {value == nullptr ? none : *value, limits_, Name(key) + "."};
}

void Members::Wrong(std::string_view key, std::string_view wanted, const Json& found) const {
  throw ApiError(400, "invalid_request_error",
                 fmt::format("\"{}\" must be {}, found {}", Name(key), wanted, Shown(found)), Name(key));
}

}  // namespace hawser
