// zoo/gguf_model.h - the network that the metadata of a GGUF file describes, and where its tensors lie.
#pragma once

#include <vector>

#include "hawser/io/gguf.h"
#include "hawser/model/spec.h"

namespace hawser {

/// The spec by the keys `ARCHITECTURE.*`, for the architecture llama (Llama, Mistral and their like). Query and key
/// rows of that architecture pair adjacent channels. BOS and EOS are those of `tokenizer.ggml.*`; eos holds the ends of
/// a turn and of a message too. Errors: kFormat naming a key that is missing or out of range; kUnsupported for another
/// architecture, and for every key of it that would change what is computed and is not read.
ModelSpec GgufSpec(const GgufFile& file);

/// The view of every parameter, in the order of ParamLayout(spec).params(). Errors: kFormat for a tensor that is
/// missing, of another shape, or not part of the model; kUnsupported for integer types.
std::vector<TensorView> MatchGguf(const GgufFile& file, const ModelSpec& spec);

}  // namespace hawser
