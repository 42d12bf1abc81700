// cli/eval_tasks.h - tasks of questions and answers (eval/task.h) from options to results.
#pragma once

#include <string>
#include <vector>

#include "hawser/cli/command.h"
#include "hawser/cli/eval_measures.h"

namespace hawser {

/// Options of eval that tasks take and not every measure does.
const std::vector<const char*>& TaskFlags();

struct RunHelp {
  std::string context, index;  // texts of --help
};
/// How a model is run: --context, --kv, --index, --keep, --rope, --attention, --focus, --batch-tokens, --dtype, --bos;
/// and of the run: --limit, --resume, --chat.
void AddRunOptions(Command command, EvalOptions& options, const RunHelp& help);

/// options.tasks, all together; prints the results.
int RunTaskList(const EvalOptions& options, bool seed_given, const CommonOptions& common);

}  // namespace hawser
