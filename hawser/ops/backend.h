// ops/backend.h - the seam between models and devices: every operation a model needs, each a whole op.
// Legend: N tokens (rows of all sequences of a batch, concatenated), C width, H query heads, G kv heads, D head dim,
// F mlp width, V vocabulary. Matrices are row-major with unit column stride; activations and weights are F32 or BF16,
// every sum is F32. Gradients of activations are written (=), gradients of parameters are accumulated (+=), F32.
// Argument structs validate shapes once at the op's entry (Error(kUsage) in words); past that point ops do not throw.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "hawser/attn/schedule.h"
#include "hawser/attn/softmax.h"
#include "hawser/base/buffer.h"
#include "hawser/ops/kinds.h"
#include "hawser/pos/scheme.h"

namespace hawser {

/// c = op(a) op(b), or c += with accumulate. op transposes where asked. a, b share a dtype (F32 or BF16); c is F32 or
/// BF16 (accumulate: F32). Linear layer: y = x W^T with W [out, in]: a = x, b = W, trans_b = true.
struct MatMulArgs {
  ConstMat a;
  bool trans_a = false;
  ConstMat b;
  bool trans_b = false;
  Mat c;
  bool accumulate = false;
};

/// y = x W^T + bias. x [N, in], w [out, in], bias [1, out] or empty, y [N, out]. x, bias and y are F32 or BF16, each
/// its own way; w is so too, or F16, or lies in blocks (quant/block.h; rows of whole blocks, ld in bytes). The bias is
/// added in f32, before the one rounding to y. w of another dtype than x is read as it lies: with few rows of x weights
/// in blocks are multiplied by x in 8 bits (blocks of 32, an error of at most half a level a value), else they are
/// decoded, a panel at a time, to the dtype of x. exact: always decoded, to F32.
struct LinearArgs {
  ConstMat x;
  ConstMat w;
  ConstMat bias;
  Mat y;
  bool exact = false;
};
/// dx [N, in] = dy W; dw [out, in] F32 += dy^T x; dbias [1, out] F32 += column sums of dy; each where it is given (dw
/// needs x, dx needs w). x, w and dy share a dtype. The same bits for any number of threads.
struct LinearBackwardArgs {
  ConstMat x;
  ConstMat w;
  ConstMat dy;
  Mat dx;
  Mat dw;
  Mat dbias;
};

/// Each of `heads` pieces of a row, d = C / heads channels, is normed by itself (1: the row).
///   kRms    y = x * rstd * w' + bias            rstd = 1 / sqrt(mean(x^2) + eps)
///   kLayer  y = (x - mean(x)) * rstd * w' + bias   rstd = 1 / sqrt(mean((x - mean(x))^2) + eps)
/// w' = w, or 1 + w with plus_one. x, y [N, C], of any stride, y may be x; weight [1, d]; bias [1, d] or empty; rstd
/// [N * heads] F32, row by row, kept for backward (null: not kept).
struct NormArgs {
  ConstMat x;
  ConstMat weight;
  ConstMat bias;
  Mat y;
  float* rstd = nullptr;
  float eps = 1e-5f;
  NormKind kind = NormKind::kRms;
  bool plus_one = false;
  int32_t heads = 1;
};
/// dx = gradient of x given dy; added to `residual` first where that is given: dx = residual + .... dweight, dbias
/// [1, d] F32 += where they are given. rstd is what forward kept; kind, plus_one and heads are forward's.
struct NormBackwardArgs {
  ConstMat x;
  ConstMat weight;
  const float* rstd = nullptr;
  ConstMat dy;
  ConstMat residual;  // empty, or [N, C]
  Mat dx;             // may be the memory of residual or of dy
  Mat dweight;        // empty: not wanted
  Mat dbias;          // empty: not wanted
  NormKind kind = NormKind::kRms;
  bool plus_one = false;
  int32_t heads = 1;
};

/// Rotates, in place, the first 2*h channels of each of `heads` heads of x [N, heads * D]; cos, sin [N, h] F32.
/// inverse: rotates by the negated angle with the same multiplier (the backward of the forward). math: f32, one
/// rounding to the dtype of x at the end, or bf16: operands, products and sums are each rounded to it (cos and sin are
/// as given). row_scale: every channel of row n is multiplied by row_scale[n], those that are not rotated too, forward
/// and inverse alike, before it is rounded to the dtype of x.
struct RopeArgs {
  Mat x;
  int32_t heads = 0;
  int32_t head_dim = 0;
  int32_t half = 0;  // h = rotary_dim / 2
  RopePairing pairing = RopePairing::kHalf;
  const float* cos = nullptr;
  const float* sin = nullptr;
  const float* row_scale = nullptr;  // [N] F32; null: 1
  bool inverse = false;
  FloatFormat math = FloatFormat::kF32;
};

/// gated: in [N, 2F] = [g | u], y [N, F] = act(g) * u. Plain: in, y [N, F], y = act(in); y may be in.
struct ActArgs {
  ConstMat in;
  Mat y;
  Act act = Act::kSilu;
  bool gated = true;
};
/// din has the shape of `in`; y, if given, is recomputed on the way. Plain: din may be dy.
struct ActBackwardArgs {
  ConstMat in;
  ConstMat dy;
  Mat din;
  Mat y;  // empty: not wanted
  Act act = Act::kSilu;
  bool gated = true;
};

/// One sequence of a batch: its queries are rows [query_begin, query_begin + schedule->num_queries) of q, its keys rows
/// [key_begin, key_begin + schedule->num_keys) of k and v. The schedule outlives the call.
struct AttnSequence {
  int64_t query_begin = 0;
  int64_t key_begin = 0;
  const AttnSchedule* schedule = nullptr;
};

/// Rows of keys or values that were stored: those of a matrix, or in pages of kPage rows.
struct KvRows {
  static constexpr int64_t kPage = 256;

