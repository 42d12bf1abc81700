#include "hawser/zoo/gguf_keys.h"

#include <algorithm>

#include "hawser/base/error.h"
#include "hawser/zoo/config_members.h"

namespace hawser {
namespace {

/// Keys that change nothing which is computed here.
constexpr std::string_view kHarmless[] = {"vocab_size", "rope.scaling.finetuned", "tensor_data_layout",
                                          "attention.causal"};

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
  const std::optional<int64_t> found = in_->Int(key, least, kMaxContext);
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
