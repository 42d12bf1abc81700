// Rotary positions, activations, embedding, clamps, caps, copies and sums against f64 formulas and finite differences.
#include <gtest/gtest.h>

#include "hawser/cpu/act.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/cpu/embed.h"
#include "hawser/cpu/rope.h"
#include "hawser/testing/cpu_runs.h"
#include "hawser/testing/ops_reference.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using testing::ExpectSameForAnyThreads;
using testing::ForEachTarget;
using testing::TestMat;
using testing::Values;

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

Values Slice(const TestMat& mat, int64_t row, int64_t begin, int64_t count) {
  Values values;
  for (int64_t c = begin; c < begin + count; ++c) values.push_back(mat(row, c));
  return values;
}

std::vector<char> Joined(std::initializer_list<std::vector<char>> parts) {
  std::vector<char> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

/// A few f32 roundings of a value of size `magnitude`, then one to `stored`.
double Near(DType stored, double magnitude, double want) { return testing::SumTolerance(stored, 4, magnitude, want); }

struct Angles {
  Angles(int64_t rows, int32_t half, double multiplier) : cos(rows * half), sin(rows * half) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int32_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(r) * std::pow(10000.0, -static_cast<double>(i) / half);
        cos[r * half + i] = static_cast<float>(multiplier * std::cos(angle));
        sin[r * half + i] = static_cast<float>(multiplier * std::sin(angle));
      }
    }
  }
  std::vector<float> cos, sin;
};

TEST(Rope, AgreesWithTheFormulaForBothPairingsAndPartialRotation) {
  ForEachTarget([] {
    for (RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
      for (DType type : kTypes) {
        for (auto [head_dim, half] : {std::pair{8, 4}, {20, 9}, {64, 32}, {80, 37}, {7, 0}, {2, 1}}) {
          constexpr int64_t kRows = 9, kHeads = 3;
          const Angles angles(kRows, half, 1.25);
          TestMat x(kRows, kHeads * head_dim, type, 1, 1.0, 3);
          const TestMat before(kRows, kHeads * head_dim, type, 1, 1.0, 3);
          Rope({.x = x,
                .heads = kHeads,
                .head_dim = head_dim,
                .half = half,
                .pairing = pairing,
                .cos = angles.cos.data(),
                .sin = angles.sin.data()});
          x.ExpectMarginUntouched();
          for (int64_t r = 0; r < kRows; ++r) {
            const Values cos(angles.cos.begin() + r * half, angles.cos.begin() + (r + 1) * half);
            const Values sin(angles.sin.begin() + r * half, angles.sin.begin() + (r + 1) * half);
            for (int64_t h = 0; h < kHeads; ++h) {
              const Values head = Slice(before, r, h * head_dim, head_dim);
              const Values want = testing::ReferenceRope(head, pairing, cos, sin);
              for (int64_t i = 0; i < head_dim; ++i) {
                const double got = x(r, h * head_dim + i);
                ASSERT_NEAR(got, want[i], Near(type, 4.0, want[i])) << "row " << r << " head " << h << " channel " << i;
                if (i >= 2 * half) {
                  ASSERT_EQ(got, head[i]) << "a channel past the rotated ones";
                }
              }
            }
          }
        }
      }
    }
  });
}

// Every channel of a row times its scale, with the rotation rounded once.
TEST(Rope, ScalesRowsForwardAndInverse) {
  ForEachTarget([] {
    constexpr int64_t kRows = 7, kHeads = 3;
    const std::vector<float> scales = {1.0f, 1.25f, 1.1f, 2.0f, 0.5f, 3.3f, 1.0f};
    for (RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
      for (const bool inverse : {false, true}) {
        for (auto [head_dim, half] : {std::pair{8, 4}, {20, 9}, {64, 32}, {7, 0}}) {
          const Angles angles(kRows, half, 1.0);
          TestMat x(kRows, kHeads * head_dim, DType::kF32, 1), plain(kRows, kHeads * head_dim, DType::kF32, 1);
          TestMat low(kRows, kHeads * head_dim, DType::kBF16, 1), wide(kRows, kHeads * head_dim, DType::kF32, 1);
          for (int64_t r = 0; r < kRows; ++r) {
            for (int64_t c = 0; c < kHeads * head_dim; ++c)
              wide.view().Row<float>(r)[c] = static_cast<float>(low(r, c));
          }
          RopeArgs args{.x = plain,
                        .heads = kHeads,
                        .head_dim = head_dim,
                        .half = half,
                        .pairing = pairing,
                        .cos = angles.cos.data(),
                        .sin = angles.sin.data(),
                        .inverse = inverse};
          Rope(args);
          args.row_scale = scales.data();
          for (const Mat to : {x.view(), low.view(), wide.view()}) {
            args.x = to;
            Rope(args);
          }
          x.ExpectMarginUntouched();
          low.ExpectMarginUntouched();
          for (int64_t r = 0; r < kRows; ++r) {
            for (int64_t c = 0; c < kHeads * head_dim; ++c) {
              ASSERT_EQ(x(r, c), static_cast<double>(static_cast<float>(plain(r, c)) * scales[r])) << r << " " << c;
              ASSERT_EQ(low(r, c), double{ToF32(ToBF16(static_cast<float>(wide(r, c))))}) << "rounded once";
            }
          }
        }
      }
    }
  });
}

