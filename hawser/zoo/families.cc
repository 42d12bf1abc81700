#include "hawser/zoo/families.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using Members = ConfigMembers;

// Members that families share.

/// `attention_bias`: of queries, keys and values, and of what attention gives.
void AttentionBias(Members& m, ModelSpec& spec, bool fallback = false) {
  m.Flag("attention_bias", &spec.block.qkv_bias, fallback);
  if (m.reading()) spec.block.out_bias = spec.block.qkv_bias;
}

/// The scale of scores as the number whose root divides them.
void QueryScalar(Members& m, ModelSpec& spec) {
  if (m.reading()) {
    float scalar = 0;
    m.Number("query_pre_attn_scalar", &scalar, 256);
    if (!(scalar > 0)) Fail(ErrorKind::kFormat, "query_pre_attn_scalar must be above 0, found {}", scalar);
    spec.attn_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(scalar)));
    return;
  }
  int64_t scalar = std::llround(1.0 / (double{AttentionScale(spec)} * AttentionScale(spec)));
  m.Int("query_pre_attn_scalar", &scalar, {});
}

using FullRule = bool (*)(const ModelSpec& spec, int32_t layer, int32_t number);

/// The types of layers that `layer_types` names, else those of `rule`: the layers that see everything.
std::vector<int32_t> ReadFullLayers(Members& m, const ModelSpec& spec, FullRule rule, int32_t number) {
  std::vector<int32_t> full;
  const nlohmann::json* types = m.in().Find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != static_cast<size_t>(spec.layers))) {
    Fail(ErrorKind::kFormat, "layer_types must name a type for each of {} layers", spec.layers);
  }
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    if (types == nullptr) {
      if (rule != nullptr && rule(spec, layer, number)) full.push_back(layer);
      continue;
    }
    const nlohmann::json& type = (*types)[static_cast<size_t>(layer)];
    if (type == "full_attention" || type == "attention") {
      full.push_back(layer);
    } else if (type != "sliding_attention") {
      Fail(ErrorKind::kUnsupported,
           "layer_types: {} of layer {} is not supported; known are full_attention and sliding_attention",
           ShownJson(type), layer);
    } else if (spec.sliding_window == 0) {
      Fail(ErrorKind::kFormat, "layer_types: layer {} is of sliding_attention, and there is no sliding_window", layer);
    }
  }
  return full;
}

/// sliding_window and which layers have it. `flag`: only where use_sliding_window says so. `rule`: the layers without,
/// where layer_types says nothing; `number` goes to it.
void Windows(Members& m, ModelSpec& spec, bool flag, int32_t default_window, FullRule rule, int32_t number = 0) {
  m.Know({"layer_types", "sliding_window"});
  bool used = spec.sliding_window > 0;
  if (flag) m.Flag("use_sliding_window", &used, false);
  if (m.reading()) {
    if (!flag || used) m.Int("sliding_window", &spec.sliding_window, m.Has("sliding_window") ? 0 : default_window);
    spec.full_layers = ReadFullLayers(m, spec, rule, number);
    if (spec.sliding_window == 0 || spec.full_layers.size() == static_cast<size_t>(spec.layers)) {
      spec.sliding_window = 0;
      spec.full_layers.clear();
    }
    return;
  }
  // Readers of families that always have windows want a number, also where layer_types gives the window to none.
  const int32_t written = used ? spec.sliding_window : rule != nullptr && !flag ? default_window : 0;
  m.out()["sliding_window"] = written > 0 ? nlohmann::ordered_json(written) : nullptr;
  if (rule == nullptr && spec.full_layers.empty()) return;
  std::vector<const char*> types(static_cast<size_t>(spec.layers), used ? "sliding_attention" : "full_attention");
  for (const int32_t layer : spec.full_layers) types[static_cast<size_t>(layer)] = "full_attention";
  m.out()["layer_types"] = types;
}

/// Qwen's: the first `max_window_layers` see everything.
void LateWindows(Members& m, ModelSpec& spec) {
  int32_t whole = 0;
  while (std::ranges::binary_search(spec.full_layers, whole)) ++whole;
  if (!m.reading() && spec.sliding_window == 0) whole = spec.layers;
  m.Int("max_window_layers", &whole, 28, 0);
  Windows(
      m, spec, true, 4096, [](const ModelSpec&, int32_t layer, int32_t first) { return layer < first; }, whole);
}

