// cli/focus.h - --focus: a long text read through FocusLLM's candidates (infer/focus.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "hawser/cli/command.h"
#include "hawser/infer/focus.h"
#include "hawser/model/weights.h"

namespace hawser {

void AddFocusOption(Command command, std::string& text);

struct FocusToRun {
  FocusOptions options;
  Weights candidates;
  std::string file;
};

/// PATH, or PATH,key=value,...: chunk, prompt, local, sync; what is not given is as the file says. Errors: kUsage for
/// other keys and values; ReadFocusAdapters.
FocusToRun OpenFocus(const std::string& text, const Weights& model);

/// What a stream held and computed, for people and for programs.
std::string FocusLine(const FocusStream& stream);
nlohmann::json FocusJson(const FocusStream& stream, const FocusOptions& options);

}  // namespace hawser
