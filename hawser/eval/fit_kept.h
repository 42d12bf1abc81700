// eval/fit_kept.h - methods of equal memory: the size of a cache or pattern that keeps as many keys as wanted on given
// texts, found without running a model.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/eval/read_text.h"
#include "hawser/model/spec.h"

namespace hawser {

/// Keys kept by a model of these dimensions, mean over the tokens of all `texts` and over layers, as TextNats::kept has
/// it where nothing stands before a text. `separators`: of a text form (tok/separators.h), as flags of the vocabulary.
/// Errors: kUsage behind an index.
double KeptKeys(Backend* backend, const ModelSpec& spec, const Sight& sight,
                std::span<const std::vector<int32_t>> texts,
                const std::function<std::vector<uint8_t>(const std::string& form)>& separators);

/// `text` with its one '?' replaced by the whole number from 1 to `most` whose `kept` is nearest to `wanted`. Numbers
/// that the form refuses as too small are passed over. REQUIRES: `kept` grows with the number. Errors: kUsage for more
/// than one '?', for a form that no number makes right, and where even the largest number keeps too few or the smallest
/// too many.
std::string FitNumber(std::string_view text, double wanted, int64_t most,
                      const std::function<double(const std::string& text)>& kept);

}  // namespace hawser
