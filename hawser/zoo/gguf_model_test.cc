// Models in GGUF files: what the metadata say, rows in the order of the engine, and everything else refused by name.
#include "hawser/zoo/gguf_model.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "hawser/io/gguf_writer.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

std::vector<GgufField> Fields(const ModelSpec& spec) {
  const auto u32 = [](int64_t value) { return static_cast<uint32_t>(value); };
  return {{"general.architecture", std::string("llama")},
          {"llama.context_length", u32(spec.context)},
          {"llama.embedding_length", u32(spec.width)},
          {"llama.block_count", u32(spec.layers)},
          {"llama.feed_forward_length", u32(spec.mlp_width)},
          {"llama.attention.head_count", u32(spec.heads)},
          {"llama.attention.head_count_kv", u32(spec.kv_heads)},
          {"llama.attention.key_length", u32(spec.head_dim)},
          {"llama.attention.layer_norm_rms_epsilon", spec.norm_eps},
          {"tokenizer.ggml.bos_token_id", u32(spec.bos)},
          {"tokenizer.ggml.eos_token_id", u32(spec.eos.front())}};
}

std::string GgufName(const ParamInfo& info) {
  static const std::pair<std::string_view, std::string_view> kNames[] = {{"embed_tokens", "token_embd"},
                                                                         {"self_attn.q_proj", "attn_q"},
                                                                         {"self_attn.k_proj", "attn_k"},
                                                                         {"self_attn.v_proj", "attn_v"},
                                                                         {"self_attn.o_proj", "attn_output"},
                                                                         {"input_layernorm", "attn_norm"},
                                                                         {"post_attention_layernorm", "ffn_norm"},
                                                                         {"mlp.gate_proj", "ffn_gate"},
                                                                         {"mlp.up_proj", "ffn_up"},
                                                                         {"mlp.down_proj", "ffn_down"},
                                                                         {"model.norm", "output_norm"},
                                                                         {"lm_head", "output"}};
  for (const auto& [hf, gguf] : kNames) {
    if (info.name.find(hf) == info.name.npos) continue;
    return (info.layer >= 0 ? fmt::format("blk.{}.", info.layer) : "") + std::string(gguf) + ".weight";
  }
  return "";
}

/// Tensors of `params` as such files hold them: rows of query and key heads with adjacent pairs. `rows` owns them.
std::vector<TensorToWrite> Tensors(const ParamStore& params, std::vector<std::vector<float>>& rows) {
  std::vector<TensorToWrite> tensors;
  for (const ParamInfo& info : params.layout().params()) {
    const float* weight = params.Get(info.role, info.layer).Row<float>(0);
    std::vector<float> values(weight, weight + info.size());
    if (info.role == Role::kQuery || info.role == Role::kKey) {
      const int64_t dim = params.spec().head_dim;
      for (int64_t row = 0; row < info.rows; ++row) {  // row of channel c in halves is that of (c % (D/2), c / (D/2))
        const int64_t c = row % dim, to = row - c + c % (dim / 2) * 2 + c / (dim / 2);
        std::copy_n(weight + row * info.cols, info.cols, values.begin() + to * info.cols);
      }
    }
    rows.push_back(std::move(values));
    std::vector<int64_t> shape =
        info.vector ? std::vector<int64_t>{info.cols} : std::vector<int64_t>{info.rows, info.cols};
    tensors.push_back({GgufName(info), {DType::kF32, shape, std::as_bytes(std::span(rows.back()))}, DType::kF32});
  }
  return tensors;
}

struct Written {
  ParamStore params;
  std::vector<GgufField> fields;
  std::vector<std::vector<float>> rows;
  std::vector<TensorToWrite> tensors;

  explicit Written(const ModelSpec& spec) : params(TinyModel(spec, 3)), fields(Fields(spec)) {
    tensors = Tensors(params, rows);
  }
  fs::path Save(const std::string& name) const {
    const fs::path path = FreshFolder(name) / "x.gguf";
    WriteGguf(path, fields, tensors);
    return path;
  }
};

