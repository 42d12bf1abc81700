#include "hawser/pos/scheme.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/form.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"

namespace hawser {

template <>
struct EnumNames<YarnRamp> {
  static constexpr std::array<std::string_view, 2> kNames = {"index", "rotations"};
};
template <>
struct EnumNames<YarnBlend> {
  static constexpr std::array<std::string_view, 2> kNames = {"frequency", "period"};
};

namespace {

// 113 bits: a phase increment has 64 correct bits only if the frequency has more.
#if LDBL_MANT_DIG >= 113
using Quad = long double;
#else
using Quad = __float128;
#endif

// 1 / (2 pi) to 128 bits.
const Quad kTurn = Quad(0x28be60db9391054aull) * 0x1p-64 + Quad(0x7f09d5f47d4d3770ull) * 0x1p-128;

constexpr std::string_view kNames[] = {"default", "linear", "ntk", "dynamic", "yarn", "llama3", "longrope"};

std::string_view Name(RopeKind kind) { return kNames[static_cast<size_t>(kind)]; }

constexpr std::string_view kEntropyAware = "eabf";
constexpr double kEntropyAwareTheta = 500000;

/// The keys of a scheme's text form. `numerics`: text of spec.numerics, empty for the default.
template <class Visitor>
void VisitScheme(RopeKind kind, RopeSpec& spec, std::string& numerics, Visitor&& v) {
  RopeScaling& s = spec.scaling;
  if (kind != RopeKind::kDefault) {
    v(s.factor, {"factor"});
    v(s.original, {"original", "tokens of the first context", 1, 0x1p53});
  }
  if (kind == RopeKind::kYarn) {
    v(s.beta_fast, {"beta_fast"});
    v(s.beta_slow, {"beta_slow"});
    v(s.truncate, {.key = "truncate", .no = "0", .yes = "1"});
    v(s.ramp, {"ramp"});
    v(s.blend, {"blend"});
  }
  if (kind == RopeKind::kLlama3) {
    v(s.low_freq_factor, {"low"});
    v(s.high_freq_factor, {"high"});
  }
  if (kind == RopeKind::kLong) {
    v(s.short_divisors, {"short"});
    v(s.long_divisors, {"long"});
  }
  if (kind == RopeKind::kYarn || kind == RopeKind::kLong) v(s.attention_factor, {"attention_factor"});
  if (kind == RopeKind::kYarn) {
    v(s.mscale, {"mscale"});
    v(s.mscale_all_dim, {"mscale_all_dim"});
  }
  v(spec.theta, {"theta"});
  v(numerics, {"numerics"});
}

Quad Power(Quad x, int32_t n) {
  Quad y = 1;
  for (; n > 0; n >>= 1, x *= x) {
    if (n & 1) y *= x;
  }
  return y;
}

// x^(-1/n): one step of Newton's method on r^n x = 1 from the double result, which doubles the correct bits.
Quad InverseRoot(Quad x, int32_t n) {
  const Quad r = std::pow(static_cast<double>(x), -1.0 / n);
  return r - r * (Power(r, n) * x - 1) / n;
}

void Require(bool ok, RopeKind kind, std::string_view key, double found, std::string_view wanted) {
  if (!ok) Fail(ErrorKind::kUsage, "rope {}: {}={}; wanted {}", Name(kind), key, found, wanted);
}

void Validate(const RopeSpec& spec) {
  const RopeScaling& s = spec.scaling;
  const auto finite_above = [](double x, double least) { return std::isfinite(x) && x > least; };
  Require(finite_above(spec.theta, 1.0), s.kind, "theta", spec.theta, "a number above 1");
  Validate(spec.fold);
  if (spec.fold.active() && s.kind == RopeKind::kDynamic) {
    Fail(ErrorKind::kUsage,
         "string folds distances under frequencies that stay, and those of dynamic follow the tokens; take a scheme of "
         "a fixed factor, as in ntk:factor=4,string");
  }
  if (s.kind == RopeKind::kDefault) return;
  Require(std::isfinite(s.factor) && s.factor >= 1.0, s.kind, "factor", s.factor, "1 or more");
  Require(s.original >= 0, s.kind, "original", static_cast<double>(s.original), "the pretraining context in tokens");
  if (s.kind != RopeKind::kLinear && s.kind != RopeKind::kNtk) {
    Require(s.original >= 1, s.kind, "original", static_cast<double>(s.original), "the pretraining context in tokens");
  }
  if (s.kind == RopeKind::kYarn) {
    Require(finite_above(s.beta_slow, 0.0), s.kind, "beta_slow", s.beta_slow, "a number above 0");
    Require(finite_above(s.beta_fast, s.beta_slow), s.kind, "beta_fast", s.beta_fast, "a number above beta_slow");
    if (s.attention_factor) {
      Require(finite_above(*s.attention_factor, 0.0), s.kind, "attention_factor", *s.attention_factor,
              "a number above 0");
    }
    for (const auto& [key, value] : {std::pair{"mscale", s.mscale}, std::pair{"mscale_all_dim", s.mscale_all_dim}}) {
      if (value) Require(finite_above(*value, -1e-300), s.kind, key, *value, "0 or more");
    }
  }
  if (s.kind == RopeKind::kLlama3) {
    Require(finite_above(s.low_freq_factor, 0.0), s.kind, "low", s.low_freq_factor, "a number above 0");
    Require(finite_above(s.high_freq_factor, s.low_freq_factor), s.kind, "high", s.high_freq_factor,
            "a number above low");
  }
  if (s.kind == RopeKind::kLong) {
    for (const auto& [key, list] : {std::pair{"short", &s.short_divisors}, std::pair{"long", &s.long_divisors}}) {
      if (static_cast<int32_t>(list->size()) != spec.rotary_dim / 2) {
        Fail(
            ErrorKind::kUsage, "rope longrope: {}; wanted {}=A+B+.. of {}, a divisor for each frequency",
            list->empty() ? fmt::format("no {}=", key) : fmt::format("{}= of {}", key, Counted(list->size(), "number")),
            key, Counted(spec.rotary_dim / 2, "number"));
      }
      for (const double x : *list) Require(finite_above(x, 0.0), s.kind, key, x, "numbers above 0");
    }
    if (s.attention_factor) {
      Require(finite_above(*s.attention_factor, 0.0), s.kind, "attention_factor", *s.attention_factor,
              "a number above 0");
    }
  }
}

// The weight of "keep" of each pair under YaRN, in [0, 1].
std::vector<Quad> YarnKeep(const RopeSpec& spec, const std::vector<Quad>& theta) {
  const RopeScaling& s = spec.scaling;
  const auto clamp = [](Quad x) { return x < 0 ? Quad(0) : x > 1 ? Quad(1) : x; };
  std::vector<Quad> keep(theta.size());
  if (s.ramp == YarnRamp::kRotations) {
    for (size_t i = 0; i < theta.size(); ++i) {
      keep[i] = clamp((theta[i] * kTurn * s.original - s.beta_slow) / (Quad(s.beta_fast) - s.beta_slow));
    }
    return keep;
  }
  // The real-valued pair index that makes `rotations` turns over the original context.
  const auto pair = [&](double rotations) {
    return spec.rotary_dim * std::log(static_cast<double>(s.original) / (2.0 * std::numbers::pi * rotations)) /
           (2.0 * std::log(spec.theta));
  };
  double low = pair(s.beta_fast);
  double high = pair(s.beta_slow);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, spec.rotary_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < theta.size(); ++i) keep[i] = 1 - clamp((Quad(i) - low) / (Quad(high) - low));
  return keep;
}

double YarnMultiplier(const RopeScaling& s) {
  if (s.attention_factor) return *s.attention_factor;
  if (s.mscale && s.mscale_all_dim) return YarnMscale(s.factor, *s.mscale) / YarnMscale(s.factor, *s.mscale_all_dim);
  return YarnMscale(s.factor, 1.0);
}

double LongMultiplier(const RopeScaling& s) {
  if (s.attention_factor) return *s.attention_factor;
  if (s.factor <= 1.0 || s.original <= 1) return 1.0;
  return std::sqrt(1.0 + std::log(s.factor) / std::log(static_cast<double>(s.original)));
}

/// Errors: kUsage where queries and rotations would both sharpen scores, and nobody said by how much.
void CheckQueryScale(const RopeSpec& spec) {
  const RopeScaling& s = spec.scaling;
  if (!spec.query_scale || s.attention_factor) return;
  const double multiplier = s.kind == RopeKind::kYarn   ? YarnMultiplier(s)
                            : s.kind == RopeKind::kLong ? LongMultiplier(s)
                                                        : 1.0;
  if (multiplier == 1.0) return;
  Fail(ErrorKind::kUsage,
       "{} multiplies queries and keys by {:.6g} already, q_temp queries again; give attention_factor=1, or the factor "
       "that is meant",
       Name(s.kind), multiplier);
}

/// Errors: kUsage where a scheme stands behind another one, or behind what goes inside or behind a scheme.
void RefuseSecondScheme(std::string_view text) {
  const auto is_scheme = [](std::string_view name) {
    return std::ranges::find(kNames, name) != std::end(kNames) || name == kEntropyAware || name == "alibi";
  };
  const std::vector<std::string_view> items = SplitWords(text, " ,");
  for (size_t i = 1; i < items.size(); ++i) {
    const std::string_view second = items[i].substr(0, items[i].find(':'));
    const std::string_view first = items[0].substr(0, items[0].find_first_of(":="));
    if (items[0] == RopeFold::kName && second != first && !is_scheme(second)) {
      Fail(ErrorKind::kUsage,
           "rope '{}': fields of string stand behind a colon, and those of a scheme in front, as in "
           "default:theta=1e6,string:shift=2048",
           text);
    }
    if (!is_scheme(second)) continue;
    if (first == "theta") {
      Fail(ErrorKind::kUsage, "rope '{}': the base goes into the scheme, as in {}:{}", text, second, items[0]);
    }
    if (first == RopeFold::kName) {
      Fail(ErrorKind::kUsage, "rope '{}': string stands behind the scheme, and once, as in yarn:factor=2,string", text);
    }
    if (!is_scheme(first)) continue;
    const bool entropy_aware = first == kEntropyAware || second == kEntropyAware;
    Fail(ErrorKind::kUsage, "rope '{}': {} and {} are two schemes, and a model has one{}", text, first, second,
         entropy_aware ? fmt::format("; what eabf does goes with any, as in linear:factor=4,theta={:.0f},q_temp=logn",
                                     kEntropyAwareTheta)
                       : "");
  }
}

/// ApplyRopeText without a fold.
RopeSpec ApplySchemeText(const RopeSpec& base, std::string_view text, int64_t context, int64_t wanted) {
  RopeSpec spec = base;
  if (text.starts_with("theta=")) {
    if (spec.scaling.kind == RopeKind::kNtk) spec.scaling = {};
    form::Item("rope", text, {"theta"}, text.substr(6)).Read(&spec.theta);
    Validate(spec);
    return spec;
  }
  FormReader reader("rope", text);
  const std::string_view name = reader.name();
  const bool entropy_aware = name == kEntropyAware;
  const auto kind = entropy_aware ? std::begin(kNames) : std::find(std::begin(kNames), std::end(kNames), name);
  if (name == "alibi") {
    Fail(ErrorKind::kUsage, "rope '{}': this model has rotary positions; alibi is for models trained with it", text);
  }
  if (name == RopeFold::kName) {
    Fail(ErrorKind::kUsage, "rope '{}': string stands behind the scheme, and once, as in yarn:factor=2,string", text);
  }
  if (kind == std::end(kNames)) {
    std::vector<std::string_view> known(std::begin(kNames), std::end(kNames));
    known.push_back(kEntropyAware);
    Fail(ErrorKind::kUsage, "rope '{}': unknown scheme '{}'{}, or string, theta=B", text, name,
         SuggestName(name, known));
  }
  RopeScaling& s = spec.scaling = {.kind = static_cast<RopeKind>(kind - std::begin(kNames))};
  if (entropy_aware) spec.theta = kEntropyAwareTheta;
  spec.query_scale = {.kind = entropy_aware ? QueryScaleKind::kLog : QueryScaleKind::kNone};
  spec.fold = {};
  std::string numerics;
  VisitScheme(s.kind, spec, numerics, reader);
  ReadQueryScale(reader, &spec.query_scale);
  reader.Finish();
  spec.numerics = numerics.empty() ? RopeNumerics() : ParseRopeNumerics(numerics);
  if (s.kind != RopeKind::kDefault) {
    if (s.original == 0) s.original = OriginalContext(base, context);
    if (!reader.Given("factor")) {
      if (wanted <= s.original || s.original == 0) {
        Fail(ErrorKind::kUsage,
             "rope '{}': {} needs a factor, as in {}:factor=8, or a --context beyond {} tokens to take it from", text,
             name, name, s.original);
      }
      s.factor = static_cast<double>(wanted) / static_cast<double>(s.original);
    }
  }
  WithFrame(fmt::format("rope '{}'", text), [&] {
    CompleteQueryScale(reader, s.original > 0 ? s.original : OriginalContext(base, context), &spec.query_scale);
    CheckQueryScale(spec);
  });
  WithFrame(fmt::format("rope '{}'", text), [&] { Validate(spec); });
  return spec;
}

}  // namespace

