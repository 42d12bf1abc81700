// cpu/tile_kernels.h - the few register-level loops that attention is made of, one table of them per instruction set.
// An operand element is F32 or BF16 (`dtype`); sums are F32. Reductions over BF16 go in pairs, so the right operand of
// a product is stored as [K/2][N][2] (F32: [K][N]), in panels of kPanel columns; AMX and vdpbf16ps read the same form.
#pragma once

#include <cstdint>
#include <vector>

#include "hawser/base/dtype.h"

namespace hawser {

enum class Isa : uint8_t { kScalar, kAvx2, kAvx512, kAvx512Bf16, kAmx };

inline constexpr int32_t kPanel = 64;    // columns of a panel
inline constexpr int32_t kColStep = 16;  // column counts are multiples of this

/// C[m, n] = A[m, k] B[k, n], or += with `accumulate`. a is row-major; column c of B lies in panel c / kPanel, `panel`
/// elements apart, whose rows (pairs of rows for BF16) are `ldb` elements apart. b_first is the column B starts at.
/// n is a multiple of kColStep, b_first too, k of k_align and m of m_align.
struct ProductArgs {
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb;
  int64_t panel;
  int32_t b_first;
  float* c;
  int64_t ldc;
  int32_t m, n, k;
  bool accumulate;
};

/// One step of online softmax in base 2 over a block of scores (arXiv:1805.02867): per row, max grows to cover
/// s * scale2, sum and out [rows, out_cols] are rescaled, p = exp2(s * scale2 - max) is stored as an operand. A score
/// of -infinity is a masked one. A row that has seen nothing has max = -infinity.
struct SoftmaxArgs {
  const float* s;
  int64_t lds;
  void* p;
  int64_t ldp;
  int32_t rows, cols;
  float scale2;
  float* max;
  float* sum;
  float* out;
  int64_t ldo;
  int32_t out_cols;
  bool first;  // out holds nothing yet: it is left alone
};

/// Backward of softmax on transposed scores, s and dp [keys, queries]: p = exp2(s * scale2 + shift[query]),
/// ds = p * (dp - delta[query]); both stored as left operands and ds also as a right one (BF16 only; F32: its left form
/// is its right form). rows and cols are multiples of 2 and kColStep.
struct GradientArgs {
  const float* s;
  const float* dp;
  int64_t lds;
  void* p;
  void* ds;
  int64_t ldp;
  void* ds_pairs;  // [rows/2][cols][2]
  int64_t ld_pairs;
  int32_t rows, cols;
  float scale2;
  const float* shift;
  const float* delta;
};

/// Scores capped: s = out * tanh(in * s). With dp: the gradients that GradientArgs takes of capped scores become those
/// of the scores themselves, so that dp - delta[column] is multiplied by 1 - tanh(in * s)^2.
struct SoftCapArgs {
  float* s;
  int64_t lds;  // of dp too
  int32_t rows, cols;
  float in, out;
  float* dp;           // null: not wanted
  const float* delta;  // [cols]
};

/// Scores biased by distance: s = s * scale2 + w (col_place[c] - row_place[r]), w = weight[r] or, not by_row,
/// weight[c]. Differences of places that are whole numbers below 2^24 are exact.
struct BiasArgs {
  float* s;
  int64_t lds;
  int32_t rows, cols;
  float scale2;
  const float* weight;
  const float* row_place;
  const float* col_place;
  bool by_row;
};

/// A few queries against rows of keys or values as stored, for decoding. x [count, ldx] F32; rows [n, D] F32, BF16, or
/// one head of Q8_0 rows (ld in bytes).
///   Scores: s[i, r] = <x[i], rows[r]>          Mix: x[i] += sum over r of s[i, r] * rows[r]
struct DecodeTile {
  float* x;
  int64_t ldx;
  int32_t count;
  const void* rows;
  DType dtype;
  int64_t ld;
  int32_t n;
  int32_t dim;
  float* s;
  int64_t lds;
  const void* next = nullptr;  // rows that will be read when this tile comes again, to be asked for; null: none
};

/// A few rows times rows of weights, both BF16, leading dimensions in values: to[r, j] = (or +=, F32 alone)
/// <a[r], b[j]> + bias[j]. Sums go by pairs of products in one order that depends on k alone.
struct DotsArgs {
  const bf16* a;
  int64_t lda, rows;
  const bf16* b;
  int64_t ldb, columns, k;
  const float* bias;  // null: none
  void* to;
  DType to_dtype;
  int64_t ldto;
  bool accumulate;
};

/// One head of `rows` rows of Q8_0 (base/q8.h), `stride` bytes apart, to F32 [rows, ld].
struct DequantizeArgs {
  const void* from;
  int64_t stride;
  int32_t rows, dim;
  float* to;
  int64_t ld;
};

struct TileKernels {
  Isa isa;
  DType dtype;        // of operands
  int32_t m_align;    // rows of a left operand come in multiples of this
  int32_t k_align;    // and reductions of this
  int32_t row_group;  // rows worth working on together
  void (*begin)();    // before the first product of a task on its thread,
  void (*end)();      // and after the last
  void (*product)(const ProductArgs&);
  void (*softmax)(const SoftmaxArgs&);
  void (*gradient)(const GradientArgs&);
  void (*soft_cap)(const SoftCapArgs&);  // these two change scores between product and softmax, before the mask
  void (*bias)(const BiasArgs&);
  /// to[i] = from[i] * scale for i < n, between F32 and BF16 in any mix.
  void (*convert)(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t n, float scale);
  /// to[c][r] = from[r][c] over 4-byte elements, from [rows, cols].
  void (*transpose)(const void* from, int64_t ld_from, int32_t rows, int32_t cols, void* to, int64_t ld_to);
  /// to[2i] = even[i], to[2i+1] = odd[i], and back, over BF16; n is a multiple of kColStep.
  void (*join_pairs)(const bf16* even, const bf16* odd, bf16* to, int64_t n);
  void (*split_pairs)(const bf16* from, bf16* even, bf16* odd, int64_t n);
  /// Sum of a[i] * b[i].
  float (*dot)(const float* a, const float* b, int64_t n);
  /// Runs `steps` rounds of independent multiply-adds from registers, the most this instruction set can do; returns
  /// their FLOPs. Between begin and end.
  int64_t (*burn)(int64_t steps);
  void (*decode_scores)(const DecodeTile&);
  void (*decode_mix)(const DecodeTile&);
  void (*dequantize)(const DequantizeArgs&);
  void (*dots)(const DotsArgs&) = nullptr;  // null: no products of BF16
};

/// The instruction sets this machine has, worst first; the first one is always kScalar.
std::vector<Isa> AvailableIsas();
const char* Name(Isa isa);
/// Errors: kUsage for a name that is not known.
Isa ParseIsa(const char* name);

/// The one in use: the best available, limited by HAWSER_ISA or SetIsa.
Isa CurrentIsa();
/// Tests and benches only; an ISA the machine lacks is an Error(kUnsupported).
void SetIsa(Isa isa);

/// The kernels of `isa` for inputs of `dtype`. BF16 inputs where `isa` has no BF16 products get F32 kernels.
const TileKernels& GetTileKernels(Isa isa, DType dtype);

// One per file.
extern const TileKernels kTileScalar, kTileAvx2, kTileAvx512, kTileAvx512Bf16, kTileAmx;

}  // namespace hawser
