#include "hawser/model/spec.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hawser/base/error.h"

namespace hawser {
namespace {

constexpr double kTiny = std::numeric_limits<double>::min();  // for bounds that mean "above 0"

/// The limits keep every product of dimensions, in bytes, inside int64.
void InRange(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    Fail(ErrorKind::kFormat, "{} must be from {} to {}, found {}", field, low, high, value);
  }
}

/// Also refuses NaN.
void InRange(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return;
  if (low == kTiny) Fail(ErrorKind::kFormat, "{} must be above 0 and at most {}, found {}", field, high, value);
  Fail(ErrorKind::kFormat, "{} must be from {} to {}, found {}", field, low, high, value);
}

void ValidateRope(const ModelSpec& spec, const RopeSpec& rope) {
  const RopeScaling& scaling = rope.scaling;
  InRange("rope theta", rope.theta, std::nextafter(1.0, 2.0), 1e30);
  InRange("rotary_dim", int64_t{rope.rotary_dim}, 2, spec.head_dim);
  if (rope.rotary_dim % 2 != 0) Fail(ErrorKind::kFormat, "rotary_dim must be even, found {}", rope.rotary_dim);
  InRange("rope factor", scaling.factor, 1.0, 1e9);
  const bool needs_original = scaling.kind == RopeKind::kDynamic || scaling.kind == RopeKind::kYarn ||
                              scaling.kind == RopeKind::kLlama3 || scaling.kind == RopeKind::kLong;
  InRange("rope original context", scaling.original, needs_original ? 1 : 0, int64_t{1} << 31);
  if ((scaling.kind == RopeKind::kNtk || scaling.kind == RopeKind::kDynamic) && rope.rotary_dim < 4) {
    Fail(ErrorKind::kFormat, "rotary_dim must be at least 4 for ntk and dynamic scaling, found {}", rope.rotary_dim);
  }
  if (scaling.kind == RopeKind::kYarn) {
    InRange("rope beta_slow", scaling.beta_slow, kTiny, 1e9);
    InRange("rope beta_fast", scaling.beta_fast, std::nextafter(scaling.beta_slow, 2e9), 1e9);
    InRange("rope attention_factor", scaling.attention_factor.value_or(1.0), kTiny, 1e9);
    InRange("rope mscale", scaling.mscale.value_or(1.0), 0.0, 1e9);
    InRange("rope mscale_all_dim", scaling.mscale_all_dim.value_or(1.0), 0.0, 1e9);
  }
  if (scaling.kind == RopeKind::kLong) {
    InRange("rope attention_factor", scaling.attention_factor.value_or(1.0), kTiny, 1e9);
    for (const std::vector<double>* list : {&scaling.short_divisors, &scaling.long_divisors}) {
      InRange("rope divisors", static_cast<int64_t>(list->size()), rope.rotary_dim / 2, rope.rotary_dim / 2);
      for (const double divisor : *list) InRange("rope divisor", divisor, kTiny, 1e9);
    }
  }
  if (const QueryScale& scale = rope.query_scale) {
    InRange("context of the query scale", scale.context, scale.kind == QueryScaleKind::kLog ? 2 : 1, int64_t{1} << 31);
    InRange("first layer of the query scale", int64_t{scale.first_layer}, 0, 4096);
    InRange("rate of the query scale", scale.rate, 0.0, 1e3);
    if (spec.segments.places > 0) {
      Fail(ErrorKind::kUnsupported, "a query scale counts places; this model counts segments (bilevel positions)");
    }
  }
  if (scaling.kind == RopeKind::kLlama3) {
    InRange("rope low_freq_factor", scaling.low_freq_factor, kTiny, 1e9);
    InRange("rope high_freq_factor", scaling.high_freq_factor, std::nextafter(scaling.low_freq_factor, 2e9), 1e9);
  }
}

}  // namespace

void ValidateLayers(int32_t layers) { InRange("layers", int64_t{layers}, 1, 1 << 12); }

