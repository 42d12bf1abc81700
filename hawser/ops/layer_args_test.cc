#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "hawser/ops/op_args.h"

namespace hawser {
namespace {

/// The call must end in Error(kUsage) whose message has every one of `words`.
void ExpectUsageOf(const std::function<void()>& call, std::initializer_list<const char*> words) {
  try {
    call();
    FAIL() << "no error; wanted one with " << *words.begin();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    for (const char* word : words) EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
  }
}

template <class Args>
void ExpectUsage(const Args& args, std::initializer_list<const char*> words) {
  ExpectUsageOf([&] { Validate(args); }, words);
}

TEST(LayerArgs, MatMul) {
  Matrix a(3, 4), b(4, 5), c(3, 5), low(3, 4, DType::kBF16), ids(3, 5, DType::kI32);
  const MatMulArgs good{.a = a, .b = b, .c = c};
  EXPECT_NO_THROW(Validate(good));
  MatMulArgs args = good;
  args.a = low;
  ExpectUsage(args, {"[matmul]", "bf16", "f32"});
  args = good;
  args.trans_b = true;
  ExpectUsage(args, {"[matmul]", "[3, 4]", "[5, 4]", "inner"});
  args = good;
  args.c = args.c.Rows(0, 2);
  ExpectUsage(args, {"c must be [3, 5]", "[2, 5]"});
  args = good;
  args.c = ids;
  ExpectUsage(args, {"c must be f32 or bf16", "i32"});
  args = good;
  args.a.ld = 3;
  ExpectUsage(args, {"a wants", "ld 3"});
  args = good;
  args.b.data = nullptr;
  ExpectUsage(args, {"b [4, 5] has no data"});
  Matrix low_c(3, 5, DType::kBF16);
  args = good;
  args.c = low_c;
  EXPECT_NO_THROW(Validate(args));
  args.accumulate = true;
  ExpectUsage(args, {"accumulate", "f32", "bf16"});
  args = good;
  args.a.rows = -1;
  ExpectUsage(args, {"rows and cols >= 0"});
}

TEST(LayerArgs, Norm) {
  Matrix x(3, 4), w(1, 4), y(3, 4), narrow(1, 3);
  const NormArgs good{.x = x, .weight = w, .y = y};
  EXPECT_NO_THROW(Validate(good));
  NormArgs args = good;
  args.weight = narrow;
  ExpectUsage(args, {"[norm] weight must be [1, 4]", "[1, 3]"});
  args = good;
  args.eps = std::numeric_limits<float>::quiet_NaN();
  ExpectUsage(args, {"eps"});
  const float rstd[3] = {};
  const NormBackwardArgs back{.x = x, .weight = w, .rstd = rstd, .dy = y, .residual = {}, .dx = y, .dweight = w};
  EXPECT_NO_THROW(Validate(back));
  NormBackwardArgs bad = back;
  bad.rstd = nullptr;
  ExpectUsage(bad, {"[norm backward] rstd [3]"});
  bad = back;
  bad.residual = w;
  ExpectUsage(bad, {"residual must be [3, 4]", "[1, 4]"});
  Matrix low(1, 4, DType::kBF16);
  bad = back;
  bad.dweight = low;
  ExpectUsage(bad, {"dweight must be f32"});
}

TEST(LayerArgs, NormOfHeadsAndBiases) {
  Matrix x(3, 12), w(1, 4), bias(1, 4), y(3, 12);
  const NormArgs good{.x = x, .weight = w, .bias = bias, .y = y, .kind = NormKind::kLayer, .heads = 3};
  EXPECT_NO_THROW(Validate(good));
  NormArgs args = good;
  args.heads = 5;
  ExpectUsage(args, {"[norm] rows of 12 channels", "5 heads"});
  args.heads = 0;
  ExpectUsage(args, {"0 heads"});
  args.heads = 1;
  ExpectUsage(args, {"weight must be [1, 12]", "[1, 4]"});
  args = good;
  args.bias = x;
  ExpectUsage(args, {"bias must be [1, 4]", "[3, 12]"});
  const float rstd[9] = {};
  const NormBackwardArgs back{
      .x = x, .weight = w, .rstd = rstd, .dy = y, .dx = y, .dweight = w, .dbias = bias, .heads = 3};
  EXPECT_NO_THROW(Validate(back));
  NormBackwardArgs bad = back;
  bad.dbias = x;
  ExpectUsage(bad, {"dbias must be [1, 4]"});
  bad = back;
  bad.rstd = nullptr;
  ExpectUsage(bad, {"rstd [9]"});
}

TEST(LayerArgs, Linear) {
  Matrix x(3, 4), w(5, 4), y(3, 5), bias(1, 5), low(5, 4, DType::kBF16), dw(5, 4), dx(3, 4);
  const LinearArgs good{.x = x, .w = w, .bias = bias, .y = y};
  EXPECT_NO_THROW(Validate(good));
  LinearArgs args = good;
  args.bias = {};
  EXPECT_NO_THROW(Validate(args));
  args.bias = x;
  ExpectUsage(args, {"[linear] bias must be [1, 5]", "[3, 4]"});
  args = good;
  args.w = y;
  ExpectUsage(args, {"w must be [3, 4]", "[3, 5]"});
  args = good;
  args.w = low;
  EXPECT_NO_THROW(Validate(args));
  Matrix ids(5, 4, DType::kI32);
  args.w = ids;
  ExpectUsage(args, {"w must be f32 or bf16", "i32"});
  args = good;
  args.y = x;
  ExpectUsage(args, {"y must be [3, 5]", "[3, 4]"});

  const LinearBackwardArgs back{.x = x, .w = w, .dy = y, .dx = dx, .dw = dw, .dbias = bias};
  EXPECT_NO_THROW(Validate(back));
  EXPECT_NO_THROW(Validate(LinearBackwardArgs{.dy = y, .dbias = bias}));
  EXPECT_NO_THROW(Validate(LinearBackwardArgs{.x = x, .dy = y, .dw = dw}));
  ExpectUsage(LinearBackwardArgs{.dy = y, .dw = dw}, {"[linear backward] x must be [3, 0]"});
  ExpectUsage(LinearBackwardArgs{.dy = y, .dx = dx}, {"w must be [5, 0]"});
  // Weights in blocks: whole ones, cols in values, ld in bytes.
  Matrix blocks(5, 36, DType::kQ4_0), long_x(3, 64), odd_x(3, 40);
  args = good;
  args.x = long_x;
  args.w = {blocks.view().data, DType::kQ4_0, 5, 64, 36};
  EXPECT_NO_THROW(Validate(args));
  args.w.ld = 35;
  ExpectUsage(args, {"w wants", "ld 35"});
  args.x = odd_x;
  args.w.cols = 40;
  ExpectUsage(args, {"rows of 40 values of w", "whole blocks of q4_0"});

  LinearBackwardArgs bad = back;
  bad.dw = low;
  ExpectUsage(bad, {"dw must be f32"});
  bad = back;
  bad.dbias = dw;
  ExpectUsage(bad, {"dbias must be [1, 5]", "[5, 4]"});
}

TEST(LayerArgs, RopeAndAct) {
  Matrix x(3, 16), y(3, 8);
  const float table[12] = {};
  const RopeArgs good{.x = x, .heads = 2, .head_dim = 8, .half = 4, .cos = table, .sin = table};
  EXPECT_NO_THROW(Validate(good));
  RopeArgs args = good;
  args.half = 5;
  ExpectUsage(args, {"[rope]", "half 5"});
  args = good;
  args.heads = 3;
  ExpectUsage(args, {"x must be [3, 24]", "[3, 16]"});
  args = good;
  args.sin = nullptr;
  ExpectUsage(args, {"sin"});
  args = good;
  args.half = std::numeric_limits<int32_t>::max();
  ExpectUsage(args, {"half"});

  EXPECT_NO_THROW(Validate(ActArgs{.in = x, .y = y}));
  ExpectUsage(ActArgs{.in = y, .y = y}, {"[act] in must be [3, 16]", "[3, 8]"});
  EXPECT_NO_THROW(Validate(ActBackwardArgs{.in = x, .dy = y, .din = x, .y = y}));
  ExpectUsage(ActBackwardArgs{.in = x, .dy = y, .din = y, .y = {}}, {"din must be [3, 16]"});
  ExpectUsage(ActBackwardArgs{.in = x, .dy = y, .din = x, .y = x}, {"y must be [3, 8]"});
  EXPECT_NO_THROW(Validate(ActArgs{.in = x, .y = x, .act = Act::kGelu, .gated = false}));
  ExpectUsage(ActArgs{.in = x, .y = y, .gated = false}, {"[act] in must be [3, 8]", "[3, 16]"});
  ExpectUsage(ActBackwardArgs{.in = y, .dy = y, .din = x, .y = {}, .gated = false}, {"din must be [3, 8]"});
}

TEST(LayerArgs, CrossEntropy) {
  Matrix x(3, 4), w(10, 4), dx(3, 4), dw(10, 4), low(10, 4, DType::kBF16);
  int32_t targets[3] = {-1, 0, 9};
  const CrossEntropyArgs good{.x = x, .weight = w, .targets = targets, .dx = dx, .dweight = dw};
  EXPECT_NO_THROW(Validate(good));
  targets[1] = 10;
  ExpectUsage(good, {"target 10 of row 1", "[-1, 10)"});
  targets[1] = -2;
  ExpectUsage(good, {"target -2 of row 1"});
  targets[1] = 0;
  CrossEntropyArgs args = good;
  args.weight = low;
  EXPECT_NO_THROW(Validate(args));
  args = good;
  args.dweight = low;
  ExpectUsage(args, {"dweight must be f32"});
  args = good;
  args.targets = nullptr;
  ExpectUsage(args, {"targets [3]"});
  args = good;
  args.logit_cap = -1.0f;
  ExpectUsage(args, {"[cross-entropy] the cap", "-1"});
  args = good;
  args.logit_scale = std::numeric_limits<float>::infinity();
  ExpectUsage(args, {"scale of logits must be finite"});
  args = good;
  args.dx = args.dx.Cols(0, 3);
  ExpectUsage(args, {"dx must be [3, 4]", "[3, 3]"});
}

TEST(LayerArgs, LimitsAndCaps) {
  EXPECT_NO_THROW(ValidateLimit("clamp", 8.0f));
  ExpectUsageOf([] { ValidateLimit("clamp", 0.0f); }, {"[clamp] limit must be > 0"});
  ExpectUsageOf([] { ValidateLimit("clamp", std::numeric_limits<float>::quiet_NaN()); }, {"limit"});
  EXPECT_NO_THROW(ValidateCap("cap logits", 0.5f, 0.0f));
  ExpectUsageOf([] { ValidateCap("cap logits", 1.0f, std::numeric_limits<float>::infinity()); }, {"cap of logits"});
}

TEST(LayerArgs, AdamWEmbedAndShapes) {
  float x[4] = {};
  const AdamWArgs good{.w = x, .grad = x, .m = x, .v = x, .n = 4};
  EXPECT_NO_THROW(Validate(good));
  AdamWArgs args = good;
  args.m = nullptr;
  ExpectUsage(args, {"[adamw] m [4]"});
  args = good;
  args.step = 0;
  ExpectUsage(args, {"step >= 1", "step 0"});
  args = good;
  args.beta2 = 1.0f;
  ExpectUsage(args, {"betas"});

  Matrix table(10, 4), y(3, 4), narrow(3, 3);
  const int32_t ids[3] = {};
  EXPECT_NO_THROW(ValidateEmbed("embed", table, ids, y));
  ExpectUsageOf([&] { ValidateEmbed("embed", table, ids, narrow); }, {"[embed] rows must be [3, 4]", "[3, 3]"});
  ExpectUsageOf([&] { ValidateEmbed("embed", table, nullptr, y); }, {"ids [3]"});
  ExpectUsageOf([&] { ValidateSameShape("copy", y, narrow); }, {"[copy] the destination must be [3, 4]", "[3, 3]"});
}

}  // namespace
}  // namespace hawser
