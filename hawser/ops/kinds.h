// ops/kinds.h - the variants of norms and activations that operations and models name.
#pragma once

#include <cstdint>

namespace hawser {

/// kRms: x / sqrt(mean(x^2) + eps) (arXiv:1910.07467). kLayer: (x - mean) / sqrt(var(x) + eps) (arXiv:1607.06450).
enum class NormKind : uint8_t { kRms, kLayer };

/// kSilu: x / (1 + e^-x). kGelu: x Phi(x), by erf (arXiv:1606.08415). kGeluTanh: its tanh approximation. kRelu: max(x,
/// 0).
enum class Act : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };

}  // namespace hawser
