// device/machine.h - what the machine under a backend can do at most, for those who report shares of it.
#pragma once

#include <string_view>

#include "hawser/cpu/matmul_library.h"
#include "hawser/cpu/peak.h"

namespace hawser {

/// Limits attention to an instruction set, as HAWSER_ISA does; call it before the first use of a backend.
/// Errors: kUnsupported if the machine has less.
void LimitAttentionIsa(std::string_view isa);

}  // namespace hawser
