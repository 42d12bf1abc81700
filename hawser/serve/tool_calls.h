// serve/tool_calls.h - calls of tools in what chat models write, in the forms that their templates teach them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace hawser {

struct ToolCalls {
  std::string content;                                             // the text around them
  nlohmann::ordered_json calls = nlohmann::ordered_json::array();  // {"id", "type", "function": {"name", "arguments"}}
};

/// Known forms: <tool_call>{"name", "arguments"}</tool_call> (Hermes, Qwen, SmolLM3), [TOOL_CALLS][{...}, ...]
/// (Mistral), and a whole text that is {"name", "parameters"} (Llama 3). What is no such call stays text.
ToolCalls FindToolCalls(std::string_view text);

}  // namespace hawser