// Members of families.

void LlamaMembers(Members& m, ModelSpec& spec) {
  AttentionBias(m, spec);
  m.Flag("mlp_bias", &spec.block.mlp_bias, false);
}

void MistralMembers(Members& m, ModelSpec& spec) { Windows(m, spec, false, 4096, nullptr); }

void Qwen3Members(Members& m, ModelSpec& spec) {
  AttentionBias(m, spec);
  LateWindows(m, spec);
}

void GemmaMembers(Members& m, ModelSpec& spec) {
  AttentionBias(m, spec);
  spec.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(spec.width)));
}

void Gemma2Members(Members& m, ModelSpec& spec) {
  m.Know({"hidden_act"});  // readers go by hidden_activation alone
  GemmaMembers(m, spec);
  QueryScalar(m, spec);
  m.NumberOrNull("attn_logit_softcapping", &spec.attn_cap, 50);
  m.NumberOrNull("final_logit_softcapping", &spec.logit_cap, 30);
  Windows(m, spec, false, 4096, [](const ModelSpec&, int32_t layer, int32_t) { return layer % 2 == 1; });
}

void Gemma3Members(Members& m, ModelSpec& spec) {
  m.Know({"hidden_act"});  // readers go by hidden_activation alone
  GemmaMembers(m, spec);
  QueryScalar(m, spec);
  m.Know({"attn_logit_softcapping"});  // readers keep the member and cap no scores
  m.NumberOrNull("final_logit_softcapping", &spec.logit_cap, 0);
  int32_t period = 6;
  m.Know({"_sliding_window_pattern"});
  if (m.reading()) m.Int("sliding_window_pattern", &period, 6);
  Windows(
      m, spec, false, 4096, [](const ModelSpec&, int32_t layer, int32_t every) { return (layer + 1) % every == 0; },
      period);
}

void NeoXMembers(Members& m, ModelSpec& spec) {
  AttentionBias(m, spec, true);
  bool parallel = spec.block.residual != Residual::kSequential;
  m.Flag("use_parallel_residual", &parallel, true);
  spec.block.residual = parallel ? Residual::kParallelTwoNorms : Residual::kSequential;
}

/// A width that follows from another one; what no number holds is refused later, by the size of its tensors.
int32_t TimesWidth(const ModelSpec& spec, int64_t ratio) {
  return static_cast<int32_t>(std::min<int64_t>(ratio * spec.width, INT32_MAX));
}

void BloomMembers(Members& m, ModelSpec& spec) {
  spec.embedding_norm = true;
  spec.mlp_width = TimesWidth(spec, 4);
  m.Know({"attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "skip_bias_add",
          "slow_but_exact"});
}

/// The three forms of Falcon: of 7B, of 40B (new_decoder_architecture), and RW.
void FalconMembers(Members& m, ModelSpec& spec) {
  BlockSpec& block = spec.block;
  bool grouped = TwoNorms(spec) || (block.residual == Residual::kParallelOneNorm && spec.kv_heads > 1);
  bool one_key = !grouped && spec.kv_heads == 1;
  bool parallel = block.residual != Residual::kSequential;
  bool alibi = spec.places == Places::kAlibi;
  int32_t norms = block.residual == Residual::kParallelTwoNorms ? 2 : 1;
  m.Flag("new_decoder_architecture", &grouped, false);
  m.Flag("multi_query", &one_key, true);
  m.Flag("parallel_attn", &parallel, true);
  m.Flag("alibi", &alibi, false);
  m.Flag("bias", &block.qkv_bias, false);
  m.Must("ff_factor", 4);
  m.Int("ffn_hidden_size", &spec.mlp_width, TimesWidth(spec, 4));
  if (m.reading() || grouped) m.Int("num_kv_heads|n_head_kv", &spec.kv_heads, spec.heads);
  if (m.reading() || grouped) m.Int("num_ln_in_parallel_attn", &norms, grouped ? 2 : 1);
  if (!m.reading()) return;
  block.out_bias = block.mlp_bias = block.qkv_bias;
  if (norms > 2 || (norms == 2 && !grouped) || (grouped && !parallel)) {
    Fail(
        ErrorKind::kUnsupported,
        "new_decoder_architecture = {}, parallel_attn = {} and num_ln_in_parallel_attn = {} are not supported together",
        grouped, parallel, norms);
  }
  if (!grouped) spec.kv_heads = one_key ? 1 : spec.heads;
  block.residual = !parallel    ? Residual::kSequential
                   : norms == 2 ? Residual::kParallelTwoNorms
                                : Residual::kParallelOneNorm;
  if (!alibi) return;
  spec.places = Places::kAlibi;
  spec.alibi = {.multiplier = 1.0 / std::sqrt(static_cast<double>(spec.width / spec.heads)), .bf16 = true};
  if (spec.kv_heads != spec.heads) {
    Fail(ErrorKind::kUnsupported,
         "alibi = true with keys that heads share (multi_query, num_kv_heads) is not supported");
  }
}

