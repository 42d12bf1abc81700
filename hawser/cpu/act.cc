#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/act.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/base/parallel.h"
#include "hawser/cpu/act.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

// v held in [-limit, limit]; NaN stays NaN.
HWY_INLINE VF Held(VF v, float limit) {
  const VF most = Splat(limit);
  return hn::IfThenElse(hn::Gt(hn::Abs(v), most), hn::CopySign(most, v), v);
}

struct ValueAndSlope {
  VF value, slope;
};

struct Silu {
  static VF Value(VF z) { return hn::Mul(z, Sigmoid(z)); }
  // With s = sigmoid(z): value z s, slope s + z s (1 - s).
  static ValueAndSlope Both(VF z) {
    const VF s = Sigmoid(z), value = hn::Mul(z, s);
    return {value, hn::MulAdd(value, hn::Sub(Splat(1.0f), s), s)};
  }
};

// z / 2 (1 + tanh(w / 2)) = z sigmoid(w), w = 2 sqrt(2 / pi) (z + 0.044715 z^3), which loses nothing in the left tail.
struct GeluTanh {
  static constexpr float kOne = 1.59576912f, kThree = 0.0713548163f;
  static constexpr float kFar = 30.0f;  // sigmoid is 0 or 1 here and beyond
  static VF Value(VF z) {
    const VF near = Held(z, kFar);
    return hn::Mul(z, Sigmoid(hn::Mul(near, hn::MulAdd(hn::Mul(near, near), Splat(kThree), Splat(kOne)))));
  }
  static ValueAndSlope Both(VF z) {
    const VF near = Held(z, kFar), square = hn::Mul(near, near);
    const VF s = Sigmoid(hn::Mul(near, hn::MulAdd(square, Splat(kThree), Splat(kOne))));
    const VF dw = hn::MulAdd(square, Splat(3.0f * kThree), Splat(kOne));
    return {hn::Mul(z, s), hn::MulAdd(hn::Mul(hn::Mul(near, s), hn::Sub(Splat(1.0f), s)), dw, s)};
  }
};

// With a = |z| and Phi(-a) = e^(-a^2 / 2) R(a): R is t P(t), t = 1 / (1 + 0.28 a), P fitted for least relative error
// (5.6e-8) on a <= 14.6; beyond, e^(-a^2 / 2) is 0. The square is taken in two parts, so that its rounding does not
// grow in the exponent: high^2 is exact, and what is left is below 0.11.
struct Gelu {
  struct Tail {
    VF density, below;  // e^(-a^2 / 2), Phi(-a)
  };
  static Tail TailOf(VF z) {
    const DU du;
    const VF a = hn::Abs(Held(z, 15.0f));
    const VF high = hn::BitCast(DF(), hn::And(hn::BitCast(du, a), hn::Set(du, 0xfffff000u)));
    const VF u = hn::Mul(Splat(-0.5f), hn::Mul(hn::Sub(a, high), hn::Add(a, high)));
    VF rest = hn::MulAdd(u, Splat(1.0f / 5), Splat(1.0f));  // e^u
    rest = hn::MulAdd(hn::Mul(u, Splat(1.0f / 4)), rest, Splat(1.0f));
    rest = hn::MulAdd(hn::Mul(u, Splat(1.0f / 3)), rest, Splat(1.0f));
    rest = hn::MulAdd(hn::Mul(u, Splat(1.0f / 2)), rest, Splat(1.0f));
    rest = hn::MulAdd(u, rest, Splat(1.0f));
    const VF density = hn::Mul(Exp(hn::Mul(Splat(-0.5f), hn::Mul(high, high))), rest);
    const VF t = hn::Div(Splat(1.0f), hn::MulAdd(a, Splat(0.28f), Splat(1.0f)));
    VF p = Splat(0.02310584f);
    for (const float c :
         {-0.08491076f, 0.07300981f, 0.01710197f, 0.05587824f, 0.09094877f, 0.10122318f, 0.11195325f, 0.11168974f}) {
      p = hn::MulAdd(p, t, Splat(c));
    }
    return {density, hn::Mul(hn::Mul(t, p), density)};
  }
  static VF Phi(VF z, VF below) { return hn::IfThenElse(hn::Lt(z, Zero()), below, hn::Sub(Splat(1.0f), below)); }
  static VF Value(VF z) { return hn::Mul(z, Phi(z, TailOf(z).below)); }
  // Slope Phi(z) + z e^(-z^2 / 2) / sqrt(2 pi).
  static ValueAndSlope Both(VF z) {
    const Tail tail = TailOf(z);
    const VF phi = Phi(z, tail.below);
    return {hn::Mul(z, phi), hn::MulAdd(hn::Mul(Held(z, 15.0f), Splat(0.398942280f)), tail.density, phi)};
  }
};

