// base/parallel.h - loops over OpenMP. Work is cut by the caller in pieces that do not depend on the number of threads,
// so results do not either.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#ifdef __SANITIZE_THREAD__
#include <thread>
#include <vector>
#endif

namespace hawser {

/// Sets the number of threads of every parallel loop (ours and oneDNN's); 0 means DefaultThreads (limits.h).
void SetThreads(int threads);
int NumThreads();

#ifdef __SANITIZE_THREAD__
// The sanitizer does not see libgomp's barriers and would call them races, so that its build runs the same pieces on
// threads of the standard library, which it sees.
inline thread_local bool in_parallel = false;

template <class Body>
void RunPieces(int64_t n, Body&& body) {
  std::atomic<int64_t> next = 0;
  const auto work = [&] {
    in_parallel = true;
    for (int64_t i = next++; i < n; i = next++) body(i);
    in_parallel = false;
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < NumThreads() && t < n; ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

inline bool InParallel() { return in_parallel; }
#else
template <class Body>
void RunPieces(int64_t n, Body&& body) {
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < n; ++i) body(i);
}

inline bool InParallel() { return omp_in_parallel() != 0; }
#endif

/// What leaves a piece must not leave its thread: the first exception waits for the join, and pieces not begun by then
/// are left out.
class FirstException {
 public:
  template <class Body>
  void Run(Body&& body) noexcept {
    if (thrown_.load(std::memory_order_relaxed)) return;
    try {
      body();
    } catch (...) {
      if (!thrown_.exchange(true)) first_ = std::current_exception();
    }
  }
  /// After the join.
  void Rethrow() const {
    if (first_ != nullptr) std::rethrow_exception(first_);
  }

 private:
  std::atomic<bool> thrown_ = false;
  std::exception_ptr first_;
};

/// body(i) for i in [0, n), handed out one at a time. Runs inline if n == 1 or nested. If pieces throw, the first
/// exception is thrown again once all threads are done.
template <class Body>
void ParallelFor(int64_t n, Body&& body) {
  if (n <= 1 || InParallel() || NumThreads() == 1) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  FirstException exception;
  RunPieces(n, [&](int64_t i) { exception.Run([&] { body(i); }); });
  exception.Rethrow();
}

/// A piece of n rows that are read from memory once: a quarter of a thread's share, `least` at least, in whole units.
/// What is fetched ahead of a piece's end is another thread's, in vain. It depends on the number of threads: for work
/// that does not care where it is cut.
inline int64_t StreamGrain(int64_t n, int64_t least, int64_t unit) {
  const int64_t rows = std::max(least, n / (4 * NumThreads()));
  return std::max<int64_t>(1, rows / unit) * unit;
}

/// body(begin, end) over [0, n) in pieces of `grain`, the last one shorter. Exceptions as in ParallelFor.
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
