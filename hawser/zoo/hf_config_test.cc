#include "hawser/zoo/hf_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

using nlohmann::json;

/// A config.json as published models have it, without optional members.
json Config() {
  return {{"model_type", "llama"},
          {"vocab_size", 100},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"rms_norm_eps", 1e-5},
          {"max_position_embeddings", 512},
          {"architectures", {"LlamaForCausalLM"}},
          {"transformers_version", "4.40.0"}};
}
ModelSpec Parse(const json& config) { return ParseHfConfig(config.dump()); }
json With(json config, const json& changes) {
  config.update(changes);
  return config;
}

// Before what is said of each layer is read: a short text must not make work for a hundred million.
TEST(HfConfigTest, ChecksTheNumberOfLayersBeforeItReadsThem) {
  for (const char* type : {"llama", "mistral", "qwen2", "gemma2", "gemma3_text", "smollm3"}) {
    const json many = With(Config(), {{"model_type", type},
                                      {"num_hidden_layers", 134217727},
                                      {"use_sliding_window", true},
                                      {"sliding_window", 16},
                                      {"layer_types", json::array()}});
    ExpectError(ErrorKind::kFormat, {"layers must be from 1 to 4096"}, [&] { Parse(many); });
  }
}

TEST(HfConfigTest, ReadsWithTheDefaultsOfTheFamily) {
  json config = Config();
  ModelSpec spec = Parse(config);
  EXPECT_EQ(spec.family, "llama");
  EXPECT_EQ(spec.vocab, 100);
  EXPECT_EQ(spec.kv_heads, 2);
  EXPECT_EQ(spec.head_dim, 16);
  EXPECT_EQ(spec.mlp_width, 96);
  EXPECT_EQ(spec.norm_eps, 1e-5f);
  EXPECT_EQ(spec.context, 512);
  EXPECT_EQ(spec.rope, (RopeSpec{.theta = 10000, .rotary_dim = 16}));
  EXPECT_EQ(spec.bos, 1);
  EXPECT_EQ(spec.eos, (std::vector<int32_t>{2}));
  EXPECT_FALSE(spec.tie_embeddings);
  EXPECT_EQ(spec.sliding_window, 0);

  for (const char* key : {"num_key_value_heads", "rms_norm_eps", "max_position_embeddings"}) config.erase(key);
  spec = Parse(config);
  EXPECT_EQ(spec.kv_heads, 4);
  EXPECT_EQ(spec.norm_eps, 1e-6f);
  EXPECT_EQ(spec.context, 2048);

  spec = Parse(With(Config(), {{"head_dim", 8},
                               {"tie_word_embeddings", true},
                               {"bos_token_id", nullptr},
                               {"eos_token_id", {5, 7}},
                               {"rope_theta", 500000},
                               {"rope_scaling", nullptr},
                               {"sliding_window", nullptr},
                               {"hidden_act", "silu"},
                               {"attention_bias", false}}));
  EXPECT_EQ(spec.head_dim, 8);
  EXPECT_TRUE(spec.tie_embeddings);
  EXPECT_EQ(spec.bos, -1);
  EXPECT_EQ(spec.eos, (std::vector<int32_t>{5, 7}));
  EXPECT_EQ(spec.rope.theta, 500000);
  EXPECT_EQ(spec.sliding_window, 0);  // a llama has none

  const json mistral = With(Config(), {{"model_type", "mistral"}, {"num_attention_heads", 8}});
  EXPECT_EQ(Parse(mistral).sliding_window, 4096);
  EXPECT_EQ(Parse(With(mistral, {{"sliding_window", nullptr}})).sliding_window, 0);
  EXPECT_EQ(Parse(With(mistral, {{"sliding_window", 33}})).sliding_window, 33);
  EXPECT_EQ(Parse(With(mistral, {{"num_key_value_heads", nullptr}})).kv_heads, 8);
}