  KvRows() = default;
  template <class M>
  requires std::convertible_to<const M&, ConstMat> KvRows(const M& rows) : m(rows) {}  // NOLINT: a matrix is such rows

  int64_t rows() const { return m.rows; }
  /// Rows [first, first + count), which lie together (Together).
  ConstMat Run(int64_t first, int64_t count) const {
    if (pages == nullptr) return m.Rows(first, count);
    ConstMat page = m;
    page.data = static_cast<const std::byte*>(pages[first / kPage]) + offset;
    return page.Rows(first % kPage, count);
  }
  /// How many rows from `first` on lie together, `count` at most.
  int64_t Together(int64_t first, int64_t count) const {
    return pages == nullptr ? count : std::min(count, kPage - first % kPage);
  }

  ConstMat m;                          // data: of row 0
  const void* const* pages = nullptr;  // [ceil(rows / kPage)]; null: all rows lie in m
  int64_t offset = 0;                  // bytes of a page before its first row
};

struct KvRange {
  int32_t begin = 0, end = 0;  // rows [begin, end)

  bool operator==(const KvRange&) const = default;
};

/// Keys and values that each kv head reads in part, whatever lies between. Rows of k and v are of one head, [*, D] or
/// Q8_0 [*, Q8Bytes(D)]; head g reads ranges [first[g], first[g + 1]), none of them empty.
struct KvParts {
  ConstMat k, v;
  std::span<const KvRange> ranges;
  std::span<const int32_t> first;  // [G + 1]
};

/// The rotation that keys get each time they are read, where they are stored without one: cos, sin [rows of k, half]
/// F32, with the multiplier of their scheme. Default: none.
struct KeyRotation {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int32_t half = 0;  // rotary_dim / 2
  RopePairing pairing = RopePairing::kHalf;
};

/// The numbers of an attention op, those of forward, backward and decode alike.
///   S[t,h,s] = scale * <q[t,h], k[s,g]>,  g = h / (H/G)
///   softcap: S = softcap * tanh(S / softcap)        slopes: S -= slopes[h] * (place of the query - place of the key)
/// in this order, before the mask.
struct AttnShape {
  int32_t heads = 0, kv_heads = 0, head_dim = 0;  // 1 <= D <= 256, H % G == 0
  float scale = 0.0f;                             // > 0
  SoftmaxSpec softmax = {};
  const float* slopes = nullptr;  // [H], finite; null: no score bias. Not trained
  float softcap = 0.0f;           // 0: none; else > 0
  // Not 0: biases are those of models that compute them in BF16 (Falcon), S += bf16_bias * (B(key) - B(query)) with
  // B(p) = slopes[h] * p, both factors and the product rounded to BF16. Then H = G.
  float bf16_bias = 0.0f;
};

/// Exact attention over compiled schedules.
///   P = softmax over visible s of S;  out = P v;  lse = log sum exp S
/// Another softmax (attn/softmax.h) makes other weights of the same P and S.
/// q, out [N, H*D]; k, v [M, G*D]; lse [N, H] F32 in nats. A row that sees nothing gives out = 0, lse = -inf.
/// q and out are F32 or BF16; k and v may be so too, each its own way, or Q8_0 [M, G * Q8Bytes(D)]: they are read as q
/// is, tile by tile. Source: FlashAttention-2, arXiv:2307.08691.
struct AttentionArgs {
  AttnShape shape;
  ConstMat q;
  KvRows k, v;  // in pages: for a sequence whose keys begin at row 0
  Mat out;
  float* lse = nullptr;
  std::span<const AttnSequence> sequences;
  KeyRotation rotation;
  // Read with slopes only. [N] and [M] positions; null, both: the numbers of the keys of a sequence, whose last ones
  // the queries are.
  const int32_t* query_place = nullptr;
  const int32_t* key_place = nullptr;
  // [N, H*D], of the dtype of q, or empty. The queries of what schedules mark as far (SplitFar), in place of q.
  // Standard softmax, no slopes; forward only.
  ConstMat q_far = {};
};
/// q, k and v share a dtype, F32 or BF16. dq [N, H*D], dk, dv [M, G*D] are written over the rows the sequences cover.
/// Deterministic for any thread count. Shape and places are those of the forward.
struct AttentionBackwardArgs {
  AttnShape shape;
  ConstMat q, k, v, out, dout;
  const float* lse = nullptr;
  Mat dq, dk, dv;
  std::span<const AttnSequence> sequences;
  const int32_t* query_place = nullptr;
  const int32_t* key_place = nullptr;
};
/// One query against everything resident: row r of q and out [R, H*D] sees all rows of its k and v, and what `parts`
/// names. No mask. Dtypes as in AttentionArgs.
struct DecodeArgs {
  struct Row {
    KvRows k, v;  // [slots, G*D], or Q8_0 [slots, G * Q8Bytes(D)]; slots >= 1
    KeyRotation rotation;
    // Read with slopes only. Positions of the slots, [slots], and of the query; null: slot numbers, and the query is
    // the last slot.
    const int32_t* key_place = nullptr;
    int32_t query_place = 0;
    int32_t far = 0;                 // the first so many slots are read by the row of q_far
    const KvParts* parts = nullptr;  // null: none. Standard softmax, no slopes, no far slots
  };
  AttnShape shape;
  ConstMat q;
  Mat out;
  std::span<const Row> rows;
  ConstMat q_far = {};  // as q, or empty; as in AttentionArgs
};

/// Fused head and cross-entropy; logits [N, V] never exist as a whole (token chunks).
///   l[t] = s x[t] W^T, capped: l = cap * tanh(s x W^T / cap) where cap > 0;  s = logit_scale, cap = logit_cap
///   nll[t] = log sum exp(l[t]) - l[t][target[t]];  loss = sum over t of weight[t] * nll[t]
/// target -1 (and any weight 0) leaves a row out: its nll is 0. With dx/dweight given, writes dx = dloss/dx *
/// grad_scale and dweight += (dloss/dW) * grad_scale in the same pass.
/// With `reference`, the weight of a row whose reference is a number is multiplied by its gain, min(exp(reference -
/// nll), most), through which no gradient flows (LongCE, arXiv:2410.23771); NaN: the weight stays.
struct CrossEntropyArgs {
  ConstMat x;                        // [N, C]
  ConstMat weight;                   // [V, C]; F32, BF16, F16 or blocks: other dtypes than x's are decoded to it
  const int32_t* targets = nullptr;  // [N]
  const float* weights = nullptr;    // [N]; null: all 1
  float* nll = nullptr;              // [N] F32 out; null: not wanted
  uint8_t* greatest = nullptr;       // [N] out: 1 where no logit is above that of the target; null: not wanted
  Mat dx;                            // empty: no gradients
  Mat dweight;                       // [V, C] F32
  const float* reference = nullptr;  // [N] F32
  float most = 5.0f;
  float grad_scale = 1.0f;
  float logit_scale = 1.0f;
  float logit_cap = 0.0f;  // 0: none
};
/// Of the rows that have a reference.
struct GainCounts {
  int64_t rows = 0;
  int64_t at_most = 0;    // whose gain is the greatest allowed
  int64_t below_one = 0;  // whose loss the reference undercuts
  double sum = 0;         // of gains

