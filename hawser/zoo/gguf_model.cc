#include "hawser/zoo/gguf_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/model/params.h"

namespace hawser {
namespace {

constexpr std::string_view kRopeFactors = kGgufRopeFactors;
constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "llama", true, true},   {"llama", "mistral", true, true}, {"qwen2", "qwen2", false, true},
    {"qwen3", "qwen3", false, false}, {"olmo2", "olmo2", false, false},
};

struct RoleName {
  Role role;
  std::string_view name;
};
constexpr RoleName kNames[] = {
    {Role::kEmbedding, "token_embd"},
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

constexpr int64_t kMaxContext = int64_t{1} << 31;

/// Keys behind "ARCHITECTURE." that are read, or change nothing that is computed here.
constexpr std::array<std::string_view, 22> kKnownKeys = {"context_length",
                                                         "embedding_length",
                                                         "block_count",
                                                         "feed_forward_length",
                                                         "vocab_size",
                                                         "attention.head_count",
                                                         "attention.head_count_kv",
                                                         "attention.key_length",
                                                         "attention.value_length",
                                                         "attention.layer_norm_rms_epsilon",
                                                         "attention.sliding_window",
                                                         "rope.dimension_count",
                                                         "rope.freq_base",
                                                         "rope.scaling.type",
                                                         "rope.scaling.factor",
                                                         "rope.scaling.original_context_length",
                                                         "rope.scaling.attn_factor",
                                                         "rope.scaling.finetuned",
                                                         "rope.scaling.yarn_beta_fast",
                                                         "rope.scaling.yarn_beta_slow",
                                                         "rope.scale_linear",
                                                         "expert_count"};

/// "llama.block_count"
std::string Key(const GgufFile& file, std::string_view name) {
  return fmt::format("{}.{}", file.Text("general.architecture").value_or(""), name);
}

void RefuseUnknownKeys(const GgufFile& file) {
  const std::string prefix = Key(file, "");
  for (const auto& [key, value] : file.metadata()) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view name = std::string_view(key).substr(prefix.size());
    if (std::find(kKnownKeys.begin(), kKnownKeys.end(), name) == kKnownKeys.end()) {
      Fail(ErrorKind::kUnsupported, "'{}' may change what the model computes and is not supported", key);
    }
  }
  if (const auto experts = file.Int(Key(file, "expert_count")); experts && *experts != 0) {
    Fail(ErrorKind::kUnsupported, "'{}' is {}; mixtures of experts are not supported", Key(file, "expert_count"),
         *experts);
  }
}

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
  const RopeFrequencies of_a = ComputeFrequencies(a, context), of_b = ComputeFrequencies(b, context);
  const auto near = [](double x, double y) { return std::abs(x - y) <= kNear * std::abs(y); };
  return near(of_a.multiplier, of_b.multiplier) &&
         std::equal(of_a.inv_freq.begin(), of_a.inv_freq.end(), of_b.inv_freq.begin(), of_b.inv_freq.end(), near);
}

