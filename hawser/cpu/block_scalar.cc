// Weights in blocks without vectors: a tile is a row.
#include <cmath>

#include "hawser/cpu/block_loops-inl.h"

namespace hawser {
namespace {

struct Vec1 {
  using I = uint32_t;
  using F = float;
  static constexpr int kRows = 1;
  static constexpr int kPanelX = 4;
  static constexpr bool kWhole = true;

  static I Splat(uint32_t x) { return x; }
  static I And(I a, I b) { return a & b; }
  static I Or(I a, I b) { return a | b; }
  static I Xor(I a, I b) { return a ^ b; }
  static I Sub(I a, I b) { return a - b; }
  template <int n>
  static I Shl(I v) {
    return v << n;
  }
  template <int n>
  static I Shr(I v) {
    return v >> n;
  }
  template <int n>
  static I Sar(I v) {
    return static_cast<I>(static_cast<int32_t>(v) >> n);
  }
  static F Zero() { return 0.0f; }
  static F Mul(F a, F b) { return a * b; }
  static F MulAdd(F a, F b, F c) { return std::fma(a, b, c); }
  static F Negative(F v) { return -v; }
  static F Float(I v) { return static_cast<float>(static_cast<int32_t>(v)); }
  static F Half(I v) { return F16ToF32(static_cast<uint16_t>(v)); }
  static I Load(const int32_t* at) { return static_cast<I>(*at); }
  static F LoadFloat(const float* at) { return *at; }
  static void Store(F v, float* to) { *to = v; }

  static F LoadAll(const float* from) { return *from; }
  static I LoadInts(const uint8_t* from) { return Words(from, 0); }
  static void StoreAll(I v, uint8_t* to) { std::memcpy(to, &v, sizeof(v)); }
  static I SubBytes(I a, I b) {
    I bytes = 0;
    for (int i = 0; i < 32; i += 8) bytes |= (((a >> i) - (b >> i)) & 255) << i;
    return bytes;
  }

  static I Words(const uint8_t* at, int64_t) {
    return at[0] | uint32_t{at[1]} << 8 | uint32_t{at[2]} << 16 | uint32_t{at[3]} << 24;
  }
  static void Columns(const uint8_t* at, int64_t, I* to) {
    for (int i = 0; i < 4; ++i) to[i] = Words(at + 4 * i, 0);
  }
  static void Rows(const I* q, uint8_t* to) {
    for (int i = 0; i < 16; ++i) to[i] = static_cast<uint8_t>(q[i / 4] >> (i % 4 * 8));
  }
  template <int i>
  static I FifthBits(I v) {
    I bits = 0;
    for (int b = 0; b < 4; ++b) bits |= (v >> (4 * i + b) & 1) << (8 * b + 4);
    return bits;
  }
  static I Dot(I sum, I q, const int8_t* x) {
    int32_t products = 0;
    for (int b = 0; b < 4; ++b) products += static_cast<int32_t>(q >> (8 * b) & 255) * x[b];
    return sum + static_cast<I>(products);
  }
  static I DotSigned(I sum, I q, const int8_t* x) { return Dot(sum, q, x); }  // not called: kWhole
};

constexpr std::array kKernels = AllBlockTypes::Map<ToKernels<Vec1>>();

}  // namespace

const BlockKernels* const kBlockScalar = kKernels.data();

}  // namespace hawser
