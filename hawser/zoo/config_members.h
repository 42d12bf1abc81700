// zoo/config_members.h - the members of a config.json: one list of them reads and writes.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

class JsonObject;

/// The most that sizes and positions of a configuration may be.
inline constexpr int64_t kMaxContext = int64_t{1} << 31;

/// Passed over a spec, it fills the spec from a configuration, or a configuration from the spec. `keys` are
/// alternatives
/// ("n_head|num_attention_heads"): each is read, the first is written. Two of them that differ, and values of another
/// type or out of range, are an Error(kFormat) naming them. A member that is absent or null gives `fallback`; without
/// one it is required.
class ConfigMembers {
 public:
  explicit ConfigMembers(const JsonObject* read) : in_(read) {}
  explicit ConfigMembers(nlohmann::ordered_json* written) : out_(written) {}

  bool reading() const { return in_ != nullptr; }
  const JsonObject& in() const { return *in_; }    // when reading
  nlohmann::ordered_json& out() { return *out_; }  // when writing

  void Int(std::string_view keys, int32_t* value, std::optional<int64_t> fallback = {}, int64_t least = 1);
  void Int(std::string_view keys, int64_t* value, std::optional<int64_t> fallback, int64_t least = 1);
  void Number(std::string_view keys, float* value, double fallback);
  /// 0 stands for null; `fallback` is for a member that is not written at all.
  void NumberOrNull(std::string_view keys, float* value, double fallback);
  void Flag(std::string_view keys, bool* value, bool fallback);
  void Word(std::string_view keys, std::string* value, std::string fallback);
  /// A member whose only supported value this is; not written. Errors: kUnsupported.
  void Must(std::string_view keys, const nlohmann::json& value);
  /// An object inside. Its members are checked as those of the whole are.
  void Object(const char* key, const std::function<void(ConfigMembers&)>& members);

  /// Whether one of the keys is written, be it as null (reading).
  bool Has(std::string_view keys);
  /// These are known, and read or written elsewhere or without effect on what is computed.
  void Know(std::initializer_list<std::string_view> keys);
  const std::vector<std::string>& known() const { return known_; }
  /// The alternatives, all of which are known from here on.
  std::vector<std::string> Split(std::string_view keys);

 private:
  /// The first of the alternatives that is given; null where none is.
  const nlohmann::json* Find(std::string_view keys, std::string* key);
  template <class T>
  void Whole(std::string_view keys, T* value, std::optional<int64_t> fallback, int64_t least, int64_t most);
  const JsonObject* in_ = nullptr;
  nlohmann::ordered_json* out_ = nullptr;
  std::vector<std::string> known_;
};

}  // namespace hawser
