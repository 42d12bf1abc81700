#include "hawser/zoo/hf_rope.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

std::string Kind(const JsonObject& block) { return block.StringOr("rope_type", block.StringOr("type", "default")); }

/// The block that `name` holds for `layers`, where blocks of kinds of layers lie inside it; null where there is none.
/// What lies outside such blocks is for layers that see everything.
const nlohmann::json* FindBlock(const JsonObject& config, const char* name, const char* layers) {
  const nlohmann::json* found = config.Find(name);
  if (found == nullptr) return nullptr;
  const JsonObject block(*found, name);
  if (block.Has("mrope_section")) Fail(ErrorKind::kUnsupported, "{}: 'mrope_section' is not supported", name);
  const bool nested = block.Has("full_attention") || block.Has("sliding_attention");
  if (layers == nullptr) {
    if (!nested) return found;
    Fail(ErrorKind::kUnsupported,
         "{}: 'full_attention' and 'sliding_attention' are not supported for this model_type; "
         "one scheme for all layers is",
         name);
  }
  if (nested) return block.Find(layers);
  return std::string_view(layers) == "full_attention" ? found : nullptr;
}

/// The members of both blocks in one object; `rope_type` is the kind.
nlohmann::json MergeBlocks(const JsonObject& config, const char* layers) {
  nlohmann::json merged = nlohmann::json::object();
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const nlohmann::json* found = FindBlock(config, name, layers);
    if (found == nullptr) continue;
    nlohmann::json members = *found;
    members["rope_type"] = Kind(JsonObject(*found, name));
    members.erase("type");
    // Which of two blocks a family with a rope for each kind of layer takes is settled: the scaling in rope_scaling.
    if (layers != nullptr && merged.contains("rope_type") && members["rope_type"] == "default") {
      members.erase("rope_type");
    }
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

/// A number that stands at the top under one of `keys`, in the block as `inside`, or in both alike.
double TopOrInside(ConfigMembers& members, std::string_view keys, const JsonObject& block, const char* inside,
                   double fallback) {
  std::optional<double> top, inner;
  std::string first;
  for (const std::string& key : members.Split(keys)) {
    if (members.in().Find(key.c_str()) == nullptr) continue;
    const double value = members.in().Number(key.c_str());
    if (top && *top != value) {
      Fail(ErrorKind::kFormat, "'{}' is {} and '{}' is {}; make them agree", first, *top, key, value);
    }
    top = value;
    first = key;
  }
  if (block.Find(inside) != nullptr) inner = block.Number(inside);
  if (top && inner && *top != *inner) {
    Fail(ErrorKind::kFormat, "{} is {} at the top and {} in {}; make them agree", keys, *top, *inner, block.name());
  }
  return top.value_or(inner.value_or(fallback));
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

/// Any scaling that does not depend on the length, as one list of divisors for all lengths.
void WriteAsLong(const RopeSpec& rope, int64_t context, nlohmann::ordered_json& block) {
  RopeSpec plain = rope;
  plain.scaling = {};
  const RopeFrequencies from = ComputeFrequencies(plain, context), to = ComputeFrequencies(rope, context);
  std::vector<double> divisors;
  for (size_t i = 0; i < to.inv_freq.size(); ++i) divisors.push_back(from.inv_freq[i] / to.inv_freq[i]);
  block["rope_type"] = "longrope";
  block["factor"] = rope.scaling.factor;
  block["original_max_position_embeddings"] = rope.scaling.original > 0 ? rope.scaling.original : context;
  block["short_factor"] = divisors;
  block["long_factor"] = divisors;
  block["attention_factor"] = to.multiplier;
}

void WriteYarn(const RopeSpec& rope, int64_t& context, nlohmann::ordered_json& block) {
  const RopeScaling& scaling = rope.scaling;
  context = *WholeProduct(scaling);
  block["rope_type"] = "yarn";
  block["factor"] = scaling.factor;
  block["original_max_position_embeddings"] = scaling.original;
  block["beta_fast"] = scaling.beta_fast;
  block["beta_slow"] = scaling.beta_slow;
  if (!scaling.truncate) block["truncate"] = false;
  if (scaling.attention_factor) block["attention_factor"] = *scaling.attention_factor;
  if (scaling.mscale) block["mscale"] = *scaling.mscale;
  if (scaling.mscale_all_dim) block["mscale_all_dim"] = *scaling.mscale_all_dim;
}

/// The block of a rope; `positions`: the max_position_embeddings that it needs.
nlohmann::ordered_json Block(const HfRopeKeys& keys, const RopeSpec& rope, int64_t* positions) {
  HAWSER_CHECK(rope.pairing == RopePairing::kHalf);
  const RopeScaling& scaling = rope.scaling;
  nlohmann::ordered_json block;
  block["rope_type"] = "default";
  if (scaling.kind == RopeKind::kDefault || scaling.kind == RopeKind::kNtk) return block;
  if (keys.only_long && scaling.kind == RopeKind::kDynamic) {
    Fail(ErrorKind::kUsage,
         "config.json of this model_type has no dynamic scaling of positions; choose another --rope");
  }
  if (scaling.kind != RopeKind::kLong &&
      (keys.only_long || (scaling.kind == RopeKind::kYarn && !IsStandardYarn(scaling)))) {
    WriteAsLong(rope, *positions, block);
    return block;
  }
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
      *positions = scaling.original;
      break;
    case RopeKind::kYarn:
      WriteYarn(rope, *positions, block);
      break;
    case RopeKind::kLlama3:
      block["rope_type"] = "llama3";
      block["factor"] = scaling.factor;
      block["low_freq_factor"] = scaling.low_freq_factor;
      block["high_freq_factor"] = scaling.high_freq_factor;
      block["original_max_position_embeddings"] = scaling.original;
      break;
    case RopeKind::kLong:
      block["rope_type"] = "longrope";
      block["factor"] = scaling.factor;
      block["original_max_position_embeddings"] = scaling.original;
      block["short_factor"] = scaling.short_divisors;
      block["long_factor"] = scaling.long_divisors;
      if (scaling.attention_factor) block["attention_factor"] = *scaling.attention_factor;
      break;
  }
  return block;
}

/// The rope of the layers that `layers` names; null: of all.
RopeSpec ReadRope(const HfRopeKeys& keys, std::string_view theta_key, double default_theta, const char* layers,
                  int32_t head_dim, int64_t context, ConfigMembers& members) {
  const JsonObject& config = members.in();
  const nlohmann::json merged = MergeBlocks(config, layers);
  const JsonObject block(merged, config.Find("rope_scaling") != nullptr ? "rope_scaling" : "rope_parameters");
  const std::string kind = Kind(block);
  RopeSpec rope;
  RopeScaling& scaling = rope.scaling;
  rope.theta = TopOrInside(members, theta_key, block, "rope_theta", default_theta);
  const double share = TopOrInside(members, keys.share, block, "partial_rotary_factor", keys.default_share);
  if (!(share > 0 && share <= 1)) {
    Fail(ErrorKind::kFormat, "{} must be above 0 and at most 1, found {}", keys.share, share);
  }
  rope.rotary_dim = static_cast<int32_t>(head_dim * share);
  if (rope.rotary_dim != head_dim && !keys.partial) {
    LogLine(
        fmt::format("{} {}: {} of {} channels of a head are rotated; some readers of these families ignore the factor "
                    "and rotate all, or refuse it",
                    keys.share, share, rope.rotary_dim, head_dim));
  }
  if (kind == "default") return rope;

  const char* original = "original_max_position_embeddings";
  const auto original_or = [&](int64_t fallback) {
    return config.IntOr(original, block.IntOr(original, fallback, 1, kMaxContext), 1, kMaxContext);
  };
  const auto divisors = [&](const char* key) { return Divisors(block, key, rope.rotary_dim / 2); };
  if (kind == "longrope" || (keys.only_long && (kind == "su" || kind == "yarn"))) {
    scaling.kind = RopeKind::kLong;
    scaling.original = original_or(keys.original > 0 ? keys.original : context);
    const double ratio = static_cast<double>(context) / static_cast<double>(scaling.original);
    scaling.factor = std::max(block.NumberOr("factor", ratio), 1.0);
    // Its first frequency is no power of two, as that of every other scheme is. There the f32 of those who made the
    // lists shows: they round frequencies and angles, and trained so.
    rope.numerics = {.inv_freq = FloatFormat::kF32, .angle = RopeAngle::kF32};
    if (rope.rotary_dim % 2 != 0) Fail(ErrorKind::kFormat, "rotary_dim must be even, found {}", rope.rotary_dim);
    scaling.short_divisors = divisors("short_factor");
    scaling.long_divisors = divisors("long_factor");
    if (block.Find("attention_factor") != nullptr) scaling.attention_factor = block.Number("attention_factor");
  } else if (keys.only_long) {
    Fail(ErrorKind::kUnsupported,
         "{}: rope_type '{}' is not supported for this model_type; known are default, longrope", block.name(), kind);
  } else if (kind == "linear") {
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
  } else {
    Fail(ErrorKind::kUnsupported,
         "{}: rope_type '{}' is not supported; known are default, linear, dynamic, yarn, llama3, longrope",
         block.name(), kind);
  }
  return rope;
}

}  // namespace

