// testing/fed_cache.h - a cache alone, fed with rows that are remembered.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/q8.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/io/convert.h"
#include "hawser/kv/cache.h"

namespace hawser {

/// Layers that are alike, with full rotation.
struct CacheSpec {
  int32_t layers = 2, kv_heads = 2, head_dim = 8;
  int32_t vocab = 64;
  RopeSpec rope = {.rotary_dim = head_dim};
  int32_t sliding_window = AttnPattern::kAll;
};

inline KvCache NewCacheOf(Backend* backend, const CacheSpec& spec, const std::string& policy,
                          std::vector<uint8_t> flags, DType dtype, int64_t max_length) {
  const KvLayerShape layer{.rope = spec.rope, .window = spec.sliding_window};
  const KvShape shape{.vocab = spec.vocab,
                      .kv_heads = spec.kv_heads,
                      .head_dim = spec.head_dim,
                      .dtype = dtype,
                      .layers = std::vector<KvLayerShape>(static_cast<size_t>(spec.layers), layer)};
  return KvCache(backend, shape, ParseKvForm(policy), std::move(flags), max_length);
}

/// A cache fed with random rows that are remembered, so that every row it holds can be checked against its origin.
class FedCache {
 public:
  FedCache(Backend* backend, const CacheSpec& spec, const std::string& policy, DType dtype = DType::kF32,
           double density = 0.2, int64_t max_length = 4096)
      : spec_(spec) {
    std::vector<uint8_t> flags(spec.vocab);
    Rng rng{.seed = 9, .stream = 1};
    for (uint8_t& flag : flags) flag = rng.Uniform() < density;
    cache_ = std::make_unique<KvCache>(NewCacheOf(backend, spec, policy, flags, dtype, max_length));
  }

  static float Element(int32_t layer, int64_t token, int64_t c) {
    return static_cast<float>(RandomBits(layer, token, c) >> 40) * 0x1p-23f - 1.0f;
  }
  KvCache& cache() { return *cache_; }
  int64_t width() const { return int64_t{spec_.kv_heads} * spec_.head_dim; }

  /// Afterwards other tokens come, with other rows.
  void Salt(int salt) { salt_ = salt; }
  FedCache Fork(int64_t tokens) const {
    FedCache fork(*this, cache_->Fork(tokens));
    fork.arrival_.resize(static_cast<size_t>(tokens));
    fork.salts_.resize(static_cast<size_t>(tokens));
    return fork;
  }
  bool Truncate(int64_t tokens) {
    if (!cache_->Truncate(tokens)) return false;
    arrival_.resize(static_cast<size_t>(tokens));
    salts_.resize(static_cast<size_t>(tokens));
    return true;
  }

  /// One chunk of at most `limit` of `coming` random tokens. check(this) runs while the chunk is attended to.
  template <class Check>
  int32_t Chunk(int64_t coming, int32_t limit, Check&& check) {
    held_before_ = static_cast<int64_t>(cache_->slots().size());
    KvCache::Chunk chunk = cache_->Begin(Tokens(coming), limit);
    const int32_t n = chunk.size();
    Append(n, salt_);
    for (int32_t i = 0; i < n; ++i) {
      arrival_.push_back(i == 0 ? held_before_ : ChunkStart(n) + i);
      salts_.push_back(salt_);
    }
    check(*this);
    chunk.Commit();
    return n;
  }
  /// The same with other rows, but it does not come to its end.
  void RollBack(int64_t coming, int32_t limit) {
    const KvCache::Chunk chunk = cache_->Begin(Tokens(coming), limit);
    Append(chunk.size(), salt_ + 1);
  }
  int32_t Chunk(int64_t coming, int32_t limit) {
    return Chunk(coming, limit, [](FedCache&) {});
  }