double YarnMscale(double factor, double mscale) { return factor > 1.0 ? 0.1 * mscale * std::log(factor) + 1.0 : 1.0; }

RopeSpec ApplyRopeText(const RopeSpec& base, std::string_view text, int64_t context, int64_t wanted) {
  RefuseSecondScheme(text);
  const auto [scheme, fold_text] = SplitFoldText(text);
  if (!fold_text) return ApplySchemeText(base, scheme, context, wanted);
  const RopeFold fold = ParseFold(*fold_text);
  RopeSpec spec = base;
  if (!scheme.empty()) spec = ApplySchemeText(base, scheme, context, std::max<int64_t>(wanted - fold.gain(), 0));
  spec.fold = {};
  spec.fold = CompleteFold(text, fold, MaxContext(spec, context), wanted);
  if (spec.fold.active() && spec.query_scale && spec.fold.temperature == RopeFold().temperature) {
    Fail(
        ErrorKind::kUsage,
        "rope '{}': string multiplies queries and keys by {:.6g} already, q_temp queries again; give temperature=1, or "
        "the one that is meant",
        text, spec.fold.temperature);
  }
  WithFrame(fmt::format("rope '{}'", text), [&] { Validate(spec); });
  return spec;
}

std::string RopeHelp() {
  constexpr std::string_view kSummaries[] = {
      "no scaling",
      "position interpolation: all positions divided by the factor",
      "NTK-aware: a larger base, so that high frequencies stay",
      "NTK-aware by the tokens seen, once they are more than the original context",
      "high frequencies stay, low ones are interpolated, and attention is sharpened",
      "Llama 3.1: high frequencies stay, low ones are divided by the factor",
      "LongRoPE: each frequency divided by a number of its own, short=A+B+.. up to the original context, long= beyond"};
  static_assert(std::size(kSummaries) == std::size(kNames));
  std::string text;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    RopeSpec spec;
    std::string numerics;
    FormLister lister;
    VisitScheme(static_cast<RopeKind>(i), spec, numerics, lister);
    text += fmt::format("  {:<9} {}\n            keys: {}\n", kNames[i], kSummaries[i], fmt::join(lister.keys(), ", "));
  }
  return text +
         fmt::format(
             "  {:<9} default with theta={:.0f} and q_temp=logn: entropy-aware ABF (arXiv:2401.07004)\n"
             "  theta=B   another base, nothing else\n"
             "  each but the last also takes {}\n",
             kEntropyAware, kEntropyAwareTheta, fmt::join(QueryScaleKeys(), ", ")) +
         FoldHelp();
}

