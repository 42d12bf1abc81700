#include "hawser/attn/softmax.h"

#include "hawser/base/form.h"

namespace hawser {
namespace {

constexpr double kLargest = 1e30;

struct Standard {
  static constexpr std::string_view kName = "standard", kHelp = "weights P = softmax(z) of scores z";
  SoftmaxSpec spec = {};
  template <class Visitor>
  void Fields(Visitor&&) {}
};
struct SelfAdjust {
  static constexpr std::string_view kName = "self-adjust",
                                    kHelp =
                                        "P * (z - lo + nb) / (hi - lo), lo and hi the extreme scores of a row, hi db "
                                        "above its own (arXiv:2502.18277)";
  SoftmaxSpec spec = {.kind = SoftmaxKind::kSelfAdjust};
  template <class Visitor>
  void Fields(Visitor&& v) {
    v(spec.numerator_bias, {"nb", "", 0, kLargest});
    v(spec.denominator_bias, {"db", "", 1e-30, kLargest});
  }
};
struct SelfAdjustProduct {
  static constexpr std::string_view kName = "self-adjust-product", kHelp = "P * z";
  SoftmaxSpec spec = {.kind = SoftmaxKind::kSelfAdjustProduct};
  template <class Visitor>
  void Fields(Visitor&&) {}
};
using Form = std::variant<Standard, SelfAdjust, SelfAdjustProduct>;  // in the order of SoftmaxKind

}  // namespace

SoftmaxSpec ParseSoftmax(std::string_view text) {
  return std::visit([](const auto& form) { return form.spec; }, ParseForm<Form>("softmax", text));
}

std::string ToString(const SoftmaxSpec& softmax) {
  std::string text;
  form::ForEachAlternative<Form>([&](auto form) {
    if (form.spec.kind != softmax.kind) return;
    form.spec = softmax;
    text = PrintForm(form);
  });
  return text;
}

std::string SoftmaxHelp() { return FormHelp<Form>(); }

}  // namespace hawser
