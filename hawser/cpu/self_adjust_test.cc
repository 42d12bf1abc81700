#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/base/q8.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using ::hawser::testing::AttentionTolerance;
using ::hawser::testing::TestMat;

/// The formulas of attn/softmax.h, in double.
struct Twin {
  int64_t rows, keys;
  int heads, kv_heads, dim;
  double scale;
  SoftmaxSpec softmax;
  std::function<bool(int64_t row, int64_t key)> visible;
  std::vector<double> q, k, v;
  std::vector<double> out = {}, out_size = {};  // size: what a small error of the scores is multiplied by

  void Forward() {
    out.assign(static_cast<size_t>(rows * heads * dim), 0.0);
    out_size = out;
    for (int64_t row = 0; row < rows; ++row) {
      for (int head = 0; head < heads; ++head) Row(row, head);
    }
  }
  void Row(int64_t row, int head) {
    std::vector<double> z;
    std::vector<int64_t> seen;
    double top = -INFINITY, lo = 0, hi = 0, sum = 0;
    const auto at = [&](int64_t key) { return (key * kv_heads + head / (heads / kv_heads)) * dim; };
    for (int64_t key = 0; key < keys; ++key) {
      if (!visible(row, key)) continue;
      double dot = 0;
      for (int d = 0; d < dim; ++d) dot += q[(row * heads + head) * dim + d] * k[at(key) + d];
      z.push_back(scale * dot);
      seen.push_back(key);
      top = std::max(top, z.back()), lo = std::min(lo, z.back()), hi = std::max(hi, z.back());
    }
    hi += softmax.denominator_bias;
    for (double x : z) sum += std::exp(x - top);
    for (size_t i = 0; i < seen.size(); ++i) {
      const double p = std::exp(z[i] - top) / sum;
      const bool product = softmax.kind == SoftmaxKind::kSelfAdjustProduct;
      const double factor = product ? z[i] : (z[i] - lo + softmax.numerator_bias) / (hi - lo);
      const double slope = product ? 1 : 1 / (hi - lo);
      for (int d = 0; d < dim; ++d) {
        const double value = v[at(seen[i]) + d];
        out[(row * heads + head) * dim + d] += p * factor * value;
        out_size[(row * heads + head) * dim + d] += p * (std::abs(factor) + 3 * slope) * std::abs(value);
      }
    }
  }
  double Loss(const std::vector<double>& dout) {
    Forward();
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
    return sum;
  }
};

/// A random pattern over a random sequence, its inputs, and their twin.
struct Case {
  Case(Rng* rng, int dim_, DType dtype, const SoftmaxSpec& softmax_, int32_t most)
      : softmax(softmax_),
        kv_heads(1 + static_cast<int>(rng->Below(2))),
        heads(kv_heads * (1 + static_cast<int>(rng->Below(3)))),
        dim(dim_),
        tokens(static_cast<int32_t>(2 + rng->Below(static_cast<uint64_t>(most)))),
        q(tokens, int64_t{heads} * dim, dtype, rng->Bits(), 1.5, 3),
        k(tokens, int64_t{kv_heads} * dim, dtype, rng->Bits(), 1.0, 3),
        v(tokens, int64_t{kv_heads} * dim, dtype, rng->Bits(), 1.0, 3),
        out(tokens, int64_t{heads} * dim, DType::kF32, 1, 1.0, 3),
        dout(tokens, int64_t{heads} * dim, dtype, rng->Bits(), 1.0, 3),
        lse(static_cast<size_t>(tokens * heads)) {
    const AttnPattern patterns[] = {{},
                                    {.window = 1},
                                    {.window = 4},
                                    {.window = 3, .sinks = 2},
                                    {.window = 3, .sinks = 1, .separators = true},
                                    {.scope = Scope::kDocument, .anchors = 1}};
    pattern = patterns[rng->Below(std::size(patterns))];
    layout.size = tokens;
    int32_t begin = 0;
    for (int32_t i = 0; i < tokens; ++i) {
      if (rng->Below(9) == 0) begin = i;
      layout.doc_begin.push_back(pattern.scope == Scope::kDocument ? begin : 0);
      layout.is_separator.push_back(rng->Below(4) == 0);
    }
    if (pattern.anchors > 0 && tokens > 1) {  // the anchor is a document of its own
      for (int32_t i = 1; i < tokens; ++i) layout.doc_begin[i] = std::max(layout.doc_begin[i], 1);
    }
    schedule = CompileSchedule(pattern, layout);
    sequence = {.schedule = &schedule};
  }
  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(dim)); }
  void Forward() {
    AttentionForward(
        {.shape = {.heads = heads, .kv_heads = kv_heads, .head_dim = dim, .scale = Scale(), .softmax = softmax},
         .q = q,
         .k = k,
         .v = v,
         .out = out,
         .lse = lse.data(),
         .sequences = {&sequence, 1}});
  }
  void Backward(Mat dq, Mat dk, Mat dv) {
    AttentionBackward(
        {.shape = {.heads = heads, .kv_heads = kv_heads, .head_dim = dim, .scale = Scale(), .softmax = softmax},
         .q = q,
         .k = k,
         .v = v,
         .out = out,
         .dout = dout,
         .lse = lse.data(),
         .dq = dq,
         .dk = dk,
         .dv = dv,
         .sequences = {&sequence, 1}});
  }
  Twin MakeTwin() const {
    return {.rows = tokens,
            .keys = tokens,
            .heads = heads,
            .kv_heads = kv_heads,
            .dim = dim,
            .scale = Scale(),
            .softmax = softmax,
            .visible =
                [this](int64_t row, int64_t key) {
                  return Visible(pattern, layout, static_cast<int32_t>(row), static_cast<int32_t>(key));
                },
            .q = q.Values(),
            .k = k.Values(),
            .v = v.Values()};
  }

  SoftmaxSpec softmax;
  int kv_heads, heads, dim;
  int32_t tokens;
  TestMat q, k, v, out, dout;
  std::vector<float> lse;
  AttnPattern pattern;
  TokenLayout layout;
  AttnSchedule schedule;
  AttnSequence sequence;
};

