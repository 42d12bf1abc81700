#include "hawser/zoo/hf_config.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "hawser/base/error.h"
#include "hawser/zoo/families.h"
#include "hawser/zoo/hf_keys.h"

namespace hawser {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 31;

const Family& FindFamily(const std::string& model_type) {
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return family;
    fmt::format_to(std::back_inserter(known), "{}{}", known.empty() ? "" : ", ", family.model_type);
  }
  Fail(ErrorKind::kUnsupported, "model_type '{}' is not supported; known are {}", model_type, known);
}

/// What the decoder does not compute.
void RefuseUnsupported(const JsonObject& config) {
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (config.BoolOr(key, false)) Fail(ErrorKind::kUnsupported, "{} = true is not supported; known is false", key);
  }
  if (!config.BoolOr("is_causal", true)) {
    Fail(ErrorKind::kUnsupported, "is_causal = false is not supported; known is true");
  }
  if (const std::string act = config.StringOr("hidden_act", "silu"); act != "silu" && act != "swish") {
    Fail(ErrorKind::kUnsupported, "hidden_act '{}' is not supported; known is silu", act);
  }
  if (config.Find("quantization_config") != nullptr) {
    Fail(ErrorKind::kUnsupported, "quantization_config is not supported; weights must be f32, bf16, f16 or f64");
  }
}

/// The layers that `layer_types`, where it is there, takes out of the sliding window.
std::vector<int32_t> FullLayers(const JsonObject& config, int32_t layers, bool windows) {
  std::vector<int32_t> full;
  const nlohmann::json* types = config.Find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != static_cast<size_t>(layers))) {
    Fail(ErrorKind::kFormat, "layer_types must name a type for each of {} layers", layers);
  }
  for (int32_t layer = 0; types != nullptr && layer < layers; ++layer) {
    const nlohmann::json& type = (*types)[static_cast<size_t>(layer)];
    if (type == "full_attention" || type == "attention") {
      full.push_back(layer);
    } else if (type != "sliding_attention") {
      Fail(ErrorKind::kUnsupported,
           "layer_types: {} of layer {} is not supported; known are full_attention and "
           "sliding_attention",
           type.dump(), layer);
    } else if (!windows) {
      Fail(ErrorKind::kFormat, "layer_types: layer {} is of sliding_attention, and sliding_window is null", layer);
    }
  }
  return full;
}

/// An id or a list of ids.
std::vector<int32_t> Ids(const JsonObject& config, const char* key) {
  const nlohmann::json* value = config.Find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {static_cast<int32_t>(config.Int(key))};
  std::vector<int32_t> ids;
  for (const nlohmann::json& element : *value) {
    const nlohmann::json item = {{key, element}};
    ids.push_back(static_cast<int32_t>(JsonObject(item, config.name()).Int(key)));
  }
  return ids;
}

/// The shortest decimal that is this float, as a double: 1e-05 and not 9.999999747378752e-06.
double Shortest(float value) { return std::stod(fmt::format("{}", value)); }

nlohmann::ordered_json IdsJson(const std::vector<int32_t>& ids) {
  if (ids.empty()) return nullptr;
  if (ids.size() == 1) return ids.front();
  return ids;
}

std::string Text(const nlohmann::ordered_json& json) { return json.dump(2) + "\n"; }

bool Near(double a, double b) { return std::abs(a - b) <= 1e-9 * std::abs(a); }

}  // namespace

HfConfig ParseHfConfig(std::string_view text) {
  const nlohmann::json json = ParseJson(text);
  const JsonObject config(json, "the configuration");
  const Family& family = FindFamily(config.String("model_type"));
  RefuseUnsupported(config);
  CheckHfKeys(json, family.sliding_window != 0);
  HfConfig result;
  ModelSpec& spec = result.spec;
  const auto size = [&](const char* key) { return static_cast<int32_t>(config.Int(key, 1)); };
  spec.family = family.model_type;
  spec.vocab = size("vocab_size");
  spec.width = size("hidden_size");
  spec.layers = size("num_hidden_layers");
  spec.heads = size("num_attention_heads");
  spec.mlp_width = size("intermediate_size");
  // Written as null, the number of key heads is that of the heads in every family.
  const bool as_heads = family.kv_heads == 0 || config.Has("num_key_value_heads");
  spec.kv_heads = static_cast<int32_t>(config.IntOr("num_key_value_heads", as_heads ? spec.heads : family.kv_heads, 1));
  if (config.Find("head_dim") == nullptr && spec.width % spec.heads != 0) {
    Fail(ErrorKind::kFormat, "hidden_size {} is no multiple of num_attention_heads {}, and head_dim is not given",
         spec.width, spec.heads);
  }
  spec.head_dim = static_cast<int32_t>(config.IntOr("head_dim", spec.width / spec.heads, 1));
  spec.norm_eps = static_cast<float>(config.NumberOr("rms_norm_eps", 1e-6));
  spec.tie_embeddings = config.BoolOr("tie_word_embeddings", false);
  spec.context = config.IntOr("max_position_embeddings", family.context, 1, kMaxContext);
  if (family.sliding_window != 0) {
    const int64_t window = config.Has("sliding_window") ? 0 : family.sliding_window;
    spec.sliding_window = static_cast<int32_t>(config.IntOr("sliding_window", window, 1));
    spec.full_layers = FullLayers(config, spec.layers, spec.sliding_window > 0);
    if (spec.sliding_window == 0 || spec.full_layers.size() == static_cast<size_t>(spec.layers)) {
      spec.sliding_window = 0;
      spec.full_layers.clear();
    }
  }
  const auto id = [&](const char* key, int32_t fallback) {
    return config.Has(key) || fallback >= spec.vocab ? Ids(config, key) : std::vector<int32_t>{fallback};
  };
  const std::vector<int32_t> bos = id("bos_token_id", 1);
  spec.bos = bos.empty() ? -1 : bos.front();
  spec.eos = id("eos_token_id", 2);
  result.rope = ParseHfRope(config, spec.head_dim, spec.context);
  spec.rope = result.rope.rope;
  Validate(spec);
  return result;
}

