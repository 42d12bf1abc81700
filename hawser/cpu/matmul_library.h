// cpu/matmul_library.h - the matrix product as oneDNN alone would run it, for benches to compare with.
#pragma once

#include <functional>

#include "hawser/ops/backend.h"

namespace hawser {

/// The product as one oneDNN primitive on all threads: a call that runs it. Empty if oneDNN has none for these dtypes
/// on this machine. The matrices must outlive it.
std::function<void()> LibraryMatMul(const MatMulArgs& args);

}  // namespace hawser
