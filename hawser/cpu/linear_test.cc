// Linear layers: biases, gradients, and weights of every storage type as they lie.
#include "hawser/cpu/linear.h"

#include <gtest/gtest.h>

#include <cstring>

#include "hawser/cpu/block_kernels.h"
#include "hawser/cpu/embed.h"
#include "hawser/cpu/loss.h"
#include "hawser/cpu/matmul_matvec.h"
#include "hawser/quant/block.h"
#include "hawser/testing/cpu_runs.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using testing::ForEachTarget;
using testing::TestMat;

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

/// body() on each instruction set of this machine that has block kernels of its own, and without any.
template <class Body>
void ForEachIsa(const Body& body) {
  const Isa before = CurrentIsa();
  for (const Isa isa : AvailableIsas()) {
    if (isa == Isa::kAvx512Bf16) continue;  // blocks as with kAvx512
    SetIsa(isa);
    SCOPED_TRACE(Name(isa));
    body();
  }
  SetIsa(before);
}

/// Weights as a file holds them, rows a few bytes apart, blocks `gap`, and the values they mean.
struct Weights {
  Weights(int64_t rows, int64_t cols, DType stored, uint64_t seed, double deviation = 0.5, int64_t gap = 5)
      : dtype(stored), rows(rows), cols(cols), bytes(*RowBytes(stored, cols)) {
    Rng rng{.seed = seed, .stream = 5};
    const BlockType* type = FindBlockType(stored);
    const int64_t apart = type != nullptr ? bytes + gap : bytes + 12;
    memory.resize(static_cast<size_t>(rows * apart));
    values.resize(static_cast<size_t>(rows * cols));
    for (int64_t r = 0; r < rows; ++r) {
      float* to = &values[static_cast<size_t>(r * cols)];
      std::byte* block = &memory[static_cast<size_t>(r * apart)];
      for (int64_t i = 0; i < cols; ++i) to[i] = static_cast<float>(deviation * rng.Normal());
      if (type == nullptr) {
        for (int64_t i = 0; i < cols; ++i) {
          if (stored == DType::kF32) {
            std::memcpy(block + 4 * i, &to[i], 4);
          } else {
            const uint16_t bits = stored == DType::kF16 ? F32ToF16(to[i]) : ToBF16(to[i]).bits;
            std::memcpy(block + 2 * i, &bits, 2);
            to[i] = stored == DType::kF16 ? F16ToF32(bits) : ToF32(bf16{bits});
          }
        }
        continue;
      }
      if (type->encode != nullptr) {
        type->encode(to, cols / type->values, block);
      } else {  // any bytes are weights; scales of a modest size: f16 with an exponent that is not all ones
        for (int64_t i = 0; i < bytes; ++i) block[i] = static_cast<std::byte>(rng.Below(256));
        for (int64_t b = 0; b < cols / type->values; ++b) {
          for (int64_t at : ScalesOf(*type)) {
            const uint16_t bits = F32ToF16(static_cast<float>(0.01 * rng.Normal()));
            std::memcpy(block + b * type->bytes + at, &bits, 2);
          }
        }
      }
      type->decode(block, cols / type->values, to);
    }
    view = {memory.data(), stored, rows, cols, type != nullptr ? apart : apart / static_cast<int64_t>(SizeOf(stored))};
  }
  static std::vector<int64_t> ScalesOf(const BlockType& type) {
    switch (type.dtype) {
      case DType::kQ5_1:
      case DType::kQ5K:
        return {0, 2};
      case DType::kQ2K:
        return {80, 82};
      case DType::kQ3K:
        return {108};
      default:
        return {0};
    }
  }
  double operator()(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * cols + c)]; }

  DType dtype;
  int64_t rows, cols, bytes;
  std::vector<std::byte> memory;
  std::vector<float> values;
  ConstMat view;
};

std::vector<DType> StoredTypes() {
  std::vector<DType> types = {DType::kF32, DType::kBF16, DType::kF16};
  for (const BlockType* type : BlockTypes()) types.push_back(type->dtype);
  return types;
}