  GainCounts& operator+=(const GainCounts& other) {
    rows += other.rows;
    at_most += other.at_most;
    below_one += other.below_one;
    sum += other.sum;
    return *this;
  }
};
struct CrossEntropyResult {
  double loss = 0.0;    // sum of weight * nll, gains included, added in f64 in row order
  double weight = 0.0;  // sum of weights counted, without gains
  double nats = 0.0;    // sum of weight * nll without gains
  GainCounts gains;
};

/// AdamW (arXiv:1711.05101): m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr (mhat / (sqrt(vhat) + eps) + decay w),
/// g = grad * grad_scale; all F32 [n]. `low`, if given, receives the BF16 rounding of w.
struct AdamWArgs {
  float* w = nullptr;
  const float* grad = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  bf16* low = nullptr;
  int64_t n = 0;
  int64_t step = 1;  // 1-based, for the bias correction
  float lr = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, decay = 0, grad_scale = 1;
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// One line for logs: device, instruction sets in use, threads.
  virtual std::string Describe() const = 0;

  // Memory. Matrices are zero when made. The CPU backend's memory is the host's.
  virtual Matrix NewMatrix(int64_t rows, int64_t cols, DType dtype) = 0;
  virtual void Upload(const void* host, Mat to) = 0;  // host: rows * cols elements of to.dtype, dense
  virtual void Download(ConstMat from, void* host) = 0;
  virtual void Copy(ConstMat from, Mat to) = 0;  // same shape; converts between F32 and BF16
  virtual void Fill(Mat to, float value) = 0;
  /// Rows of heads of `head_dim` values, [N, G*D] -> Q8_0 [N, G * Q8Bytes(D)].
  virtual void Quantize(ConstMat from, int32_t head_dim, Mat to) = 0;