TEST(Rope, T24_LeavesPositionZeroAloneAndUndoesItself) {
  for (RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
    constexpr int64_t kRows = 40;
    const Angles angles(kRows, 21, 1.0);
    TestMat x(kRows, 2 * 50, DType::kF32, 1);
    const TestMat before(kRows, 2 * 50, DType::kF32, 1);
    RopeArgs args{.x = x,
                  .heads = 2,
                  .head_dim = 50,
                  .half = 21,
                  .pairing = pairing,
                  .cos = angles.cos.data(),
                  .sin = angles.sin.data()};
    Rope(args);
    for (int64_t c = 0; c < 100; ++c) EXPECT_EQ(x(0, c), before(0, c));
    EXPECT_GT(std::abs(x(1, 0) - before(1, 0)), 1e-3);
    args.inverse = true;
    Rope(args);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < 100; ++c) ASSERT_NEAR(x(r, c), before(r, c), Near(DType::kF32, 4.0, 1.0));
    }
  }
}

// Operands, products and sums in bf16, bit for bit; rotating back is the transposed map up to those roundings.
TEST(Rope, RotatesInBf16WhereAsked) {
  ForEachTarget([] {
    for (RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
      for (DType type : kTypes) {
        for (auto [head_dim, half] : {std::pair{8, 4}, {20, 9}, {64, 32}}) {
          constexpr int64_t kRows = 5, kHeads = 2;
          Angles angles(kRows, half, 1.0);
          for (std::vector<float>* table : {&angles.cos, &angles.sin}) {
            for (float& x : *table) x = ToF32(ToBF16(x));
          }
          TestMat x(kRows, kHeads * head_dim, type, 1), y(kRows, kHeads * head_dim, type, 2);
          const TestMat before(kRows, kHeads * head_dim, type, 1), gradient(kRows, kHeads * head_dim, type, 2);
          RopeArgs args{.x = x,
                        .heads = kHeads,
                        .head_dim = head_dim,
                        .half = half,
                        .pairing = pairing,
                        .cos = angles.cos.data(),
                        .sin = angles.sin.data(),
                        .math = FloatFormat::kBF16};
          Rope(args);
          args.x = y;
          args.inverse = true;
          Rope(args);
          for (int64_t r = 0; r < kRows; ++r) {
            double forward = 0, backward = 0;
            for (int64_t c = 0; c < kHeads * head_dim; ++c) {
              forward += x(r, c) * gradient(r, c);
              backward += before(r, c) * y(r, c);
            }
            EXPECT_NEAR(forward, backward, 0.02 * std::sqrt(static_cast<double>(kHeads * head_dim)));
            for (int64_t i = 0; i < half; ++i) {
              const int64_t a = pairing == RopePairing::kHalf ? i : 2 * i;
              const int64_t b = pairing == RopePairing::kHalf ? i + half : 2 * i + 1;
              const float cos = angles.cos[r * half + i], sin = angles.sin[r * half + i];
              const RopePair want = RotatePair(FloatFormat::kBF16, before(r, a), before(r, b), cos, sin);
              ASSERT_EQ(x(r, a), want.low);
              ASSERT_EQ(x(r, b), want.high);
              const RopePair back = RotatePair(FloatFormat::kBF16, gradient(r, a), gradient(r, b), cos, -sin);
              ASSERT_EQ(y(r, a), back.low);
              ASSERT_EQ(y(r, b), back.high);
            }
          }
        }
      }
    }
  });
}

