// zoo/families.h - the architectures that a ModelSpec describes, one row each.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace hawser {

/// The defaults are those of the class that reads config.json elsewhere (github.com/huggingface/transformers), for
/// members that a file leaves out.
struct Family {
  std::string_view model_type;
  std::string_view architecture;
  int32_t kv_heads;  // 0: as many as heads
  int32_t sliding_window;
  int64_t context;
};

constexpr std::array<Family, 2> kFamilies = {{
    {"llama", "LlamaForCausalLM", 0, 0, 2048},
    {"mistral", "MistralForCausalLM", 8, 4096, 131072},
}};

}  // namespace hawser