TEST(Linear, ForwardAddsItsBiasBeforeTheOneRounding) {
  MatMulEngine matmul;
  LinearEngine engine;
  ForEachTarget([&] {
    const int64_t sizes[][3] = {{1, 1, 1},   {1, 37, 65},  {3, 70, 133},  {4, 5, 0},
                                {5, 17, 19}, {63, 65, 67}, {300, 530, 24}};
    for (const auto& [rows, out, in] : sizes) {
      for (DType type : kTypes) {
        for (DType made : kTypes) {
          for (DType bias_type : kTypes) {
            TestMat x(rows, in, type, 1, 1.0, 3), w(out, in, type, 2, 1.0, 1), bias(1, out, bias_type, 3, 4.0);
            TestMat y(rows, out, made, 4, 1.0, 5);
            engine.Run({.x = x, .w = w, .bias = bias, .y = y}, matmul);
            y.ExpectMarginUntouched();
            for (int64_t r = 0; r < rows; ++r) {
              for (int64_t o = 0; o<out; o += rows> 100 ? 7 : 1) {
                double want = bias(0, o), size = std::abs(want);
                for (int64_t i = 0; i < in; ++i) want += x(r, i) * w(o, i), size += std::abs(x(r, i) * w(o, i));
                ASSERT_NEAR(y(r, o), want, testing::SumTolerance(made, in + 1, size, want)) << rows << " x " << out;
              }
            }
          }
        }
      }
    }
  });
}

TEST(Linear, WithoutABiasItIsTheProduct) {
  MatMulEngine matmul;
  LinearEngine engine;
  for (DType type : kTypes) {
    for (int64_t rows : {2, 50}) {
      TestMat x(rows, 130, type, 1), w(40, 130, type, 2), y(rows, 40, type, 3), product(rows, 40, type, 4);
      engine.Run({.x = x, .w = w, .y = y}, matmul);
      matmul.Run({.a = x, .b = w, .trans_b = true, .c = product});
      EXPECT_EQ(y.Bytes(), product.Bytes());
    }
  }
}

// y = x W^T + bias is linear in each of them: its gradients are exact sums.
TEST(Linear, BackwardGivesWhatIsAskedFor) {
  ForEachTarget([] {
    MatMulEngine matmul;
    LinearEngine engine;
    for (DType type : kTypes) {
      for (auto [rows, out, in] : {std::array<int64_t, 3>{1, 7, 5}, {150, 67, 33}}) {
        TestMat x(rows, in, type, 1, 1.0, 3), w(out, in, type, 2, 1.0, 1), dy(rows, out, type, 3, 1.0, 2);
        TestMat dx(rows, in, type, 4, 1.0, 1), dw(out, in, DType::kF32, 5, 1.0, 2), dbias(1, out, DType::kF32, 6);
        const TestMat dw_before(out, in, DType::kF32, 5, 1.0, 2), dbias_before(1, out, DType::kF32, 6);
        engine.Run({.x = x, .w = w, .y = dy}, matmul);
        LinearBackward({.x = x, .w = w, .dy = dy, .dx = dx, .dw = dw, .dbias = dbias}, matmul);
        dx.ExpectMarginUntouched();
        dw.ExpectMarginUntouched();
        const auto expect = [&](double got, double before, int64_t terms, DType stored, auto&& term) {
          double want = before, size = std::abs(before);
          for (int64_t i = 0; i < terms; ++i) want += term(i), size += std::abs(term(i));
          ASSERT_NEAR(got, want, testing::SumTolerance(stored, terms + 1, size, want));
        };
        for (int64_t o = 0; o < out; ++o) {
          expect(dbias(0, o), dbias_before(0, o), rows, DType::kF32, [&](int64_t r) { return dy(r, o); });
          for (int64_t i = 0; i < in; ++i) {
            expect(dw(o, i), dw_before(o, i), rows, DType::kF32, [&](int64_t r) { return dy(r, o) * x(r, i); });
          }
        }
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t i = 0; i < in; ++i) {
            expect(dx(r, i), 0.0, out, type, [&](int64_t o) { return dy(r, o) * w(o, i); });
          }
        }
        const auto dx_bytes = dx.Bytes(), dw_bytes = dw.Bytes();
        LinearBackward({.dy = dy, .dbias = dbias}, matmul);
        EXPECT_EQ(dx.Bytes(), dx_bytes);
        EXPECT_EQ(dw.Bytes(), dw_bytes);
      }
    }
  });
}