TEST(GgufModelTest, LoadsTheSameBits) {
  for (const bool tied : {false, true}) {
    const ModelSpec spec = TinySpec({.tie = tied});
    const Written written(spec);
    const LoadedModel model = LoadModel(written.Save("gguf_bits"));
    EXPECT_EQ(model.spec, spec);
    EXPECT_EQ(model.format, "GGUF");
    EXPECT_EQ(model.tokenizer, nullptr);
    EXPECT_EQ(std::memcmp(model.params.arena().data, written.params.arena().data,
                          static_cast<size_t>(spec.vocab) * sizeof(float)),
              0);
    for (const ParamInfo& info : written.params.layout().params()) {
      EXPECT_EQ(
          std::memcmp(model.params.Get(info.role, info.layer).data, written.params.Get(info.role, info.layer).data,
                      static_cast<size_t>(info.size()) * sizeof(float)),
          0)
          << info.name;
    }
  }
}

TEST(GgufModelTest, ReadsScalings) {
  const ModelSpec spec = TinySpec();
  const auto loaded = [&](std::vector<GgufField> more) {
    Written written(spec);
    for (GgufField& field : more) written.fields.push_back(std::move(field));
    return ToString(LoadSpec(written.Save("gguf_rope")).rope);
  };
  EXPECT_EQ(loaded({{"llama.rope.freq_base", 500000.0f}}), "default:theta=500000");
  EXPECT_EQ(loaded({{"llama.rope.scaling.type", std::string("linear")}, {"llama.rope.scaling.factor", 4.0f}}),
            "linear:factor=4");
  EXPECT_EQ(loaded({{"llama.rope.scale_linear", 2.0f}}), "linear:factor=2");
  EXPECT_EQ(loaded({{"llama.rope.scaling.type", std::string("yarn")},
                    {"llama.rope.scaling.factor", 4.0f},
                    {"llama.rope.scaling.original_context_length", uint32_t{32}}}),
            "yarn:factor=4,original=32");
  EXPECT_EQ(loaded({{"llama.rope.scaling.factor", 4.0f}}), "linear:factor=4");
  ExpectError(ErrorKind::kFormat, {"longrope", "rope_factors_long.weight", "missing"}, [&] {
    loaded({{"llama.rope.scaling.type", std::string("longrope")}});
  });
  ExpectError(ErrorKind::kUnsupported, {"rope.scaling.type", "other", "longrope"}, [&] {
    loaded({{"llama.rope.scaling.type", std::string("other")}});
  });
}

TEST(GgufModelTest, ReadsTheListsOfLongRope) {
  const ModelSpec spec = TinySpec({.head_dim = 8, .context = 128});
  const std::vector<float> near = {1, 1.25f, 1.5f, 2}, far = {1, 2, 4, 8}, few = {1, 2};
  const auto with = [&](const std::vector<float>* a, const std::vector<float>* b, std::vector<GgufField> more) {
    Written one(spec);
    const auto add = [&](const char* name, const std::vector<float>* list) {
      if (list == nullptr) return;
      const auto size = static_cast<int64_t>(list->size());
      one.tensors.push_back({name, {DType::kF32, {size}, std::as_bytes(std::span(*list))}, DType::kF32});
    };
    add("rope_factors_short.weight", a);
    add("rope_factors_long.weight", b);
    for (GgufField& field : more) one.fields.push_back(std::move(field));
    return ToString(LoadSpec(one.Save("gguf_long")).rope);
  };
  const GgufField original = {"llama.rope.scaling.original_context_length", uint32_t{32}};
  EXPECT_EQ(with(&near, &far, {original}),
            "longrope:factor=4,original=32,short=1+1.25+1.5+2,long=1+2+4+8,attention_factor=1");
  EXPECT_EQ(with(&near, &far, {original, {"llama.rope.scaling.attn_factor", 1.5f}}),
            "longrope:factor=4,original=32,short=1+1.25+1.5+2,long=1+2+4+8,attention_factor=1.5");
  ExpectError(ErrorKind::kFormat, {"rope_factors_short.weight", "missing"}, [&] { with(nullptr, &far, {original}); });
  ExpectError(ErrorKind::kFormat, {"rope_factors_long.weight", "4 values", "[2]"}, [&] { with(&near, &few, {}); });
  const std::vector<float> none = {1, 0, 1, 1};
  ExpectError(ErrorKind::kFormat, {"divisor of 0"}, [&] { with(&near, &none, {}); });
}

