// cli/eval_files.h - the parts of `hawser eval` that run no model: data of tasks made, and predictions in files scored.
#pragma once

#include <functional>
#include <optional>

#include "hawser/cli/command.h"

namespace hawser {

/// Declares `eval ruler gen`, `eval ruler score` and `eval score`; the returned function runs the one that was parsed.
std::function<std::optional<int>()> SetupEvalFiles(Command eval, CommonOptions& common);

}  // namespace hawser
