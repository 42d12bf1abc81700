// model/fingerprint.h - tells models apart, so that what belongs to one is not taken by another.
#pragma once

#include <cstdint>

#include "hawser/model/weights.h"

namespace hawser {

/// A hash of the dimensions and of samples of every weight.
uint64_t ModelFingerprint(const Weights& model);

/// The same for models of one network whose weights are the same once rounded to BF16, whatever they lie in and however
/// their rotary channels are paired: for what belongs to the values of a model. Of dimensions and samples of matrices.
uint64_t ValuesFingerprint(const Weights& model);

}  // namespace hawser