TEST(Rope, SameForAnyNumberOfThreads) {
  const Angles angles(500, 16, 1.0);
  ExpectSameForAnyThreads([&] {
    TestMat x(500, 4 * 40, DType::kBF16, 1);
    Rope({.x = x, .heads = 4, .head_dim = 40, .half = 16, .cos = angles.cos.data(), .sin = angles.sin.data()});
    return x.Bytes();
  });
}

constexpr Act kActs[] = {Act::kSilu, Act::kGelu, Act::kGeluTanh, Act::kRelu};

// To 1e-6 of the value, down to where f32 ends. The argument of kGeluTanh's exponent is rounded: half a unit of it, and
// as much for each of its three operations.
TEST(Act, ForwardAgreesWithTheFormulaOutToTheExtremes) {
  ForEachTarget([] {
    for (Act act : kActs) {
      for (const bool gated : {false, true}) {
        for (DType type : kTypes) {
          const int64_t wide = gated ? 2 : 1;
          TestMat x(40, wide * 37, type, 1, 3.0, 3), y(40, 37, type, 2, 1.0, 5);
          const double extremes[] = {-1e30, -200.0, -104.0, -88.0, -20.0, -0.0, 20.0, 100.0, 1e30};
          for (int64_t c = 0; c < 9; ++c) x.Put(0, c, extremes[c]);
          for (int64_t r = 1; r < 39; ++r) x.Put(r, 0, -0.35 * static_cast<double>(r));
          for (int64_t r = 1; r < 39; ++r) x.Put(r, 1, std::pow(10.0, -0.5 * static_cast<double>(r)));
          x.Put(39, 0, std::numeric_limits<double>::quiet_NaN());
          ActForward({.in = x, .y = y, .act = act, .gated = gated});
          y.ExpectMarginUntouched();
          EXPECT_TRUE(std::isnan(y(39, 0)));
          for (int64_t r = 0; r < 40; ++r) {
            for (int64_t c = 0; c < 37; ++c) {
              if (std::isnan(x(r, c))) continue;
              const double z = x(r, c), want = testing::ReferenceAct(act, z) * (gated ? x(r, 37 + c) : 1.0);
              const double exponent = act == Act::kGeluTanh && z < 0 ? -1.6 * (z + 0.045 * z * z * z) : 0.0;
              const double unit = 1e-6 + exponent * 0x1p-22;
              ASSERT_NEAR(y(r, c), want, (unit + testing::RoundingUnit(type)) * std::abs(want) + 1e-34)
                  << static_cast<int>(act) << " of " << z;
            }
          }
        }
      }
    }
  });
}

TEST(Act, BackwardAgreesWithFiniteDifferencesAndRecomputesY) {
  ForEachTarget([] {
    for (Act act : kActs) {
      for (DType type : kTypes) {
        for (int64_t cols : {1, 31, 64}) {
          TestMat x(11, 2 * cols, type, 1, 2.0, 3), dy(11, cols, type, 2), dx(11, 2 * cols, type, 3, 1.0, 1);
          TestMat y(11, cols, type, 4), want_y(11, cols, type, 5);
          ActBackward({.in = x, .dy = dy, .din = dx, .y = y, .act = act});
          ActForward({.in = x, .y = want_y, .act = act});
          EXPECT_EQ(y.Bytes(), want_y.Bytes());
          dx.ExpectMarginUntouched();
          for (int64_t r = 0; r < 11; ++r) {
            for (int64_t c = 0; c < cols; ++c) {
              const Values want = testing::Gradient({x(r, c), x(r, cols + c)}, [&](const Values& v) {
                return dy(r, c) * testing::ReferenceAct(act, v[0]) * v[1];
              });
              const double size = std::abs(dy(r, c)) * (4.0 + std::abs(x(r, c)) + std::abs(x(r, cols + c)));
              ASSERT_NEAR(dx(r, c), want[0], Near(type, size, want[0]) + 1e-8);
              ASSERT_NEAR(dx(r, cols + c), want[1], Near(type, size, want[1]) + 1e-8);
            }
          }
          TestMat alone(11, 2 * cols, type, 3, 1.0, 1);
          ActBackward({.in = x, .dy = dy, .din = alone, .y = {}, .act = act});
          EXPECT_EQ(alone.Values(), dx.Values());

          // Plain: the same as gated by ones, and it may write over dy.
          TestMat plain(11, cols, type, 6), plain_y(11, cols, type, 7);
          for (int64_t r = 0; r < 11; ++r) {
            for (int64_t c = 0; c < cols; ++c) x.Put(r, cols + c, 1.0);
          }
          ActBackward({.in = x, .dy = dy, .din = dx, .y = y, .act = act});
          const ConstMat in = x.view().Cols(0, cols);
          ActBackward({.in = in, .dy = dy, .din = plain, .y = plain_y, .act = act, .gated = false});
          EXPECT_EQ(plain_y.Bytes(), y.Bytes());
          ActBackward({.in = in, .dy = dy, .din = dy, .y = {}, .act = act, .gated = false});
          EXPECT_EQ(dy.Bytes(), plain.Bytes());
          for (int64_t r = 0; r < 11; ++r) {
            for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(plain(r, c), dx(r, c));
          }
        }
      }
    }
  });
}

