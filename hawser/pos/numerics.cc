#include "hawser/pos/numerics.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

using F = FloatFormat;
using A = RopeAngle;

constexpr std::string_view kFormats[] = {"f64", "f32", "tf32", "f16", "bf16"};
constexpr std::string_view kAngles[] = {"turns", "f64", "f32", "iterated"};

constexpr RopeNumericsName kNamed[] = {
    {"f64", "f64 throughout, phases too", {F::kF64, F::kF64, A::kF64, F::kF64, F::kF64, F::kF64}},
    {"exact", "exact phases, f32 cos and sin, f32 rotation, q and k in the dtype of activations", {}},
    {"f32-qk", "the same with f32 q and k, whatever the dtype of activations", {.qk = F::kF32}},
    {"hf-f32", "f32 angles, f32 q and k", {.inv_freq = F::kF32, .angle = A::kF32, .qk = F::kF32}},
    {"f16-qk", "exact phases, f16 q and k", {.qk = F::kF16}},
    {"hf-f16-qk", "f32 angles, f16 q and k", {.inv_freq = F::kF32, .angle = A::kF32, .qk = F::kF16}},
    {"bf16-qk", "exact phases, bf16 q and k", {.qk = F::kBF16}},
    {"hf-bf16-qk", "f32 angles, bf16 q and k", {.inv_freq = F::kF32, .angle = A::kF32, .qk = F::kBF16}},
    {"bf16-table",
     "f32 angles, bf16 cos and sin, f32 rotation, bf16 q and k",
     {.inv_freq = F::kF32, .angle = A::kF32, .table = F::kBF16, .qk = F::kBF16}},
    {"all-bf16",
     "f32 angles, bf16 cos and sin, bf16 rotation, bf16 q and k",
     {.inv_freq = F::kF32, .angle = A::kF32, .table = F::kBF16, .math = F::kBF16, .qk = F::kBF16}},
    {"reference",
     "all-bf16 with bf16 frequencies",
     {.inv_freq = F::kBF16, .angle = A::kF32, .table = F::kBF16, .math = F::kBF16, .qk = F::kBF16}},
    {"bf16-inv-freq", "bf16 frequencies, exact phases of them, bf16 q and k", {.inv_freq = F::kBF16, .qk = F::kBF16}},
    {"bf16-positions", "bf16 position ids, bf16 q and k", {.positions = F::kBF16, .qk = F::kBF16}},
    {"f16-positions", "f16 position ids, bf16 q and k", {.positions = F::kF16, .qk = F::kBF16}},
    {"tf32-angles",
     "angles as a tf32 product, f32 q and k",
     {.inv_freq = F::kTF32, .positions = F::kTF32, .angle = A::kF32, .qk = F::kF32}},
    {"ggml", "angles by repeated f32 multiplication, f32 q and k", {.angle = A::kIterated, .qk = F::kF32}},
};

constexpr std::string_view kFields[] = {"inv_freq", "positions", "angle", "table", "math", "qk"};

/// The place of `value` in `names`.
template <class Names>
size_t Choose(std::string_view text, std::string_view key, std::string_view value, const Names& names) {
  for (size_t i = 0; i < std::size(names); ++i) {
    if (names[i] == value) return i;
  }
  Fail(ErrorKind::kUsage, "rope numerics '{}': {}='{}'{}", text, key, value, SuggestName(value, names));
}

}  // namespace

std::string_view Name(FloatFormat format) { return kFormats[static_cast<size_t>(format)]; }

std::span<const RopeNumericsName> NamedRopeNumerics() { return kNamed; }

RopeNumerics ParseRopeNumerics(std::string_view text) {
  for (const RopeNumericsName& named : kNamed) {
    if (named.name == text) return named.value;
  }
  if (text.find('=') == text.npos) {
    std::vector<std::string_view> known;
    for (const RopeNumericsName& named : kNamed) known.push_back(named.name);
    Fail(ErrorKind::kUsage, "unknown rope numerics '{}'{}", text, SuggestName(text, known));
  }
  RopeNumerics numerics;
  uint32_t given = 0;
  for (const std::string_view field : SplitAt(text, '+')) {
    const size_t equals = std::min(field.find('='), field.size());
    const std::string_view key = field.substr(0, equals), value = field.substr(std::min(equals + 1, field.size()));
    const size_t index = Choose(text, "field", key, kFields);
    if (given >> index & 1) Fail(ErrorKind::kUsage, "rope numerics '{}': '{}' is given twice", text, key);
    given |= 1u << index;
    if (key == "angle") {
      numerics.angle = static_cast<RopeAngle>(Choose(text, key, value, kAngles));
      continue;
    }
    const auto format = static_cast<FloatFormat>(Choose(text, key, value, kFormats));
    if (key == "inv_freq") numerics.inv_freq = format;
    if (key == "positions") numerics.positions = format;
    if (key == "table") numerics.table = format;
    if (key == "math") numerics.math = format;
    if (key == "qk") numerics.qk = format;
  }
  return numerics;
}

std::string ToString(const RopeNumerics& n) {
  for (const RopeNumericsName& named : kNamed) {
    if (named.value == n) return std::string(named.name);
  }
  const RopeNumerics base;
  std::string text;
  const auto add = [&](std::string_view key, std::string_view value) {
    text += fmt::format("{}{}={}", text.empty() ? "" : "+", key, value);
  };
  if (n.inv_freq != base.inv_freq) add("inv_freq", Name(n.inv_freq));
  if (n.positions != base.positions) add("positions", Name(n.positions));
  if (n.angle != base.angle) add("angle", kAngles[static_cast<size_t>(n.angle)]);
  if (n.table != base.table) add("table", Name(n.table));
  if (n.math != base.math) add("math", Name(n.math));
  if (n.qk) add("qk", Name(*n.qk));
  return text;
}

}  // namespace hawser