TEST(HfConfigTest, ReadsEveryRopeKindInBothLayouts) {
  struct Case {
    json block;
    RopeScaling scaling;
  };
  const Case cases[] = {
      {{{"rope_type", "default"}}, {}},
      {{{"rope_type", "linear"}, {"factor", 4}}, {.kind = RopeKind::kLinear, .factor = 4, .original = 128}},
      {{{"type", "dynamic"}, {"factor", 2.0}}, {.kind = RopeKind::kDynamic, .factor = 2, .original = 512}},
      {{{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 128}},
       {.kind = RopeKind::kYarn, .factor = 4, .original = 128}},
      {{{"rope_type", "yarn"},
        {"factor", 8.0},
        {"original_max_position_embeddings", 64},
        {"beta_fast", 16},
        {"beta_slow", 2},
        {"truncate", false},
        {"attention_factor", 1.25},
        {"mscale", 0.7},
        {"mscale_all_dim", 0.8}},
       {.kind = RopeKind::kYarn,
        .factor = 8,
        .original = 64,
        .beta_fast = 16,
        .beta_slow = 2,
        .truncate = false,
        .attention_factor = 1.25,
        .mscale = 0.7,
        .mscale_all_dim = 0.8}},
      {{{"rope_type", "yarn"}, {"original_max_position_embeddings", 256}, {"beta_fast", 0}, {"mscale", 0}},
       {.kind = RopeKind::kYarn, .factor = 2, .original = 256}},
      {{{"rope_type", "llama3"},
        {"factor", 8.0},
        {"low_freq_factor", 1.0},
        {"high_freq_factor", 3.0},
        {"original_max_position_embeddings", 200}},
       {.kind = RopeKind::kLlama3, .factor = 8, .original = 200, .low_freq_factor = 1, .high_freq_factor = 3}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.block.dump());
    const RopeSpec wanted{.theta = 12345.5, .rotary_dim = 16, .scaling = c.scaling};
    const json old = With(Config(), {{"rope_theta", 12345.5}, {"rope_scaling", c.block}});
    EXPECT_EQ(Parse(old).rope, wanted);
    json block = c.block;
    block["rope_theta"] = 12345.5;
    EXPECT_EQ(Parse(With(Config(), {{"rope_parameters", block}})).rope, wanted);
    EXPECT_EQ(Parse(With(old, {{"rope_parameters", block}})).rope, wanted);
  }
  const json top = {
      {"original_max_position_embeddings", 100},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 5.12}, {"original_max_position_embeddings", 9}}}};
  EXPECT_EQ(Parse(With(Config(), top)).rope.scaling.original, 100);
  testing::internal::CaptureStderr();
  EXPECT_EQ(Parse(With(Config(), {{"partial_rotary_factor", 0.5}})).rope.rotary_dim, 8);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("8 of 16 channels"), std::string::npos);
  testing::internal::CaptureStderr();
  EXPECT_EQ(Parse(With(Config(), {{"partial_rotary_factor", 1.0}})).rope.rotary_dim, 16);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(HfConfigTest, NamesWhatIsUnsupportedOrWrong) {
  struct Case {
    json changes;
    ErrorKind kind;
    std::initializer_list<std::string_view> words;
  };
  const auto kFormat = ErrorKind::kFormat, kUnsupported = ErrorKind::kUnsupported;
  const auto rope = [](json block) { return json{{"rope_scaling", std::move(block)}}; };
  const Case cases[] = {
      {{{"model_type", "gpt2"}}, kUnsupported, {"model_type", "gpt2", "llama, mistral"}},
      {{{"is_causal", false}}, kUnsupported, {"is_causal", "true"}},
      {{{"hidden_act", "mish"}}, kUnsupported, {"hidden_act", "mish", "silu"}},
      {{{"quantization_config", {{"bits", 4}}}}, kUnsupported, {"quantization_config"}},
      {rope({{"rope_type", "spiral"}, {"factor", 2.0}}), kUnsupported, {"rope_type", "spiral", "yarn, llama3"}},
      {rope({{"rope_type", "longrope"}, {"factor", 2.0}}), kFormat, {"short_factor", "8"}},
      {rope({{"type", "su"}}), kUnsupported, {"'su'"}},
      {rope({{"full_attention", json::object()}}), kUnsupported, {"full_attention"}},
      {rope({{"rope_type", "default"}, {"mrope_section", {1}}}), kUnsupported, {"mrope_section"}},
      {rope({{"rope_type", "yarn"}, {"factor", 2.0}, {"attn_factor", 2.0}}), kUnsupported, {"attn_factor"}},
      {{{"model_type", 3}}, kFormat, {"model_type"}},
      {{{"vocab_size", nullptr}}, kFormat, {"lacks 'vocab_size'"}},
      {{{"vocab_size", 0}}, kFormat, {"vocab_size"}},
      {{{"vocab_size", 100.0}}, kFormat, {"vocab_size", "100.0"}},
      {{{"hidden_size", int64_t{1} << 40}}, kFormat, {"hidden_size"}},
      {{{"hidden_size", 66}}, kFormat, {"hidden_size 66", "num_attention_heads 4"}},
      {{{"num_key_value_heads", 3}}, kFormat, {"kv_heads"}},
      {{{"num_key_value_heads", 0}}, kFormat, {"num_key_value_heads"}},
      {{{"head_dim", 0}}, kFormat, {"head_dim"}},
      {{{"head_dim", 1000}}, kFormat, {"head_dim", "256"}},
      {{{"rms_norm_eps", "x"}}, kFormat, {"rms_norm_eps"}},
      {{{"rms_norm_eps", -1.0}}, kFormat, {"norm_eps"}},
      {{{"rms_norm_eps", 0}}, kFormat, {"norm_eps", "above 0"}},
      {{{"rms_norm_eps", 1e-60}}, kFormat, {"norm_eps", "above 0"}},
      {{{"rms_norm_eps", 1e300}}, kFormat, {"norm_eps"}},
      {{{"max_position_embeddings", -1}}, kFormat, {"max_position_embeddings"}},
      {{{"tie_word_embeddings", 1}}, kFormat, {"tie_word_embeddings"}},
      {{{"bos_token_id", 100}}, kFormat, {"bos"}},
      {{{"eos_token_id", {1, "x"}}}, kFormat, {"eos_token_id"}},
      {{{"rope_theta", 0.5}}, kFormat, {"theta"}},
      {{{"partial_rotary_factor", 0.01}}, kFormat, {"rotary_dim"}},
      {{{"partial_rotary_factor", 1.5}}, kFormat, {"partial_rotary_factor"}},
      {{{"partial_rotary_factor", 0.3125}}, kFormat, {"rotary_dim", "even"}},
      {rope(7), kFormat, {"rope_scaling"}},
      {rope({{"rope_type", "linear"}}), kFormat, {"rope_scaling", "'factor'"}},
      {rope({{"rope_type", "linear"}, {"factor", 0.5}}), kFormat, {"factor"}},
      {rope({{"rope_type", "linear"}, {"factor", -1e300}}), kFormat, {"factor"}},
      {rope({{"rope_type", "llama3"}, {"factor", 2.0}, {"low_freq_factor", 1.0}}), kFormat, {"'high_freq_factor'"}},
      {rope({{"rope_type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 0}}),
       kFormat,
       {"original_max_position_embeddings"}},
      {rope({{"rope_type", "yarn"}, {"factor", 2.0}, {"beta_fast", 1}, {"beta_slow", 2}}), kFormat, {"beta_fast"}},
      {{{"rope_theta", 1e4}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 2e4}}}},
       kFormat,
       {"10000", "20000", "rope_parameters"}},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
        {"rope_parameters", {{"rope_type", "linear"}, {"factor", 4.0}}}},
       kFormat,
       {"'factor'", "2.0", "4.0"}},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}, {"rope_parameters", {{"rope_type", "default"}}}},
       kFormat,
       {"'rope_type'"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.changes.dump());
    ExpectError(c.kind, c.words, [&] { Parse(With(Config(), c.changes)); });
  }
  ExpectError(kFormat, {"object"}, [] { ParseHfConfig("[]"); });
  ExpectError(kFormat, {"JSON"}, [] { ParseHfConfig("{"); });
  ExpectError(kFormat, {"twice"}, [] { ParseHfConfig(R"({"model_type": "llama", "model_type": "llama"})"); });
}

