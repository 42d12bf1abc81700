// eval/logged_sample.h - lines of sample logs of lm-evaluation-harness, or of this program, as samples and answers that
// a task scores again.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "hawser/eval/task.h"

namespace hawser {

struct LoggedSample {
  Sample sample;             // what its scores need: gold, choices, numbers
  LmAnswer answer;           // likelihoods of all choices
  bool greedy_told = false;  // whether each is the likeliest text
  bool one_choice = false;   // behind several contexts
};

/// A line whose answers are log-likelihoods: "resps" has one a request, [[LL, GREEDY]] or, of whole texts, [LL], each
/// as a number or a text. The right choice is "target": its number or text, or where all choices are one text behind
/// several contexts the "gold" of "doc", from 0, or its "answer", from 1. Lengths of choices are "choice_tokens", or
/// those of "arguments" without one blank in front. Errors: kFormat.
LoggedSample ReadLoggedSample(const nlohmann::json& line);

}  // namespace hawser
