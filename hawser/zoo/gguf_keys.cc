#include "hawser/zoo/gguf_keys.h"

#include <algorithm>
#include <span>
#include <variant>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/zoo/config_members.h"

namespace hawser {
namespace {

/// Keys that change nothing which is computed here.
constexpr std::string_view kHarmless[] = {"vocab_size", "rope.scaling.finetuned", "tensor_data_layout",
                                          "attention.causal", "expert_used_count"};  // of no experts

/// An integer, or what a list of one for each layer has in common.
std::optional<int64_t> OneForAllLayers(const GgufFile& file, const std::string& key, int64_t least) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end() || !std::holds_alternative<std::vector<int64_t>>(found->second)) {
    return file.Int(key, least, kMaxContext);
  }
  const std::span<const int64_t> list = file.Ints(key);
  if (list.empty()) Fail(ErrorKind::kFormat, "'{}' is an empty list", key);
  if (const auto other = std::ranges::find_if(list, [&](int64_t value) { return value != list[0]; });
      other != list.end()) {
    Fail(ErrorKind::kUnsupported, "'{}' is {} in one layer and {} in another; one value for all layers is supported",
         key, list[0], *other);
  }
  if (list[0] < least || list[0] > kMaxContext) {
    Fail(ErrorKind::kFormat, "'{}' must be from {} to {}, found {}", key, least, kMaxContext, list[0]);
  }
  return list[0];
}

}  // namespace

std::string GgufKeys::Key(std::string_view name) {
  known_.push_back(fmt::format("{}.{}", architecture_, name));
  return known_.back();
}

void GgufKeys::Int(std::string_view name, int32_t* value, std::optional<int64_t> fallback, int64_t least) {
  int64_t wide = *value;
  Int(name, &wide, fallback, least);
  if (reading() && wide > INT32_MAX) Fail(ErrorKind::kFormat, "'{}' is {}, more than {}", Key(name), wide, INT32_MAX);
  *value = static_cast<int32_t>(wide);
}

void GgufKeys::Int(std::string_view name, int64_t* value, std::optional<int64_t> fallback, int64_t least) {
  const std::string key = Key(name);
  if (!reading()) {
    HAWSER_CHECK(*value >= 0 && *value <= UINT32_MAX);
    return PutField(key, static_cast<uint32_t>(*value));
  }
  const std::optional<int64_t> found = OneForAllLayers(*in_, key, least);
  *value = found || fallback ? found.value_or(fallback.value_or(0)) : in_->Need(key, found);
}

void GgufKeys::Number(std::string_view name, float* value, std::optional<float> fallback,
                      std::optional<float> neutral) {
  const std::string key = Key(name);
  if (!reading()) {
    if (*value != neutral) PutField(key, *value);
    return;
  }
  const std::optional<double> found = in_->Number(key);
  *value = found || !fallback ? static_cast<float>(in_->Need(key, found)) : *fallback;
}

void GgufKeys::Flag(std::string_view name, bool* value) {
  const std::string key = Key(name);
  if (!reading()) return PutField(key, *value);
  *value = in_->Need(key, in_->Bool(key));
}

void GgufKeys::RefuseUnknown() const {
  const std::string prefix = fmt::format("{}.", architecture_);
  for (const auto& [key, value] : in_->metadata()) {
    if (!key.starts_with(prefix) || std::ranges::find(known_, key) != known_.end()) continue;
    if (std::ranges::find(kHarmless, std::string_view(key).substr(prefix.size())) != std::end(kHarmless)) continue;
    Fail(ErrorKind::kUnsupported, "'{}' may change what the model computes and is not supported", key);
  }
}

}  // namespace hawser