TEST(HfConfigTest, KeysThatAreNotReadMustBeHarmless) {
  // As published folders have them: Llama 2 and 3, TinyLlama, SmolLM2, Vicuna, Yi, Mistral, copies by other tools.
  const json harmless = {
      {"_name_or_path", "x"},
      {"_model_name_or_path", "x"},
      {"_attn_implementation", "sdpa"},
      {"_flash_attn_2_enabled", true},
      {"attention_dropout", 0.1},
      {"initializer_range", 0.02},
      {"pad_token_id", 0},
      {"pretraining_tp", 2},
      {"use_cache", true},
      {"max_sequence_length", 2048},
      {"is_llama_config", true},
      {"is_causal", true},
      {"rope_interleaved", false},
      {"transformers.js_config", {{"dtype", "q4"}}},
      {"auto_map", {{"AutoModelForCausalLM", "m.M"}}},
      {"id2label", {{"0", "a"}}},
      {"temperature", 0.9},
      {"unsloth_fixed", true},
      {"quantization_config", nullptr},
      {"something_new", nullptr},
      {"something_else", false},
      {"layer_types", {"full_attention", "full_attention"}},
      {"sliding_window", 512},  // as long as the context: never full
      {"rope_scaling",
       {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 128}, {"finetuned", true}}}};
  json plain = Config();
  plain["rope_scaling"] = harmless["rope_scaling"];
  EXPECT_EQ(Parse(With(Config(), harmless)), Parse(plain));
  EXPECT_EQ(Parse(With(Config(), {{"sliding_window", 9}, {"use_sliding_window", false}})).sliding_window, 0);

  const std::pair<json, std::string_view> refused[] = {
      {{{"something_new", 1}}, "'something_new' = 1"},
      {{{"scale_emb", 12.0}}, "'scale_emb' = 12.0"},
      {{{"final_logit_softcapping", 30.0}}, "final_logit_softcapping"},
      {{{"no_rope_layers", {1, 0}}}, "'no_rope_layers' = [1,0]"},
      {{{"rope_interleaved", true}}, "'rope_interleaved' = true"},
      {{{"per_layer_config", {{"0", {{"head_dim", 8}}}}}}, "per_layer_config"},
      {{{"sliding_window", 99}}, "'sliding_window' = 99"},  // what a llama does with it depends on who reads it
      {{{"layer_types", {"full_attention", "sliding_attention"}}}, "layer_types"},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}, {"offset", 3}}}}, "'rope_scaling.offset' = 3"},
      {{{"rope_parameters", {{"rope_type", "default"}, {"axes", {1, 2}}}}}, "'rope_parameters.axes' = [1,2]"},
  };
  for (const auto& [changes, word] : refused) {
    ExpectError(ErrorKind::kUnsupported, {word, "config.json"}, [&] { Parse(With(Config(), changes)); });
  }
}

