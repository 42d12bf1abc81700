#include "hawser/zoo/gguf_families.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "hawser/base/error.h"

namespace hawser {
namespace {

float ByHead(const ModelSpec& spec) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim))); }
/// Readers know the large models by their layers; there heads are as wide as the model has room for.
float ByWidth(const ModelSpec& spec, int32_t layers_of_large) {
  if (spec.layers != layers_of_large) return ByHead(spec);
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.width) / spec.heads));
}
float Gemma2Scale(const ModelSpec& spec) { return ByWidth(spec, 46); }
float Gemma3Scale(const ModelSpec& spec) { return ByWidth(spec, 62); }

void GemmaKeys(GgufKeys&, ModelSpec& spec) {
  spec.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(spec.width)));
}

void Gemma3Keys(GgufKeys& keys, ModelSpec& spec) {
  GemmaKeys(keys, spec);
  float theta = keys.reading() ? 0 : static_cast<float>(spec.local_rope.value_or(spec.rope).theta);
  keys.Number("rope.freq_base_swa", &theta, 10000);
  if (keys.reading()) spec.local_rope = RopeSpec{.theta = theta, .rotary_dim = spec.head_dim};
}

void NeoXKeys(GgufKeys& keys, ModelSpec& spec) {
  bool parallel = spec.block.residual != Residual::kSequential;
  keys.Flag("use_parallel_residual", &parallel);
  spec.block.residual = parallel ? Residual::kParallelTwoNorms : Residual::kSequential;
}

void FalconKeys(GgufKeys& keys, ModelSpec& spec) {
  if (!keys.reading()) return;
  const bool two = keys.file().tensors.Find("blk.0.attn_norm_2.weight") != nullptr;
  spec.block.residual = two ? Residual::kParallelTwoNorms : Residual::kParallelOneNorm;
}

void BloomKeys(GgufKeys&, ModelSpec& spec) { spec.embedding_norm = true; }

/// The largest bias of ALiBi. An interpolation that is a larger one has its text beside it.
void AlibiKeys(GgufKeys& keys, ModelSpec& spec) {
  auto bias = static_cast<float>(BakeMaxBias(spec.alibi).max_bias);
  keys.Number("attention.max_alibi_bias", &bias);
  if (!keys.reading()) {
    if (spec.alibi.scaling == AlibiScaling::kMaxBias) keys.PutField("hawser.alibi", ToString(spec.alibi));
    return;
  }
  if (!(bias > 0)) {
    Fail(ErrorKind::kUnsupported, "'{}' is {}: learned positions are not supported",
         keys.Key("attention.max_alibi_bias"), bias);
  }
  spec.alibi.max_bias = bias;
  const auto text = keys.file().Text("hawser.alibi");
  if (!text) return;
  AlibiSpec named;
  try {
    named = ApplyAlibiText({}, *text, spec.context);
  } catch (const Error& error) {
    Fail(ErrorKind::kFormat, "'hawser.alibi': {}", error.what());
  }
  if (std::abs(BakeMaxBias(named).max_bias - bias) > 1e-6 * bias || named.scaling != AlibiScaling::kMaxBias) {
    Fail(ErrorKind::kFormat, "'hawser.alibi' = '{}' and '{}' = {} differ", *text, keys.Key("attention.max_alibi_bias"),
         bias);
  }
  spec.alibi = named;
}

void MptKeys(GgufKeys& keys, ModelSpec& spec) {
  AlibiKeys(keys, spec);
  keys.Number("attention.clamp_kqv", &spec.block.qkv_clip, 0, 0);
  keys.Number("logit_scale", &spec.logit_scale, 1, 1);
}

void SmolLM3Keys(GgufKeys& keys, ModelSpec& spec) {
  constexpr int32_t kPeriod = 4;
  for (int32_t layer = kPeriod - 1; keys.reading() && layer < spec.layers; layer += kPeriod) {
    spec.unplaced_layers.push_back(layer);
  }
}

/// Readers know the model with ALiBi by its 40 layers; files written here say it.
void BaichuanKeys(GgufKeys& keys, ModelSpec& spec) {
  const bool large = spec.layers == 40 && spec.heads == 40;
  const std::string key = keys.Key("attention.max_alibi_bias");
  if (keys.reading() && (large || keys.file().Has(key))) spec.places = Places::kAlibi;
  if (spec.places != Places::kAlibi || (keys.reading() && !keys.file().Has(key))) return;
  AlibiKeys(keys, spec);
}

bool BaichuanUnread(const ModelSpec& spec) { return spec.layers != (spec.places == Places::kAlibi ? 40 : 32); }

