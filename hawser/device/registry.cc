#include "hawser/device/registry.h"

#include "hawser/base/error.h"
#include "hawser/cpu/backend_cpu.h"

namespace hawser {

std::unique_ptr<Backend> MakeBackend(std::string_view device) {
  if (device == "cpu") return MakeCpuBackend();
  Fail(ErrorKind::kUnsupported, "device '{}' is not known; this build has: cpu", device);
}

}  // namespace hawser