TEST(Linear, SameForAnyNumberOfThreads) {
  for (DType type : kTypes) {
    testing::ExpectSameForAnyThreads([&] {
      MatMulEngine matmul;
      LinearEngine engine;
      TestMat x(600, 130, type, 1), w(530, 130, type, 2), bias(1, 530, type, 3), y(600, 530, type, 4);
      TestMat dx(600, 130, type, 5), dw(530, 130, DType::kF32, 6), dbias(1, 530, DType::kF32, 7);
      engine.Run({.x = x, .w = w, .bias = bias, .y = y}, matmul);
      LinearBackward({.x = x, .w = w, .dy = y, .dx = dx, .dw = dw, .dbias = dbias}, matmul);
      std::vector<char> all = y.Bytes();
      for (const auto& more : {dx.Bytes(), dw.Bytes(), dbias.Bytes()}) all.insert(all.end(), more.begin(), more.end());
      return all;
    });
  }
}

TEST(BlockKernels, DecodeToTheBitsOfTheirTypes) {
  for (const Isa isa : AvailableIsas()) {
    for (const BlockType* type : BlockTypes()) {
      const BlockKernels& kernels = GetBlockKernels(isa, type->dtype);
      SCOPED_TRACE(fmt::format("{} {}", Name(isa), type->name));
      Rng rng{.seed = 3};
      for (int rows = 1; rows <= kernels.tile; ++rows) {
        const int64_t stride = type->bytes + 3, ld = type->values + 2;
        std::vector<std::byte> bytes(static_cast<size_t>(rows * stride));  // of any kind, NaN and infinity too
        for (std::byte& b : bytes) b = static_cast<std::byte>(rng.Below(256));
        std::vector<float> want(static_cast<size_t>(type->values)), got(static_cast<size_t>(rows * ld), -7.0f);
        kernels.decode(bytes.data(), stride, rows, got.data(), ld);
        for (int64_t r = 0; r < rows; ++r) {
          type->decode(&bytes[static_cast<size_t>(r * stride)], 1, want.data());
          want.resize(static_cast<size_t>(ld), -7.0f);  // what lies between rows is left alone
          for (int64_t i = 0; i < ld; ++i) {
            const float found = got[static_cast<size_t>(r * ld + i)], right = want[static_cast<size_t>(i)];
            if (std::isnan(right)) {
              ASSERT_TRUE(std::isnan(found)) << r << ", " << i;
            } else {
              ASSERT_EQ(std::bit_cast<uint32_t>(found), std::bit_cast<uint32_t>(right)) << r << ", " << i;
            }
          }
        }
      }
    }
  }
}

/// Rows of activations in 8 bits; the last one is -127 throughout.
struct Levels {
  Levels(const BlockType& type, int64_t rows, int64_t values, float unit) : rows(rows) {
    const int64_t groups = values / type.group;
    Rng rng{.seed = 7};
    q.resize(static_cast<size_t>(rows * values));
    scale.resize(static_cast<size_t>(rows * values / kActBlock), 1.0f);
    sum.resize(static_cast<size_t>(rows * groups));
    begin.resize(sum.size());
    if (unit != 1.0f) {
      for (float& s : scale) s = unit * static_cast<float>(rng.Uniform());
    }
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < values; ++i) {
        const int level = r == rows - 1 ? -127 : static_cast<int>(rng.Below(255)) - 127;
        const auto at = static_cast<size_t>(i / type.group * rows + r);
        q[At(r, i) * kActBlock + static_cast<size_t>(i % kActBlock)] = static_cast<int8_t>(level);
        begin[at] -= type.offset * level;
        sum[at] += static_cast<float>(level);
      }
      for (int64_t g = 0; g < groups; ++g) sum[static_cast<size_t>(g * rows + r)] *= scale[At(r, g * type.group)];
    }
    view = {q.data(), scale.data(), sum.data(), begin.data(), rows};
  }
  size_t At(int64_t r, int64_t i) const { return static_cast<size_t>(i / kActBlock * rows + r); }
  double operator()(int64_t r, int64_t i) const {
    return static_cast<double>(q[At(r, i) * kActBlock + static_cast<size_t>(i % kActBlock)]) * scale[At(r, i)];
  }

  int64_t rows;
  std::vector<int8_t> q;
  std::vector<float> scale, sum;
  std::vector<int32_t> begin;
  Activations8 view;
};