constexpr NameRow kFused[] = {{Role::kQuery, "attn_qkv", Fuse::kThirds}};
constexpr NameRow kFalconNorms[] = {
    {Role::kQuery, "attn_qkv", Fuse::kThirds},
    {Role::kAttnNorm, "attn_norm_2", Fuse::kNone, TwoNorms},
    {Role::kMlpNorm, "attn_norm", Fuse::kNone, TwoNorms},
};
constexpr NameRow kPhi3Fused[] = {{Role::kQuery, "attn_qkv", Fuse::kThirds}, {Role::kGate, "ffn_up", Fuse::kGateUp}};

/// What tensors are called where no row says otherwise.
constexpr std::pair<Role, std::string_view> kNames[] = {
    {Role::kEmbedding, "token_embd"},
    {Role::kEmbeddingNorm, "token_embd_norm"},
    {Role::kFinalNorm, "output_norm"},
    {Role::kHead, "output"},
    {Role::kAttnNorm, "attn_norm"},
    {Role::kQuery, "attn_q"},
    {Role::kKey, "attn_k"},
    {Role::kValue, "attn_v"},
    {Role::kQueryNorm, "attn_q_norm"},
    {Role::kKeyNorm, "attn_k_norm"},
    {Role::kAttnOut, "attn_output"},
    {Role::kAttnPostNorm, "post_attention_norm"},
    {Role::kMlpNorm, "ffn_norm"},
    {Role::kGate, "ffn_gate"},
    {Role::kUp, "ffn_up"},
    {Role::kDown, "ffn_down"},
    {Role::kMlpPostNorm, "post_ffw_norm"},
};

constexpr GgufArchitecture kArchitectures[] = {
    {.name = "llama", .family = "llama", .adjacent = true, .biases = true, .divisors = true, .long_divisors = true},
    {.name = "llama", .family = "mistral", .adjacent = true, .biases = true, .divisors = true, .long_divisors = true},
    {.name = "qwen2", .family = "qwen2", .biases = true},
    {.name = "qwen3", .family = "qwen3"},
    {.name = "olmo2", .family = "olmo2", .head = GgufHead::kAlways, .square_heads = true},
    {.name = "phi3", .family = "phi3", .partial = true, .long_divisors = true, .names = kPhi3Fused},
    {.name = "gemma", .family = "gemma", .head = GgufHead::kNever, .members = GemmaKeys},
    {.name = "gemma2",
     .family = "gemma2",
     .head = GgufHead::kNever,
     .windows = {.window = 4096, .period = 2, .read = true},
     .attn_cap = 50,
     .logit_cap = 30,
     .attn_scale = Gemma2Scale,
     .members = GemmaKeys},
    {.name = "gemma3",
     .family = "gemma3_text",
     .windows = {.period = 6, .read = true},
     .attn_scale = Gemma3Scale,
     .members = Gemma3Keys},
    {.name = "gptneox",
     .family = "gpt_neox",
     .biases = true,
     .partial = true,
     .head = GgufHead::kAlways,
     .names = kFused,
     .members = NeoXKeys},
    {.name = "falcon", .family = "falcon", .names = kFalconNorms, .members = FalconKeys},
    {.name = "bloom",
     .family = "bloom",
     .biases = true,
     .head = GgufHead::kAlways,
     .names = kFused,
     .members = BloomKeys},
    {.name = "mpt", .family = "mpt", .biases = true, .names = kFused, .members = MptKeys},
    {.name = "smollm3", .family = "smollm3", .adjacent = true, .members = SmolLM3Keys},
    {.name = "baichuan",
     .family = "baichuan",
     .adjacent = true,
     .head = GgufHead::kAlways,
     .unread = BaichuanUnread,
     .members = BaichuanKeys},
};

const NameRow* FindRow(const GgufArchitecture& architecture, const ModelSpec& spec, Role role, bool fused) {
  const auto matches = [&](Role wanted, bool only_fused) {
    const auto row = std::ranges::find_if(architecture.names, [&](const NameRow& r) {
      return r.role == wanted && (r.when == nullptr || r.when(spec)) && (!only_fused || r.fuse != Fuse::kNone);
    });
    return row != architecture.names.end() ? &*row : nullptr;
  };
  if (role == Role::kQuery || role == Role::kKey || role == Role::kValue) return fused ? kFused : nullptr;
  const NameRow* own = matches(role, false);
  return own == nullptr && role == Role::kUp ? matches(Role::kGate, true) : own;
}

/// The layers p - 1, 2p - 1, ... of all.
std::vector<int32_t> FullLayers(int32_t layers, int32_t period) {
  std::vector<int32_t> full;
  for (int32_t layer = period - 1; period > 0 && layer < layers; layer += period) full.push_back(layer);
  return full;
}

