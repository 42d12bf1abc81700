#include "hawser/device/registry.h"

#include "hawser/base/error.h"
#include "hawser/cpu/backend_cpu.h"

namespace hawser {

void CheckDevice(std::string_view device) {
  if (device == "cpu") return;
  Fail(ErrorKind::kUnsupported, "device '{}' is not known; this build has: cpu", device);
}

std::unique_ptr<Backend> MakeBackend(std::string_view device) {
  CheckDevice(device);
  return MakeCpuBackend();
}

}  // namespace hawser
