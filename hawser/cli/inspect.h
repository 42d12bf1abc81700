// cli/inspect.h - the subcommands of hawser inspect, a file each.
#pragma once

#include "hawser/cli/command.h"

namespace hawser {

std::function<int()> SetupInspectPattern(Command, CommonOptions&);
std::function<int()> SetupInspectData(Command, CommonOptions&);
std::function<int()> SetupInspectSeparators(Command, CommonOptions&);

}  // namespace hawser
