// eval/longppl_report.h - LongPPL of several runs on a page.
#pragma once

#include <span>
#include <string>

#include "hawser/eval/task_report.h"

namespace hawser {

/// Sections of HTML with their picture, of what `eval longppl --json` prints, each with the name of its file. Errors:
/// kUsage for runs over different key tokens, whose figures cannot be compared; kFormat naming run and member.
TaskReport LongPplSections(std::span<const ReportRun> runs);

}  // namespace hawser