json Of(const char* model_type, const json& changes) {
  json config = {{"model_type", model_type},
                 {"vocab_size", 100},
                 {"hidden_size", 64},
                 {"num_hidden_layers", 4},
                 {"num_attention_heads", 4}};
  config.update(changes);
  return config;
}
json With3(const char* model_type, json changes) {
  changes["num_key_value_heads"] = 2;
  changes["intermediate_size"] = 96;
  return Of(model_type, changes);
}

TEST(HfConfigTest, WidthsThatFollowFromOthersFitTheirNumber) {
  for (const auto& [family, width] :
       {std::pair("bloom", "hidden_size"), std::pair("falcon", "hidden_size"), std::pair("mpt", "d_model")}) {
    json config = Of(family, json::object());
    config.erase("hidden_size");
    config[width] = 1 << 29;
    ExpectError(ErrorKind::kFormat, {"width"}, [&] { Parse(config); });
  }
}

TEST(HfConfigTest, KeysOfFamiliesAreHonoured) {
  const json full = "full_attention", sliding = "sliding_attention";
  // Qwen: windows only where a flag says so, in the layers behind the first ones.
  const json qwen = With3("qwen2", {{"sliding_window", 16}, {"max_window_layers", 3}});
  EXPECT_EQ(Parse(qwen).sliding_window, 0);
  ModelSpec spec = Parse(With(qwen, {{"use_sliding_window", true}}));
  EXPECT_EQ(spec.sliding_window, 16);
  EXPECT_EQ(spec.full_layers, (std::vector<int32_t>{0, 1, 2}));
  spec = Parse(With(qwen, {{"use_sliding_window", true}, {"layer_types", {sliding, full, full, sliding}}}));
  EXPECT_EQ(spec.full_layers, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(Parse(With(qwen, {{"use_sliding_window", true}, {"max_window_layers", 28}})).sliding_window, 0);
  // Gemma: every second layer, or five of six.
  spec = Parse(With3("gemma2", {{"query_pre_attn_scalar", 100}, {"final_logit_softcapping", nullptr}}));
  EXPECT_EQ(spec.full_layers, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(spec.sliding_window, 4096);
  EXPECT_EQ(spec.attn_scale, 0.1f);
  EXPECT_EQ(spec.attn_cap, 50);
  EXPECT_EQ(spec.logit_cap, 0);
  EXPECT_EQ(spec.embedding_scale, 8);
  EXPECT_EQ(Parse(With3("gemma", {{"hidden_act", "gelu"}})).block.act, Act::kGeluTanh);
  EXPECT_EQ(Parse(With3("gemma2", {{"hidden_activation", "gelu"}})).block.act, Act::kGelu);
  EXPECT_EQ(Parse(With3("gemma3_text", {{"attn_logit_softcapping", 5.0}})).attn_cap, 0) << "its readers cap nothing";
  spec = Parse(With3("gemma3_text", {{"rope_theta", 5e5},
                                     {"rope_local_base_freq", 100.0},
                                     {"head_dim", 16},
                                     {"sliding_window_pattern", 2},
                                     {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}}}));
  EXPECT_EQ(spec.full_layers, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(spec.rope.theta, 5e5);
  EXPECT_EQ(spec.rope.scaling.factor, 8);
  EXPECT_EQ(spec.local_rope, (RopeSpec{.theta = 100, .rotary_dim = 16}));
  const json nested = {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 7e5}}},
                       {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 300.0}}}};
  spec = Parse(With3("gemma3_text", {{"rope_parameters", nested}}));
  EXPECT_EQ(spec.rope.theta, 7e5);
  EXPECT_EQ(spec.local_rope->theta, 300);
  // NeoX: a quarter of each head is rotated unless it says else.
  const json neox = Of("gpt_neox", {{"intermediate_size", 256}});
  EXPECT_EQ(Parse(neox).rope.rotary_dim, 4);
  EXPECT_EQ(Parse(With(neox, {{"rotary_pct", 0.5}, {"rotary_emb_base", 500}})).rope,
            (RopeSpec{.theta = 500, .rotary_dim = 8}));
  EXPECT_EQ(Parse(With(neox, {{"use_parallel_residual", false}})).block.residual, Residual::kSequential);
  // Falcon in its forms.
  spec = Parse(Of("falcon", {{"n_head", 4}, {"n_layer", 4}}));
  EXPECT_EQ(spec.kv_heads, 1);
  EXPECT_EQ(spec.block.residual, Residual::kParallelOneNorm);
  EXPECT_EQ(spec.mlp_width, 256);
  EXPECT_TRUE(spec.tie_embeddings);
  spec = Parse(Of("falcon", {{"new_decoder_architecture", true}, {"num_kv_heads", 2}}));
  EXPECT_EQ(spec.kv_heads, 2);
  EXPECT_EQ(spec.block.residual, Residual::kParallelTwoNorms);
  spec = Parse(Of("falcon", {{"alibi", true}, {"multi_query", false}, {"parallel_attn", false}, {"bias", true}}));
  EXPECT_EQ(spec.places, Places::kAlibi);
  EXPECT_EQ(spec.alibi.multiplier, 0.25);
  EXPECT_EQ(spec.kv_heads, 4);
  EXPECT_TRUE(spec.block.qkv_bias && spec.block.out_bias && spec.block.mlp_bias);
  // MPT.
  const auto mpt = [](const json& attention, json more = json::object()) {
    more.update({{"model_type", "mpt"},
                 {"vocab_size", 100},
                 {"d_model", 64},
                 {"n_layers", 2},
                 {"n_heads", 8},
                 {"attn_config", attention}});
    return more;
  };
  spec = Parse(mpt({{"alibi_bias_max", 16}, {"clip_qkv", 6.0}, {"softmax_scale", 0.5}},
                   {{"expansion_ratio", 2}, {"max_seq_len", 300}, {"logit_scale", "inv_sqrt_d_model"}}));
  EXPECT_EQ(spec.alibi.max_bias, 16);
  EXPECT_EQ(spec.block.qkv_clip, 6);
  EXPECT_EQ(spec.attn_scale, 0.5f);
  EXPECT_EQ(spec.mlp_width, 128);
  EXPECT_EQ(spec.context, 300);
  EXPECT_EQ(spec.logit_scale, 0.125f);
  EXPECT_EQ(Parse(mpt({{"attn_type", "grouped_query_attention"}, {"kv_n_heads", 2}})).kv_heads, 2);
  EXPECT_TRUE(Parse(mpt(json::object(), {{"no_bias", false}})).block.norm_bias);
  // Baichuan: which of its two kinds of positions a model has shows in what it calls its context.
  const json baichuan = Of("baichuan", {{"intermediate_size", 96}});
  EXPECT_EQ(Parse(With(baichuan, {{"max_position_embeddings", 128}})).places, Places::kRope);
  spec = Parse(With(baichuan, {{"model_max_length", 128}}));
  EXPECT_EQ(spec.places, Places::kAlibi);
  EXPECT_EQ(spec.context, 128);
  // SmolLM3: layers without positions.
  EXPECT_EQ(Parse(With3("smollm3", {})).unplaced_layers, (std::vector<int32_t>{3}));
  EXPECT_EQ(Parse(With3("smollm3", {{"no_rope_layers", {0, 1, 1, 0}}})).unplaced_layers, (std::vector<int32_t>{0, 3}));

  const std::pair<json, std::string_view> refused[] = {
      {With3("mistral", {{"attention_bias", true}}), "attention_bias"},
      {With3("gemma2", {{"use_bidirectional_attention", true}}), "use_bidirectional_attention"},
      {Of("bloom", {{"apply_residual_connection_post_layernorm", true}}), "apply_residual_connection_post_layernorm"},
      {mpt({{"qk_ln", true}}), "qk_ln"},
      {mpt({{"alibi", false}}), "attn_config.alibi"},
      {mpt({{"prefix_lm", true}}), "prefix_lm"},
      {mpt({{"attn_type", "spiral"}}), "spiral"},
      {mpt({{"rope", true}}), "rope = true"},
      {mpt(json::object(), {{"norm_type", "rmsnorm"}}), "rmsnorm"},
      {Of("falcon", {{"num_ln_in_parallel_attn", 2}}), "num_ln_in_parallel_attn"},
      {With(baichuan, {{"z_loss_weight", 0}}), "Baichuan 2"},
      {With3("phi3", {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}), "longrope"},
      {With3("phi3", {{"interpolate_factor", 2}}), "interpolate_factor"},
      {With3("olmo2", {{"sliding_window", 8}, {"max_position_embeddings", 100}}), "sliding_window"},
  };
  for (const auto& [config, word] : refused) {
    SCOPED_TRACE(config.dump());
    ExpectError(ErrorKind::kUnsupported, {word}, [&] { Parse(config); });
  }
  EXPECT_EQ(Parse(With3("gemma2", {{"hidden_activation", "silu"}, {"hidden_act", "relu"}})).block.act, Act::kSilu);
  EXPECT_EQ(Parse(With3("gemma2", {{"hidden_act", "relu"}})).block.act, Act::kGeluTanh);
  for (const char* word : {"gelu_python_tanh", "gelu_accurate"}) {
    EXPECT_EQ(Parse(With3("llama", {{"hidden_act", word}})).block.act, Act::kGeluTanh) << word;
  }
  ExpectError(ErrorKind::kFormat, {"rotary_emb_base", "rope_theta", "make them agree"}, [&] {
    Parse(With3("gpt_neox", {{"rotary_emb_base", 10000}, {"rope_theta", 5000}}));
  });
  ExpectError(ErrorKind::kFormat, {"n_head", "num_attention_heads"}, [&] { Parse(Of("bloom", {{"n_head", 8}})); });
}