void ReadHfRope(const HfRopeKeys& keys, int32_t head_dim, int64_t context, ConfigMembers& members, RopeSpec* rope,
                std::optional<RopeSpec>* local) {
  members.Know({"rope_scaling", "rope_parameters", "original_max_position_embeddings"});
  const bool layered = !keys.local_theta.empty();
  *rope =
      ReadRope(keys, keys.theta, keys.default_theta, layered ? "full_attention" : nullptr, head_dim, context, members);
  if (layered) *local = ReadRope(keys, keys.local_theta, 10000.0, "sliding_attention", head_dim, context, members);
}

void WriteHfRope(const HfRopeKeys& keys, const RopeSpec& given, const std::optional<RopeSpec>& local, int32_t head_dim,
                 int64_t context, ConfigMembers& members) {
  RopeSpec rope = given;
  rope.fold = {};  // config.json has no word for it
  members.Know({"rope_scaling", "rope_parameters", "original_max_position_embeddings", "max_position_embeddings"});
  members.Split(keys.share);
  nlohmann::ordered_json& config = members.out();
  int64_t positions = context;
  nlohmann::ordered_json block = Block(keys, rope, &positions);
  const double theta = BakeNtk(rope).theta;
  config["max_position_embeddings"] = positions;
  config[members.Split(keys.theta).front()] = theta;
  const bool has_share = rope.rotary_dim != head_dim || keys.default_share != 1;
  if (has_share) config[members.Split(keys.share).front()] = PartialFactor(rope.rotary_dim, head_dim);
  if (keys.original > 0 && block.contains("original_max_position_embeddings")) {
    config["original_max_position_embeddings"] = block["original_max_position_embeddings"];
  }
  if (block["rope_type"] != "default") {
    config["rope_scaling"] = block;
    config["rope_scaling"]["type"] = block["rope_type"];  // the older spelling
  }
  block["rope_theta"] = theta;
  if (has_share) block["partial_rotary_factor"] = PartialFactor(rope.rotary_dim, head_dim);
  if (keys.local_theta.empty()) {
    config["rope_parameters"] = block;
    return;
  }
  const RopeSpec& near = local.value_or(rope);
  nlohmann::ordered_json near_block = Block(keys, near, &positions);
  near_block["rope_theta"] = BakeNtk(near).theta;
  config[members.Split(keys.local_theta).front()] = near_block["rope_theta"];
  config["rope_parameters"] = {{"full_attention", block}, {"sliding_attention", near_block}};
}

}  // namespace hawser