/// `attention.sliding_window_pattern`: a period, or for each layer whether it has the window.
void ReadWindows(const GgufWindows& windows, GgufKeys& keys, ModelSpec& spec) {
  keys.Int("attention.sliding_window", &spec.sliding_window, windows.window, 0);
  const std::string key = keys.Key("attention.sliding_window_pattern");
  const auto found = keys.file().metadata().find(key);
  if (found != keys.file().metadata().end() && std::holds_alternative<std::vector<int64_t>>(found->second)) {
    const std::span<const int64_t> flags = keys.file().Ints(key);
    if (flags.size() != static_cast<size_t>(spec.layers)) {
      Fail(ErrorKind::kFormat, "'{}' has {} entries for {} layers", key, flags.size(), spec.layers);
    }
    for (int32_t layer = 0; layer < spec.layers; ++layer) {
      if (flags[static_cast<size_t>(layer)] == 0) spec.full_layers.push_back(layer);
    }
  } else {
    int32_t period = windows.period;
    keys.Int("attention.sliding_window_pattern", &period, windows.period, 0);
    spec.full_layers = FullLayers(spec.layers, period);
  }
  if (spec.sliding_window == 0 || spec.full_layers.size() == static_cast<size_t>(spec.layers)) {
    spec.sliding_window = 0;
    spec.full_layers.clear();
  }
}

void WriteWindows(const GgufWindows& windows, GgufKeys& keys, const ModelSpec& spec) {
  const char* key = "attention.sliding_window_pattern";
  if (spec.sliding_window == 0) {
    if (windows.window > 0) keys.Put(key, uint32_t{1});
    return;
  }
  keys.Put("attention.sliding_window", static_cast<uint32_t>(spec.sliding_window));
  if (spec.full_layers == FullLayers(spec.layers, windows.period)) return;
  for (int32_t period = 0; period <= spec.layers; ++period) {
    if (spec.full_layers == FullLayers(spec.layers, period)) return keys.Put(key, static_cast<uint32_t>(period));
  }
  std::vector<int32_t> flags(static_cast<size_t>(spec.layers), 1);
  for (const int32_t layer : spec.full_layers) flags[static_cast<size_t>(layer)] = 0;
  keys.Put(key, std::move(flags));
}

/// What the tensors of the first layer tell of all.
void ReadBlock(const GgufFile& file, const ModelSpec& spec, BlockSpec& block) {
  const auto find = [&](std::string_view name) { return file.tensors.Find(fmt::format("blk.0.{}", name)); };
  const auto has = [&](std::string_view name) { return find(name) != nullptr; };
  block.qkv_bias = has("attn_q.bias") || has("attn_qkv.bias");
  block.out_bias = has("attn_output.bias");
  block.mlp_bias = has("ffn_up.bias");
  block.norm_bias = has("attn_norm.bias");
  block.pre_norms = has("attn_norm.weight") || !has("post_attention_norm.weight");
  block.post_norms = has("post_attention_norm.weight");
  block.qk_norm = QkNorm::kNone;
  if (const TensorView* norm = find("attn_q_norm.weight")) {
    block.qk_norm = norm->size() == spec.head_dim ? QkNorm::kHead : QkNorm::kWidth;
  }
}

/// GELU in the form that is not the family's own.
void Activation(GgufKeys& keys, BlockSpec& block) {
  constexpr std::pair<Act, std::string_view> kWords[] = {{Act::kGelu, "gelu"}, {Act::kGeluTanh, "gelu_pytorch_tanh"}};
  const std::string key = keys.Key("hidden_activation");
  if (!keys.reading()) {
    const auto word = std::ranges::find(kWords, block.act, &std::pair<Act, std::string_view>::first);
    if (word != std::end(kWords)) keys.PutField(key, std::string(word->second));
    return;
  }
  const auto text = keys.file().Text(key);
  if (!text) return;
  const auto word = std::ranges::find(kWords, *text, &std::pair<Act, std::string_view>::second);
  if (word == std::end(kWords)) Fail(ErrorKind::kUnsupported, "'{}' = '{}' is not supported", key, *text);
  block.act = word->first;
}

}  // namespace

const GgufArchitecture& GgufArchitectureOf(std::string_view family) {
  const auto found = std::ranges::find(kArchitectures, family, &GgufArchitecture::family);
  if (found == std::end(kArchitectures)) {
    std::vector<std::string_view> known;
    for (const GgufArchitecture& row : kArchitectures) known.push_back(row.family);
    Fail(ErrorKind::kUnsupported, "models of type '{}' are not written as GGUF; known are {}", family,
         fmt::join(known, ", "));
  }
  return *found;
}

