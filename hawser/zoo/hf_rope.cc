#include "hawser/zoo/hf_rope.h"

#include <cmath>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"

namespace hawser {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 31;

std::string Kind(const JsonObject& block) { return block.StringOr("rope_type", block.StringOr("type", "default")); }

/// The members of both blocks in one object; `rope_type` is the kind.
nlohmann::json MergeBlocks(const JsonObject& config) {
  nlohmann::json merged = nlohmann::json::object();
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const nlohmann::json* found = config.Find(name);
    if (found == nullptr) continue;
    const JsonObject block(*found, name);
    for (const char* key : {"full_attention", "sliding_attention", "mrope_section"}) {
      if (block.Has(key)) {
        Fail(ErrorKind::kUnsupported, "{}: '{}' is not supported; one scheme for all layers is", name, key);
      }
    }
    nlohmann::json members = *found;
    members["rope_type"] = Kind(block);
    members.erase("type");
    for (const auto& [key, value] : members.items()) {
      const auto before = merged.find(key);
      if (before != merged.end() && *before != value) {
        Fail(ErrorKind::kFormat, "'{}' is {} in rope_scaling and {} in rope_parameters; make them agree", key,
             ShownJson(*before), ShownJson(value));
      }
      merged[key] = value;
    }
  }
  return merged;
}

double Theta(const JsonObject& config, const JsonObject& block) {
  const double top = config.NumberOr("rope_theta", block.NumberOr("rope_theta", 10000.0));
  const double inner = block.NumberOr("rope_theta", top);
  if (top != inner) {
    Fail(ErrorKind::kFormat, "rope_theta is {} at the top and {} in {}; make them agree", top, inner, block.name());
  }
  return top;
}

/// Readers take 0 for a number that is not given.
std::optional<double> NonZero(const JsonObject& block, const char* key) {
  const double value = block.NumberOr(key, 0.0);
  return value == 0.0 ? std::nullopt : std::optional<double>(value);
}

std::vector<double> Divisors(const JsonObject& block, const char* key, int32_t half) {
  const nlohmann::json* list = block.Find(key);
  bool good = list != nullptr && list->is_array() && list->size() == static_cast<size_t>(half);
  std::vector<double> values;
  for (size_t i = 0; good && i < list->size(); ++i) {
    good = (*list)[i].is_number() && std::isfinite((*list)[i].get<double>()) && (*list)[i].get<double>() > 0;
    if (good) values.push_back((*list)[i].get<double>());
  }
  if (!good) Fail(ErrorKind::kFormat, "{}: '{}' must be a list of {} positive numbers", block.name(), key, half);
  return values;
}

void ParseYarn(const JsonObject& block, int64_t context, RopeScaling& scaling) {
  const double ratio = static_cast<double>(context) / static_cast<double>(scaling.original);
  scaling.factor = block.NumberOr("factor", ratio);
  if (scaling.factor != ratio) {
    LogLine(
        fmt::format("{}: factor {} differs from max_position_embeddings / original_max_position_embeddings = {}, "
                    "which other readers use; {} is used here",
                    block.name(), scaling.factor, ratio, scaling.factor));
  }
  scaling.beta_fast = NonZero(block, "beta_fast").value_or(scaling.beta_fast);
  scaling.beta_slow = NonZero(block, "beta_slow").value_or(scaling.beta_slow);
  scaling.truncate = block.BoolOr("truncate", true);
  if (block.Find("attention_factor") != nullptr) scaling.attention_factor = block.Number("attention_factor");
  scaling.mscale = NonZero(block, "mscale");
  scaling.mscale_all_dim = NonZero(block, "mscale_all_dim");
  for (const char* key : {"extrapolation_factor", "attn_factor"}) {
    if (block.NumberOr(key, 1.0) != 1.0) {
      Fail(ErrorKind::kUnsupported, "{}: '{}' other than 1 is not supported", block.name(), key);
    }
  }
}

/// The smallest share of `head_dim` that readers, who round down, turn into `rotary_dim`.
double PartialFactor(int32_t rotary_dim, int32_t head_dim) {
  double share = static_cast<double>(rotary_dim) / head_dim;
  while (std::floor(share * head_dim) < rotary_dim) share = std::nextafter(share, 2.0);
  return share;
}

/// factor * original if that is a whole number of tokens.
std::optional<int64_t> WholeProduct(const RopeScaling& scaling) {
  const double product = scaling.factor * static_cast<double>(scaling.original);
  if (product != std::floor(product) || product < 1 || product > static_cast<double>(kMaxContext)) return std::nullopt;
  return static_cast<int64_t>(product);
}

bool IsStandardYarn(const RopeScaling& scaling) {
  return scaling.ramp == YarnRamp::kIndex && scaling.blend == YarnBlend::kFrequency && WholeProduct(scaling);
}

void WriteYarn(const RopeSpec& rope, int64_t& context, nlohmann::ordered_json& block) {
  const RopeScaling& scaling = rope.scaling;
  block["factor"] = scaling.factor;
  block["original_max_position_embeddings"] = scaling.original;
  if (!IsStandardYarn(scaling)) {
    RopeSpec plain = rope;
    plain.scaling = {};
    const RopeFrequencies from = ComputeFrequencies(plain, context), to = ComputeFrequencies(rope, context);
    std::vector<double> divisors;
    for (size_t i = 0; i < to.inv_freq.size(); ++i) divisors.push_back(from.inv_freq[i] / to.inv_freq[i]);
    block["rope_type"] = "longrope";
    block["short_factor"] = divisors;
    block["long_factor"] = divisors;
    block["attention_factor"] = to.multiplier;
    return;
  }
  context = *WholeProduct(scaling);
  block["rope_type"] = "yarn";
  block["beta_fast"] = scaling.beta_fast;
  block["beta_slow"] = scaling.beta_slow;
  if (!scaling.truncate) block["truncate"] = false;
  if (scaling.attention_factor) block["attention_factor"] = *scaling.attention_factor;
  if (scaling.mscale) block["mscale"] = *scaling.mscale;
  if (scaling.mscale_all_dim) block["mscale_all_dim"] = *scaling.mscale_all_dim;
}

}  // namespace

