#include "hawser/io/json.h"

#include <cmath>
#include <set>
#include <vector>

#include "hawser/base/error.h"

namespace hawser {
namespace {

/// What was found, short enough for a message.
std::string Shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

nlohmann::json ParseJson(std::string_view text, int max_depth) {
  // The parser takes NUL for the end of its input.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    Fail(ErrorKind::kFormat, "JSON holds a NUL byte at {}", nul);
  }
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if ((event == Event::object_start || event == Event::array_start) && depth >= max_depth) {
      Fail(ErrorKind::kFormat, "JSON is nested deeper than {} levels", max_depth);
    }
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      Fail(ErrorKind::kFormat, "JSON member {} is given twice", Shown(parsed));
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::exception& error) {
    Fail(ErrorKind::kFormat, "not valid JSON: {}", error.what());
  }
}

JsonObject::JsonObject(const nlohmann::json& value, std::string name) : value_(&value), name_(std::move(name)) {
  if (!value.is_object()) Fail(ErrorKind::kFormat, "{} must be an object, found {}", name_, Shown(value));
}

const nlohmann::json* JsonObject::Find(const char* key) const {
  const auto found = value_->find(key);
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

const nlohmann::json& JsonObject::Require(const char* key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) Fail(ErrorKind::kFormat, "{} lacks '{}'", name_, key);
  return *value;
}

int64_t JsonObject::Int(const char* key, int64_t low, int64_t high) const {
  const nlohmann::json& value = Require(key);
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() &&
                      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  if (!fits || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    Fail(ErrorKind::kFormat, "{}: '{}' must be a whole number from {} to {}, found {}", name_, key, low, high,
         Shown(value));
  }
  return value.get<int64_t>();
}

int64_t JsonObject::IntOr(const char* key, int64_t fallback, int64_t low, int64_t high) const {
  return Find(key) == nullptr ? fallback : Int(key, low, high);
}

double JsonObject::Number(const char* key) const {
  const nlohmann::json& value = Require(key);
  if (!value.is_number() || !std::isfinite(value.get<double>())) {
    Fail(ErrorKind::kFormat, "{}: '{}' must be a finite number, found {}", name_, key, Shown(value));
  }
  return value.get<double>();
}

double JsonObject::NumberOr(const char* key, double fallback) const {
  return Find(key) == nullptr ? fallback : Number(key);
}

bool JsonObject::BoolOr(const char* key, bool fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Fail(ErrorKind::kFormat, "{}: '{}' must be true or false, found {}", name_, key, Shown(*value));
  }
  return value->get<bool>();
}

std::string JsonObject::String(const char* key) const {
  const nlohmann::json& value = Require(key);
  if (!value.is_string()) Fail(ErrorKind::kFormat, "{}: '{}' must be a text, found {}", name_, key, Shown(value));
  return value.get<std::string>();
}

std::string JsonObject::StringOr(const char* key, std::string fallback) const {
  return Find(key) == nullptr ? std::move(fallback) : String(key);
}

}  // namespace hawser