TEST(HfConfigTest, ScalingsOfAFamilyThatKnowsLongRopeAlone) {
  ModelSpec spec = Parse(With3("phi3", {{"max_position_embeddings", 128}}));
  for (const char* text : {"linear:factor=4", "yarn:factor=4", "llama3:factor=4", "ntk:factor=4"}) {
    SCOPED_TRACE(text);
    spec.rope = ApplyRopeText({.rotary_dim = 16}, text, 128);
    spec.context = 512;
    const std::string config = HfConfigText(spec, DType::kF32);
    const ModelSpec others = ParseHfConfig(config);
    RopeSpec unrounded = others.rope;
    unrounded.numerics = {};
    const RopeFrequencies ours = ComputeFrequencies(spec.rope, 500), theirs = ComputeFrequencies(unrounded, 500);
    EXPECT_NEAR(ours.multiplier, theirs.multiplier, 1e-12);
    for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(ours.inv_freq[i] / theirs.inv_freq[i], 1, 1e-12);
    EXPECT_EQ(MergeSideFile(others, SideFileText(spec, config)), spec);
  }
  spec.rope = ApplyRopeText({.rotary_dim = 16}, "dynamic:factor=4", 128);
  ExpectError(ErrorKind::kUsage, {"dynamic"}, [&] { HfConfigText(spec, DType::kF32); });
}

