// The table of tasks: a new one is a file with its Task, its name in tasks.h and here.
#include <algorithm>
#include <array>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/eval/tasks.h"

namespace hawser {

std::span<const Task* const> Tasks() {
  static const std::array kTasks = {&kMmlu,       &kHellaswag, &kArcEasy,  &kArcChallenge, &kPiqa,
                                    &kWinogrande, &kLambada,   &kWikitext, &kGsm8k,        &kGsm8kCot,
                                    &kRuler,      &kPasskey,   &kNiah,     &kLongBench,    &kLongBenchV2};
  return kTasks;
}

const Task& FindTask(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Task* task : Tasks()) {
    if (task->name == name) return *task;
    names.push_back(task->name);
  }
  Fail(ErrorKind::kUsage, "unknown task '{}'{}", name, SuggestName(name, names));
}

}  // namespace hawser
