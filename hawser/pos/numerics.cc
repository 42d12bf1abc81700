#include "hawser/pos/numerics.h"

#include <array>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/form.h"
#include "hawser/base/text.h"

namespace hawser {

template <>
struct EnumNames<FloatFormat> {
  static constexpr std::array<std::string_view, 5> kNames = {"f64", "f32", "tf32", "f16", "bf16"};
};
template <>
struct EnumNames<RopeAngle> {
  static constexpr std::array<std::string_view, 4> kNames = {"turns", "f64", "f32", "iterated"};
};

namespace {

using F = FloatFormat;
using A = RopeAngle;

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

template <class Visitor>
void VisitNumerics(RopeNumerics& n, Visitor&& v) {
  v(n.inv_freq, {"inv_freq", "frequencies"});
  v(n.positions, {"positions", "position ids"});
  v(n.angle, {"angle", "how positions and frequencies are multiplied"});
  v(n.table, {"table", "cos and sin"});
  v(n.math, {"math", "the rotation"});
  v(n.qk, {"qk", "rotated queries and keys"});
}

}  // namespace

std::string_view Name(FloatFormat format) { return EnumNames<FloatFormat>::kNames[static_cast<size_t>(format)]; }

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
  FormReader reader("rope numerics", text, SplitAt(text, '+'));
  VisitNumerics(numerics, reader);
  reader.Finish();
  return numerics;
}

std::string ToString(const RopeNumerics& n) {
  for (const RopeNumericsName& named : kNamed) {
    if (named.value == n) return std::string(named.name);
  }
  RopeNumerics given = n, usual;
  FormPrinter value, standard;
  VisitNumerics(given, value);
  VisitNumerics(usual, standard);
  return fmt::format("{}", fmt::join(form::Items(value, standard), "+"));
}

}  // namespace hawser
