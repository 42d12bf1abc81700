// zoo/hf_config.h - a ModelSpec as the JSON files of a Hugging Face folder.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hawser/base/dtype.h"
#include "hawser/model/spec.h"

namespace hawser {

/// The text of config.json, as the row of its family reads it (families.h); the result is validated. Errors: kFormat
/// (missing keys, values) and kUnsupported (model_type, activations, quantization, rope kinds, and every key that is
/// not known to be harmless, hf_keys.h), naming the key, what was found and the known values.
ModelSpec ParseHfConfig(std::string_view text);

/// Takes what generation_config.json says about token ids: its end-of-sequence ids, if any, replace spec.eos.
void MergeGenerationConfig(std::string_view text, ModelSpec& spec);

/// config.json for weights stored as `dtype`. Errors: kUsage for a spec that no family can express.
std::string HfConfigText(const ModelSpec& spec, DType dtype);
/// Every key that a configuration of this model may say something by.
std::vector<std::string> HfKeysOf(const ModelSpec& spec);
std::string GenerationConfigText(const ModelSpec& spec);

/// hawser_spec.json: what config.json cannot say (positions, softmax). Empty when `config` parses to `spec` again.
/// Errors: kUsage where the network itself is another.
std::string SideFileText(const ModelSpec& spec, std::string_view config);

/// Puts what a hawser_spec.json says over the spec of `config`. Errors: kFormat if its frequencies are not those of
/// config.json (which was edited since, or is of another model).
ModelSpec MergeSideFile(const ModelSpec& config, std::string_view side);

}  // namespace hawser
