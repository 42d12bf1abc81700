// zoo/hf_keys.h - the members of a config.json that are read, those that change nothing here, and the rest.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// Members that change what a model computes are `known` (config_members.h) or refused here: every other member that is
/// not known to be harmless must be off (null, false, 0, or empty). Also inside rope_scaling and rope_parameters.
/// `scope`: written before names in messages. Errors: kUnsupported naming the member and its value.
void CheckHfKeys(const nlohmann::json& config, const std::vector<std::string>& known, const std::string& scope = "");

/// Whether an export keeps the member of its source: one that is not written from the spec and changes nothing, and
/// needs no other file (auto_map does).
bool IsCarriedHfKey(std::string_view key, const nlohmann::ordered_json& value, const std::vector<std::string>& known);

}  // namespace hawser