void MptAttention(Members& m, ModelSpec& spec) {
  std::string type = spec.kv_heads == spec.heads ? "multihead_attention"
                     : spec.kv_heads == 1        ? "multiquery_attention"
                                                 : "grouped_query_attention";
  m.Word("attn_type", &type, "multihead_attention");
  bool alibi = true;
  m.Flag("alibi", &alibi, true);
  if (!alibi) Fail(ErrorKind::kUnsupported, "attn_config.alibi = false: learned positions are not supported");
  auto bias = static_cast<int64_t>(BakeMaxBias(spec.alibi).max_bias);
  m.Int("alibi_bias_max", &bias, 8);
  m.NumberOrNull("clip_qkv", &spec.block.qkv_clip, 0);
  m.NumberOrNull("softmax_scale", &spec.attn_scale, 0);
  m.Know({"attn_impl", "kv_n_heads", "rope_dail_config", "rope_hf_config", "rope_impl", "rope_theta"});
  m.Must("rope", false);
  m.Must("sliding_window_size", -1);
  m.Must("qk_ln", false);
  m.Must("prefix_lm", false);
  m.Must("attn_uses_sequence_id", false);
  if (type == "grouped_query_attention") m.Int("kv_n_heads", &spec.kv_heads, {});
  if (!m.reading()) return;
  spec.alibi.max_bias = static_cast<double>(bias);
  if (type == "multiquery_attention") spec.kv_heads = 1;
  if (type != "multihead_attention" && type != "multiquery_attention" && type != "grouped_query_attention") {
    Fail(ErrorKind::kUnsupported,
         "attn_config.attn_type '{}' is not supported; known are multihead_attention, multiquery_attention and "
         "grouped_query_attention",
         type);
  }
}

void MptMembers(Members& m, ModelSpec& spec) {
  BlockSpec& block = spec.block;
  int32_t ratio = spec.mlp_width / std::max(spec.width, 1);
  m.Int("expansion_ratio", &ratio, 4);
  spec.mlp_width = TimesWidth(spec, ratio);
  bool no_bias = !block.qkv_bias;
  m.Flag("no_bias", &no_bias, true);
  block.qkv_bias = block.out_bias = block.mlp_bias = block.norm_bias = !no_bias;
  m.Object("attn_config", [&](Members& inside) { MptAttention(inside, spec); });
  m.Know({"embedding_fraction", "init_config", "init_device", "learned_pos_emb", "norm_type", "logit_scale",
          "tokenizer_name", "verbose"});
  if (!m.reading()) {
    if (spec.logit_scale != 1) m.Number("logit_scale", &spec.logit_scale, 1);
    return;
  }
  if (m.in().StringOr("norm_type", "layernorm").find("layernorm") == std::string::npos) {
    Fail(ErrorKind::kUnsupported, "norm_type '{}' is not supported; known are layernorm and low_precision_layernorm",
         m.in().String("norm_type"));
  }
  const nlohmann::json* scale = m.in().Find("logit_scale");
  if (scale != nullptr && *scale == "inv_sqrt_d_model") {
    spec.logit_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.width)));
  } else {
    m.Number("logit_scale", &spec.logit_scale, 1);
  }
}

