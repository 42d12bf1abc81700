// cli/eval_files.h - the parts of `hawser eval` that go from file to file: data of tasks made and answered, predictions
// scored.
#pragma once

#include <functional>
#include <optional>

#include "hawser/cli/command.h"

namespace hawser {

/// Declares `eval ruler` and `eval score`; the returned function runs the one that was parsed.
std::function<std::optional<int>()> SetupEvalFiles(Command eval, CommonOptions& common);

/// gen, run and score of RULER (eval_ruler.cc).
std::function<int()> SetupEvalRuler(Command command, CommonOptions& common);

}  // namespace hawser