/// The llama3 scaling whose divisors the file holds as a tensor: that of its `named` rope, or recognised by trying the
/// lengths that models are pretrained at.
RopeScaling Llama3Scaling(const GgufFile& file, const RopeSpec& rope, const std::optional<RopeSpec>& named,
                          int64_t context) {
  const TensorView& view = *file.tensors.Find(kRopeFactors);
  const auto pairs = static_cast<size_t>(rope.rotary_dim / 2);
  if (view.dtype != DType::kF32 || view.size() != static_cast<int64_t>(pairs)) {
    Fail(ErrorKind::kFormat, "tensor '{}' must be {} values in f32, found {} as {}", kRopeFactors, pairs,
         ShapeText(view.shape), Name(view.dtype));
  }
  std::vector<float> divisors(pairs);
  std::memcpy(divisors.data(), view.bytes.data(), view.bytes.size());
  RopeSpec plain = rope;
  plain.scaling = {};
  const std::vector<double> base = ComputeFrequencies(plain, context).inv_freq;
  const float most = *std::max_element(divisors.begin(), divisors.end());
  std::vector<RopeScaling> candidates;
  if (named) candidates.push_back(named->scaling);
  for (const int64_t original : {8192, 4096, 2048, 16384, 32768}) {
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
  Fail(ErrorKind::kUnsupported, "tensor '{}' holds divisors that no llama3 scaling gives (factors 1 and 4)",
       kRopeFactors);
}

RopeSpec ReadRope(const GgufFile& file, int32_t head_dim, int64_t context) {
  RopeSpec rope;
  rope.theta = file.Number(Key(file, "rope.freq_base")).value_or(10000.0);
  rope.rotary_dim = static_cast<int32_t>(file.Int(Key(file, "rope.dimension_count"), 2, 1 << 16).value_or(head_dim));
  if (rope.rotary_dim != head_dim) {
    Fail(ErrorKind::kUnsupported, "'{}' is {}, heads have {} channels; partial rotation is not supported",
         Key(file, "rope.dimension_count"), rope.rotary_dim, head_dim);
  }
  const double linear = file.Number(Key(file, "rope.scale_linear")).value_or(1.0);
  const std::string_view type = file.Text(Key(file, "rope.scaling.type")).value_or(linear != 1.0 ? "linear" : "none");
  const double factor = file.Number(Key(file, "rope.scaling.factor")).value_or(linear);
  if (type == "linear" && factor != 1.0) {
    rope.scaling = {.kind = RopeKind::kLinear, .factor = factor};
  } else if (type == "yarn") {
    rope.scaling = {.kind = RopeKind::kYarn, .factor = factor};
    rope.scaling.original = file.Int(Key(file, "rope.scaling.original_context_length"), 1, kMaxContext).value_or(0);
    if (rope.scaling.original == 0) {
      rope.scaling.original = static_cast<int64_t>(static_cast<double>(context) / factor);
    }
    rope.scaling.beta_fast = file.Number(Key(file, "rope.scaling.yarn_beta_fast")).value_or(rope.scaling.beta_fast);
    rope.scaling.beta_slow = file.Number(Key(file, "rope.scaling.yarn_beta_slow")).value_or(rope.scaling.beta_slow);
    // The reader of these files multiplies it by the factor that YaRN derives.
    if (const auto attention = file.Number(Key(file, "rope.scaling.attn_factor"))) {
      rope.scaling.attention_factor = *attention * (factor > 1 ? 0.1 * std::log(factor) + 1 : 1.0);
    }
  } else if (type != "none" && type != "linear") {
    Fail(ErrorKind::kUnsupported, "'{}' = '{}' is not supported; known are none, linear and yarn",
         Key(file, "rope.scaling.type"), type);
  }
  const std::optional<RopeSpec> named = NamedRope(file, rope.rotary_dim, context);
  if (file.tensors.Find(kRopeFactors) != nullptr) {
    if (type != "none") Fail(ErrorKind::kUnsupported, "'{}' beside scaling of type {}", kRopeFactors, type);
    rope.scaling = Llama3Scaling(file, rope, named, context);
  }
  if (!named) return rope;
  if (!SameRotations(rope, *named, context)) {
    Fail(ErrorKind::kFormat, "'{}' = '{}' and the keys '{}' give other rotations ({})", kGgufRopeText, ToString(*named),
         Key(file, "rope.*"), ToString(rope));
  }
  return *named;
}

/// What the tensors of the first layer tell of all.
BlockSpec ReadBlock(const GgufFile& file, const ModelSpec& spec) {
  const auto find = [&](std::string_view name) { return file.tensors.Find(fmt::format("blk.0.{}", name)); };
  BlockSpec block;
  block.qkv_bias = find("attn_q.bias") != nullptr;
  block.out_bias = find("attn_output.bias") != nullptr;
  block.mlp_bias = find("ffn_up.bias") != nullptr;
  block.pre_norms = find("attn_norm.weight") != nullptr || find("post_attention_norm.weight") == nullptr;
  block.post_norms = find("post_attention_norm.weight") != nullptr;
  if (const TensorView* norm = find("attn_q_norm.weight")) {
    block.qk_norm = norm->size() == spec.head_dim ? QkNorm::kHead : QkNorm::kWidth;
  }
  return block;
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

std::string GgufTensorName(const ParamInfo& info) {
  const auto found = std::ranges::find(kNames, info.role, &RoleName::role);
  HAWSER_CHECK(found != std::end(kNames));
  return fmt::format("{}{}.{}", info.layer >= 0 ? fmt::format("blk.{}.", info.layer) : "", found->name,
                     info.part == Part::kBias ? "bias" : "weight");
}

ModelSpec GgufSpec(const GgufFile& file) {
  const GgufArchitecture& architecture = GgufArchitectureOf(file);
  RefuseUnknownKeys(file);
  const auto size = [&](std::string_view name) {
    return static_cast<int32_t>(file.Need(Key(file, name), file.Int(Key(file, name), 1, INT32_MAX)));
  };
  const auto size_or = [&](std::string_view name, int32_t fallback) {
    return static_cast<int32_t>(file.Int(Key(file, name), 1, INT32_MAX).value_or(fallback));
  };
  ModelSpec spec;
  spec.family = architecture.family;
  spec.width = size("embedding_length");
  spec.layers = size("block_count");
  spec.mlp_width = size("feed_forward_length");
  spec.heads = size("attention.head_count");
  spec.kv_heads = size_or("attention.head_count_kv", spec.heads);
  spec.head_dim = size_or("attention.key_length", spec.width / spec.heads);
  if (size_or("attention.value_length", spec.head_dim) != spec.head_dim) {
    Fail(ErrorKind::kUnsupported, "values of another size than keys ('{}') are not supported",
         Key(file, "attention.value_length"));
  }
  const std::string eps = Key(file, "attention.layer_norm_rms_epsilon");
  spec.norm_eps = static_cast<float>(file.Need(eps, file.Number(eps)));
  spec.context = file.Need(Key(file, "context_length"), file.Int(Key(file, "context_length"), 1, kMaxContext));
  if (const auto window = file.Int(Key(file, "attention.sliding_window"), 0, INT32_MAX); window.value_or(0) > 0) {
    if (spec.family == "llama") spec.family = "mistral";
    spec.sliding_window = static_cast<int32_t>(*window);
  }
  const TensorView* embedding = file.tensors.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > INT32_MAX) {
    Fail(ErrorKind::kFormat, "tensor 'token_embd.weight' is missing or no matrix");
  }
  spec.vocab = static_cast<int32_t>(embedding->shape[0]);
  spec.tie_embeddings = file.tensors.Find("output.weight") == nullptr;
  spec.block = ReadBlock(file, spec);
  spec.rope = ReadRope(file, spec.head_dim, spec.context);
  const auto id = [&](std::string_view name) {
    return static_cast<int32_t>(
        file.Int(fmt::format("tokenizer.ggml.{}_token_id", name), 0, spec.vocab - 1).value_or(-1));
  };
  spec.bos = id("bos");
  for (const char* name : {"eos", "eot", "eom"}) {
    const int32_t end = id(name);
    if (end >= 0 && std::find(spec.eos.begin(), spec.eos.end(), end) == spec.eos.end()) spec.eos.push_back(end);
  }
  Validate(spec);
  return spec;
}

std::vector<TensorView> MatchGguf(const GgufFile& file, const ModelSpec& spec) {
  std::vector<TensorView> views;
  std::set<std::string, std::less<>> used = {std::string(kRopeFactors)};
  const ParamLayout layout(spec);
  for (const ParamInfo& info : layout.params()) {
    const std::string name = GgufTensorName(info);
    const std::vector<int64_t> wanted =
        info.vector ? std::vector<int64_t>{info.cols} : std::vector<int64_t>{info.rows, info.cols};
    const TensorView* view = file.tensors.Find(name);
    if (view == nullptr) Fail(ErrorKind::kFormat, "tensor '{}' {} is missing", name, ShapeText(wanted));
    if (view->shape != wanted) {
      Fail(ErrorKind::kFormat, "tensor '{}' has shape {}; the metadata ask for {}", name, ShapeText(view->shape),
           ShapeText(wanted));
    }
    if (view->dtype == DType::kI32 || view->dtype == DType::kI64) {
      Fail(ErrorKind::kUnsupported, "tensor '{}' is stored as {}", name, Name(view->dtype));
    }
    views.push_back(*view);
    used.insert(name);
  }
  for (const auto& [name, view] : file.tensors.tensors()) {
    if (!used.contains(name)) {
      Fail(ErrorKind::kUnsupported, "tensor '{}' {} is not part of a model of architecture {}", name,
           ShapeText(view.shape), GgufArchitectureOf(file).name);
    }
  }
  return views;
}

}  // namespace hawser
