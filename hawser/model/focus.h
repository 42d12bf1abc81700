// model/focus.h - FocusLLM (arXiv:2408.11745): what its training and its reading share. A long text is memory and,
// behind it, a local window. The memory is cut in chunks that do not see each other. Behind each chunk stands the end
// of the window, the prompt; the last token of it is the candidate: in every layer it has projections of queries, keys,
// values and attention's output of its own. The candidates' keys, moved to slots 0, 1, ..., and values are what the
// window sees of the memory:
//   chunk j        [m tokens of memory | BOS | prompt]  at 0, 1, ...; of it the candidate's keys and values are kept
//   local pass     [k candidates | BOS | window]        at 0, 1, ...; its last row predicts
// BOS stands there where the text begins with one. All other weights are those of the model, which stays as it is.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hawser/model/params.h"
#include "hawser/model/weights.h"

namespace hawser {

/// Numbers of tokens.
struct FocusShape {
  int64_t chunk = 0;   // m
  int64_t prompt = 0;  // tokens of the window behind each chunk, the candidate included
  int64_t local = 0;   // the window

  bool operator==(const FocusShape&) const = default;
};

/// Half of the context, an eighth and half: the proportions of the paper.
FocusShape DefaultFocusShape(int64_t context);

/// Errors: kUnsupported naming what of the model does not go with candidates: biases by distance, bilevel positions,
/// STRING, frequencies that depend on the length, windows of its own.
void CheckFocus(const ModelSpec& spec);

/// Errors: kUsage where a chunk with its prompt and `more` tokens behind it, or `chunks` candidates with the window and
/// as many behind, do not fit the context of the model. `bos`: of a text that begins with one, 1.
void CheckFocusFits(const ModelSpec& spec, const FocusShape& shape, int64_t chunks, int64_t bos, int64_t more);

/// Query, key, value and attention's output of every layer, biases included: what candidates have of their own.
/// "model.layers.0.self_attn.q_proj.candidate.weight".
ParamLayout CandidateLayout(const ParamLayout& all);

/// The values of `weights` (F32 over all parameters).
void InitializeCandidates(const ParamStore& weights, ParamStore* candidates);

/// The model as candidates see it. `candidates`: over CandidateLayout; a plain pointer outlives the result.
Weights WithCandidates(const Weights& base, const ParamStore* candidates);
Weights WithCandidates(const Weights& base, std::shared_ptr<const ParamStore> candidates);

/// What stands behind each chunk: `bos` (-1: none) and the last `prompt` tokens of the window.
std::vector<int32_t> FocusPrompt(int32_t bos, std::span<const int32_t> window, int64_t prompt);

}  // namespace hawser