std::string ToString(const RopeSpec& spec) {
  RopeSpec given = spec, standard;
  // What a scaling says in any case.
  standard.scaling.factor = standard.scaling.low_freq_factor = standard.scaling.high_freq_factor = 0;
  std::string numerics = spec.numerics == RopeNumerics() ? "" : hawser::ToString(spec.numerics), none;
  FormPrinter value, usual;
  VisitScheme(spec.scaling.kind, given, numerics, value);
  VisitScheme(spec.scaling.kind, standard, none, usual);
  std::string fields;
  for (const std::string& item : form::Items(value, usual)) fields += ',' + item;
  fields += QueryScaleFields(spec.query_scale);
  std::string text(Name(spec.scaling.kind));
  if (!fields.empty()) text += ':' + fields.substr(1);
  if (spec.fold.active()) text += ',' + hawser::ToString(spec.fold);
  return text;
}

int64_t OriginalContext(const RopeSpec& spec, int64_t context) {
  return spec.scaling.kind != RopeKind::kDefault && spec.scaling.original > 0 ? spec.scaling.original
                                                                              : std::max<int64_t>(context, 0);
}

int64_t MaxContext(const RopeSpec& spec, int64_t context) {
  constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
  const RopeScaling& s = spec.scaling;
  if (spec.fold.active()) {
    RopeSpec unfolded = spec;
    unfolded.fold = {};
    const int64_t reach = MaxContext(unfolded, context);
    return reach > kUnlimited - spec.fold.gain() ? kUnlimited : reach + spec.fold.gain();
  }
  if (s.kind == RopeKind::kDefault) return context;
  if (s.kind == RopeKind::kDynamic) return kUnlimited;
  const double reach = s.factor * static_cast<double>(s.original > 0 ? s.original : context);
  const int64_t tokens = reach >= 0x1p63 ? kUnlimited : static_cast<int64_t>(reach);
  return s.kind == RopeKind::kLlama3 ? std::max(tokens, context) : tokens;
}