void MergeGenerationConfig(std::string_view text, ModelSpec& spec) {
  const nlohmann::json json = ParseJson(text);
  const JsonObject config(json, "the configuration");
  if (config.Find("eos_token_id") != nullptr) spec.eos = Ids(config, "eos_token_id");
  Validate(spec);
}

std::string HfConfigText(const ModelSpec& spec, DType dtype) {
  const Family& family = FindFamily(spec.family);
  if (spec.sliding_window != 0 && family.sliding_window == 0) {
    Fail(ErrorKind::kUsage, "family {} has no sliding window, the model has one of {} tokens; use mistral", spec.family,
         spec.sliding_window);
  }
  const char* stored = dtype == DType::kF32 ? "float32" : dtype == DType::kBF16 ? "bfloat16" : "float16";
  nlohmann::ordered_json config;
  config["architectures"] = {family.architecture};
  config["model_type"] = family.model_type;
  config["torch_dtype"] = stored;
  config["dtype"] = stored;
  config["vocab_size"] = spec.vocab;
  config["hidden_size"] = spec.width;
  config["intermediate_size"] = spec.mlp_width;
  config["num_hidden_layers"] = spec.layers;
  config["num_attention_heads"] = spec.heads;
  config["num_key_value_heads"] = spec.kv_heads;
  config["head_dim"] = spec.head_dim;
  config["hidden_act"] = "silu";
  config["attention_bias"] = false;
  config["mlp_bias"] = false;
  config["rms_norm_eps"] = Shortest(spec.norm_eps);
  config["tie_word_embeddings"] = spec.tie_embeddings;
  if (family.sliding_window != 0) {
    config["sliding_window"] = spec.sliding_window > 0 ? nlohmann::ordered_json(spec.sliding_window) : nullptr;
  }
  if (!spec.full_layers.empty()) {
    std::vector<const char*> types(static_cast<size_t>(spec.layers), "sliding_attention");
    for (const int32_t layer : spec.full_layers) types[static_cast<size_t>(layer)] = "full_attention";
    config["layer_types"] = types;
  }
  config["bos_token_id"] = spec.bos >= 0 ? nlohmann::ordered_json(spec.bos) : nullptr;
  config["eos_token_id"] = IdsJson(spec.eos);
  WriteHfRope(spec.rope, spec.head_dim, spec.context, config);
  return Text(config);
}

std::string GenerationConfigText(const ModelSpec& spec) {
  nlohmann::ordered_json config;
  if (spec.bos >= 0) config["bos_token_id"] = spec.bos;
  if (!spec.eos.empty()) config["eos_token_id"] = IdsJson(spec.eos);
  config["_from_model_config"] = true;
  return Text(config);
}

std::string SideFileText(const ModelSpec& spec, std::string_view config) {
  const HfConfig parsed = ParseHfConfig(config);
  if (spec == parsed.spec && parsed.rope.divisors.empty()) return {};
  nlohmann::ordered_json side;
  side["context"] = spec.context;
  side["rope"] = ToString(spec.rope);
  if (spec.softmax != SoftmaxSpec()) side["softmax"] = ToString(spec.softmax);
  if (spec.segments.places > 0) {
    side["segment_places"] = spec.segments.places;
    side["segment_separators"] = spec.segments.separators;
  }
  return Text(side);
}

ModelSpec MergeSideFile(const HfConfig& config, std::string_view side) {
  ModelSpec spec = config.spec;
  if (side.empty()) {
    if (!config.rope.divisors.empty()) {
      Fail(
          ErrorKind::kUnsupported,
          "rope_type 'longrope' is not supported without a hawser_spec.json; known are default, linear, dynamic, yarn, "
          "llama3");
    }
    return spec;
  }
  const nlohmann::json json = ParseJson(side);
  const JsonObject object(json, "hawser_spec.json");
  spec.context = object.Int("context", 1, kMaxContext);
  const std::string text = object.String("rope");
  try {
    spec.rope = ApplyRopeText(RopeSpec{.rotary_dim = spec.rope.rotary_dim}, text, spec.context);
  } catch (const Error& error) {
    Fail(ErrorKind::kFormat, "'rope': {}", error.what());
  }
  try {
    spec.softmax = ParseSoftmax(object.StringOr("softmax", "standard"));
  } catch (const Error& error) {
    Fail(ErrorKind::kFormat, "'softmax': {}", error.what());
  }
  spec.segments.places = static_cast<int32_t>(object.IntOr("segment_places", 0, 0, 1 << 20));
  if (spec.segments.places > 0) spec.segments.separators = Ids(object, "segment_separators");
  Validate(spec);
  const int64_t length = 4 * std::max(spec.context, config.spec.context);  // where dynamic differs from default
  RopeSpec unrounded = spec.rope;
  unrounded.numerics = {};
  const RopeFrequencies ours = ComputeFrequencies(unrounded, length), theirs = HfFrequencies(config.rope, length);
  bool same = ours.inv_freq.size() == theirs.inv_freq.size() && Near(ours.multiplier, theirs.multiplier);
  for (size_t i = 0; same && i < ours.inv_freq.size(); ++i) same = Near(ours.inv_freq[i], theirs.inv_freq[i]);
  if (!same) {
    Fail(ErrorKind::kFormat, "'rope' = '{}' disagrees with config.json; correct it or delete this file", text);
  }
  return spec;
}

}  // namespace hawser
