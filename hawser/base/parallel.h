// base/parallel.h - loops over OpenMP. Work is cut by the caller in pieces that do not depend on the number of threads,
// so results do not either.
#pragma once

#include <omp.h>

#include <cstdint>

namespace hawser {

/// Sets the number of threads of every parallel loop (ours and oneDNN's); 0 means one per core.
void SetThreads(int threads);
int NumThreads();

/// body(i) for i in [0, n), handed out one at a time; body must not throw. Runs inline if n == 1 or nested.
template <class Body>
void ParallelFor(int64_t n, Body&& body) {
  if (n <= 1 || omp_in_parallel() || omp_get_max_threads() == 1) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < n; ++i) body(i);
}

/// body(begin, end) over [0, n) in pieces of `grain`, the last one shorter; body must not throw.
template <class Body>
void ParallelChunks(int64_t n, int64_t grain, Body&& body) {
  const int64_t pieces = (n + grain - 1) / grain;
  ParallelFor(pieces, [&](int64_t p) {
    const int64_t begin = p * grain;
    const int64_t end = begin + grain < n ? begin + grain : n;
    body(begin, end);
  });
}

}  // namespace hawser