/// 7B has rotary positions and max_position_embeddings; 13B has ALiBi, and model_max_length instead.
void BaichuanMembers(Members& m, ModelSpec& spec) {
  m.Know({"max_position_embeddings", "model_max_length"});
  if (!m.reading()) {
    if (spec.places == Places::kAlibi) m.Int("model_max_length", &spec.context, {});
    return;
  }
  if (spec.vocab == 125696 || m.Has("z_loss_weight")) {
    Fail(ErrorKind::kUnsupported, "Baichuan 2 (vocab_size {}) norms the rows of its head; that is not supported",
         spec.vocab);
  }
  const bool large = spec.layers == 40 && spec.heads == 40;
  if (large || m.in().Find("max_position_embeddings") == nullptr) spec.places = Places::kAlibi;
  m.Int(spec.places == Places::kAlibi ? "model_max_length" : "max_position_embeddings", &spec.context, 4096);
}

void Phi3Members(Members& m, ModelSpec& spec) {
  Windows(m, spec, false, 0, nullptr);
  m.Must("interpolate_factor", 1);
  m.Must("full_attn_mod", 1);
}

void Olmo2Members(Members& m, ModelSpec& spec) { AttentionBias(m, spec); }

void SmolLM3Members(Members& m, ModelSpec& spec) {
  LlamaMembers(m, spec);
  int32_t interval = 4;
  m.Know({"no_rope_layers"});
  if (m.reading()) {
    m.Int("no_rope_layer_interval", &interval, 4);
    const nlohmann::json* list = m.in().Find("no_rope_layers");
    if (list != nullptr && (!list->is_array() || list->size() < static_cast<size_t>(spec.layers))) {
      Fail(ErrorKind::kFormat, "no_rope_layers must say 0 or 1 for each of {} layers", spec.layers);
    }
    for (int32_t layer = 0; layer < spec.layers; ++layer) {
      const bool none = list == nullptr ? (layer + 1) % interval == 0 : (*list)[static_cast<size_t>(layer)] == 0;
      if (none) spec.unplaced_layers.push_back(layer);
    }
  } else {
    std::vector<int> rotated(static_cast<size_t>(spec.layers), 1);
    for (const int32_t layer : spec.unplaced_layers) rotated[static_cast<size_t>(layer)] = 0;
    m.out()["no_rope_layers"] = rotated;
  }
  Windows(m, spec, true, 0, [](const ModelSpec& s, int32_t layer, int32_t) {
    return !std::ranges::binary_search(s.unplaced_layers, layer);
  });
}

// Names.

constexpr NameRow kGemma2Names[] = {
    {Role::kAttnPostNorm, "layers.{}.post_attention_layernorm"},
    {Role::kMlpNorm, "layers.{}.pre_feedforward_layernorm"},
    {Role::kMlpPostNorm, "layers.{}.post_feedforward_layernorm"},
};
constexpr NameRow kNeoXNames[] = {
    {Role::kEmbedding, "embed_in"},
    {Role::kQuery, "layers.{}.attention.query_key_value", Fuse::kGroups},
    {Role::kAttnOut, "layers.{}.attention.dense"},
    {Role::kUp, "layers.{}.mlp.dense_h_to_4h"},
    {Role::kDown, "layers.{}.mlp.dense_4h_to_h"},
    {Role::kFinalNorm, "final_layer_norm"},
    {Role::kHead, "embed_out|lm_head"},
};
constexpr std::string_view kNeoXIgnored[] = {"*.attention.bias", "*.attention.masked_bias"};
constexpr NameRow kFalconNames[] = {
    {Role::kEmbedding, "word_embeddings"},
    {Role::kEmbeddingNorm, "word_embeddings_layernorm"},
    {Role::kAttnNorm, "h.{}.ln_attn", Fuse::kNone, TwoNorms},
    {Role::kAttnNorm, "h.{}.input_layernorm"},
    {Role::kMlpNorm, "h.{}.ln_mlp", Fuse::kNone, TwoNorms},
    {Role::kMlpNorm, "h.{}.post_attention_layernorm"},
    {Role::kQuery, "h.{}.self_attention.query_key_value", Fuse::kGroups},
    {Role::kAttnOut, "h.{}.self_attention.dense"},
    {Role::kUp, "h.{}.mlp.dense_h_to_4h"},
    {Role::kDown, "h.{}.mlp.dense_4h_to_h"},
    {Role::kFinalNorm, "ln_f"},
};
constexpr NameRow kMptNames[] = {
    {Role::kEmbedding, "wte"},
    {Role::kAttnNorm, "blocks.{}.norm_1"},
    {Role::kMlpNorm, "blocks.{}.norm_2"},
    {Role::kQuery, "blocks.{}.attn.Wqkv", Fuse::kThirds},
    {Role::kAttnOut, "blocks.{}.attn.out_proj"},
    {Role::kUp, "blocks.{}.ffn.up_proj"},
    {Role::kDown, "blocks.{}.ffn.down_proj"},
    {Role::kFinalNorm, "norm_f"},
};
constexpr NameRow kBaichuanNames[] = {{Role::kQuery, "layers.{}.self_attn.W_pack", Fuse::kThirds}};
constexpr NameRow kPhi3Names[] = {
    {Role::kQuery, "layers.{}.self_attn.qkv_proj", Fuse::kThirds},
    {Role::kGate, "layers.{}.mlp.gate_up_proj", Fuse::kGateUp},
};
constexpr NameRow kOlmo2Names[] = {
    {Role::kAttnPostNorm, "layers.{}.post_attention_layernorm"},
    {Role::kMlpPostNorm, "layers.{}.post_feedforward_layernorm"},
};

