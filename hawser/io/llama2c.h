// io/llama2c.h - checkpoints of github.com/karpathy/llama2.c: version 1 (magic "ak42", 256-byte header) and the legacy
// form (28-byte header), both F32, little-endian, layers of one kind stacked in one array.
#pragma once

#include <cstdint>
#include <filesystem>

#include "hawser/io/tensor_source.h"

namespace hawser {

struct Llama2c {
  bool legacy = false;
  int64_t width = 0, mlp_width = 0, layers = 0, heads = 0, kv_heads = 0, vocab = 0, context = 0;
  bool tied = false;
  /// tok_embeddings [V, C], attention_norm [L, C], wq [L, C, C], wk, wv [L, G*D, C], wo [L, C, C], ffn_norm [L, C],
  /// w1 (gate), w3 (up) [L, F, C], w2 (down) [L, C, F], norm [C], output [V, C] when not tied, and in the legacy form
  /// freq_cos, freq_sin [context, D / 2]. D = C / heads; rows of wq and wk pair adjacent channels.
  TensorSource tensors;
};

/// Errors: kIo; kFormat naming the file and the header field or the sizes; kUnsupported for other versions.
Llama2c ReadLlama2c(const std::filesystem::path& path);

}  // namespace hawser
