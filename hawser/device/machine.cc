#include "hawser/device/machine.h"

#include <string>

#include "hawser/cpu/tile_kernels.h"

namespace hawser {

void LimitAttentionIsa(std::string_view isa) { SetIsa(ParseIsa(std::string(isa).c_str())); }

}  // namespace hawser
