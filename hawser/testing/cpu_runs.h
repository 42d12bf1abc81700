// testing/cpu_runs.h - run a CPU op in every way that must not matter: each instruction set Highway compiled for this
// machine, and different numbers of threads.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "hawser/base/parallel.h"
#include "hwy/targets.h"

namespace hawser::testing {

/// body() once per instruction set that was compiled and that this machine has.
template <class Body>
void ForEachTarget(const Body& body) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    SCOPED_TRACE(hwy::TargetName(target));
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
}

/// body() returns what an op wrote; it must be the same for 1, 2 and 3 threads, to the bit.
template <class Body>
void ExpectSameForAnyThreads(const Body& body) {
  const int before = NumThreads();
  SetThreads(1);
  const std::vector<char> alone = body();
  for (int threads : {2, 3}) {
    SetThreads(threads);
    EXPECT_TRUE(body() == alone) << threads << " threads differ from 1";
  }
  SetThreads(before);
}

}  // namespace hawser::testing