struct Relu {
  static VF Value(VF z) { return hn::IfThenZeroElse(hn::Lt(z, Zero()), z); }
  static ValueAndSlope Both(VF z) { return {Value(z), hn::IfThenElseZero(hn::Gt(z, Zero()), Splat(1.0f))}; }
};

// `up` is read where gated.
template <class A, bool kGated>
void ForwardRow(ConstRow gate, ConstRow up, Row y, int64_t n) {
  for (int64_t i = 0; i < n; i += Lanes()) {
    const VF value = A::Value(Get(gate, i, n));
    Put(kGated ? hn::Mul(value, Get(up, i, n)) : value, y, i, n);
  }
}

// Gated, y = act(g) u: du = dy act(g), dg = dy u act'(g).
template <class A, bool kGated>
void BackwardRow(ConstRow gate, ConstRow up, ConstRow dy, Row dgate, Row dup, const Row* y, int64_t n) {
  for (int64_t i = 0; i < n; i += Lanes()) {
    const ValueAndSlope at = A::Both(Get(gate, i, n));
    const VF d = Get(dy, i, n);
    if constexpr (kGated) {
      const VF u = Get(up, i, n);
      Put(hn::Mul(d, at.value), dup, i, n);
      Put(hn::Mul(hn::Mul(d, u), at.slope), dgate, i, n);
      if (y != nullptr) Put(hn::Mul(at.value, u), *y, i, n);
    } else {
      Put(hn::Mul(d, at.slope), dgate, i, n);
      if (y != nullptr) Put(at.value, *y, i, n);
    }
  }
}

template <class A>
void ForwardRows(const ActArgs& args, int64_t begin, int64_t end) {
  const int64_t cols = args.y.cols;
  for (int64_t r = begin; r < end; ++r) {
    if (args.gated) {
      ForwardRow<A, true>(RowOf(args.in, r), RowOf(args.in.Cols(cols, cols), r), RowOf(args.y, r), cols);
    } else {
      ForwardRow<A, false>(RowOf(args.in, r), {}, RowOf(args.y, r), cols);
    }
  }
}

template <class A>
void BackwardRows(const ActBackwardArgs& args, int64_t begin, int64_t end) {
  const int64_t cols = args.dy.cols;
  for (int64_t r = begin; r < end; ++r) {
    const Row made = args.y.empty() ? Row{} : RowOf(args.y, r);
    const Row* y = args.y.empty() ? nullptr : &made;
    const ConstRow in = RowOf(args.in, r), dy = RowOf(args.dy, r);
    const Row din = RowOf(args.din, r);
    if (args.gated) {
      const ConstRow up = RowOf(args.in.Cols(cols, cols), r);
      BackwardRow<A, true>(in, up, dy, din, RowOf(args.din.Cols(cols, cols), r), y, cols);
    } else {
      BackwardRow<A, false>(in, {}, dy, din, {}, y, cols);
    }
  }
}

void ActForwardRows(const ActArgs& args, int64_t begin, int64_t end) {
  switch (args.act) {
    case Act::kSilu:
      return ForwardRows<Silu>(args, begin, end);
    case Act::kGelu:
      return ForwardRows<Gelu>(args, begin, end);
    case Act::kGeluTanh:
      return ForwardRows<GeluTanh>(args, begin, end);
    case Act::kRelu:
      return ForwardRows<Relu>(args, begin, end);
  }
}

void ActBackwardRows(const ActBackwardArgs& args, int64_t begin, int64_t end) {
  switch (args.act) {
    case Act::kSilu:
      return BackwardRows<Silu>(args, begin, end);
    case Act::kGelu:
      return BackwardRows<Gelu>(args, begin, end);
    case Act::kGeluTanh:
      return BackwardRows<GeluTanh>(args, begin, end);
    case Act::kRelu:
      return BackwardRows<Relu>(args, begin, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(ActForwardRows);
HWY_EXPORT(ActBackwardRows);

void ActForward(const ActArgs& args) {
  const auto rows = HWY_DYNAMIC_DISPATCH(ActForwardRows);
  ParallelChunks(args.y.rows, RowGrain(args.y.cols), [&](int64_t begin, int64_t end) { rows(args, begin, end); });
}

void ActBackward(const ActBackwardArgs& args) {
  const auto rows = HWY_DYNAMIC_DISPATCH(ActBackwardRows);
  ParallelChunks(args.dy.rows, RowGrain(args.dy.cols), [&](int64_t begin, int64_t end) { rows(args, begin, end); });
}

}  // namespace hawser
#endif
