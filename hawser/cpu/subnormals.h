// cpu/subnormals.h - results too small for a normal float become 0 while it lives, on its thread. Weights of far tokens
// under a steep bias are such numbers, and a processor multiplies them a hundred times slower than others.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace hawser {

class FlushSubnormals {
 public:
#ifdef __x86_64__
  explicit FlushSubnormals(bool wanted) : before_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
    if (wanted) _mm_setcsr(before_ | kFlushToZero | kDenormalsAreZero);
  }
  ~FlushSubnormals() { _mm_setcsr(before_); }
#else
  explicit FlushSubnormals(bool) {}
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#ifdef __x86_64__
  unsigned before_;
#endif
};

}  // namespace hawser