// Blocks: a layer norm with bias and a plain mlp, with biases everywhere or nowhere.
constexpr BlockSpec kLayerNormed = {.norm = NormKind::kLayer, .norm_bias = true, .gated = false, .act = Act::kGelu};
constexpr BlockSpec kBiased = {.norm = NormKind::kLayer,
                               .norm_bias = true,
                               .qkv_bias = true,
                               .out_bias = true,
                               .mlp_bias = true,
                               .gated = false,
                               .act = Act::kGelu};

const Family kFamilies[] = {
    {.model_type = "llama", .architecture = "LlamaForCausalLM", .members = LlamaMembers},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .defaults = {.kv_heads = 8, .context = 131072},
     .windows = true,
     .members = MistralMembers},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .block = {.qkv_bias = true},
     .defaults = {.kv_heads = 32, .context = 32768, .bos = -1, .eos = -1},
     .windows = true,
     .members = LateWindows},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .block = {.qk_norm = QkNorm::kHead},
     .defaults = {.kv_heads = 32, .head_dim = 128, .context = 32768, .bos = -1, .eos = -1},
     .windows = true,
     .members = Qwen3Members},
    {.model_type = "gemma",
     .architecture = "GemmaForCausalLM",
     .block = {.norm_plus_one = true, .act = Act::kGeluTanh},
     .keys = {.act = "hidden_act|hidden_activation"},
     .defaults =
         {.kv_heads = 16, .head_dim = 256, .context = 8192, .tie = true, .bos = 2, .eos = 1, .gelu = Act::kGeluTanh},
     .members = GemmaMembers},
    {.model_type = "gemma2",
     .architecture = "Gemma2ForCausalLM",
     .block = {.norm_plus_one = true, .post_norms = true, .act = Act::kGeluTanh},
     .keys = {.act = "hidden_activation"},
     .defaults = {.kv_heads = 4, .head_dim = 256, .context = 8192, .tie = true, .bos = 2, .eos = 1},
     .names = kGemma2Names,
     .windows = true,
     .members = Gemma2Members},
    {.model_type = "gemma3_text",
     .architecture = "Gemma3ForCausalLM",
     .block = {.norm_plus_one = true, .post_norms = true, .qk_norm = QkNorm::kHead, .act = Act::kGeluTanh},
     .keys = {.act = "hidden_activation"},
     .defaults = {.kv_heads = 4, .head_dim = 256, .context = 131072, .tie = true, .bos = 2, .eos = 1},
     .rope = {.default_theta = 1e6, .local_theta = "rope_local_base_freq"},
     .names = kGemma2Names,
     .windows = true,
     .members = Gemma3Members},
    {.model_type = "gpt_neox",
     .architecture = "GPTNeoXForCausalLM",
     .prefix = "gpt_neox.",
     .block = kBiased,
     .keys = {.kv_heads = "", .head_dim = "", .norm_eps = "layer_norm_eps"},
     .defaults = {.norm_eps = 1e-5, .bos = 0, .eos = 2},
     .rope = {.theta = "rotary_emb_base|rope_theta",
              .share = "rotary_pct|partial_rotary_factor",
              .default_share = 0.25,
              .partial = true},
     .names = kNeoXNames,
     .ignored = kNeoXIgnored,
     .members = NeoXMembers},
    {.model_type = "bloom",
     .architecture = "BloomForCausalLM",
     .prefix = "transformer.",
     .block = {.norm = NormKind::kLayer,
               .norm_bias = true,
               .qkv_bias = true,
               .out_bias = true,
               .mlp_bias = true,
               .gated = false,
               .act = Act::kGeluTanh},
     .places = Places::kAlibi,
     .keys = {.width = "hidden_size|n_embed",
              .layers = "n_layer|num_hidden_layers",
              .heads = "n_head|num_attention_heads",
              .kv_heads = "",
              .head_dim = "",
              .mlp_width = "",
              .norm_eps = "layer_norm_epsilon",
              .act = "",
              .context = "seq_length"},
     .defaults = {.norm_eps = 1e-5, .tie = true},
     .names = kFalconNames,
     .members = BloomMembers},
    {.model_type = "mpt",
     .architecture = "MptForCausalLM",
     .prefix = "transformer.",
     .block = {.norm = NormKind::kLayer, .gated = false, .act = Act::kGelu},
     .places = Places::kAlibi,
     .keys = {.width = "d_model|hidden_size",
              .layers = "n_layers|num_hidden_layers",
              .heads = "n_heads|num_attention_heads",
              .kv_heads = "",
              .head_dim = "",
              .mlp_width = "",
              .norm_eps = "layer_norm_epsilon",
              .act = "",
              .context = "max_seq_len"},
     .defaults = {.norm_eps = 1e-5, .tie = true, .bos = -1, .eos = -1},
     .names = kMptNames,
     .members = MptMembers},
    {.model_type = "falcon",
     .architecture = "FalconForCausalLM",
     .prefix = "transformer.",
     .block = kLayerNormed,
     .keys = {.width = "hidden_size|n_embed",
              .layers = "num_hidden_layers|n_layer",
              .heads = "num_attention_heads|n_head",
              .kv_heads = "",
              .head_dim = "",
              .mlp_width = "",
              .norm_eps = "layer_norm_epsilon",
              .act = "activation"},
     .defaults = {.norm_eps = 1e-5, .tie = true, .bos = 11, .eos = 11},
     .names = kFalconNames,
     .members = FalconMembers},
    {.model_type = "baichuan",
     .architecture = "BaichuanForCausalLM",
     .keys = {.kv_heads = "", .head_dim = "", .context = ""},
     .names = kBaichuanNames,
     .members = BaichuanMembers},
    {.model_type = "phi3",
     .architecture = "Phi3ForCausalLM",
     .defaults = {.norm_eps = 1e-5, .context = 4096, .eos = 32000},
     .rope = {.partial = true, .original = 4096, .only_long = true},
     .names = kPhi3Names,
     .windows = true,
     .members = Phi3Members},
    {.model_type = "olmo2",
     .architecture = "Olmo2ForCausalLM",
     .block = {.pre_norms = false, .post_norms = true, .qk_norm = QkNorm::kWidth},
     .defaults = {.norm_eps = 1e-5, .bos = -1, .eos = 50279},
     .names = kOlmo2Names,
     .members = Olmo2Members},
    {.model_type = "smollm3",
     .architecture = "SmolLM3ForCausalLM",
     .defaults = {.kv_heads = 4, .context = 32768, .tie = true, .bos = 128000, .eos = 128001},
     .rope = {.default_theta = 2e6},
     .windows = true,
     .members = SmolLM3Members},
};

}  // namespace

std::span<const Family> Families() { return kFamilies; }

const Family& FindFamily(std::string_view model_type) {
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return family;
    fmt::format_to(std::back_inserter(known), "{}{}", known.empty() ? "" : ", ", family.model_type);
  }
  Fail(ErrorKind::kUnsupported, "model_type '{}' is not supported; known are {}", model_type, known);
}

}  // namespace hawser
