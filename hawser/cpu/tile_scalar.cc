// Portable kernels: vectors of four floats that any compiler lowers to what the machine has. They are the fallback and
// the cross-check of every other instruction set.
#include "hawser/cpu/tile_loops-inl.h"

namespace hawser {
namespace {

typedef float F4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));

struct Vec4 : PlainParts {
  using F = F4;
  static constexpr int kLanes = 4, kMr = 2, kNv = 4;

  static F Set(float x) { return F{x, x, x, x}; }
  static F Load(const float* p) {
    F v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static void Store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
  static F LoadAs(const float* p) { return Load(p); }
  static F LoadAs(const bf16* p) { return F{Widen(p[0]), Widen(p[1]), Widen(p[2]), Widen(p[3])}; }
  static F LoadBytes(const int8_t* p) {
    return F{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
  }
  static void StoreAs(float* p, F v) { Store(p, v); }
  static void StoreAs(bf16* p, F v) {
    for (int i = 0; i < 4; ++i) Narrow(v[i], p + i);
  }
  static F Add(F a, F b) { return a + b; }
  static F Sub(F a, F b) { return a - b; }
  static F Mul(F a, F b) { return a * b; }
  static F Div(F a, F b) { return a / b; }
  static F Fma(F a, F b, F c) { return a * b + c; }
  static F MulAdd(F a, F b, F c) { return a * b + c; }
  static F Max(F a, F b) { return a > b ? a : b; }
  static F Min(F a, F b) { return a < b ? a : b; }
  static float First(F v) { return v[0]; }
  static float ReduceMax(F v) {
    const float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
  }
  static float ReduceAdd(F v) { return (v[0] + v[1]) + (v[2] + v[3]); }

  // 2^x = 2^n 2^f, n = round(x), |f| <= 1/2, by a degree-6 polynomial (relative error 2e-7 with rounding), whatever is
  // asked for.
  template <int kDegree>
  static F Exp2(F x) {
    const F lowest = Set(-126.0f), highest = Set(127.0f);
    const F t = Max(lowest, x);  // in this order NaN stays NaN
    const F u = highest < t ? highest : t;
    const F magic = Set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const F n = u + magic;
    const F f = u - (n - magic);
    F p = Set(1.5403530e-4f);
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    const F power = (F)((I4)p + ((I4)n << 23));
    return x < lowest ? Set(0.0f) : power;
  }
};

}  // namespace

const TileKernels kTileScalar = MakeKernels<Vec4, float>(Isa::kScalar, 16);

}  // namespace hawser