  /// Row r of the values is the row its token came with, and every key scores against a query of the last token as if
  /// the two stood where the policy says.
  void Check() {
    const std::span<const SlotInfo> slots = cache_->slots();
    const auto size = static_cast<int64_t>(slots.size());
    const int32_t half = spec_.rope.rotary_dim / 2;
    const RopeFrequencies frequencies = ComputeFrequencies(spec_.rope, 4096);
    const double bound = cache_->stored() == DType::kBF16 || rotated_blocks() ? 0.03 : 1e-5;
    for (int32_t layer = 0; layer < spec_.layers; ++layer) {
      const KvRows keys = cache_->Keys(layer), values = cache_->Values(layer);
      ASSERT_EQ(keys.rows(), size);
      ASSERT_EQ(values.rows(), size);
      for (int64_t r = 0; r < size; ++r) {
        ASSERT_EQ(Read(values.Run(r, 1)), AsStored(layer + 100, slots[r].index))
            << cache_->policy().Name() << " slot " << r << " token " << slots[r].index;
        const std::vector<float> key = ReadKey(layer, r);
        const std::vector<float> came = AsStored(layer, slots[r].index);
        const double distance = Distance(r);
        const bool far = r < cache_->far_slots(layer);
        for (int32_t g = 0; g < spec_.kv_heads; ++g) {
          // The query channels are all 1: a pair scores (qc + qs, qc - qs) . (rotated key).
          for (int32_t i = 0; i < half; ++i) {
            const bool adjacent = spec_.rope.pairing == RopePairing::kAdjacent;
            const int64_t a = g * spec_.head_dim + (adjacent ? 2 * i : i);
            const int64_t b = g * spec_.head_dim + (adjacent ? 2 * i + 1 : i + half);
            const float* cos = (far ? cache_->far_cos(layer) : cache_->cos()) + (chunk_rows() - 1) * half;
            const float* sin = (far ? cache_->far_sin(layer) : cache_->sin()) + (chunk_rows() - 1) * half;
            const double got = (cos[i] - sin[i]) * key[a] + (sin[i] + cos[i]) * key[b];
            const double angle = distance * frequencies.inv_freq[i];
            const double x = came[a], y = came[b];
            const double want = x * (std::cos(angle) - std::sin(angle)) + y * (std::cos(angle) + std::sin(angle));
            ASSERT_NEAR(got, want, bound) << cache_->policy().Name() << " slot " << r << " token " << slots[r].index;
          }
          for (int32_t c = 2 * half; c < spec_.head_dim; ++c) {
            ASSERT_NEAR(key[g * spec_.head_dim + c], came[g * spec_.head_dim + c], rotated_blocks() ? bound : 0);
          }
        }
      }
    }
  }

 private:
  FedCache(const FedCache& other, std::unique_ptr<KvCache> cache)
      : spec_(other.spec_),
        cache_(std::move(cache)),
        arrival_(other.arrival_),
        salt_(other.salt_),
        salts_(other.salts_) {}

  std::vector<int32_t> Tokens(int64_t count) const {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < count; ++i) {
      tokens.push_back(static_cast<int32_t>(RandomBits(1, 2 + salt_, cache_->seen() + i) % spec_.vocab));
    }
    return tokens;
  }
  void Append(int32_t n, int salt) {
    for (int32_t layer = 0; layer < spec_.layers; ++layer) {
      Matrix k(n, width()), v(n, width());
      for (int32_t i = 0; i < n; ++i) {
        for (int64_t c = 0; c < width(); ++c) {
          k.Row<float>(i)[c] = Element(layer + 1000 * salt, cache_->seen() + i, c);
          v.Row<float>(i)[c] = Element(layer + 100 + 1000 * salt, cache_->seen() + i, c);
        }
      }
      cache_->Append(layer, k, v);
    }
  }

