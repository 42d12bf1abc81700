// eval/logged_sample.h - lines of sample logs of lm-evaluation-harness, or of this program, as samples and answers that
// a task scores again.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "hawser/eval/task.h"

namespace hawser {

struct LoggedSample {
  Sample sample;    // what its scores need: gold, choices, numbers
  LmAnswer answer;  // likelihoods of all choices
};

/// A line whose answers are log-likelihoods: "resps" has one a request, [[LL, GREEDY]] or, of whole texts, [LL], each
/// as a number or a text. The right choice is "target", a number, or where that is a text the "answer" of "doc",
/// from 1. Lengths of choices are those of "arguments" without one blank in front. Errors: kFormat.
LoggedSample ReadLoggedSample(const nlohmann::json& line);

}  // namespace hawser
