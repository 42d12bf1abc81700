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

constexpr std::string_view kArchitecture = kGgufLlama;
constexpr std::string_view kRopeFactors = kGgufRopeFactors;
constexpr int64_t kMaxContext = int64_t{1} << 31;

/// Keys behind "llama." that are read, or change nothing that is computed here.
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

std::string Key(std::string_view name) { return fmt::format("{}.{}", kArchitecture, name); }

void RefuseUnknownKeys(const GgufFile& file) {
  const std::string prefix = Key("");
  for (const auto& [key, value] : file.metadata()) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view name = std::string_view(key).substr(prefix.size());
    if (std::find(kKnownKeys.begin(), kKnownKeys.end(), name) == kKnownKeys.end()) {
      Fail(ErrorKind::kUnsupported, "'{}' may change what the model computes and is not supported", key);
    }
  }
  if (const auto experts = file.Int(Key("expert_count")); experts && *experts != 0) {
    Fail(ErrorKind::kUnsupported, "'{}' is {}; mixtures of experts are not supported", Key("expert_count"), *experts);
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
  rope.theta = file.Number(Key("rope.freq_base")).value_or(10000.0);
  rope.rotary_dim = static_cast<int32_t>(file.Int(Key("rope.dimension_count"), 2, 1 << 16).value_or(head_dim));
  if (rope.rotary_dim != head_dim) {
    Fail(ErrorKind::kUnsupported, "'{}' is {}, heads have {} channels; partial rotation is not supported",
         Key("rope.dimension_count"), rope.rotary_dim, head_dim);
  }
  const double linear = file.Number(Key("rope.scale_linear")).value_or(1.0);
  const std::string_view type = file.Text(Key("rope.scaling.type")).value_or(linear != 1.0 ? "linear" : "none");
  const double factor = file.Number(Key("rope.scaling.factor")).value_or(linear);
  if (type == "linear" && factor != 1.0) {
    rope.scaling = {.kind = RopeKind::kLinear, .factor = factor};
  } else if (type == "yarn") {
    rope.scaling = {.kind = RopeKind::kYarn, .factor = factor};
    rope.scaling.original = file.Int(Key("rope.scaling.original_context_length"), 1, kMaxContext).value_or(0);
    if (rope.scaling.original == 0) {
      rope.scaling.original = static_cast<int64_t>(static_cast<double>(context) / factor);
    }
    rope.scaling.beta_fast = file.Number(Key("rope.scaling.yarn_beta_fast")).value_or(rope.scaling.beta_fast);
    rope.scaling.beta_slow = file.Number(Key("rope.scaling.yarn_beta_slow")).value_or(rope.scaling.beta_slow);
    // The reader of these files multiplies it by the factor that YaRN derives.
    if (const auto attention = file.Number(Key("rope.scaling.attn_factor"))) {
      rope.scaling.attention_factor = *attention * (factor > 1 ? 0.1 * std::log(factor) + 1 : 1.0);
    }
  } else if (type != "none" && type != "linear") {
    Fail(ErrorKind::kUnsupported, "'{}' = '{}' is not supported; known are none, linear and yarn",
         Key("rope.scaling.type"), type);
  }
  const std::optional<RopeSpec> named = NamedRope(file, rope.rotary_dim, context);
  if (file.tensors.Find(kRopeFactors) != nullptr) {
    if (type != "none") Fail(ErrorKind::kUnsupported, "'{}' beside scaling of type {}", kRopeFactors, type);
    rope.scaling = Llama3Scaling(file, rope, named, context);
  }
  if (!named) return rope;
  if (!SameRotations(rope, *named, context)) {
    Fail(ErrorKind::kFormat, "'{}' = '{}' and the keys '{}' give other rotations ({})", kGgufRopeText, ToString(*named),
         Key("rope.*"), ToString(rope));
  }
  return *named;
}

}  // namespace

std::string GgufTensorName(const ParamInfo& info) {
  const auto of_layer = [&](std::string_view name) { return fmt::format("blk.{}.{}.weight", info.layer, name); };
  switch (info.role) {
    case Role::kEmbedding:
      return "token_embd.weight";
    case Role::kFinalNorm:
      return "output_norm.weight";
    case Role::kHead:
      return "output.weight";
    case Role::kAttnNorm:
      return of_layer("attn_norm");
    case Role::kQuery:
      return of_layer("attn_q");
    case Role::kKey:
      return of_layer("attn_k");
    case Role::kValue:
      return of_layer("attn_v");
    case Role::kAttnOut:
      return of_layer("attn_output");
    case Role::kMlpNorm:
      return of_layer("ffn_norm");
    case Role::kGate:
      return of_layer("ffn_gate");
    case Role::kUp:
      return of_layer("ffn_up");
    case Role::kDown:
      return of_layer("ffn_down");
    default:  // its models have no others
      break;
  }
  return "";
}

ModelSpec GgufSpec(const GgufFile& file) {
  const std::string_view architecture = file.Need("general.architecture", file.Text("general.architecture"));
  if (architecture != kArchitecture) {
    Fail(ErrorKind::kUnsupported, "architecture '{}' is not supported; known is {}", architecture, kArchitecture);
  }
  RefuseUnknownKeys(file);
  const auto size = [&](std::string_view name) {
    return static_cast<int32_t>(file.Need(Key(name), file.Int(Key(name), 1, INT32_MAX)));
  };
  const auto size_or = [&](std::string_view name, int32_t fallback) {
    return static_cast<int32_t>(file.Int(Key(name), 1, INT32_MAX).value_or(fallback));
  };
  ModelSpec spec;
  spec.width = size("embedding_length");
  spec.layers = size("block_count");
  spec.mlp_width = size("feed_forward_length");
  spec.heads = size("attention.head_count");
  spec.kv_heads = size_or("attention.head_count_kv", spec.heads);
  spec.head_dim = size_or("attention.key_length", spec.width / spec.heads);
  if (size_or("attention.value_length", spec.head_dim) != spec.head_dim) {
    Fail(ErrorKind::kUnsupported, "values of another size than keys ('{}') are not supported",
         Key("attention.value_length"));
  }
  const std::string eps = Key("attention.layer_norm_rms_epsilon");
  spec.norm_eps = static_cast<float>(file.Need(eps, file.Number(eps)));
  spec.context = file.Need(Key("context_length"), file.Int(Key("context_length"), 1, kMaxContext));
  if (const auto window = file.Int(Key("attention.sliding_window"), 0, INT32_MAX); window.value_or(0) > 0) {
    spec.family = "mistral";
    spec.sliding_window = static_cast<int32_t>(*window);
  }
  const TensorView* embedding = file.tensors.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > INT32_MAX) {
    Fail(ErrorKind::kFormat, "tensor 'token_embd.weight' is missing or no matrix");
  }
  spec.vocab = static_cast<int32_t>(embedding->shape[0]);
  spec.tie_embeddings = file.tensors.Find("output.weight") == nullptr;
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
           ShapeText(view.shape), kArchitecture);
    }
  }
  return views;
}

}  // namespace hawser