void Validate(const ModelSpec& spec) {
  InRange("vocab", int64_t{spec.vocab}, 1, 1 << 26);
  InRange("width", int64_t{spec.width}, 1, 1 << 18);
  ValidateLayers(spec.layers);
  InRange("heads", int64_t{spec.heads}, 1, 1 << 12);
  InRange("kv_heads", int64_t{spec.kv_heads}, 1, spec.heads);
  if (spec.heads % spec.kv_heads != 0) {
    Fail(ErrorKind::kFormat, "heads must be a multiple of kv_heads, found {} and {}", spec.heads, spec.kv_heads);
  }
  InRange("head_dim", int64_t{spec.head_dim}, 1, 256);
  InRange("mlp_width", int64_t{spec.mlp_width}, 1, 1 << 20);
  InRange("norm_eps", double{spec.norm_eps}, kTiny, 1.0);
  InRange("context", spec.context, 1, int64_t{1} << 31);
  InRange("sliding_window", int64_t{spec.sliding_window}, 0, std::numeric_limits<int32_t>::max());
  for (size_t i = 0; i < spec.full_layers.size(); ++i) {
    const int64_t least = i == 0 ? 0 : int64_t{spec.full_layers[i - 1]} + 1;  // ascending
    InRange("layer without a window", int64_t{spec.full_layers[i]}, least, int64_t{spec.layers} - 1);
  }
  if (!spec.full_layers.empty()) InRange("sliding_window", int64_t{spec.sliding_window}, 1, 1 << 30);
  InRange("bos", int64_t{spec.bos}, -1, int64_t{spec.vocab} - 1);
  for (const int32_t id : spec.eos) InRange("eos", int64_t{id}, 0, int64_t{spec.vocab} - 1);
  const SegmentSpec& segments = spec.segments;
  InRange("segment places", int64_t{segments.places}, 0, 1 << 20);
  for (size_t i = 0; i < segments.separators.size(); ++i) {
    const int64_t least = i == 0 ? 0 : int64_t{segments.separators[i - 1]} + 1;  // ascending
    InRange("segment separator", int64_t{segments.separators[i]}, least, int64_t{spec.vocab} - 1);
  }
  for (size_t i = 0; i < spec.unplaced_layers.size(); ++i) {
    const int64_t least = i == 0 ? 0 : int64_t{spec.unplaced_layers[i - 1]} + 1;
    InRange("layer without positions", int64_t{spec.unplaced_layers[i]}, least, int64_t{spec.layers} - 1);
  }
  InRange("embedding scale", double{spec.embedding_scale}, kTiny, 1e9);
  InRange("attention scale", double{spec.attn_scale}, 0.0, 1e9);
  InRange("attention cap", double{spec.attn_cap}, 0.0, 1e9);
  InRange("logit scale", double{spec.logit_scale}, kTiny, 1e9);
  InRange("logit cap", double{spec.logit_cap}, 0.0, 1e9);
  InRange("qkv clip", double{spec.block.qkv_clip}, 0.0, 1e9);
  if (spec.block.qkv_clip > 0 && spec.block.qk_norm != QkNorm::kNone) {
    Fail(ErrorKind::kUnsupported, "a clip of queries and keys beside a norm of them; models here have one of the two");
  }
  if (spec.places == Places::kAlibi) {
    InRange("alibi max_bias", spec.alibi.max_bias, kTiny, 1e3);
    InRange("alibi factor", spec.alibi.factor, 1.0, 1e9);
    InRange("alibi original context", spec.alibi.original, 0, int64_t{1} << 31);
    InRange("alibi multiplier", spec.alibi.multiplier, kTiny, 1e3);
    if (spec.alibi.bf16) InRange("key heads under alibi in bf16", int64_t{spec.kv_heads}, spec.heads, spec.heads);
    if (spec.alibi.scaling == AlibiScaling::kNtk) InRange("heads of ntk alibi", int64_t{spec.heads}, 2, 1 << 12);
  }
  if (spec.places != Places::kRope) return;
  ValidateRope(spec, spec.rope);
  if (spec.local_rope) ValidateRope(spec, *spec.local_rope);
}

bool Rotates(const ModelSpec& spec, int32_t layer) {
  return spec.places == Places::kRope && !std::ranges::binary_search(spec.unplaced_layers, layer);
}

const RopeSpec& RopeOf(const ModelSpec& spec, int32_t layer) {
  const bool local = spec.local_rope && spec.sliding_window > 0 && !std::ranges::binary_search(spec.full_layers, layer);
  return local ? *spec.local_rope : spec.rope;
}

bool ScalesQueries(const ModelSpec& spec, int32_t layer) {
  if (!Rotates(spec, layer)) return false;
  const QueryScale& scale = RopeOf(spec, layer).query_scale;
  return scale && layer >= scale.first_layer;
}

float AttentionScale(const ModelSpec& spec) {
  return spec.attn_scale > 0 ? spec.attn_scale : 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
}

LayeredPattern OwnPattern(const ModelSpec& spec) {
  LayeredPattern own;
  if (spec.sliding_window == 0) return own;
  own.window = spec.sliding_window;
  own.full_layers = spec.full_layers;
  return own;
}

DType QkvDType(const ModelSpec& spec, DType activations) {
  const RopeNumerics& n = spec.rope.numerics;
  if (n.math != FloatFormat::kF32 && n.math != FloatFormat::kBF16) {
    Fail(ErrorKind::kUnsupported, "rope numerics '{}': models rotate in f32 or bf16, not in {}", ToString(n),
         Name(n.math));
  }
  if (!n.qk) return activations;
  if (*n.qk == FloatFormat::kF32) return DType::kF32;
  if (*n.qk == FloatFormat::kBF16 && activations == DType::kBF16) return DType::kBF16;
  Fail(ErrorKind::kUnsupported, "rope numerics '{}': with {} activations q and k are kept in f32{}, not in {}{}",
       ToString(n), Name(activations), activations == DType::kBF16 ? " or bf16" : "", Name(*n.qk),
       *n.qk == FloatFormat::kBF16 ? "; run the model with dtype bf16" : "");
}

double TrainingFlops(const ModelSpec& spec, int64_t tokens, int64_t pairs) {
  const double per_pair = 12.0 * spec.head_dim * spec.heads * spec.layers;
  return 6.0 * static_cast<double>(MatrixParameters(spec)) * static_cast<double>(tokens) +
         per_pair * static_cast<double>(pairs);
}

}  // namespace hawser
