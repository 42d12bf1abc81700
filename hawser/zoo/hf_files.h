// zoo/hf_files.h - the names of the files of a Hugging Face folder.
#pragma once

namespace hawser {

inline constexpr const char* kConfig = "config.json";
inline constexpr const char* kGenerationConfig = "generation_config.json";
inline constexpr const char* kSideFile = "hawser_spec.json";  // what a config.json has no member for
inline constexpr const char* kWeights = "model.safetensors";
inline constexpr const char* kIndex = "model.safetensors.index.json";  // of weights in several files

}  // namespace hawser