// Whole numbers with a scale of 1 on both sides, up to the ends of their ranges: sums of products without an error.
TEST(BlockKernels, DotsOfWholeNumbersAreExact) {
  struct Range {
    DType dtype;
    int least, most;
  };
  for (const Range& range : {Range{DType::kQ8_0, -127, 127},
                             {DType::kQ4_0, -8, 7},
                             {DType::kQ4_1, 0, 15},
                             {DType::kQ4_1, -3, 12},
                             {DType::kQ5_0, -16, 15},
                             {DType::kQ5_1, -7, 24}}) {
    const BlockType& type = *FindBlockType(range.dtype);
    for (const Isa isa : AvailableIsas()) {
      const BlockKernels& kernels = GetBlockKernels(isa, range.dtype);
      Rng rng{.seed = 7};
      for (int64_t blocks : {1, 2, 5, 16}) {
        const int64_t values = 32 * blocks, tile = kernels.tile;
        std::vector<float> w(static_cast<size_t>(tile * values));
        for (size_t i = 0; i < w.size(); ++i) {
          const auto span = static_cast<uint64_t>(range.most - range.least + 1);
          w[i] = static_cast<float>(range.least + static_cast<int>(rng.Below(span)));
          if (i % 32 == 0) w[i] = static_cast<float>(range.least);
          if (i % 32 == 31) w[i] = static_cast<float>(range.most);
        }
        std::vector<std::byte> bytes(static_cast<size_t>(tile * blocks * type.bytes));
        type.encode(w.data(), tile * blocks, bytes.data());
        const Levels x(type, kDotRows, values, 1.0f);
        for (int rows = 1; rows <= kDotRows; ++rows) {
          std::vector<float> y(static_cast<size_t>(kDotRows * tile), -7.0f);
          kernels.dot(bytes.data(), blocks * type.bytes, blocks, x.view, rows, y.data(), bytes.data());
          for (int64_t at = 0; at < kDotRows * tile; ++at) {
            double want = at / tile < rows ? 0.0 : -7.0;
            for (int64_t i = 0; i < values && at / tile < rows; ++i) {
              want += w[static_cast<size_t>(at % tile * values + i)] * x(at / tile, i);
            }
            ASSERT_EQ(y[static_cast<size_t>(at)], want) << type.name << " " << Name(isa) << ", " << blocks << " blocks";
          }
        }
      }
    }
  }
}

/// Rows [0, count) of x times the tiles of w, by `dot` or by panels in two parts: [count, w.rows].
std::vector<float> Products(const BlockKernels& kernels, const Weights& w, const Levels& x, int count, bool panels) {
  const BlockType& type = *FindBlockType(w.dtype);
  const int64_t tile = kernels.tile, blocks = w.cols / type.values, first = w.cols / 512 * 512;
  std::vector<float> all(static_cast<size_t>(count * w.rows)), y(static_cast<size_t>(kPanelRows * tile), -7.0f);
  std::vector<uint8_t> q(static_cast<size_t>(tile * w.cols));
  std::vector<float> scale(static_cast<size_t>(tile * w.cols / type.group)), minimum = scale;
  const WeightPanel panel{q.data(), scale.data(), minimum.data()};
  if (panels && kernels.begin != nullptr) kernels.begin();
  for (int64_t j = 0; j < w.rows; j += tile) {
    const auto* from = w.view.Row<std::byte>(j);
    if (panels) {
      kernels.unpack(from, w.view.ld, first / type.values, panel);
      kernels.panel(panel, x.view, first / type.group, count, true, y.data());
      Activations8 rest = x.view;
      rest.q += first * x.rows;
      rest.scale += first / kActBlock * x.rows;
      rest.sum += first / type.group * x.rows;
      rest.begin += first / type.group * x.rows;
      kernels.unpack(from + first / type.values * type.bytes, w.view.ld, (w.cols - first) / type.values, panel);
      kernels.panel(panel, rest, (w.cols - first) / type.group, count, false, y.data());
    } else {
      kernels.dot(from, w.view.ld, blocks, x.view, count, y.data(), from);
    }
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t i = 0; i < tile; ++i) {
        all[static_cast<size_t>(r * w.rows + j + i)] = y[static_cast<size_t>(r * tile + i)];
      }
    }
  }
  if (panels && kernels.end != nullptr) kernels.end();
  return all;
}

// Kernels may read one row of activations in ways of their own, by its length.
TEST(BlockKernels, OneRowOfAnyLengthHasTheSameBits) {
  for (const BlockType* type : BlockTypes()) {
    for (int64_t cols : {32, 96, 256, 480, 512, 544, 576, 768, 1536, 2048, 4096, 4128, 4352, 4608, 4640, 8960, 9216}) {
      if (cols % type->values != 0) continue;
      const Levels x(*type, 1, cols, 0.02f);
      std::vector<float> first;
      for (const int64_t gap : {5, 0}) {
        const Weights w(32, cols, type->dtype, 1, 0.5, gap);
        for (const Isa isa : AvailableIsas()) {
          const std::vector<float> y = Products(GetBlockKernels(isa, type->dtype), w, x, 1, false);
          if (first.empty()) first = y;
          ASSERT_EQ(std::memcmp(y.data(), first.data(), y.size() * sizeof(float)), 0)
              << Name(isa) << " " << type->name << ", " << cols << " columns, rows " << gap << " bytes apart";
        }
      }
    }
  }
}

