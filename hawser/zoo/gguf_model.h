// zoo/gguf_model.h - the network that the metadata of a GGUF file describes, and where its tensors lie.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "hawser/io/gguf.h"
#include "hawser/model/params.h"

namespace hawser {

/// What is lost of norms of 1 + w where files hold the sum: w - (sum - 1), of all norms in the order of ParamLayout.
inline constexpr std::string_view kGgufNormRests = "hawser.norm_rests";

/// The spec by the keys `ARCHITECTURE.*`, for the architectures that have a row (gguf_families.h). Biases and norms are
/// those that there are tensors of. BOS and EOS are those of `tokenizer.ggml.*`; eos holds the ends of a turn and of a
/// message too. Errors: kFormat naming a key that is missing, out of range, or at odds with another; kUnsupported for
/// another architecture, and for every key of it that would change what is computed and is not read.
ModelSpec GgufSpec(const GgufFile& file);

struct GgufPieces {
  std::vector<TensorView> views;      // of every parameter, in the order of ParamLayout(spec).params()
  std::shared_ptr<const void> owner;  // of those that do not lie in the file: norms without their 1
};

/// Errors: kFormat for a tensor that is missing, of another shape, or not part of the model; kUnsupported for integer
/// types.
GgufPieces MatchGguf(const GgufFile& file, const ModelSpec& spec);

}  // namespace hawser