class SelfAdjustTest : public ::testing::Test {
 protected:
  SelfAdjustTest() { SetThreads(1); }
  ~SelfAdjustTest() override {
    SetIsa(before_);
    SetThreads(0);
  }
  Isa before_ = CurrentIsa();
  Rng rng_{.seed = 2, .stream = 25};
  const std::vector<SoftmaxSpec> kinds_ = {ParseSoftmax("self-adjust"), ParseSoftmax("self-adjust:nb=0.3,db=0.1"),
                                           ParseSoftmax("self-adjust-product")};
};

TEST_F(SelfAdjustTest, ForwardMatchesTheTwin) {
  for (const Isa isa : AvailableIsas()) {
    SetIsa(isa);
    for (const int dim : {8, 12, 40, 64, 100}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        for (const SoftmaxSpec& kind : kinds_) {
          Case c(&rng_, dim, dtype, kind, 150);
          c.Forward();
          Twin twin = c.MakeTwin();
          twin.Forward();
          c.out.ExpectMarginUntouched();
          for (int64_t r = 0; r < c.tokens; ++r) {
            for (int64_t i = 0; i < c.out.cols(); ++i) {
              const size_t at = static_cast<size_t>(r * c.out.cols() + i);
              ASSERT_NEAR(c.out(r, i), twin.out[at],
                          AttentionTolerance(DType::kF32, DType::kF32, dim, 30.0, twin.out_size[at], twin.out[at]))
                  << Name(isa) << " " << ToString(kind) << " " << ToString(c.pattern) << " dim " << dim;
            }
          }
        }
      }
    }
  }
}

TEST_F(SelfAdjustTest, BackwardIsTheDifferenceQuotientOfTheTwin) {
  for (int trial = 0; trial < 40; ++trial) {
    Case c(&rng_, 8, trial % 4 == 3 ? DType::kBF16 : DType::kF32, kinds_[trial % 3], 14);
    TestMat dq(c.tokens, c.q.cols(), DType::kF32, 1, 1.0, 2), dk(c.tokens, c.k.cols(), DType::kF32, 2, 1.0, 2),
        dv(c.tokens, c.v.cols(), DType::kF32, 3, 1.0, 2);
    c.Forward();
    c.Backward(dq, dk, dv);
    Twin twin = c.MakeTwin();
    const std::vector<double> dout = c.dout.Values();
    const auto check = [&](std::vector<double>& x, const TestMat& got, const char* name) {
      double top = 0;
      std::vector<double> want;
      for (double& value : x) {
        constexpr double kStep = 1e-5;
        const double kept = value;
        value = kept + kStep;
        const double above = twin.Loss(dout);
        value = kept - kStep;
        want.push_back((above - twin.Loss(dout)) / (2 * kStep));
        value = kept;
        top = std::max(top, std::abs(want.back()));
      }
      // The second term: a row of one key has gradients that cancel to 0, but for the rounding of what cancels.
      for (size_t i = 0; i < want.size(); ++i) {
        const auto cols = static_cast<size_t>(got.cols());
        ASSERT_NEAR(got(static_cast<int64_t>(i / cols), static_cast<int64_t>(i % cols)), want[i], 1e-4 * top + 1e-5)
            << name << " " << i << " of " << ToString(c.softmax) << " " << ToString(c.pattern) << ", " << c.tokens
            << " tokens";
      }
    };
    check(twin.q, dq, "dq");
    check(twin.k, dk, "dk");
    check(twin.v, dv, "dv");
  }
}