TEST(Act, SlopesAreFiniteAtTheExtremes) {
  ForEachTarget([] {
    for (Act act : kActs) {
      TestMat x(1, 6, DType::kF32, 1), one(1, 6, DType::kF32, 2), dx(1, 6, DType::kF32, 3);
      const double at[] = {-1e30, -1e5, -40.0, 40.0, 1e5, 1e30};
      for (int64_t c = 0; c < 6; ++c) x.Put(0, c, at[c]), one.Put(0, c, 1.0);
      ActBackward({.in = x, .dy = one, .din = dx, .y = {}, .act = act, .gated = false});
      for (int64_t c = 0; c < 6; ++c) EXPECT_NEAR(dx(0, c), at[c] > 0 ? 1.0 : 0.0, 1e-6) << static_cast<int>(act);
    }
  });
}

TEST(Act, SameForAnyNumberOfThreads) {
  for (Act act : kActs) {
    ExpectSameForAnyThreads([&] {
      TestMat x(300, 2 * 150, DType::kBF16, 1), dy(300, 150, DType::kBF16, 2), dx(300, 2 * 150, DType::kBF16, 3);
      TestMat y(300, 150, DType::kBF16, 4);
      ActForward({.in = x, .y = y, .act = act});
      ActBackward({.in = x, .dy = dy, .din = dx, .y = {}, .act = act});
      return Joined({y.Bytes(), dx.Bytes()});
    });
  }
}

TEST(Elementwise, CopiesAddsAndFillsEveryMixOfTypes) {
  ForEachTarget([] {
    for (DType from : kTypes) {
      for (DType to : kTypes) {
        for (int64_t cols : {1, 15, 16, 67}) {
          TestMat x(19, cols, from, 1, 1.0, 3), y(19, cols, to, 2, 1.0, 2);
          x.Put(0, 0, std::numeric_limits<double>::infinity());
          x.Put(1, 0, std::numeric_limits<double>::quiet_NaN());
          x.Put(2, 0, 0x1.ffp+100);  // rounds up to the next power of two in bf16
          CopyMat(x, y);
          const auto rounded = [&](double v) { return to == DType::kBF16 ? ToF32(ToBF16(static_cast<float>(v))) : v; };
          for (int64_t r = 0; r < 19; ++r) {
            for (int64_t c = 0; c < cols; ++c) {
              if (std::isnan(x(r, c))) {
                ASSERT_TRUE(std::isnan(y(r, c)));
              } else {
                ASSERT_EQ(y(r, c), rounded(x(r, c)));
              }
            }
          }
          AddMat(x, y);
          for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(y(3, c), rounded(x(3, c) + rounded(x(3, c))));
          FillMat(y, 0.3f);
          for (double v : y.Values()) ASSERT_EQ(v, rounded(0.3f));
          y.ExpectMarginUntouched();
        }
      }
    }
  });
}

TEST(Elementwise, ClampsAndItsGradientStopAtTheLimit) {
  ForEachTarget([] {
    for (DType type : kTypes) {
      for (int64_t cols : {1, 16, 67}) {
        TestMat x(19, cols, type, 1, 1.0, 3), y(19, cols, type, 1, 1.0, 3), dx(19, cols, DType::kF32, 2, 1.0, 1);
        const TestMat before(19, cols, DType::kF32, 2);
        for (TestMat* m : {&x, &y}) {
          m->Put(0, 0, 0.75), m->Put(1, 0, -0.75), m->Put(2, 0, std::numeric_limits<double>::infinity());
          m->Put(3, 0, std::numeric_limits<double>::quiet_NaN());
        }
        ClampMat(y, 0.75f);
        ClampBackwardMat(x, 0.75f, dx);
        y.ExpectMarginUntouched();
        dx.ExpectMarginUntouched();
        EXPECT_TRUE(std::isnan(y(3, 0)));
        for (int64_t r = 0; r < 19; ++r) {
          for (int64_t c = 0; c < cols; ++c) {
            if (std::isnan(x(r, c))) continue;
            ASSERT_EQ(y(r, c), std::clamp(x(r, c), -0.75, 0.75));
            ASSERT_EQ(dx(r, c), std::abs(x(r, c)) > 0.75 ? 0.0 : before(r, c));
          }
        }
      }
    }
  });
}

