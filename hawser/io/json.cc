#include "hawser/io/json.h"

#include <cmath>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/printable.h"
#include "hawser/io/json_text.h"
#include "hawser/io/ordered_json.h"

namespace hawser {
namespace {

/// Builds a value from the parser's events. The parser's own builder that can be stopped looks through all elements of
/// an array whenever one ends.
template <class Json>
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(int max_depth) : max_depth_(max_depth) {}

  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(typename Json::number_integer_t value) override { return Put(value); }
  bool number_unsigned(typename Json::number_unsigned_t value) override { return Put(value); }
  bool number_float(typename Json::number_float_t value, const std::string&) override { return Put(value); }
  bool string(std::string& value) override { return Put(std::move(value)); }
  bool binary(typename Json::binary_t&) override { return false; }  // no such thing in text
  bool start_object(size_t) override { return Open(Json::object()); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(std::string& name) override {
    member_ = Member(&open_.back()->template get_ref<typename Json::object_t&>(), name);
    if (member_ == nullptr) Fail(ErrorKind::kFormat, "JSON member {} is given twice", ShownJson(name));
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) override {
    const std::string_view what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, ..."
    const size_t end = what.starts_with('[') ? what.find("] ") : what.npos;
    Fail(ErrorKind::kFormat, "not valid JSON: {}", end == what.npos ? what : what.substr(end + 2));
  }

  Json Take() { return std::move(root_); }

 private:
  /// A new member; null where there is one of the name.
  static Json* Member(nlohmann::json::object_t* object,
                      const std::string& name) requires std::is_same_v<Json, nlohmann::json> {
    const auto [place, is_new] = object->emplace(name, nullptr);
    return is_new ? &place->second : nullptr;
  }
  Json* Member(nlohmann::ordered_json::object_t* object,
               const std::string& name) requires std::is_same_v<Json, nlohmann::ordered_json> {
    // The container would look through all of its members.
    if (!names_.back().insert(name).second) return nullptr;
    using Pairs = nlohmann::ordered_json::object_t::Container;
    static_cast<Pairs*>(object)->emplace_back(name, nullptr);
    return &object->back().second;
  }

  Json* Place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *member_ = std::move(value);
    return member_;
  }
  bool Put(Json value) {
    Place(std::move(value));
    return true;
  }
  bool Open(Json value) {
    CheckDepth(static_cast<int>(open_.size()), "JSON", max_depth_);
    open_.push_back(Place(std::move(value)));
    if constexpr (std::is_same_v<Json, nlohmann::ordered_json>) names_.emplace_back();
    return true;
  }
  bool Close() {
    open_.pop_back();
    if (!names_.empty()) names_.pop_back();
    return true;
  }

  int max_depth_;
  Json root_;
  Json* member_ = nullptr;                              // of the innermost object, what its last key names
  std::vector<Json*> open_;                             // outer before inner; none moves while it is open
  std::vector<std::unordered_set<std::string>> names_;  // of the members of each, where they keep their order
};

template <class Json>
Json Parsed(std::string_view text, int max_depth) {
  // The parser takes NUL for the end of its input.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    Fail(ErrorKind::kFormat, "JSON holds a NUL byte at {}", nul);
  }
  Builder<Json> builder(max_depth);
  Json::sax_parse(text, &builder);
  return builder.Take();
}

}  // namespace

nlohmann::json ParseJson(std::string_view text, int max_depth) { return Parsed<nlohmann::json>(text, max_depth); }

nlohmann::ordered_json ParseOrderedJson(std::string_view text, int max_depth) {
  return Parsed<nlohmann::ordered_json>(text, max_depth);
}

std::string NonFiniteAsNull(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool quoted = false;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (quoted && c == '\\') {
      out.append(text.substr(at, 2));
      at += 2;
      continue;
    }
    if (c == '"') quoted = !quoted;
    size_t length = 0;
    if (!quoted && (c == 'N' || c == 'I' || c == '-')) {
      for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
        if (text.substr(at).starts_with(word)) length = word.size();
      }
    }
    if (length > 0) {
      out += "null";
      at += length;
    } else {
      out += c;
      ++at;
    }
  }
  return out;
}

std::string ShownJson(const nlohmann::json& value) { return PrintableLine(JsonText(value), 60); }

JsonObject::JsonObject(const nlohmann::json& value, std::string name) : value_(&value), name_(std::move(name)) {
  if (!value.is_object()) Fail(ErrorKind::kFormat, "{} must be an object, found {}", name_, ShownJson(value));
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
         ShownJson(value));
  }
  return value.get<int64_t>();
}

int64_t JsonObject::IntOr(const char* key, int64_t fallback, int64_t low, int64_t high) const {
  return Find(key) == nullptr ? fallback : Int(key, low, high);
}

double JsonObject::Number(const char* key) const {
  const nlohmann::json& value = Require(key);
  if (!value.is_number() || !std::isfinite(value.get<double>())) {
    Fail(ErrorKind::kFormat, "{}: '{}' must be a finite number, found {}", name_, key, ShownJson(value));
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
    Fail(ErrorKind::kFormat, "{}: '{}' must be true or false, found {}", name_, key, ShownJson(*value));
  }
  return value->get<bool>();
}

std::string JsonObject::String(const char* key) const {
  const nlohmann::json& value = Require(key);
  if (!value.is_string()) Fail(ErrorKind::kFormat, "{}: '{}' must be a text, found {}", name_, key, ShownJson(value));
  return value.get<std::string>();
}

std::string JsonObject::StringOr(const char* key, std::string fallback) const {
  return Find(key) == nullptr ? std::move(fallback) : String(key);
}

}  // namespace hawser