const GgufArchitecture& GgufArchitectureOf(const GgufFile& file) {
  const std::string_view name = file.Need("general.architecture", file.Text("general.architecture"));
  const auto found = std::ranges::find(kArchitectures, name, &GgufArchitecture::name);
  if (found == std::end(kArchitectures)) {
    std::set<std::string_view> known;
    for (const GgufArchitecture& row : kArchitectures) known.insert(row.name);
    Fail(ErrorKind::kUnsupported, "architecture '{}' is not supported; known are {}", name, fmt::join(known, ", "));
  }
  return *found;
}

std::vector<std::string_view> GgufFamilies(std::string_view architecture) {
  std::vector<std::string_view> families;
  for (const GgufArchitecture& row : kArchitectures) {
    if (row.name == architecture) families.push_back(row.family);
  }
  return families;
}

bool IsNormWeight(const ParamInfo& info) { return info.vector && info.part == Part::kWeight; }

bool FusedInGguf(const GgufArchitecture& architecture) {
  return std::ranges::find(architecture.names, Role::kQuery, &NameRow::role) != architecture.names.end();
}

std::vector<GgufTensor> GgufTensors(const ModelSpec& spec, bool fused) {
  const GgufArchitecture& architecture = GgufArchitectureOf(std::string_view(spec.family));
  const ParamLayout layout(spec);
  std::vector<GgufTensor> tensors;
  for (size_t i = 0; i < layout.params().size(); ++i) {
    const ParamInfo& info = layout.params()[i];
    const NameRow* row = FindRow(architecture, spec, info.role, fused);
    const auto by_default = std::ranges::find(kNames, info.role, &std::pair<Role, std::string_view>::first);
    HAWSER_CHECK(row != nullptr || by_default != std::end(kNames));
    std::string name =
        fmt::format("{}{}.{}", info.layer >= 0 ? fmt::format("blk.{}.", info.layer) : "",
                    row != nullptr ? row->name : by_default->second, info.part == Part::kBias ? "bias" : "weight");
    const int64_t height = info.vector ? info.cols : info.rows;
    if (!tensors.empty() && tensors.back().name == name) {  // members of a fused tensor are neighbours
      tensors.back().shape[0] += height;
      tensors.back().params.push_back(i);
      continue;
    }
    std::vector<int64_t> shape = {height};
    if (!info.vector) shape.push_back(info.cols);
    tensors.push_back({std::move(name), std::move(shape), {i}});
  }
  if (spec.tie_embeddings && architecture.head == GgufHead::kAlways) {
    GgufTensor head = tensors.front();
    head.name = "output.weight";
    tensors.push_back(std::move(head));
  }
  return tensors;
}

void GgufNetwork(const GgufArchitecture& architecture, GgufKeys& keys, ModelSpec& spec) {
  keys.Int("context_length", &spec.context);
  keys.Int("embedding_length", &spec.width);
  keys.Int("block_count", &spec.layers);
  ValidateLayers(spec.layers);
  keys.Int("feed_forward_length", &spec.mlp_width);
  keys.Int("attention.head_count", &spec.heads);
  keys.Int("attention.head_count_kv", &spec.kv_heads, spec.heads);
  keys.Int("attention.key_length", &spec.head_dim, std::max(spec.width / std::max(spec.heads, 1), 1));
  int32_t value_length = spec.head_dim;
  keys.Int("attention.value_length", &value_length, spec.head_dim);
  if (value_length != spec.head_dim) {
    Fail(ErrorKind::kUnsupported, "values of another size than keys ('{}') are not supported",
         keys.Key("attention.value_length"));
  }
  int32_t experts = 0;
  if (keys.reading()) keys.Int("expert_count", &experts, 0, 0);
  if (experts != 0) {
    Fail(ErrorKind::kUnsupported, "'{}' is {}; mixtures of experts are not supported", keys.Key("expert_count"),
         experts);
  }
  keys.Number(spec.block.norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
              &spec.norm_eps);
  const float scale = architecture.attn_scale != nullptr ? architecture.attn_scale(spec) : 0.0f;
  keys.Number("attention.scale", &spec.attn_scale, scale, scale);
  keys.Number("attn_logit_softcapping", &spec.attn_cap, architecture.attn_cap, 0);
  keys.Number("final_logit_softcapping", &spec.logit_cap, architecture.logit_cap, 0);
  if (keys.reading()) {
    ReadBlock(keys.file(), spec, spec.block);
    ReadWindows(architecture.windows, keys, spec);
  } else {
    WriteWindows(architecture.windows, keys, spec);
  }
  BlockSpec own = FindFamily(spec.family).block;
  if (keys.reading() || spec.block.act != own.act) Activation(keys, spec.block);
  if (architecture.members != nullptr) architecture.members(keys, spec);
}

}  // namespace hawser
