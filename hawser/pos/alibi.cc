#include "hawser/pos/alibi.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <span>

#include "hawser/base/error.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

constexpr std::string_view kAlibiNames[] = {"none", "linear", "ntk", "bmax"};
constexpr std::string_view kKeys[] = {"factor", "original", "max_bias", "multiplier"};

std::string_view Name(AlibiScaling scaling) { return kAlibiNames[static_cast<size_t>(scaling)]; }

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
  std::vector<std::string_view> given;
  for (const std::string_view field : SplitWords(text.substr(std::min(colon + 1, text.size())), ", ")) {
    const size_t equals = std::min(field.find('='), field.size());
    const std::string_view key = field.substr(0, equals), value = field.substr(std::min(equals + 1, field.size()));
    const auto scaling = std::find(std::begin(kAlibiNames), std::end(kAlibiNames), field);
    const bool is_key = std::find(std::begin(kKeys), std::end(kKeys), key) != std::end(kKeys);
    if (scaling == std::end(kAlibiNames) && !is_key) {
      std::vector<std::string_view> known(std::begin(kAlibiNames), std::end(kAlibiNames));
      known.insert(known.end(), std::begin(kKeys), std::end(kKeys));
      Fail(ErrorKind::kUsage, "rope '{}': alibi has no scaling and no key '{}'{}", text, key, SuggestName(key, known));
    }
    const std::string_view what = is_key ? key : "a scaling";
    if (std::find(given.begin(), given.end(), what) != given.end()) {
      Fail(ErrorKind::kUsage, "rope '{}': {} is given twice", text, what);
    }
    given.push_back(what);
    if (!is_key) {
      spec.scaling = static_cast<AlibiScaling>(scaling - std::begin(kAlibiNames));
    } else if (key == "original") {
      const std::optional<int64_t> tokens = ParseSize(value);
      if (!tokens || *tokens < 1) Fail(ErrorKind::kUsage, "rope '{}': original='{}' is no context length", text, value);
      spec.original = *tokens;
    } else {
      const std::optional<double> x = ParseNumber<double>(value);
      if (!x || !std::isfinite(*x)) Fail(ErrorKind::kUsage, "rope '{}': {}='{}' is not a number", text, key, value);
      (key == "factor" ? spec.factor : key == "max_bias" ? spec.max_bias : spec.multiplier) = *x;
    }
  }
  const auto has = [&](std::string_view key) { return std::find(given.begin(), given.end(), key) != given.end(); };
  if (spec.scaling == AlibiScaling::kNone) {
    for (const std::string_view key : {"factor", "original"}) {
      if (has(key)) Fail(ErrorKind::kUsage, "rope '{}': {} needs a scaling: linear, ntk or bmax", text, key);
    }
  } else {
    if (spec.original == 0) spec.original = OriginalContext(base, context);
    if (!has("factor")) {
      if (wanted <= spec.original || spec.original == 0) {
        Fail(ErrorKind::kUsage,
             "rope '{}': {} needs a factor, as in alibi:{},factor=4, or a --context beyond {} tokens to take it from",
             text, Name(spec.scaling), Name(spec.scaling), spec.original);
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
  const AlibiSpec defaults;
  std::string fields;
  if (spec.scaling != AlibiScaling::kNone) {
    fields += fmt::format(",{},factor={}", Name(spec.scaling), spec.factor);
    if (spec.original != 0) fields += fmt::format(",original={}", spec.original);
  }
  if (spec.max_bias != defaults.max_bias) fields += fmt::format(",max_bias={}", spec.max_bias);
  if (spec.multiplier != defaults.multiplier) fields += fmt::format(",multiplier={}", spec.multiplier);
  return fields.empty() ? "alibi" : "alibi:" + fields.substr(1);
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
