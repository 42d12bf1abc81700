// zoo/hf_keys.h - the members of a config.json that are read, those that change nothing here, and the rest.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace hawser {

/// Members that change what a model computes are read (hf_config.h, hf_rope.h) or refused here: every member that is
/// neither read nor known to be harmless must be off (null, false, 0, or empty). Also inside rope_scaling and
/// rope_parameters. `has_windows`: whether the family knows sliding windows. Errors: kUnsupported naming the member and
/// its value.
void CheckHfKeys(const nlohmann::json& config, bool has_windows);

/// Whether an export keeps the member of its source: one that is not written from the spec and changes nothing, and
/// needs no other file (auto_map does).
bool IsCarriedHfKey(std::string_view key, const nlohmann::ordered_json& value);

}  // namespace hawser
