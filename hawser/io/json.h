// io/json.h - strict JSON for files we did not write, and named access to its members.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "hawser/base/depth.h"

namespace hawser {

/// Parses one JSON value, in time linear in the text. Errors: kFormat with the byte for bad syntax, bytes that are not
/// UTF-8, NUL bytes, a member name that comes twice in one object, and nesting deeper than `max_depth`. This is the one
/// way from text to JSON.
nlohmann::json ParseJson(std::string_view text, int max_depth = kMaxDepth);

/// What Python's json writes for floats that are none, NaN, Infinity and -Infinity, as null.
std::string NonFiniteAsNull(std::string_view text);

/// A value on one line, short enough for a message.
std::string ShownJson(const nlohmann::json& value);

/// Typed members of an object. A member that is absent or null gives the default; one of another type, out of range or
/// non-finite is an Error(kFormat) naming it. The forms without a default require the member.
class JsonObject {
 public:
  /// `value` outlives this. Errors: kFormat if it is no object; `name` is how messages call it.
  JsonObject(const nlohmann::json& value, std::string name);

  /// The member, or null where it is absent or JSON null.
  const nlohmann::json* Find(const char* key) const;
  /// True if the member is written, be it as null.
  bool Has(const char* key) const { return value_->contains(key); }

  int64_t Int(const char* key, int64_t low = 0, int64_t high = std::numeric_limits<int32_t>::max()) const;
  int64_t IntOr(const char* key, int64_t fallback, int64_t low = 0,
                int64_t high = std::numeric_limits<int32_t>::max()) const;
  double Number(const char* key) const;
  double NumberOr(const char* key, double fallback) const;
  bool BoolOr(const char* key, bool fallback) const;
  std::string String(const char* key) const;
  std::string StringOr(const char* key, std::string fallback) const;

  const std::string& name() const { return name_; }

 private:
  const nlohmann::json& Require(const char* key) const;
  const nlohmann::json* value_;
  std::string name_;
};

}  // namespace hawser