TEST(HfConfigTest, LongRopeHasAListForEachSideOfTheOriginalContext) {
  const json block = {
      {"type", "longrope"}, {"short_factor", json::array_t(8, 1.5)}, {"long_factor", json::array_t(8, 4)}};
  const json config = With(Config(), {{"rope_scaling", block}, {"original_max_position_embeddings", 64}});
  const ModelSpec spec = Parse(config);
  EXPECT_EQ(spec.rope.scaling.factor, 8);
  const RopeFrequencies near = ComputeFrequencies(spec.rope, 64), far = ComputeFrequencies(spec.rope, 65);
  EXPECT_DOUBLE_EQ(near.inv_freq[0], static_cast<float>(1 / 1.5));  // rounded as by those who made the lists
  EXPECT_DOUBLE_EQ(far.inv_freq[0], 0.25);
  EXPECT_NEAR(far.multiplier, std::sqrt(1.5), 1e-12);  // 1 + ln 8 / ln 64
  EXPECT_EQ(ParseHfConfig(HfConfigText(spec, DType::kF32)), spec);
}

TEST(HfConfigTest, LayerTypesAreThoseOfTheModel) {
  const json mistral = With(Config(), {{"model_type", "mistral"}, {"num_hidden_layers", 4}, {"sliding_window", 33}});
  const auto with = [&](const std::vector<std::string>& types) { return With(mistral, {{"layer_types", types}}); };
  const std::string full = "full_attention", sliding = "sliding_attention";
  ModelSpec spec = Parse(with({full, sliding, sliding, "attention"}));
  EXPECT_EQ(spec.sliding_window, 33);
  EXPECT_EQ(spec.full_layers, (std::vector<int32_t>{0, 3}));
  const std::string config = HfConfigText(spec, DType::kF32);
  EXPECT_EQ(json::parse(config)["layer_types"], json({full, sliding, sliding, full}));
  EXPECT_EQ(ParseHfConfig(config), spec);
  EXPECT_EQ(SideFileText(spec, config), "");
  spec = Parse(with({sliding, sliding, sliding, sliding}));
  EXPECT_EQ(spec, Parse(mistral));
  EXPECT_FALSE(json::parse(HfConfigText(spec, DType::kF32)).contains("layer_types"));
  spec = Parse(with({full, full, full, full}));
  EXPECT_EQ(spec, Parse(With(mistral, {{"sliding_window", nullptr}})));
  EXPECT_EQ(Parse(With(mistral, {{"layer_types", nullptr}})), Parse(mistral));
  ExpectError(ErrorKind::kFormat, {"4 layers"}, [&] { Parse(with({full, full})); });
  ExpectError(ErrorKind::kUnsupported, {"chunked_attention", "layer 1"}, [&] {
    Parse(with({full, "chunked_attention", full, full}));
  });
  ExpectError(ErrorKind::kFormat, {"layer 2", "sliding_window"}, [&] {
    Parse(With(with({full, full, sliding, full}), {{"sliding_window", nullptr}}));
  });
}

