#include "hawser/pos/alibi.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "hawser/base/error.h"
#include "hawser/base/form.h"

namespace hawser {

template <>
struct EnumNames<AlibiScaling> {
  static constexpr std::array<std::string_view, 4> kNames = {"none", "linear", "ntk", "bmax"};
};

namespace {

template <class Visitor>
void Fields(AlibiSpec& spec, Visitor&& v) {
  v(spec.scaling, {.key = "scaling", .positional = true});
  v(spec.factor, {.key = "factor"});
  v(spec.original, {.key = "original", .least = 1});
  v(spec.max_bias, {.key = "max_bias"});
  v(spec.multiplier, {.key = "multiplier"});
}

void Require(bool ok, std::string_view key, double found, std::string_view wanted) {
  if (!ok) Fail(ErrorKind::kUsage, "alibi: {}={}; wanted {}", key, found, wanted);
}

void Validate(const AlibiSpec& spec) {
  const auto positive = [](double x) { return std::isfinite(x) && x > 0; };
  Require(positive(spec.max_bias) && spec.max_bias <= 64, "max_bias", spec.max_bias, "a number above 0, 64 at most");
  Require(positive(spec.multiplier), "multiplier", spec.multiplier, "a number above 0");
  Require(std::isfinite(spec.factor) && spec.factor >= 1, "factor", spec.factor, "1 or more");
}

/// log2 of the slopes without scaling.
std::vector<double> LogSlopes(double max_bias, int32_t heads) {
  const auto whole = static_cast<int32_t>(std::bit_floor(static_cast<uint32_t>(heads)));
  std::vector<double> logs;
  for (int32_t h = 0; h < whole; ++h) logs.push_back(-max_bias * (h + 1) / whole);
  for (int32_t h = 0; h < heads - whole; ++h) logs.push_back(-max_bias * (2 * h + 1) / (2 * whole));
  return logs;
}

}  // namespace

AlibiSpec BakeMaxBias(const AlibiSpec& spec) {
  if (spec.scaling != AlibiScaling::kMaxBias) return spec;
  return {.max_bias = spec.max_bias + std::log2(spec.factor), .multiplier = spec.multiplier, .bf16 = spec.bf16};
}

std::vector<float> AlibiSlopes(const AlibiSpec& given, int32_t heads) {
  Validate(given);
  const AlibiSpec spec = BakeMaxBias(given);
  const bool ntk = spec.scaling == AlibiScaling::kNtk;
  if (heads < 1) Fail(ErrorKind::kUsage, "alibi: {} heads; wanted 1 or more", heads);
  if (ntk && heads < 2) Fail(ErrorKind::kUsage, "alibi ntk: 1 head; wanted 2 or more, or alibi:linear");
  std::vector<double> logs = LogSlopes(spec.max_bias, heads);
  if (ntk) {
    const auto [least, most] = std::minmax_element(logs.begin(), logs.end());
    const double low = *least, high = *most;
    for (double& log : logs) log -= std::log2(spec.factor) * (high - log) / (high - low);
  }
  const double scale = spec.multiplier / (spec.scaling == AlibiScaling::kLinear ? spec.factor : 1.0);
  std::vector<float> slopes;
  for (const double log : logs) slopes.push_back(static_cast<float>(std::exp2(log) * scale));
  return slopes;
}

AlibiSpec ApplyAlibiText(const AlibiSpec& base, std::string_view text, int64_t context, int64_t wanted) {
  const size_t colon = std::min(text.find(':'), text.size());
  if (text.substr(0, colon) != "alibi") {
    Fail(ErrorKind::kUsage,
         "rope '{}': this model has no rotary positions but biases by distance (ALiBi); wanted alibi, "
         "alibi:linear,factor=F, alibi:ntk,factor=F or alibi:bmax,factor=F",
         text);
  }
  AlibiSpec spec{.max_bias = base.max_bias, .multiplier = base.multiplier, .bf16 = base.bf16};
  FormReader reader("rope", text);
  Fields(spec, reader);
  reader.Finish();
  if (spec.scaling == AlibiScaling::kNone) {
    for (const std::string_view key : {"factor", "original"}) {
      if (reader.Given(key)) Fail(ErrorKind::kUsage, "rope '{}': {} needs a scaling: linear, ntk or bmax", text, key);
    }
  } else {
    if (spec.original == 0) spec.original = OriginalContext(base, context);
    if (!reader.Given("factor")) {
      const std::string_view name = EnumNames<AlibiScaling>::kNames[static_cast<size_t>(spec.scaling)];
      if (wanted <= spec.original || spec.original == 0) {
        Fail(ErrorKind::kUsage,
             "rope '{}': {} needs a factor, as in alibi:{},factor=4, or a --context beyond {} tokens to take it from",
             text, name, name, spec.original);
      }
      spec.factor = static_cast<double>(wanted) / static_cast<double>(spec.original);
    }
  }
  WithFrame(fmt::format("rope '{}'", text), [&] { Validate(spec); });
  return spec;
}

std::string AlibiHelp() {
  return R"(  alibi           no scaling
  alibi:linear    all slopes divided by the factor
  alibi:ntk       the steepest slope stays, the flattest is divided by the factor
  alibi:bmax      a larger max_bias, which other programs can read
                  keys: factor, original, max_bias
)";
}

std::string ToString(const AlibiSpec& spec) {
  AlibiSpec copy = spec, standard;
  FormPrinter given, usual;
  Fields(copy, given);
  Fields(standard, usual);
  return form::Join("alibi", given, usual);
}

int64_t OriginalContext(const AlibiSpec& spec, int64_t context) {
  return spec.scaling != AlibiScaling::kNone && spec.original > 0 ? spec.original : std::max<int64_t>(context, 0);
}

int64_t MaxContext(const AlibiSpec& spec, int64_t context) {
  if (spec.scaling == AlibiScaling::kNone) return context;
  const double reach = spec.factor * static_cast<double>(OriginalContext(spec, context));
  return reach >= 0x1p63 ? std::numeric_limits<int64_t>::max() : static_cast<int64_t>(reach);
}

}  // namespace hawser