TEST(Elementwise, CapsLogits) {
  ForEachTarget([] {
    for (DType type : kTypes) {
      for (auto [scale, cap] : {std::pair{1.0, 30.0}, {0.0625, 0.0}, {-2.5, 1.5}, {1.0, 0.0}}) {
        TestMat x(19, 67, type, 1, 20.0, 3), y(19, 67, type, 1, 20.0, 3);
        for (TestMat* m : {&x, &y}) m->Put(0, 0, 1e30), m->Put(1, 0, -1e30), m->Put(2, 0, 1e-20);
        CapMat(y, static_cast<float>(scale), static_cast<float>(cap));
        y.ExpectMarginUntouched();
        for (int64_t r = 0; r < 19; ++r) {
          for (int64_t c = 0; c < 67; ++c) {
            const double want = testing::ReferenceCap(x(r, c), scale, cap);
            ASSERT_NEAR(y(r, c), want, (1e-6 + testing::RoundingUnit(type)) * std::abs(want)) << x(r, c);
          }
        }
      }
    }
  });
}

TEST(Embed, TakesRowsAndAddsGradientsInRowOrder) {
  ForEachTarget([] {
    for (DType type : kTypes) {
      constexpr int64_t kRows = 200, kCols = 131, kVocab = 7;
      TestMat table(kVocab, kCols, type, 1, 1.0, 3), y(kRows, kCols, DType::kF32, 2, 1.0, 1);
      std::vector<int32_t> ids;
      Rng rng{.seed = 5};
      for (int64_t r = 0; r < kRows; ++r) ids.push_back(static_cast<int32_t>(rng.Below(kVocab - 1)));
      EmbedForward(table, ids.data(), y, 1.0f);
      y.ExpectMarginUntouched();
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kCols; ++c) ASSERT_EQ(y(r, c), table(ids[r], c));
      }
      TestMat dy(kRows, kCols, type, 3), dtable(kVocab, kCols, DType::kF32, 4, 1.0, 5);
      std::vector<float> want;
      for (double v : dtable.Values()) want.push_back(static_cast<float>(v));
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kCols; ++c) want[ids[r] * kCols + c] += static_cast<float>(dy(r, c));
      }
      EmbedBackward(dy, ids.data(), dtable, 1.0f);
      dtable.ExpectMarginUntouched();
      const Values got = dtable.Values();
      for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], want[i]);  // the same order of sums: the same bits
    }
  });
}

TEST(Embed, ScalesRowsAndGradients) {
  ForEachTarget([] {
    TestMat table(7, 131, DType::kBF16, 1), y(20, 131, DType::kBF16, 2), dtable(7, 131, DType::kF32, 3);
    const TestMat before(7, 131, DType::kF32, 3);
    std::vector<int32_t> ids(20);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * i % 7);
    EmbedForward(table, ids.data(), y, 22.6f);
    EmbedBackward(y, ids.data(), dtable, 0.3f);
    for (int64_t c = 0; c < 131; ++c) {
      for (int64_t r = 0; r < 20; ++r) {
        ASSERT_EQ(y(r, c), ToF32(ToBF16(22.6f * static_cast<float>(table(ids[static_cast<size_t>(r)], c)))));
      }
      for (int32_t id = 0; id < 7; ++id) {
        double want = before(id, c), size = std::abs(want);
        for (int64_t r = 0; r < 20; ++r) {
          if (ids[static_cast<size_t>(r)] == id) want += 0.3f * y(r, c), size += std::abs(0.3f * y(r, c));
        }
        ASSERT_NEAR(dtable(id, c), want, testing::SumTolerance(DType::kF32, 21, size, want));
      }
    }
  });
}

TEST(Embed, SameForAnyNumberOfThreads) {
  std::vector<int32_t> ids(400);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * i % 11);
  ExpectSameForAnyThreads([&] {
    TestMat dy(400, 200, DType::kF32, 1), dtable(11, 200, DType::kF32, 2);
    EmbedBackward(dy, ids.data(), dtable, 1.0f);
    return dtable.Bytes();
  });
}

}  // namespace
}  // namespace hawser
