// eval/lengths.h - the lengths and depths of tasks that hide something in a long text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hawser/eval/task.h"

namespace hawser {

/// The list of lengths in tokens that option `key` names. Errors: kUsage for one beyond the model's longest input.
std::vector<int64_t> TaskLengths(const TaskInput& input, const std::string& key, const std::string& fallback);

/// What of `length` is left for text and answer: less BOS, and in a chat less a reserve for the template, where the
/// model's longest input would not take them as well.
int64_t TaskRoom(const TaskInput& input, int64_t length);

/// Places in the text from 0 (its beginning) to 1: a list, or a count "10" of places equally far apart. Errors: kUsage.
std::vector<double> TaskDepths(const TaskInput& input, const std::string& fallback);

/// Keeps the first `limit` samples of each row; 0: all.
void LimitRows(int64_t limit, std::vector<Sample>* samples);

}  // namespace hawser