TEST(BlockKernels, EveryInstructionSetAndWayGivesTheSameBits) {
  for (const BlockType* type : BlockTypes()) {
    const Weights w(16, 768, type->dtype, 1);
    const Levels x(*type, kPanelRows, 768, 0.02f);
    std::vector<float> first;
    for (const Isa isa : AvailableIsas()) {
      SCOPED_TRACE(fmt::format("{} {}", Name(isa), type->name));
      const BlockKernels& kernels = GetBlockKernels(isa, type->dtype);
      for (int rows : {1, 2, 4, 5, 9, 16}) {
        const std::vector<float> y = Products(kernels, w, x, rows, true);
        if (first.empty()) {
          first = Products(kernels, w, x, 16, true);
          for (int64_t r = 0; r < 16; ++r) {
            for (int64_t j = 0; j < 16; ++j) {
              double want = 0, size = 0;
              for (int64_t c = 0; c < 768; ++c) want += w(j, c) * x(r, c), size += std::abs(w(j, c) * x(r, c));
              ASSERT_NEAR(first[static_cast<size_t>(r * 16 + j)], want, 4e-6 * size);
            }
          }
        }
        ASSERT_EQ(std::memcmp(y.data(), first.data(), y.size() * sizeof(float)), 0) << rows << " rows";
        if (rows > kDotRows) continue;
        const std::vector<float> few = Products(kernels, w, x, rows, false);
        ASSERT_EQ(std::memcmp(few.data(), first.data(), few.size() * sizeof(float)), 0) << rows << " rows";
      }
    }
  }
}

// y - want: for few rows and blocks each x is off by at most half a level, max |x| of its 32 / 254; decoded weights are
// rounded once to the dtype of x; all sums are f32.
TEST(Linear, TakesWeightsOfEveryTypeAsTheyLie) {
  MatMulEngine matmul;
  LinearEngine engine;
  for (DType stored : StoredTypes()) {
    const int64_t cols = FindBlockType(stored) != nullptr && FindBlockType(stored)->values == 256 ? 768 : 608;
    const Weights w(19, cols, stored, 1);
    ForEachIsa([&] {
      for (DType type : kTypes) {
        for (int64_t rows : {1, 4, 5, 9, 20, 70}) {
          for (const bool exact : {false, true}) {
            SCOPED_TRACE(fmt::format("{} {} {} rows exact {}", Name(stored), Name(type), rows, exact));
            const DType made = rows % 2 == 0 ? DType::kF32 : DType::kBF16;
            TestMat x(rows, cols, type, 2, 1.0, 3), bias(1, 19, type, 3), y(rows, 19, made, 4, 1.0, 5);
            engine.Run({.x = x, .w = w.view, .bias = bias, .y = y, .exact = exact}, matmul);
            y.ExpectMarginUntouched();
            const bool levels = IsBlocked(stored) && rows <= MaxBlockDotRows(CurrentIsa(), type) && !exact;
            const bool rounded =
                type == DType::kBF16 && stored != DType::kBF16 && rows > kMaxMatVecRows && !levels && !exact;
            for (int64_t r = 0; r < rows; ++r) {
              for (int64_t j = 0; j < 19; ++j) {
                double want = bias(0, j), size = std::abs(want), off = 0.0;
                for (int64_t b = 0; b < cols; b += 32) {
                  double most = 0.0, sum = 0.0;
                  for (int64_t i = b; i < b + 32; ++i) {
                    want += w(j, i) * x(r, i);
                    size += std::abs(w(j, i) * x(r, i));
                    most = std::max(most, std::abs(x(r, i)));
                    sum += std::abs(w(j, i));
                  }
                  off += most / 254.0 * sum;
                }
                double bound = testing::SumTolerance(made, cols, size + off, want);
                if (levels) bound += off * 1.00001;
                if (rounded) bound += testing::RoundingUnit(DType::kBF16) * size;
                ASSERT_NEAR(y(r, j), want, bound) << r << ", " << j;
              }
            }
          }
        }
      }
    });
  }
}