HfRope ParseHfRope(const JsonObject& config, int32_t head_dim, int64_t context) {
  const nlohmann::json merged = MergeBlocks(config);
  const JsonObject block(merged, config.Find("rope_scaling") != nullptr ? "rope_scaling" : "rope_parameters");
  const std::string kind = Kind(block);
  HfRope result;
  RopeSpec& rope = result.rope;
  RopeScaling& scaling = rope.scaling;
  rope.theta = Theta(config, block);
  const double share = block.NumberOr("partial_rotary_factor", config.NumberOr("partial_rotary_factor", 1.0));
  if (!(share > 0 && share <= 1)) {
    Fail(ErrorKind::kFormat, "partial_rotary_factor must be above 0 and at most 1, found {}", share);
  }
  rope.rotary_dim = static_cast<int32_t>(head_dim * share);
  if (rope.rotary_dim != head_dim) {
    LogLine(
        fmt::format("partial_rotary_factor {}: {} of {} channels of a head are rotated; some readers of these families "
                    "ignore the factor and rotate all, or refuse it",
                    share, rope.rotary_dim, head_dim));
  }
  if (kind == "default") return result;

  const char* original = "original_max_position_embeddings";
  const auto original_or = [&](int64_t fallback) {
    return config.IntOr(original, block.IntOr(original, fallback, 1, kMaxContext), 1, kMaxContext);
  };
  if (kind == "linear") {
    scaling.kind = RopeKind::kLinear;
    scaling.factor = block.Number("factor");
    scaling.original =
        original_or(scaling.factor >= 1 ? std::llround(static_cast<double>(context) / scaling.factor) : 0);
  } else if (kind == "dynamic") {
    scaling.kind = RopeKind::kDynamic;
    scaling.factor = block.Number("factor");
    scaling.original = context;  // readers ignore original_max_position_embeddings here
    if (original_or(context) != context) {
      LogLine(fmt::format("{}: {} is not used by dynamic; max_position_embeddings = {} is", block.name(), original,
                          context));
    }
  } else if (kind == "yarn" || kind == "deepseek_yarn") {
    scaling.kind = RopeKind::kYarn;
    scaling.original = original_or(context);
    ParseYarn(block, context, scaling);
  } else if (kind == "llama3") {
    scaling.kind = RopeKind::kLlama3;
    scaling.factor = block.Number("factor");
    scaling.low_freq_factor = block.Number("low_freq_factor");
    scaling.high_freq_factor = block.Number("high_freq_factor");
    scaling.original = original_or(context);
  } else if (kind == "longrope" && rope.rotary_dim % 2 == 0 && block.Find("attention_factor") != nullptr) {
    result.divisors = Divisors(block, "long_factor", rope.rotary_dim / 2);
    result.multiplier = block.Number("attention_factor");
    if (result.divisors != Divisors(block, "short_factor", rope.rotary_dim / 2)) {
      Fail(ErrorKind::kUnsupported, "{}: longrope with two different lists is not supported", block.name());
    }
  } else {
    Fail(ErrorKind::kUnsupported,
         "{}: rope_type '{}' is not supported; known are default, linear, dynamic, yarn, llama3", block.name(), kind);
  }
  return result;
}

RopeFrequencies HfFrequencies(const HfRope& rope, int64_t length) {
  RopeFrequencies result = ComputeFrequencies(rope.rope, length);
  for (size_t i = 0; i < rope.divisors.size(); ++i) result.inv_freq[i] /= rope.divisors[i];
  result.multiplier *= rope.multiplier;
  return result;
}

void WriteHfRope(const RopeSpec& rope, int32_t head_dim, int64_t context, nlohmann::ordered_json& config) {
  HAWSER_CHECK(rope.pairing == RopePairing::kHalf);
  const RopeScaling& scaling = rope.scaling;
  int64_t positions = context;
  nlohmann::ordered_json block;
  block["rope_type"] = "default";
  switch (scaling.kind) {
    case RopeKind::kDefault:
    case RopeKind::kNtk:
      break;
    case RopeKind::kLinear:
      block["rope_type"] = "linear";
      block["factor"] = scaling.factor;
      break;
    case RopeKind::kDynamic:
      block["rope_type"] = "dynamic";
      block["factor"] = scaling.factor;
      positions = scaling.original;
      break;
    case RopeKind::kYarn:
      WriteYarn(rope, positions, block);
      break;
    case RopeKind::kLlama3:
      block["rope_type"] = "llama3";
      block["factor"] = scaling.factor;
      block["low_freq_factor"] = scaling.low_freq_factor;
      block["high_freq_factor"] = scaling.high_freq_factor;
      block["original_max_position_embeddings"] = scaling.original;
      break;
  }
  config["max_position_embeddings"] = positions;
  config["rope_theta"] = BakeNtk(rope).theta;
  if (rope.rotary_dim != head_dim) config["partial_rotary_factor"] = PartialFactor(rope.rotary_dim, head_dim);
  if (block["rope_type"] != "default") {
    config["rope_scaling"] = block;
    config["rope_scaling"]["type"] = block["rope_type"];  // the older spelling
  }
  block["rope_theta"] = config["rope_theta"];
  if (rope.rotary_dim != head_dim) block["partial_rotary_factor"] = config["partial_rotary_factor"];
  config["rope_parameters"] = block;
}

}  // namespace hawser
