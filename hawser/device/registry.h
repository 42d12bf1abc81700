// device/registry.h - the one place that knows the kinds of devices.
#pragma once

#include <memory>
#include <string_view>

#include "hawser/ops/backend.h"

namespace hawser {

/// Errors: kUnsupported for anything but "cpu", naming the devices this build has.
void CheckDevice(std::string_view device);
/// The same errors.
std::unique_ptr<Backend> MakeBackend(std::string_view device);

}  // namespace hawser