  /// Keys that were rotated before they were rounded to Q8_0: elsewhere what is stored is rounded before.
  bool rotated_blocks() const { return cache_->stored() == DType::kQ8_0 && cache_->rotation(0).half == 0; }
  /// The row that a token came with, rounded as the cache rounds it.
  std::vector<float> AsStored(int32_t layer, int64_t token) const {
    std::vector<float> row;
    const int salt = salts_[static_cast<size_t>(token)];
    for (int64_t c = 0; c < width(); ++c) row.push_back(Element(layer + 1000 * salt, token, c));
    if (cache_->stored() == DType::kBF16)
      std::ranges::transform(row, row.begin(), [](float x) { return ToF32(ToBF16(x)); });
    if (cache_->stored() != DType::kQ8_0) return row;
    std::vector<std::byte> block(static_cast<size_t>(Q8Bytes(spec_.head_dim)));
    for (int64_t c = 0; c < width(); c += spec_.head_dim) {
      QuantizeQ8(row.data() + c, spec_.head_dim, block.data());
      DequantizeQ8(block.data(), spec_.head_dim, row.data() + c);
    }
    return row;
  }
  /// The first row of `m`.
  std::vector<float> Read(ConstMat m) const {
    std::vector<float> row(static_cast<size_t>(width()));
    const auto* bytes = static_cast<const std::byte*>(m.data);
    if (m.dtype != DType::kQ8_0) ConvertToF32(m.dtype, bytes, width(), row.data());
    for (int64_t c = 0; m.dtype == DType::kQ8_0 && c < width(); c += spec_.head_dim) {
      DequantizeQ8(bytes, spec_.head_dim, row.data() + c);
      bytes += Q8Bytes(spec_.head_dim);
    }
    return row;
  }
  /// As attention reads it.
  std::vector<float> ReadKey(int32_t layer, int64_t r) const {
    std::vector<float> row = Read(cache_->Keys(layer).Run(r, 1));
    const KeyRotation rotation = cache_->rotation(layer);
    for (int32_t g = 0; g < spec_.kv_heads; ++g) {
      for (int32_t i = 0; i < rotation.half; ++i) {
        const bool adjacent = rotation.pairing == RopePairing::kAdjacent;
        float& a = row[static_cast<size_t>(g * spec_.head_dim + (adjacent ? 2 * i : i))];
        float& b = row[static_cast<size_t>(g * spec_.head_dim + (adjacent ? 2 * i + 1 : i + rotation.half))];
        const float cos = rotation.cos[r * rotation.half + i], sin = rotation.sin[r * rotation.half + i];
        const float x = a;
        a = x * cos - b * sin;
        b = b * cos + x * sin;
      }
    }
    return row;
  }
  int64_t ChunkStart(int32_t n) const { return static_cast<int64_t>(cache_->slots().size()) - n; }
  int64_t chunk_rows() const { return static_cast<int64_t>(arrival_.size()) - cache_->seen(); }
  /// Of the newest token from a slot, as the policy has it.
  double Distance(int64_t slot) const {
    const std::span<const SlotInfo> slots = cache_->slots();
    const auto last = static_cast<int64_t>(slots.size()) - 1;
    const int64_t places = slots[last].index - slots[slot].index;
    const KvPolicy& policy = cache_->policy();
    if (policy.positions() == KvPositions::kCacheLength) {
      return static_cast<double>(arrival_[slots[last].index] - arrival_[slots[slot].index]);
    }
    if (policy.positions() == KvPositions::kAbsolute) return static_cast<double>(places);
    if (!cache_->groups()[0].two_phases()) return static_cast<double>(last - slot);
    // Behind the first tokens nothing is missing that the newest sees.
    if (slots[slot].index >= policy.initial()) return static_cast<double>(places);
    const int64_t rank = std::min(slots[last].index, policy.initial() + policy.Pattern().window - 1);
    return static_cast<double>(rank - slots[slot].index);
  }

  CacheSpec spec_;
  std::unique_ptr<KvCache> cache_;
  int64_t held_before_ = 0;
  std::vector<int64_t> arrival_;  // keys held when each token came
  int salt_ = 0;
  std::vector<int> salts_;  // that each token came with
};

/// The policy with one more option; none: itself.
inline std::string WithOption(const std::string& policy, const std::string& option) {
  if (option.empty()) return policy;
  return policy + (policy.find(':') == std::string::npos ? ":" : ",") + option;
}

class KvCacheTest : public ::testing::Test {
 protected:
  static constexpr const char* kPolicies[] = {"full",
                                              "window:5",
                                              "window:5,positions=rank",
                                              "window:6,positions=cachelen",
                                              "sink:3,7",
                                              "sink:0,7",
                                              "sink:2,5,positions=absolute",
                                              "sink:2,5,positions=cachelen",
                                              "sep:2,6",
                                              "sep:2,6,positions=rank",
                                              "fix:2,6,4",
                                              "sep-stream:2,3,4,14,accumulate=off",
                                              "sep-stream:2,3,4,14,policy=full,bounded=off",
                                              "sep-stream:2,3,4,14",
                                              "sep-stream:2,9,3,16",  // more in front of the gap than behind it
                                              "sep-stream:0,3,4,14,policy=full",
                                              "sep-stream:2,3,1,9,policy=full",
                                              "sep-stream:2,3,4,14,positions=absolute",
                                              "sep-stream:2,3,4,14,policy=full,positions=absolute",
                                              "sep-stream:2,3,4,14,positions=cachelen",
                                              "sep-stream:2,3,4,14,policy=full,positions=cachelen"};

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  CacheSpec spec_ = CacheSpec{.kv_heads = 2, .head_dim = 8};
};

}  // namespace hawser