TEST(Linear, RowsAgainstStoredWeightsDoNotDependOnTheirNumberOrOnThreads) {
  for (DType stored : StoredTypes()) {
    const Weights w(150, 768, stored, 1);
    const int64_t most = IsBlocked(stored) ? MaxBlockDotRows(CurrentIsa(), DType::kBF16) : kMaxMatVecRows;
    testing::ExpectSameForAnyThreads([&] {
      MatMulEngine matmul;
      LinearEngine engine;
      TestMat x(60, 768, DType::kBF16, 2), all(60, 150, DType::kF32, 3);
      const int64_t rows = std::min<int64_t>(60, most);
      engine.Run({.x = x.view().Rows(0, rows), .w = w.view, .y = all.view().Rows(0, rows)}, matmul);
      for (int64_t first = 0, count = 1; first + count <= rows; first += count++) {
        TestMat some(count, 150, DType::kF32, 4);
        engine.Run({.x = x.view().Rows(first, count), .w = w.view, .y = some}, matmul);
        for (int64_t r = 0; r < count; ++r) {
          for (int64_t j = 0; j < 150; ++j) EXPECT_EQ(some(r, j), all(first + r, j)) << Name(stored) << " " << count;
        }
      }
      return all.Bytes();
    });
  }
}

TEST(Linear, WhatIsNotFiniteShows) {
  ForEachIsa([] {
    MatMulEngine matmul;
    LinearEngine engine;
    for (DType stored : StoredTypes()) {
      if (!IsBlocked(stored)) continue;
      const Weights w(5, 512, stored, 1);
      for (double odd : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        TestMat x(3, 512, DType::kF32, 2), y(3, 5, DType::kF32, 3);
        x.Put(1, 7, odd);
        engine.Run({.x = x, .w = w.view, .y = y}, matmul);
        for (int64_t j = 0; j < 5; ++j) {
          EXPECT_FALSE(std::isfinite(y(1, j)));
          EXPECT_TRUE(std::isfinite(y(0, j)) && std::isfinite(y(2, j))) << "the rows beside it";
        }
      }
    }
  });
}

TEST(Linear, TinyAndEmptyActivationsAreZeros) {
  MatMulEngine matmul;
  LinearEngine engine;
  const Weights w(5, 256, DType::kQ4_0, 1);
  TestMat x(1, 256, DType::kF32, 2, 1e-42), y(1, 5, DType::kF32, 3);
  engine.Run({.x = x, .w = w.view, .y = y}, matmul);
  for (int64_t j = 0; j < 5; ++j) EXPECT_NEAR(y(0, j), 0.0, 1e-30);
  TestMat none(0, 256, DType::kF32, 2), nothing(0, 5, DType::kF32, 3);
  engine.Run({.x = none, .w = w.view, .y = nothing}, matmul);
}

TEST(Embed, ReadsTablesOfEveryType) {
  ForEachTarget([] {
    for (DType stored : StoredTypes()) {
      const Weights table(9, 256, stored, 1);
      TestMat y(4, 256, DType::kBF16, 2);
      const int32_t ids[] = {8, 0, 3, 8};
      EmbedForward(table.view, ids, y, 3.0f);
      for (int64_t r = 0; r < 4; ++r) {
        for (int64_t c = 0; c < 256; ++c) {
          ASSERT_EQ(y(r, c), ToF32(ToBF16(3.0f * static_cast<float>(table(ids[r], c))))) << Name(stored);
        }
      }
    }
  });
}

TEST(CrossEntropy, DecodesHeadsOfEveryTypeToTheTypeOfItsRows) {
  MatMulEngine matmul;
  CrossEntropyEngine engine;
  for (DType stored : StoredTypes()) {
    const Weights head(75, 256, stored, 1, 0.1);
    for (DType type : kTypes) {
      TestMat x(6, 256, type, 2), decoded(75, 256, type, 3), dx(6, 256, type, 4), want_dx(6, 256, type, 4);
      DecodeMat(head.view, decoded);
      const int32_t targets[] = {0, 74, -1, 3, 5, 8};
      float nll[6], want[6];
      engine.Run({.x = x, .weight = head.view, .targets = targets, .nll = nll, .dx = dx}, matmul);
      engine.Run({.x = x, .weight = decoded, .targets = targets, .nll = want, .dx = want_dx}, matmul);
      for (int r = 0; r < 6; ++r) EXPECT_EQ(nll[r], want[r]) << Name(stored);
      EXPECT_EQ(dx.Bytes(), want_dx.Bytes());
    }
  }
}

}  // namespace
}  // namespace hawser
