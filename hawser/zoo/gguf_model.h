// zoo/gguf_model.h - the network that the metadata of a GGUF file describes, and where its tensors lie.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hawser/io/gguf.h"
#include "hawser/model/params.h"

namespace hawser {

/// A value of `general.architecture`, and a family that is written so; the first row of a name is read.
struct GgufArchitecture {
  std::string_view name, family;  // ModelSpec::family
  bool adjacent;                  // query and key rows pair adjacent channels
  bool biases;                    // its readers know biases of linear layers
};
/// Errors: kUnsupported with the known ones.
const GgufArchitecture& GgufArchitectureOf(std::string_view family);
/// Errors: as above; kFormat where the file names none.
const GgufArchitecture& GgufArchitectureOf(const GgufFile& file);

/// Divisors of the frequencies of pairs, F32.
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";
/// The rope of the model as its text form (pos/scheme.h), where the other keys say less: which scheme they come from,
/// a base that is no f32, rounding. Readers that do not know it lose nothing they compute with.
inline constexpr std::string_view kGgufRopeText = "hawser.rope";

/// "blk.0.attn_q.weight"
std::string GgufTensorName(const ParamInfo& info);

/// The spec by the keys `ARCHITECTURE.*`, for the architectures that have a row. Biases and norms are those that there
/// are tensors of. BOS and EOS are those of `tokenizer.ggml.*`; eos holds the ends of
/// a turn and of a message too. Errors: kFormat naming a key that is missing, out of range, or at odds with another;
/// kUnsupported for another
/// architecture, and for every key of it that would change what is computed and is not read.
ModelSpec GgufSpec(const GgufFile& file);

/// The view of every parameter, in the order of ParamLayout(spec).params(). Errors: kFormat for a tensor that is
/// missing, of another shape, or not part of the model; kUnsupported for integer types.
std::vector<TensorView> MatchGguf(const GgufFile& file, const ModelSpec& spec);

}  // namespace hawser