  virtual void MatMul(const MatMulArgs& args) = 0;
  virtual void Linear(const LinearArgs& args) = 0;
  virtual void LinearBackward(const LinearBackwardArgs& args) = 0;
  virtual void NormForward(const NormArgs& args) = 0;
  virtual void NormBackward(const NormBackwardArgs& args) = 0;
  virtual void Rope(const RopeArgs& args) = 0;
  virtual void ActForward(const ActArgs& args) = 0;
  virtual void ActBackward(const ActBackwardArgs& args) = 0;
  virtual void Add(ConstMat x, Mat y) = 0;  // y += x, same shape, any mix of F32 and BF16
  /// x = min(max(x, -limit), limit), limit > 0. NaN stays NaN.
  virtual void Clamp(Mat x, float limit) = 0;
  /// dx = 0 where |x| > limit; x: what Clamp was given, same shape as dx.
  virtual void ClampBackward(ConstMat x, float limit, Mat dx) = 0;

  virtual void AttentionForward(const AttentionArgs& args) = 0;
  virtual void AttentionBackward(const AttentionBackwardArgs& args) = 0;
  virtual void AttentionDecode(const DecodeArgs& args) = 0;
  /// Bytes that AttentionForward and AttentionBackward of such sequences keep for themselves; about. Of `args` only
  /// q.dtype, the heads and head_dim of the shape, and sequences count.
  virtual int64_t AttentionScratchBytes(const AttentionBackwardArgs& args) const = 0;
  /// Bytes that CrossEntropy keeps for itself with gradients of `tokens` rows over `vocab` logits; about.
  virtual int64_t CrossEntropyScratchBytes(int64_t tokens, int64_t vocab) const = 0;

  /// y[i] = scale * table[ids[i]], rounded once to y's dtype; table: F32, BF16, F16 or blocks. ids in [0, V) are the
  /// caller's promise (checked where text enters).
  virtual void EmbedForward(ConstMat table, const int32_t* ids, Mat y, float scale = 1.0f) = 0;
  /// dtable[ids[i]] += scale * dy[i], in row order for any thread count; dtable F32.
  virtual void EmbedBackward(ConstMat dy, const int32_t* ids, Mat dtable, float scale = 1.0f) = 0;
  virtual CrossEntropyResult CrossEntropy(const CrossEntropyArgs& args) = 0;
  /// In place: logits = cap * tanh(scale * logits / cap), cap 0: scale * logits. Scale 1 and cap 0 leave them as they
  /// are.
  virtual void CapLogits(Mat logits, float scale, float cap) = 0;
  /// Of the rows i that lie in `runs` of `rows` [*, D], one run after the other: to[r, i] = <x[r], rows[i]>.
  /// x [R, D], to [R, as many as all runs have], all F32. The bits of a product do not depend on the others.
  virtual void DotRows(ConstMat x, ConstMat rows, std::span<const KvRange> runs, Mat to) = 0;
  /// What queries i = 1..R that decide together weigh a key of cluster j by its centroid (Squeezed Attention,
  /// arXiv:2411.09688): scores[j] = log mean_i exp(A_ij) / Z_i, Z_i = sum_j n_j exp(A_ij). logits A [R, K] F32 in nats,
  /// counts n [K] >= 0, scores [K]; -infinity for empty clusters, which count nowhere. Finite for any finite logits
  /// otherwise. Errors: kNumeric for others.
  virtual void ClusterScores(ConstMat logits, std::span<const int32_t> counts, std::span<float> scores) = 0;

  /// Sum of squares in f64, in an order that does not depend on threads; NaN or inf if an element is not finite.
  virtual double SumSquares(const float* x, int64_t n) = 0;
  virtual void AdamW(const AdamWArgs& args) = 0;
};

}  // namespace hawser
