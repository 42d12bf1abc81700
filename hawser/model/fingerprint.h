// model/fingerprint.h - tells models apart, so that what belongs to one is not taken by another.
#pragma once

#include <cstdint>

#include "hawser/model/weights.h"

namespace hawser {

/// A hash of the dimensions and of samples of every weight.
uint64_t ModelFingerprint(const Weights& model);

}  // namespace hawser
