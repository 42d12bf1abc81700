// cpu/backend_cpu.h - the CPU backend: oneDNN for matrix products, Highway and one small tile product per instruction
// set for everything else, threads by OpenMP.
#pragma once

#include <memory>

#include "hawser/ops/backend.h"

namespace hawser {

std::unique_ptr<Backend> MakeCpuBackend();

}  // namespace hawser
