#include "hawser/attn/softmax.h"

#include <array>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

constexpr std::array<std::pair<std::string_view, SoftmaxKind>, 3> kKinds = {
    {{"standard", SoftmaxKind::kStandard},
     {"self-adjust", SoftmaxKind::kSelfAdjust},
     {"self-adjust-product", SoftmaxKind::kSelfAdjustProduct}}};

}  // namespace

SoftmaxSpec ParseSoftmax(std::string_view text) {
  SoftmaxSpec spec;
  const size_t colon = std::min(text.find(':'), text.size());
  bool known = false;
  for (const auto& [name, kind] : kKinds) {
    if (text.substr(0, colon) != name) continue;
    spec.kind = kind;
    known = true;
  }
  if (!known) {
    Fail(ErrorKind::kUsage, "softmax \"{}\": known are standard, self-adjust[:nb=N,db=N] and self-adjust-product",
         text);
  }
  for (size_t begin = colon + 1; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    begin = end + 1;
    const bool numerator = part.starts_with("nb="), denominator = part.starts_with("db=");
    const auto value = ParseNumber<double>(part.substr(std::min<size_t>(3, part.size())));
    const bool fits = value && *value < 1e30 && (numerator ? *value >= 0 : *value >= 1e-30);
    if (spec.kind != SoftmaxKind::kSelfAdjust || !(numerator || denominator) || !fits) {
      Fail(ErrorKind::kUsage, "softmax \"{}\": \"{}\" is no option; self-adjust knows nb=N from 0 and db=N above 0",
           text, part);
    }
    (numerator ? spec.numerator_bias : spec.denominator_bias) = static_cast<float>(*value);
  }
  return spec;
}

std::string ToString(const SoftmaxSpec& softmax) {
  std::string text(kKinds[static_cast<size_t>(softmax.kind)].first);
  const SoftmaxSpec standard;
  const char* sign = ":";
  const auto add = [&](const char* name, float value, float usual) {
    if (value == usual) return;
    text += fmt::format("{}{}={}", std::exchange(sign, ","), name, value);
  };
  add("nb", softmax.numerator_bias, standard.numerator_bias);
  add("db", softmax.denominator_bias, standard.denominator_bias);
  return text;
}

}  // namespace hawser
