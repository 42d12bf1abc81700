// eval/tasks.h - the tasks of the table in tasks.cc, each defined in a file of its own.
#pragma once

#include "hawser/eval/task.h"

namespace hawser {

extern const Task kHellaswag, kPiqa, kWinogrande, kArcEasy, kArcChallenge;  // harness_choice.cc
extern const Task kMmlu;                                                    // harness_mmlu.cc
extern const Task kLambada, kWikitext;                                      // harness_text.cc
extern const Task kGsm8k, kGsm8kCot;                                        // harness_gsm8k.cc
extern const Task kRuler;                                                   // ruler_task.cc
extern const Task kPasskey;                                                 // passkey_task.cc
extern const Task kNiah;                                                    // niah_task.cc
extern const Task kLongBench, kLongBenchV2;                                 // longbench_task.cc

}  // namespace hawser