TEST_F(SelfAdjustTest, DecodeIsTheLastRowOfForwardOverAnyStore) {
  for (const SoftmaxSpec& kind : kinds_) {
    constexpr int kDim = 40, kHeads = 6, kKvHeads = 2, kSlots = 300;
    const TestMat q(1, kHeads * kDim, DType::kF32, 1), k(kSlots, kKvHeads * kDim, DType::kF32, 2),
        v(kSlots, kKvHeads * kDim, DType::kF32, 3);
    Matrix blocks[2] = {{kSlots, kKvHeads * Q8Bytes(kDim), DType::kQ8_0},
                        {kSlots, kKvHeads * Q8Bytes(kDim), DType::kQ8_0}};
    QuantizeMat(k, kDim, blocks[0]);
    QuantizeMat(v, kDim, blocks[1]);
    for (const bool quantised : {false, true}) {
      DecodeArgs::Row row{.k = k, .v = v};
      if (quantised) row = {.k = blocks[0], .v = blocks[1]};
      TestMat decoded(1, kHeads * kDim, DType::kF32, 4), last(1, kHeads * kDim, DType::kF32, 5);
      std::vector<std::vector<char>> bytes;
      for (const int threads : {1, 2}) {
        SetThreads(threads);
        AttentionDecode(
            {.shape = {.heads = kHeads, .kv_heads = kKvHeads, .head_dim = kDim, .scale = 0.2f, .softmax = kind},
             .q = q,
             .out = decoded,
             .rows = {&row, 1}});
        bytes.push_back(decoded.Bytes());
      }
      EXPECT_EQ(bytes[0], bytes[1]);
      TokenLayout layout;
      layout.size = kSlots;
      const AttnSchedule schedule = CompileSchedule({}, layout, 1);
      const AttnSequence sequence{.schedule = &schedule};
      AttentionForward(
          {.shape = {.heads = kHeads, .kv_heads = kKvHeads, .head_dim = kDim, .scale = 0.2f, .softmax = kind},
           .q = q,
           .k = row.k,
           .v = row.v,
           .out = last,
           .sequences = {&sequence, 1}});
      EXPECT_EQ(decoded.Values(), last.Values());
      Twin twin{.rows = 1,
                .keys = kSlots,
                .heads = kHeads,
                .kv_heads = kKvHeads,
                .dim = kDim,
                .scale = 0.2f,
                .softmax = kind,
                .visible = [](int64_t, int64_t) { return true; },
                .q = q.Values(),
                .k = k.Values(),
                .v = v.Values()};
      twin.Forward();
      for (int64_t i = 0; i < decoded.cols(); ++i) {
        EXPECT_NEAR(decoded(0, i), twin.out[static_cast<size_t>(i)], quantised ? 0.05 : 1e-5);
      }
    }
  }
}

TEST_F(SelfAdjustTest, ThreadsDoNotMatterAndRowsOfZerosAreFinite) {
  Case c(&rng_, 64, DType::kF32, kinds_[0], 400);
  std::vector<std::vector<char>> bytes;
  for (const int threads : {1, 2}) {
    SetThreads(threads);
    TestMat dq(c.tokens, c.q.cols(), DType::kF32, 1), dk(c.tokens, c.k.cols(), DType::kF32, 2),
        dv(c.tokens, c.v.cols(), DType::kF32, 3);
    c.Forward();
    c.Backward(dq, dk, dv);
    for (const TestMat* m : {&c.out, &dq, &dk, &dv}) bytes.push_back(m->Bytes());
  }
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(bytes[i], bytes[i + 4]) << i;
  for (int64_t i = 0; i < c.q.cols(); ++i) c.q.Put(0, i, 0.0);
  c.Forward();
  for (int64_t i = 0; i < c.q.cols(); ++i) EXPECT_EQ(c.out(0, i), 0.0);  // nb = 0: z - lo = 0
}

}  // namespace
}  // namespace hawser
