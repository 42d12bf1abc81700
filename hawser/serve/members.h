// serve/members.h - members of requests that are a number, yes or no, or text: what each may be. Requests are checked
// by these rows, and the description of the API (serve/api_doc.h) is made of them.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

namespace hawser {

/// What a server allows.
struct CallLimits {
  int32_t logprobs = 20, choices = 64, prompts = 512;
};

struct MemberRow {
  enum class Kind : uint8_t { kNumber, kWhole, kFlag, kText };
  enum class Of : uint8_t { kBoth, kChat, kCompletions };
  enum class Most : uint8_t { kHigh, kChoices, kLogprobs };

  std::string_view name;  // of one within an object: stream_options.include_usage
  Kind kind;
  Of of = Of::kBoth;
  double low = 0, high = 0;  // of numbers, both included
  std::string_view says = {};
  Most most = Most::kHigh;     // what bounds it from above
  std::string_view form = {};  // of a text: its name as a format

  double Highest(const CallLimits& limits) const;
};
/// Of both kinds of requests for text. Two rows of a name, which both say something: it may be either.
std::span<const MemberRow> MemberRows();

/// The members of an object in a request; null is as if not there. Errors: ApiError (400) naming the member. The names
/// of Number, Whole, Flag and Text are those of rows.
class Members {
 public:
  /// Both outlive it. `prefix`: of the names, "stream_options."
  Members(const nlohmann::ordered_json& body, const CallLimits& limits, std::string prefix = "")
      : body_(body), limits_(limits), prefix_(std::move(prefix)) {}

  /// Null where there is none.
  const nlohmann::ordered_json* Find(std::string_view key) const;
  double Number(std::string_view key, double fallback) const;
  int64_t Whole(std::string_view key, int64_t fallback) const;
  bool Flag(std::string_view key, bool fallback) const;
  std::string Text(std::string_view key) const;
  /// The members of an object; none where there is none.
  Members Inner(std::string_view key) const;
  [[noreturn]] void Wrong(std::string_view key, std::string_view wanted, const nlohmann::ordered_json& found) const;

 private:
  std::string Name(std::string_view key) const { return prefix_ + std::string(key); }
  const MemberRow& RowOf(std::string_view key, MemberRow::Kind kind) const;

  const nlohmann::ordered_json& body_;
  const CallLimits& limits_;
  std::string prefix_;
};

/// A whole number of 64 bits, whichever way it is written (3, 3.0). False: it is none.
bool ReadWhole(const nlohmann::ordered_json& value, int64_t* number);
/// A value as messages show it.
std::string Shown(const nlohmann::ordered_json& value);

}  // namespace hawser
