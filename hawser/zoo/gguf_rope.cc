#include "hawser/zoo/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <span>

#include "hawser/base/error.h"
#include "hawser/zoo/config_members.h"

namespace hawser {
namespace {

/// The rope that the file names by its text; none where it does not.
std::optional<RopeSpec> NamedRope(const GgufFile& file, int32_t rotary_dim, int64_t context) {
  const auto text = file.Text(kGgufRopeText);
  if (!text) return std::nullopt;
  RopeSpec plain;
  plain.rotary_dim = rotary_dim;
  try {
    return ApplyRopeText(plain, *text, context);
  } catch (const Error& error) {
    Fail(ErrorKind::kFormat, "'{}': {}", kGgufRopeText, error.what());
  }
}

bool SameRotations(RopeSpec a, RopeSpec b, int64_t context) {
  constexpr double kNear = 1e-6;  // keys are f32
  a.numerics = b.numerics = {};
  a.fold = b.fold = {};
  const auto near = [](double x, double y) { return std::abs(x - y) <= kNear * std::abs(y); };
  for (const int64_t length : {int64_t{1}, 4 * context}) {  // where lengths count, they differ there
    const RopeFrequencies of_a = ComputeFrequencies(a, length), of_b = ComputeFrequencies(b, length);
    if (!near(of_a.multiplier, of_b.multiplier) ||
        !std::equal(of_a.inv_freq.begin(), of_a.inv_freq.end(), of_b.inv_freq.begin(), of_b.inv_freq.end(), near)) {
      return false;
    }
  }
  return true;
}

/// The values of a tensor of divisors, one for each pair.
std::vector<float> Divisors(const GgufFile& file, std::string_view name, const RopeSpec& rope) {
  const TensorView* view = file.tensors.Find(name);
  const auto pairs = static_cast<size_t>(rope.rotary_dim / 2);
  if (view == nullptr) Fail(ErrorKind::kFormat, "tensor '{}' is missing beside the other list", name);
  if (view->dtype != DType::kF32 || view->size() != static_cast<int64_t>(pairs)) {
    Fail(ErrorKind::kFormat, "tensor '{}' must be {} values in f32, found {} as {}", name, pairs,
         ShapeText(view->shape), Name(view->dtype));
  }
  std::vector<float> divisors(pairs);
  std::memcpy(divisors.data(), view->bytes.data(), view->bytes.size());
  for (const float divisor : divisors) {
    if (!(divisor > 0 && divisor < 1e9f)) Fail(ErrorKind::kFormat, "tensor '{}' holds a divisor of {}", name, divisor);
  }
  return divisors;
}

/// The original length of a llama3 scaling with factors 1 and 4: of the first divisor between 1 and `factor`, which is
/// 1 / ((1 - s) / factor + s) with s = (original / wavelength - 1) / 3. None where there is no such divisor.
std::optional<int64_t> Llama3Original(std::span<const double> frequencies, std::span<const float> divisors,
                                      double factor) {
  for (size_t i = 0; i < divisors.size(); ++i) {
    if (divisors[i] <= 1.0001 || divisors[i] >= 0.9999 * factor) continue;
    const double share = (1.0 / double{divisors[i]} - 1.0 / factor) / (1.0 - 1.0 / factor);
    const double original = (1 + 3 * share) * 2 * std::numbers::pi / frequencies[i];
    if (original >= 1 && original <= static_cast<double>(kMaxContext)) return std::llround(original);
  }
  return std::nullopt;
}

/// The scaling whose divisors the file holds as a tensor: that of its `named` rope, a llama3 one with factors 1 and 4
/// whose original length follows from the divisors or is one that models are pretrained at, or else one that has these
/// divisors at every length.
RopeScaling ScalingOfDivisors(const GgufFile& file, const RopeSpec& rope, const std::optional<RopeSpec>& named,
                              int64_t context) {
  const std::vector<float> divisors = Divisors(file, kGgufRopeFactors, rope);
  const size_t pairs = divisors.size();
  RopeSpec plain = rope;
  plain.scaling = {};
  const std::vector<double> base = ComputeFrequencies(plain, context).inv_freq;
  const float most = *std::max_element(divisors.begin(), divisors.end());
  std::vector<RopeScaling> candidates;
  if (named) candidates.push_back(named->scaling);
  std::vector<int64_t> originals = {8192, 4096, 2048, 16384, 32768};
  if (const auto derived = Llama3Original(base, divisors, most)) originals.push_back(*derived);
  for (const int64_t original : originals) {
    if (most >= 1 && most <= 1e6) {
      candidates.push_back({.kind = RopeKind::kLlama3, .factor = most, .original = original});
    }
  }
  for (const RopeScaling& candidate : candidates) {
    RopeSpec tried = rope;
    tried.scaling = candidate;
    const std::vector<double> scaled = ComputeFrequencies(tried, context).inv_freq;
    bool same = true;
    for (size_t i = 0; same && i < pairs; ++i) same = std::abs(base[i] / scaled[i] / divisors[i] - 1) < 1e-5;
    if (same) return tried.scaling;
  }
  const std::vector<double> list(divisors.begin(), divisors.end());
  return {.kind = RopeKind::kLong,
          .original = context,
          .attention_factor = 1.0,
          .short_divisors = list,
          .long_divisors = list};
}

/// The scaling that the keys and tensors say.
RopeScaling ReadScaling(GgufKeys& keys, const RopeSpec& rope, const std::optional<RopeSpec>& named, int64_t context) {
  const GgufFile& file = keys.file();
  const auto number = [&](std::string_view name) { return file.Number(keys.Key(name)); };
  const double linear = number("rope.scale_linear").value_or(1.0);
  const double factor = number("rope.scaling.factor").value_or(linear);
  const std::string_view type = file.Text(keys.Key("rope.scaling.type")).value_or(factor != 1.0 ? "linear" : "none");
  const int64_t original = file.Int(keys.Key("rope.scaling.original_context_length"), 0, kMaxContext).value_or(0);
  std::optional<double> attention = number("rope.scaling.attn_factor");
  if (const auto more = number("rope.scaling.yarn_attn_factor")) attention = attention.value_or(1.0) * *more;
  // Readers take a negative one for that of the type.
  const double blend = type == "yarn" ? 1 : 0, given_blend = number("rope.scaling.yarn_ext_factor").value_or(blend);
  if (given_blend >= 0 && given_blend != blend) {
    Fail(ErrorKind::kUnsupported, "'{}' = {} beside scaling of type {} is not supported",
         keys.Key("rope.scaling.yarn_ext_factor"), given_blend, type);
  }
  RopeScaling scaling;
  const double fast = number("rope.scaling.yarn_beta_fast").value_or(scaling.beta_fast);
  const double slow = number("rope.scaling.yarn_beta_slow").value_or(scaling.beta_slow);
  if (file.tensors.Find(kGgufLongFactors) != nullptr || file.tensors.Find(kGgufShortFactors) != nullptr) {
    if (type != "none" && type != "longrope") {
      Fail(ErrorKind::kUnsupported, "'{}' beside scaling of type {}", kGgufLongFactors, type);
    }
    scaling = {.kind = RopeKind::kLong, .original = original > 0 ? original : context};
    scaling.factor = std::max(1.0, static_cast<double>(context) / static_cast<double>(scaling.original));
    scaling.attention_factor = attention.value_or(1.0);
    const auto list = [&](std::string_view name) {
      const std::vector<float> divisors = Divisors(file, name, rope);
      return std::vector<double>(divisors.begin(), divisors.end());
    };
    scaling.short_divisors = list(kGgufShortFactors);
    scaling.long_divisors = list(kGgufLongFactors);
  } else if (type == "linear" && factor != 1.0) {
    scaling = {.kind = RopeKind::kLinear, .factor = factor};
  } else if (type == "yarn") {
    scaling = {.kind = RopeKind::kYarn, .factor = factor, .original = original, .beta_fast = fast, .beta_slow = slow};
    if (original == 0) scaling.original = static_cast<int64_t>(static_cast<double>(context) / factor);
    // The reader of these files multiplies it by the factor that YaRN derives.
    if (attention) scaling.attention_factor = *attention * YarnMscale(factor, 1.0);
  } else if (type == "longrope") {
    Fail(ErrorKind::kFormat, "'{}' = 'longrope', and the tensors '{}' and '{}' are missing",
         keys.Key("rope.scaling.type"), kGgufLongFactors, kGgufShortFactors);
  } else if (type != "none" && type != "linear") {
    Fail(ErrorKind::kUnsupported, "'{}' = '{}' is not supported; known are none, linear, yarn and longrope",
         keys.Key("rope.scaling.type"), type);
  }
  const bool sharpens = scaling.kind == RopeKind::kYarn || scaling.kind == RopeKind::kLong;
  if (attention.value_or(1.0) != 1.0 && !sharpens) {
    Fail(ErrorKind::kUnsupported, "'{}' = {} beside scaling of type {} is not supported",
         keys.Key("rope.scaling.attn_factor"), *attention, type);
  }
  if (file.tensors.Find(kGgufRopeFactors) != nullptr) {
    if (scaling.kind != RopeKind::kDefault) {
      Fail(ErrorKind::kUnsupported, "'{}' beside scaling of type {}", kGgufRopeFactors, type);
    }
    scaling = ScalingOfDivisors(file, rope, named, context);
  }
  return scaling;
}

}  // namespace

RopeSpec ReadGgufRope(GgufKeys& keys, int32_t head_dim, int64_t context, bool partial) {
  RopeSpec rope;
  rope.theta = keys.file().Number(keys.Key("rope.freq_base")).value_or(10000.0);
  keys.Int("rope.dimension_count", &rope.rotary_dim, head_dim, 2);
  if (rope.rotary_dim > head_dim || rope.rotary_dim % 2 != 0 || (!partial && rope.rotary_dim != head_dim)) {
    Fail(ErrorKind::kUnsupported, "'{}' is {}, heads have {} channels; {}", keys.Key("rope.dimension_count"),
         rope.rotary_dim, head_dim,
         partial ? "an even number of them can be rotated" : "partial rotation is not supported for this architecture");
  }
  const std::optional<RopeSpec> named = NamedRope(keys.file(), rope.rotary_dim, context);
  rope.scaling = ReadScaling(keys, rope, named, context);
  if (!named) return rope;
  if (!SameRotations(rope, *named, context)) {
    Fail(ErrorKind::kFormat, "'{}' = '{}' and the keys '{}' give other rotations ({})", kGgufRopeText, ToString(*named),
         keys.Key("rope.*"), ToString(rope));
  }
  return *named;
}

GgufFactors WriteGgufRope(GgufKeys& keys, const RopeSpec& given, int64_t context) {
  RopeSpec rope = BakeNtk(given);
  rope.fold = {};  // said by the text alone
  const RopeScaling& scaling = rope.scaling;
  GgufFactors factors;
  keys.Put("rope.dimension_count", static_cast<uint32_t>(rope.rotary_dim));
  keys.Put("rope.freq_base", static_cast<float>(rope.theta));
  const auto put = [&](std::string_view name, double value) { keys.Put(name, static_cast<float>(value)); };
  const auto put_original = [&] {
    keys.Put("rope.scaling.original_context_length", static_cast<uint32_t>(OriginalContext(rope, context)));
  };
  const double multiplier = ComputeFrequencies(rope, context).multiplier;
  if (scaling.kind == RopeKind::kLinear) {
    keys.Put("rope.scaling.type", std::string("linear"));
    put("rope.scaling.factor", scaling.factor);
  } else if (scaling.kind == RopeKind::kYarn) {
    keys.Put("rope.scaling.type", std::string("yarn"));
    put("rope.scaling.factor", scaling.factor);
    put_original();
    // Readers multiply by what they derive.
    const double derived = YarnMscale(scaling.factor, 1.0);
    if (multiplier != derived) put("rope.scaling.attn_factor", multiplier / derived);
    const RopeScaling plain;
    if (scaling.beta_fast != plain.beta_fast || scaling.beta_slow != plain.beta_slow) {
      put("rope.scaling.yarn_beta_fast", scaling.beta_fast);
      put("rope.scaling.yarn_beta_slow", scaling.beta_slow);
    }
  } else if (scaling.kind == RopeKind::kLong) {  // no factor: readers would divide by it beside the lists
    keys.Put("rope.scaling.type", std::string("longrope"));
    put_original();
    put("rope.scaling.attn_factor", multiplier);
    factors.emplace_back(kGgufLongFactors,
                         std::vector<float>(scaling.long_divisors.begin(), scaling.long_divisors.end()));
    factors.emplace_back(kGgufShortFactors,
                         std::vector<float>(scaling.short_divisors.begin(), scaling.short_divisors.end()));
  } else if (scaling.kind == RopeKind::kLlama3) {
    RopeSpec plain = rope;
    plain.scaling = {};
    const std::vector<double> base = ComputeFrequencies(plain, context).inv_freq;
    const std::vector<double> scaled = ComputeFrequencies(rope, context).inv_freq;
    std::vector<float> divisors;
    for (size_t i = 0; i < base.size(); ++i) divisors.push_back(static_cast<float>(base[i] / scaled[i]));
    factors.emplace_back(kGgufRopeFactors, std::move(divisors));
  }
  const bool whole = rope.theta == static_cast<float>(rope.theta) && rope.numerics == RopeNumerics{};
  if (given.scaling.kind != RopeKind::kDefault || given.fold.active() || !whole)
    keys.PutField(kGgufRopeText, ToString(given));
  return factors;
}

}  // namespace hawser