TEST(GgufModelTest, RecognisesTheDivisorsOfLlama3) {
  ModelSpec spec = TinySpec({.head_dim = 64, .width = 64, .context = 131072});
  spec.rope.theta = 500000;
  Written written(spec);
  written.fields.push_back({"llama.rope.freq_base", 500000.0f});
  RopeSpec scaled = spec.rope;
  scaled.scaling = {.kind = RopeKind::kLlama3, .factor = 8, .original = 8192};
  const auto plain = ComputeFrequencies(spec.rope, spec.context).inv_freq;
  const auto slow = ComputeFrequencies(scaled, spec.context).inv_freq;
  std::vector<float> divisors;
  for (size_t i = 0; i < plain.size(); ++i) divisors.push_back(static_cast<float>(plain[i] / slow[i]));
  const auto save = [&] {
    written.tensors.push_back(
        {"rope_freqs.weight", {DType::kF32, {32}, std::as_bytes(std::span(divisors))}, DType::kF32});
    return written.Save("gguf_llama3");
  };
  EXPECT_EQ(ToString(LoadSpec(save()).rope), "llama3:factor=8,original=8192,low=1,high=4,theta=500000");
  written.tensors.pop_back();
  divisors[20] *= 1.01f;
  const RopeSpec other = LoadSpec(save()).rope;  // as they are, at every length
  EXPECT_EQ(other.scaling.kind, RopeKind::kLong);
  for (const int64_t length : {int64_t{1}, 2 * spec.context}) {
    const RopeFrequencies read = ComputeFrequencies(other, length);
    EXPECT_EQ(read.multiplier, 1);
    for (size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(read.inv_freq[i] * divisors[i] / plain[i], 1, 1e-9) << i;
  }
  // An original length that no list of lengths has.
  written.tensors.pop_back();
  scaled.scaling = {.kind = RopeKind::kLlama3, .factor = 32, .original = 777};
  const auto odd = ComputeFrequencies(scaled, spec.context).inv_freq;
  for (size_t i = 0; i < plain.size(); ++i) divisors[i] = static_cast<float>(plain[i] / odd[i]);
  EXPECT_EQ(ToString(LoadSpec(save()).rope), "llama3:factor=32,original=777,low=1,high=4,theta=500000");
}

TEST(GgufModelTest, KeysThatSayNothingNewAreTaken) {
  const ModelSpec spec = TinySpec({.layers = 2});
  const auto with = [&](std::vector<GgufField> fields) {
    Written one(spec);
    for (GgufField& field : fields) {
      std::erase_if(one.fields, [&](const GgufField& own) { return own.key == field.key; });
      one.fields.push_back(std::move(field));
    }
    return LoadSpec(one.Save("gguf_neutral"));
  };
  const ModelSpec plain = with({});
  EXPECT_EQ(with({{"llama.attention.head_count", std::vector<int32_t>{spec.heads, spec.heads}},
                  {"llama.attention.head_count_kv", std::vector<int32_t>{spec.kv_heads, spec.kv_heads}}}),
            plain);
  EXPECT_EQ(with({{"llama.expert_count", 0u}, {"llama.expert_used_count", 0u}}), plain);
  EXPECT_EQ(with({{"llama.rope.scaling.yarn_ext_factor", -1.0f}, {"llama.rope.scaling.yarn_attn_factor", 1.0f}}),
            plain);
  const GgufField yarn = {"llama.rope.scaling.type", std::string("yarn")}, factor = {"llama.rope.scaling.factor", 4.0f};
  EXPECT_EQ(with({yarn, factor, {"llama.rope.scaling.yarn_ext_factor", 1.0f}}), with({yarn, factor}));
  EXPECT_EQ(with({yarn, factor, {"llama.rope.scaling.yarn_attn_factor", 1.5f}}),
            with({yarn, factor, {"llama.rope.scaling.attn_factor", 1.5f}}));

  ExpectError(ErrorKind::kUnsupported, {"head_count_kv", "one value for all layers"}, [&] {
    with({{"llama.attention.head_count_kv", std::vector<int32_t>{spec.kv_heads, 1}}});
  });
  ExpectError(ErrorKind::kUnsupported, {"yarn_ext_factor", "linear"}, [&] {
    with({factor, {"llama.rope.scaling.yarn_ext_factor", 1.0f}});
  });
  ExpectError(ErrorKind::kUnsupported, {"attn_factor", "none"}, [&] {
    with({{"llama.rope.scaling.attn_factor", 1.5f}});
  });
}

TEST(GgufModelTest, RefusesWhatItWouldNotCompute) {
  const ModelSpec spec = TinySpec();
  const auto refuse = [&](ErrorKind kind, std::initializer_list<std::string_view> words, auto change) {
    Written written(spec);
    change(written);
    const fs::path path = written.Save("gguf_refused");
    ExpectError(kind, words, [&] { LoadModel(path); });
  };
  refuse(ErrorKind::kUnsupported, {"llama.residual_scale"}, [](Written& w) {
    w.fields.push_back({"llama.residual_scale", 0.5f});
  });
  refuse(ErrorKind::kUnsupported, {"experts"}, [](Written& w) { w.fields.push_back({"llama.expert_count", 8u}); });
  refuse(ErrorKind::kUnsupported, {"partial"}, [](Written& w) {
    w.fields.push_back({"llama.rope.dimension_count", 4u});
  });
  refuse(ErrorKind::kUnsupported, {"mamba"}, [](Written& w) { w.fields[0].value = std::string("mamba"); });
  refuse(ErrorKind::kFormat, {"llama.block_count", "missing"},
         [](Written& w) { w.fields.erase(w.fields.begin() + 3); });
  refuse(ErrorKind::kFormat, {"layers must be from 1 to 4096"}, [](Written& w) { w.fields[3].value = 134217727u; });
  refuse(ErrorKind::kUnsupported, {"blk.0.ffn_gate_inp.weight"}, [](Written& w) {
    TensorToWrite router = w.tensors[1];
    router.name = "blk.0.ffn_gate_inp.weight";
    w.tensors.push_back(router);
  });
  refuse(ErrorKind::kFormat, {"blk.0.attn_k.bias", "missing"}, [](Written& w) {
    TensorToWrite bias = w.tensors[1];  // of queries alone, in their shape
    bias.name = "blk.0.attn_q.bias";
    w.rows.push_back(std::vector<float>(32));
    bias.view = {DType::kF32, {32}, std::as_bytes(std::span(w.rows.back()))};
    w.tensors.push_back(bias);
  });
  refuse(ErrorKind::kFormat, {"blk.1.ffn_down.weight", "missing"}, [](Written& w) {
    std::erase_if(w.tensors, [](const TensorToWrite& t) { return t.name == "blk.1.ffn_down.weight"; });
  });
  refuse(ErrorKind::kFormat, {"blk.0.ffn_down.weight", "[48, 32]", "[32, 48]"}, [](Written& w) {
    for (TensorToWrite& t : w.tensors) {
      if (t.name == "blk.0.ffn_down.weight") std::swap(t.view.shape[0], t.view.shape[1]);
    }
  });
}

}  // namespace
}  // namespace hawser
