#include "hawser/zoo/config_members.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/io/json.h"
#include "hawser/zoo/hf_keys.h"

namespace hawser {
namespace {

/// The shortest decimal that is this float, as a double: 1e-05 and not 9.999999747378752e-06.
double Shortest(float value) { return std::stod(fmt::format("{}", value)); }

}  // namespace

std::vector<std::string> ConfigMembers::Split(std::string_view keys) {
  std::vector<std::string> all;
  for (const std::string_view key : SplitWords(keys, "|")) all.emplace_back(key);
  known_.insert(known_.end(), all.begin(), all.end());
  return all;
}

const nlohmann::json* ConfigMembers::Find(std::string_view keys, std::string* key) {
  const std::vector<std::string> all = Split(keys);
  *key = all.front();
  const nlohmann::json* found = nullptr;
  for (const std::string& name : all) {
    const nlohmann::json* value = reading() ? in_->Find(name.c_str()) : nullptr;
    if (value == nullptr) continue;
    if (found != nullptr && *found != *value) {
      Fail(ErrorKind::kFormat, "'{}' is {} and '{}' is {}; make them agree", *key, ShownJson(*found), name,
           ShownJson(*value));
    }
    if (found == nullptr) *key = name;
    found = value;
  }
  return found;
}

bool ConfigMembers::Has(std::string_view keys) {
  const std::vector<std::string> all = Split(keys);
  return reading() && std::ranges::any_of(all, [&](const std::string& key) { return in_->Has(key.c_str()); });
}

void ConfigMembers::Know(std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) known_.emplace_back(key);
}

template <class T>
void ConfigMembers::Whole(std::string_view keys, T* value, std::optional<int64_t> fallback, int64_t least,
                          int64_t most) {
  std::string key;
  const nlohmann::json* found = Find(keys, &key);
  if (!reading()) {
    (*out_)[key] = *value;
  } else if (found != nullptr || !fallback) {
    *value = static_cast<T>(in_->Int(key.c_str(), least, most));
  } else {
    *value = static_cast<T>(*fallback);
  }
}

void ConfigMembers::Int(std::string_view keys, int32_t* value, std::optional<int64_t> fallback, int64_t least) {
  Whole(keys, value, fallback, least, INT32_MAX);
}

void ConfigMembers::Int(std::string_view keys, int64_t* value, std::optional<int64_t> fallback, int64_t least) {
  Whole(keys, value, fallback, least, kMaxContext);
}

void ConfigMembers::Number(std::string_view keys, float* value, double fallback) {
  std::string key;
  const nlohmann::json* found = Find(keys, &key);
  if (!reading()) {
    (*out_)[key] = Shortest(*value);
  } else {
    *value = static_cast<float>(found != nullptr ? in_->Number(key.c_str()) : fallback);
  }
}

void ConfigMembers::NumberOrNull(std::string_view keys, float* value, double fallback) {
  if (reading()) return Number(keys, value, Has(keys) ? 0.0 : fallback);
  Number(keys, value, fallback);
  std::string key;
  Find(keys, &key);
  if (*value == 0) (*out_)[key] = nullptr;
}

void ConfigMembers::Flag(std::string_view keys, bool* value, bool fallback) {
  std::string key;
  Find(keys, &key);
  if (!reading()) {
    (*out_)[key] = *value;
  } else {
    *value = in_->BoolOr(key.c_str(), fallback);
  }
}

void ConfigMembers::Word(std::string_view keys, std::string* value, std::string fallback) {
  std::string key;
  Find(keys, &key);
  if (!reading()) {
    (*out_)[key] = *value;
  } else {
    *value = in_->StringOr(key.c_str(), std::move(fallback));
  }
}

void ConfigMembers::Must(std::string_view keys, const nlohmann::json& value) {
  std::string key;
  const nlohmann::json* found = Find(keys, &key);
  if (found == nullptr || *found == value) return;
  Fail(ErrorKind::kUnsupported, "{} = {} is not supported; known is {}", key, ShownJson(*found), ShownJson(value));
}

void ConfigMembers::Object(const char* key, const std::function<void(ConfigMembers&)>& members) {
  known_.emplace_back(key);
  if (!reading()) {
    nlohmann::ordered_json inside = nlohmann::ordered_json::object();
    ConfigMembers writer(&inside);
    members(writer);
    (*out_)[key] = std::move(inside);
    return;
  }
  const nlohmann::json* found = in_->Find(key);
  const nlohmann::json empty = nlohmann::json::object();
  const JsonObject inside(found != nullptr ? *found : empty, key);
  ConfigMembers reader(&inside);
  members(reader);
  CheckHfKeys(found != nullptr ? *found : empty, reader.known(), std::string(key) + ".");
}

}  // namespace hawser