TEST(HfConfigTest, StopIdsOfTheGenerationConfigReplaceThoseOfTheModel) {
  ModelSpec spec = TinySpec();
  spec.eos = {3};
  MergeGenerationConfig(R"({"temperature": 0.6})", spec);
  EXPECT_EQ(spec.eos, (std::vector<int32_t>{3}));
  MergeGenerationConfig(R"({"eos_token_id": [2, 9], "temperature": 0.6})", spec);
  EXPECT_EQ(spec.eos, (std::vector<int32_t>{2, 9}));
  MergeGenerationConfig(GenerationConfigText(spec), spec);
  EXPECT_EQ(spec.eos, (std::vector<int32_t>{2, 9}));
  ExpectError(ErrorKind::kFormat, {"eos"}, [&] { MergeGenerationConfig(R"({"eos_token_id": 64})", spec); });
}

TEST(HfConfigTest, AWindowIsWrittenWhereReadersWantOne) {
  const json full = "full_attention";
  for (const char* family : {"gemma2", "gemma3_text"}) {
    const ModelSpec spec = Parse(With3(family, {{"sliding_window", 16}, {"layer_types", {full, full, full, full}}}));
    EXPECT_EQ(spec.sliding_window, 0);
    const std::string text = HfConfigText(spec, DType::kF32);
    const json written = json::parse(text);
    EXPECT_TRUE(written["sliding_window"].is_number()) << family;
    EXPECT_EQ(written["layer_types"], json::array({full, full, full, full}));
    EXPECT_EQ(MergeSideFile(ParseHfConfig(text), SideFileText(spec, text)), spec);
  }
}

}  // namespace
}  // namespace hawser