bool DependsOnLength(const RopeSpec& spec) {
  return spec.scaling.kind == RopeKind::kDynamic || spec.scaling.kind == RopeKind::kLong;
}

int64_t SameFrequenciesUntil(const RopeSpec& spec, int64_t length) {
  if (DependsOnLength(spec) && length <= spec.scaling.original) return spec.scaling.original;
  return spec.scaling.kind == RopeKind::kDynamic ? length : int64_t{1} << 53;
}

RopeSpec BakeNtk(const RopeSpec& rope) {
  if (rope.scaling.kind != RopeKind::kNtk) return rope;
  RopeSpec baked = rope;
  baked.theta *= std::pow(rope.scaling.factor, rope.rotary_dim / (rope.rotary_dim - 2.0));
  baked.scaling = {};
  return baked;
}

RopeFrequencies ComputeFrequencies(const RopeSpec& given, int64_t length) {
  const RopeKind kind = given.scaling.kind;
  const int32_t d = given.rotary_dim;
  if (d < 2 || d % 2 != 0 || d > (1 << 16)) {
    Fail(ErrorKind::kUsage, "rope {}: rotary_dim={}; wanted an even number of channels, 2 or more", Name(kind), d);
  }
  if ((kind == RopeKind::kNtk || kind == RopeKind::kDynamic) && d <= 2) {
    Fail(ErrorKind::kUsage, "rope {}: rotary_dim={}; wanted 4 or more", Name(kind), d);
  }
  Validate(given);
  const RopeSpec spec = BakeNtk(given);
  const RopeScaling& s = spec.scaling;
  const int32_t half = d / 2;
  Quad root = InverseRoot(spec.theta, half);
  if (s.kind == RopeKind::kDynamic) {
    const Quad factor = s.factor;
    const Quad stretch = factor * std::max(length, s.original) / s.original - (factor - 1);
    root *= InverseRoot(stretch, half - 1);  // base * stretch^(d / (d - 2)), to the power -2 / d
  }
  std::vector<Quad> theta(half);
  for (int32_t i = 0; i < half; ++i) theta[i] = Power(root, i);

  RopeFrequencies result;
  switch (s.kind) {
    case RopeKind::kDefault:
    case RopeKind::kNtk:
    case RopeKind::kDynamic:
      break;
    case RopeKind::kLinear:
      for (Quad& t : theta) t /= s.factor;
      break;
    case RopeKind::kYarn: {
      const std::vector<Quad> keep = YarnKeep(spec, theta);
      for (int32_t i = 0; i < half; ++i) {
        theta[i] = s.blend == YarnBlend::kFrequency ? theta[i] * (keep[i] + (1 - keep[i]) / s.factor)
                                                    : theta[i] / (keep[i] + (1 - keep[i]) * s.factor);
      }
      result.multiplier = YarnMultiplier(s);
      break;
    }
    case RopeKind::kLlama3:
      for (Quad& t : theta) {
        const Quad rotations = t * kTurn * s.original;
        const Quad keep = (rotations - s.low_freq_factor) / (Quad(s.high_freq_factor) - s.low_freq_factor);
        if (keep <= 0) {
          t /= s.factor;
        } else if (keep < 1) {
          t = (1 - keep) * t / s.factor + keep * t;
        }
      }
      break;
    case RopeKind::kLong: {
      const std::vector<double>& divisors = length > s.original ? s.long_divisors : s.short_divisors;
      // Who rounds frequencies holds the lists in the same format.
      for (int32_t i = 0; i < half; ++i) theta[i] /= RoundTo(spec.numerics.inv_freq, divisors[static_cast<size_t>(i)]);
      result.multiplier = LongMultiplier(s);
      break;
    }
  }
  if (spec.fold.active()) result.multiplier *= spec.fold.temperature;
  result.numerics = spec.numerics;
  if (spec.numerics.angle == RopeAngle::kIterated && s.kind != RopeKind::kDefault) {
    Fail(ErrorKind::kUnsupported, "rope {}: iterated angles are for unscaled frequencies (rope default)", Name(s.kind));
  }
  if (spec.numerics.inv_freq != FloatFormat::kF64) {
    for (Quad& t : theta) t = RoundTo(spec.numerics.inv_freq, static_cast<double>(t));
  }
  for (const Quad& t : theta) {
    result.inv_freq.push_back(static_cast<double>(t));
    result.turns.push_back(static_cast<uint64_t>(t * kTurn * 0x1p64 + Quad(0.5)));
  }
  return result;
}

}  // namespace hawser
