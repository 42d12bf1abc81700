#include "hawser/zoo/hf_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "hawser/base/error.h"
#include "hawser/io/json.h"
#include "hawser/io/ordered_json.h"
#include "hawser/zoo/families.h"
#include "hawser/zoo/hf_keys.h"

namespace hawser {
namespace {

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

nlohmann::ordered_json IdsJson(const std::vector<int32_t>& ids) {
  if (ids.empty()) return nullptr;
  if (ids.size() == 1) return ids.front();
  return ids;
}

bool Near(double a, double b) { return std::abs(a - b) <= 1e-9 * std::abs(a); }

struct ActWord {
  std::string_view word;
  Act act;
};
/// The first of an activation is written.
constexpr ActWord kActs[] = {{"silu", Act::kSilu},
                             {"swish", Act::kSilu},
                             {"gelu_pytorch_tanh", Act::kGeluTanh},
                             {"gelu_new", Act::kGeluTanh},
                             {"gelu_fast", Act::kGeluTanh},
                             {"gelu_python", Act::kGelu},
                             {"gelu_python_tanh", Act::kGeluTanh},
                             {"gelu_accurate", Act::kGeluTanh},
                             {"relu", Act::kRelu}};

Act ActOf(const Family& family, const std::string& word, const std::string& key) {
  if (word == "gelu") return family.defaults.gelu;
  for (const ActWord& known : kActs) {
    if (known.word == word) return known.act;
  }
  Fail(ErrorKind::kUnsupported, "{} '{}' is not supported; known are silu, gelu, gelu_pytorch_tanh and relu", key,
       word);
}

std::string_view WordOf(const Family& family, Act act) {
  if (act == Act::kGelu && family.defaults.gelu == act) return "gelu";
  return std::ranges::find(kActs, act, &ActWord::act)->word;
}

void ActMember(const Family& family, ConfigMembers& m, Act* act) {
  const std::vector<std::string> keys = m.Split(family.keys.act);
  if (!m.reading()) {
    m.out()[keys.front()] = WordOf(family, *act);
    return;
  }
  std::optional<Act> found;
  for (const std::string& key : keys) {
    if (m.in().Find(key.c_str()) == nullptr) continue;
    const Act one = ActOf(family, m.in().String(key.c_str()), key);
    if (found && *found != one) Fail(ErrorKind::kFormat, "'{}' and '{}' differ; make them agree", keys.front(), key);
    found = one;
  }
  *act = found.value_or(*act);
}

void EndsOfText(const Family& family, ConfigMembers& m, ModelSpec& spec) {
  m.Know({"bos_token_id", "eos_token_id"});
  if (!m.reading()) {
    m.out()["bos_token_id"] = spec.bos >= 0 ? nlohmann::ordered_json(spec.bos) : nullptr;
    m.out()["eos_token_id"] = IdsJson(spec.eos);
    return;
  }
  const auto ids = [&](const char* key, int32_t fallback) {
    const bool own = m.in().Has(key) || fallback < 0 || fallback >= spec.vocab;
    return own ? Ids(m.in(), key) : std::vector<int32_t>{fallback};
  };
  const std::vector<int32_t> bos = ids("bos_token_id", family.defaults.bos);
  spec.bos = bos.empty() ? -1 : bos.front();
  spec.eos = ids("eos_token_id", family.defaults.eos);
}

/// Sizes, and what every family has.
void Sizes(const Family& family, ConfigMembers& m, ModelSpec& spec) {
  const FamilyKeys& keys = family.keys;
  const FamilyDefaults& defaults = family.defaults;
  m.Int("vocab_size", &spec.vocab);
  m.Int(keys.width, &spec.width);
  m.Int(keys.layers, &spec.layers);
  ValidateLayers(spec.layers);
  m.Int(keys.heads, &spec.heads);
  if (!keys.mlp_width.empty()) m.Int(keys.mlp_width, &spec.mlp_width);
  if (m.reading()) spec.kv_heads = spec.heads;
  if (!keys.kv_heads.empty()) {
    const bool as_heads = defaults.kv_heads == 0 || m.Has(keys.kv_heads);
    m.Int(keys.kv_heads, &spec.kv_heads, as_heads ? spec.heads : defaults.kv_heads);
  }
  if (m.reading()) spec.head_dim = defaults.head_dim > 0 ? defaults.head_dim : spec.width / spec.heads;
  const bool given = !keys.head_dim.empty() && (!m.reading() || m.in().Find("head_dim") != nullptr);
  if (!keys.head_dim.empty()) m.Int(keys.head_dim, &spec.head_dim, spec.head_dim);
  if (!given && defaults.head_dim == 0 && spec.width % spec.heads != 0) {
    Fail(ErrorKind::kFormat, "{} {} is no multiple of {} {}, and head_dim is not given", m.Split(keys.width).front(),
         spec.width, m.Split(keys.heads).front(), spec.heads);
  }
  m.Number(keys.norm_eps, &spec.norm_eps, defaults.norm_eps);
  m.Flag("tie_word_embeddings", &spec.tie_embeddings, defaults.tie);
  if (!keys.act.empty()) ActMember(family, m, &spec.block.act);
  EndsOfText(family, m, spec);
}

/// The whole configuration, read into `spec` or written from it.
void AllMembers(const Family& family, ConfigMembers& m, ModelSpec& spec) {
  m.Know({"architectures", "model_type", "dtype", "torch_dtype"});
  Sizes(family, m, spec);
  if (m.reading() && !family.keys.context.empty()) m.Int(family.keys.context, &spec.context, family.defaults.context);
  if (family.members != nullptr) family.members(m, spec);
  if (spec.places == Places::kRope) {
    if (m.reading()) {
      ReadHfRope(family.rope, spec.head_dim, spec.context, m, &spec.rope, &spec.local_rope);
    } else {
      WriteHfRope(family.rope, spec.rope, spec.local_rope, spec.head_dim, spec.context, m);
    }
    return;
  }
  if (!m.reading() && !family.keys.context.empty()) m.Int(family.keys.context, &spec.context, {});
  if (family.places == Places::kRope) {  // Falcon and Baichuan: not used without rotations
    m.Know({"rope_theta", "rope_scaling", "rope_parameters"});
  }
}

}  // namespace

ModelSpec ParseHfConfig(std::string_view text) {
  const nlohmann::json json = ParseJson(text);
  const JsonObject config(json, "the configuration");
  const Family& family = FindFamily(config.String("model_type"));
  if (config.Find("quantization_config") != nullptr) {
    Fail(ErrorKind::kUnsupported, "quantization_config is not supported; weights must be f32, bf16, f16 or f64");
  }
  ModelSpec spec{.family = std::string(family.model_type), .block = family.block, .places = family.places};
  ConfigMembers members(&config);
  members.Must("is_causal", true);
  AllMembers(family, members, spec);
  CheckHfKeys(json, members.known());
  Validate(spec);
  return spec;
}

void MergeGenerationConfig(std::string_view text, ModelSpec& spec) {
  const nlohmann::json json = ParseJson(text);
  const JsonObject config(json, "the configuration");
  if (config.Find("eos_token_id") != nullptr) spec.eos = Ids(config, "eos_token_id");
  Validate(spec);
}

std::string HfConfigText(const ModelSpec& spec, DType dtype) {
  const Family& family = FindFamily(spec.family);
  if (spec.sliding_window != 0 && !family.windows) {
    Fail(ErrorKind::kUsage, "family {} has no sliding window, the model has one of {} tokens; use mistral", spec.family,
         spec.sliding_window);
  }
  const char* stored = dtype == DType::kF32 ? "float32" : dtype == DType::kBF16 ? "bfloat16" : "float16";
  nlohmann::ordered_json config;
  config["architectures"] = {family.architecture};
  config["model_type"] = family.model_type;
  config["torch_dtype"] = stored;
  config["dtype"] = stored;
  ConfigMembers members(&config);
  ModelSpec copy = spec;
  AllMembers(family, members, copy);
  return IndentedJson(config);
}

std::vector<std::string> HfKeysOf(const ModelSpec& spec) {
  nlohmann::ordered_json config;
  ConfigMembers members(&config);
  ModelSpec copy = spec;
  AllMembers(FindFamily(spec.family), members, copy);
  return members.known();
}

std::string GenerationConfigText(const ModelSpec& spec) {
  nlohmann::ordered_json config;
  if (spec.bos >= 0) config["bos_token_id"] = spec.bos;
  if (!spec.eos.empty()) config["eos_token_id"] = IdsJson(spec.eos);
  config["_from_model_config"] = true;
  return IndentedJson(config);
}

std::string SideFileText(const ModelSpec& spec, std::string_view config) {
  ModelSpec parsed = ParseHfConfig(config);
  if (spec == parsed) return {};
  nlohmann::ordered_json side;
  side["context"] = parsed.context = spec.context;
  if (spec.places == Places::kRope) side["rope"] = ToString(spec.rope);
  if (spec.places == Places::kAlibi) side["alibi"] = ToString(spec.alibi);
  if (spec.softmax != SoftmaxSpec()) side["softmax"] = ToString(spec.softmax);
  if (spec.segments.places > 0) {
    side["segment_places"] = spec.segments.places;
    side["segment_separators"] = spec.segments.separators;
  }
  parsed.rope = spec.rope;
  parsed.alibi = spec.alibi;
  parsed.softmax = spec.softmax;
  parsed.segments = spec.segments;
  if (parsed != spec) {
    Fail(ErrorKind::kUsage, "config.json of model_type '{}' cannot describe this network", spec.family);
  }
  return IndentedJson(side);
}

ModelSpec MergeSideFile(const ModelSpec& config, std::string_view side) {
  ModelSpec spec = config;
  if (side.empty()) return spec;
  const nlohmann::json json = ParseJson(side);
  const JsonObject object(json, "hawser_spec.json");
  spec.context = object.Int("context", 1, kMaxContext);
  const auto parse = [&](const char* key, const std::string& text, const auto& run) {
    try {
      run(text);
    } catch (const Error& error) {
      Fail(ErrorKind::kFormat, "'{}': {}", key, error.what());
    }
  };
  if (spec.places == Places::kRope) {
    parse("rope", object.String("rope"), [&](const std::string& text) {
      spec.rope = ApplyRopeText(RopeSpec{.rotary_dim = spec.rope.rotary_dim}, text, spec.context);
    });
  } else if (spec.places == Places::kAlibi) {
    parse("alibi", object.String("alibi"), [&](const std::string& text) {
      const AlibiSpec base{.multiplier = spec.alibi.multiplier, .bf16 = spec.alibi.bf16};
      spec.alibi = ApplyAlibiText(base, text, spec.context);
    });
  }
  parse("softmax", object.StringOr("softmax", "standard"),
        [&](const std::string& text) { spec.softmax = ParseSoftmax(text); });
  spec.segments.places = static_cast<int32_t>(object.IntOr("segment_places", 0, 0, 1 << 20));
  if (spec.segments.places > 0) spec.segments.separators = Ids(object, "segment_separators");
  Validate(spec);
  if (spec.places != Places::kRope) return spec;
  RopeSpec unrounded = spec.rope, of_config = config.rope;
  unrounded.numerics = of_config.numerics = {};
  unrounded.fold = {};
  const int64_t longer = std::max(spec.context, config.context);
  for (const int64_t length : {int64_t{1}, 4 * longer}) {  // where lengths count, they differ there
    const RopeFrequencies ours = ComputeFrequencies(unrounded, length), theirs = ComputeFrequencies(of_config, length);
    bool same = ours.inv_freq.size() == theirs.inv_freq.size() && Near(ours.multiplier, theirs.multiplier);
    for (size_t i = 0; same && i < ours.inv_freq.size(); ++i) same = Near(ours.inv_freq[i], theirs.inv_freq[i]);
    if (!same) {
      Fail(ErrorKind::kFormat, "'rope' = '{}' disagrees with config.json; correct it or delete this file",
           ToString(spec.rope));
    }
  }
  return spec;
}

}  // namespace hawser
