// eval/tasks.h - the tasks of the table in tasks.cc, each defined in a file of its own.
#pragma once

#include "hawser/eval/task.h"

namespace hawser {

extern const Task kHellaswag, kPiqa, kWinogrande, kArcEasy, kArcChallenge;  // harness_choice.cc
extern const Task kMmlu;                                                    // harness_mmlu.cc
extern const Task kLambada, kWikitext;                                      // harness_text.cc
extern const Task kGsm8k, kGsm8kCot;                                        // harness_gsm8k.cc

}  // namespace hawser
