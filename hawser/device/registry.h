// device/registry.h - the one place that knows the kinds of devices.
#pragma once

#include <memory>
#include <string_view>

#include "hawser/ops/backend.h"

namespace hawser {

/// "cpu". Errors: kUnsupported naming the devices this build has.
std::unique_ptr<Backend> MakeBackend(std::string_view device);

}  // namespace hawser
