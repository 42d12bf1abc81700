#include "hawser/quant/block.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numbers>

#include "hawser/quant/block_golden.h"

namespace hawser {
namespace {

const BlockType& TypeNamed(std::string_view name) {
  for (const BlockType* type : BlockTypes()) {
    if (type->name == name) return *type;
  }
  ADD_FAILURE() << name;
  return *BlockTypes().front();
}

/// The bytes that scripts/goldens/quant.py makes.
std::vector<std::byte> GoldenBlock(const BlockGolden& golden, int32_t bytes) {
  uint32_t state = 1;
  std::vector<std::byte> block;
  for (int32_t i = 0; i < bytes; ++i) {
    state = state * 1664525u + 1013904223u;
    block.push_back(static_cast<std::byte>(state >> 24));
  }
  for (size_t i = 0; i < golden.scales.size(); ++i) {
    const uint16_t scale = F32ToF16(0.01f * static_cast<float>(i + 1));
    std::memcpy(block.data() + golden.scales[i], &scale, sizeof(scale));
  }
  return block;
}

/// Values of about unit size, a few of them large, none alike.
std::vector<float> SomeWeights(int64_t count) {
  std::vector<float> x;
  for (int64_t i = 0; i < count; ++i) {
    const double t = static_cast<double>(i) + 1;
    const double normal = std::sqrt(-2 * std::log(std::fmod(t * 0.6180339887, 1.0) * 0.999 + 0.0005)) *
                          std::cos(2 * std::numbers::pi * std::fmod(t * 0.7548776662, 1.0));
    x.push_back(static_cast<float>(0.02 * normal));
  }
  return x;
}

TEST(BlockTypes, ReadWhatTheReferenceReads) {
  ASSERT_EQ(kBlockGoldens.size(), BlockTypes().size());
  for (const BlockGolden& golden : kBlockGoldens) {
    const BlockType& type = TypeNamed(golden.name);
    ASSERT_EQ(golden.values.size(), static_cast<size_t>(type.values)) << golden.name;
    std::vector<float> values(golden.values.size());
    type.decode(GoldenBlock(golden, type.bytes).data(), 1, values.data());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(values[i], std::bit_cast<float>(golden.values[i])) << golden.name << " value " << i;
    }
  }
}

TEST(BlockTypes, RowsAreWholeBlocks) {
  EXPECT_EQ(RowBytes(DType::kQ4K, 512), 288);
  EXPECT_EQ(RowBytes(DType::kQ4K, 500), std::nullopt);
  EXPECT_EQ(RowBytes(DType::kQ8_0, 64), 68);
  EXPECT_EQ(RowBytes(DType::kBF16, 7), 14);
  EXPECT_EQ(RowBytes(DType::kF32, INT64_MAX), std::nullopt);
  EXPECT_EQ(RowBytes(DType::kF32, -1), std::nullopt);
}

/// The relative error of a type, in rms: measured on these weights, an upper bound that a wrong scale or a wrong order
/// of values exceeds at once (values in any other order have an error of 1.4).
TEST(BlockTypes, WhatIsWrittenComesBackNear) {
  const std::pair<std::string_view, double> bounds[] = {{"q8_0", 0.008}, {"q4_0", 0.13}, {"q4_1", 0.12},
                                                        {"q5_0", 0.065}, {"q5_1", 0.06}, {"q4_k", 0.09},
                                                        {"q5_k", 0.045}, {"q6_k", 0.024}};
  const std::vector<float> x = SomeWeights(256 * 64);
  for (const auto& [name, bound] : bounds) {
    const BlockType& type = TypeNamed(name);
    const int64_t blocks = static_cast<int64_t>(x.size()) / type.values;
    std::vector<std::byte> stored(static_cast<size_t>(blocks * type.bytes));
    std::vector<float> back(x.size());
    type.encode(x.data(), blocks, stored.data());
    type.decode(stored.data(), blocks, back.data());
    double error = 0, size = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      error += std::pow(back[i] - x[i], 2);
      size += std::pow(x[i], 2);
    }
    EXPECT_LT(std::sqrt(error / size), bound) << name;
    EXPECT_GT(std::sqrt(error / size), bound / 4) << name;
  }
}

TEST(BlockTypes, ZerosAndSingleValuesSurvive) {
  for (const BlockType* type : BlockTypes()) {
    if (type->encode == nullptr) continue;
    std::vector<float> x(static_cast<size_t>(type->values)), back(x.size());
    std::vector<std::byte> stored(static_cast<size_t>(type->bytes));
    type->encode(x.data(), 1, stored.data());
    type->decode(stored.data(), 1, back.data());
    EXPECT_EQ(back, x) << type->name;
    for (const float value : {1.0f, -1.0f}) {
      for (const size_t at : {size_t{0}, x.size() / 2, x.size() - 1}) {
        std::fill(x.begin(), x.end(), 0.0f);
        x[at] = value;
        type->encode(x.data(), 1, stored.data());
        type->decode(stored.data(), 1, back.data());
        for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(back[i], x[i], 0.02) << type->name << " value " << i;
      }
    }
  }
}

TEST(BlockTypes, EqualValuesSurvive) {
  for (const BlockType* type : BlockTypes()) {
    if (type->encode == nullptr) continue;
    for (const float value : {0.5f, -0.5f}) {
      std::vector<float> x(static_cast<size_t>(type->values), value), back(x.size());
      std::vector<std::byte> stored(static_cast<size_t>(type->bytes));
      type->encode(x.data(), 1, stored.data());
      type->decode(stored.data(), 1, back.data());
      for (const float found : back) EXPECT_NEAR(found, value, 0.01) << type->name;
    }
  }
}

}  // namespace
}  // namespace hawser
