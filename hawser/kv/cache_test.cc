// The cache alone: which rows it holds, how they are rotated, and what it counts.
#include "hawser/kv/cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/q8.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/io/convert.h"
#include "hawser/kv/report.h"

namespace hawser {
namespace {

/// Layers that are alike, with full rotation.
struct CacheSpec {
  int32_t layers = 2, kv_heads = 2, head_dim = 8;
  int32_t vocab = 64;
  RopeSpec rope = {.rotary_dim = head_dim};
  int32_t sliding_window = AttnPattern::kAll;
};

KvCache NewCacheOf(Backend* backend, const CacheSpec& spec, const std::string& policy, std::vector<uint8_t> flags,
                   DType dtype, int64_t max_length) {
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
std::string WithOption(const std::string& policy, const std::string& option) {
  if (option.empty()) return policy;
  return policy + (policy.find(':') == std::string::npos ? ":" : ",") + option;
}

class KvCacheTest : public ::testing::Test {
 protected:
  void ExpectRows(const std::string& policy, const std::string& dtype, int32_t most);

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  CacheSpec spec_ = CacheSpec{.kv_heads = 2, .head_dim = 8};
};

const char* const kPolicies[] = {"full",
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

/// Every row, checked after each of many chunks of at most `most` tokens.
void KvCacheTest::ExpectRows(const std::string& policy, const std::string& dtype, int32_t most) {
  FedCache fed(backend_.get(), spec_, WithOption(policy, dtype));
  Rng rng{.seed = 3, .stream = static_cast<uint64_t>(most)};
  while (fed.cache().seen() < 150 && !HasFatalFailure()) {
    fed.Chunk(20, 1 + static_cast<int32_t>(rng.Below(most)), [](FedCache& f) { f.Check(); });
  }
}

TEST_F(KvCacheTest, E11_RowsAreThoseOfTheSlotsFreshlyRotated) {
  for (const char* policy : kPolicies) {
    for (int32_t most : {1, 13}) {
      for (const char* dtype : {"", "dtype=bf16", "dtype=q8_0"}) ExpectRows(policy, dtype, most);
    }
  }
}

TEST_F(KvCacheTest, SinksTakeLongChunks) {
  // Ranks by two queries: no key moves, however long the chunk.
  for (const char* policy : {"sink:3,60", "sink:0,60", "window:60,positions=rank", "sink:3,60,dtype=q8_0"}) {
    FedCache fed(backend_.get(), spec_, policy);
    fed.Chunk(100, 100);
    for (int i = 0; i < 4; ++i) {
      const int32_t n = fed.Chunk(2000, 2000, [](FedCache& f) { f.Check(); });
      EXPECT_EQ(n, 512) << policy;
    }
    EXPECT_TRUE(fed.cache().groups()[0].two_phases());
    EXPECT_EQ(static_cast<int64_t>(fed.cache().slots().size()),
              fed.cache().policy().initial() + fed.cache().policy().Pattern().window - 1);
  }
  // Rotations that are rounded by the size of positions stay at small ones.
  spec_.rope.numerics.table = FloatFormat::kBF16;
  FedCache rounded(backend_.get(), spec_, "sink:3,60");
  EXPECT_FALSE(rounded.cache().groups()[0].two_phases());
  rounded.Chunk(100, 100);
  EXPECT_EQ(rounded.Chunk(2000, 2000), 1);
  // Frequencies that follow the stream stay what they are where no rank reaches beyond the first of them.
  spec_.rope.numerics = {};
  for (const auto& [original, chunk] : {std::pair(64, 512), {63, 1}}) {
    spec_.rope.scaling = {.kind = RopeKind::kDynamic, .factor = 4, .original = original};
    FedCache dynamic(backend_.get(), spec_, "sink:3,60", DType::kF32, 0.2, 0);
    dynamic.Chunk(32, 32);
    while (dynamic.cache().seen() < 100) dynamic.Chunk(1, 1);
    EXPECT_EQ(dynamic.Chunk(2000, 2000), chunk) << original;
    EXPECT_EQ(dynamic.cache().groups()[0].grows(), chunk == 1);
  }
}

TEST_F(KvCacheTest, PartialRotationPairingAndDtype) {
  spec_.rope.rotary_dim = 6;
  for (RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
    spec_.rope.pairing = pairing;
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (const char* policy :
           {"sep-stream:2,3,4,14", "sep-stream:2,3,4,14,dtype=q8_0", "sink:3,7", "sink:3,7,dtype=q8_0"}) {
        FedCache fed(backend_.get(), spec_, policy, dtype);
        while (fed.cache().seen() < 100 && !HasFatalFailure()) fed.Chunk(5, 5, [](FedCache& f) { f.Check(); });
      }
    }
  }
}

TEST_F(KvCacheTest, PromptsFreeWhatNoOneCanSee) {
  // After every chunk of a prompt exactly what the next token sees is left, so memory follows the kept keys.
  for (const char* policy : {"sep:2,64", "sink:3,60,positions=absolute", "window:64", "fix:2,64,20"}) {
    FedCache fed(backend_.get(), spec_, policy, DType::kF32, 0.05);
    const AttnPattern pattern = fed.cache().policy().Pattern();
    int64_t most = 0;
    while (fed.cache().seen() < 6000) {
      fed.Chunk(6000 - fed.cache().seen(), 1024,
                [&](FedCache& f) { most = std::max(most, static_cast<int64_t>(f.cache().slots().size())); });
      const int64_t next = fed.cache().seen();
      for (const SlotInfo& slot : fed.cache().slots()) {
        ASSERT_TRUE(next - slot.index < pattern.window || Pinned(pattern, slot)) << policy;
      }
    }
    const int64_t kept = fed.cache().usage().final;
    EXPECT_LE(most, kept + 512) << policy;
    EXPECT_LT(kept, 64 + 6000 / 10) << policy;
    const int64_t row = 2 * spec_.layers * fed.width() * 4;
    EXPECT_LE(fed.cache().bytes(), (2 * most + 16) * row) << policy;
  }
}

TEST_F(KvCacheTest, LayersWithTheSamePolicyShareSlots) {
  spec_ = CacheSpec{.layers = 5, .kv_heads = 2, .head_dim = 8};
  FedCache fed(backend_.get(), spec_, "sep:2,6+9+6+all+9,full-layers=0");
  while (fed.cache().seen() < 200) fed.Chunk(200 - fed.cache().seen(), 30);
  const KvCache& cache = fed.cache();
  EXPECT_EQ(cache.slots(0).size(), 200u);
  EXPECT_EQ(cache.slots(3).data(), cache.slots(0).data());
  EXPECT_EQ(cache.slots(1).data(), cache.slots(4).data());
  EXPECT_EQ(cache.slots(1).size(),
            cache.slots(2).size() + 3 - std::ranges::count_if(cache.slots(1), [&](const SlotInfo& s) {
              return s.separator && s.index >= 200 - 8 && s.index < 200 - 5;
            }));
  for (int32_t layer = 0; layer < 5; ++layer) {
    const auto slots = cache.slots(layer);
    ASSERT_EQ(cache.Values(layer).rows(), static_cast<int64_t>(slots.size()));
    for (size_t r = 0; r < slots.size(); ++r) {
      ASSERT_EQ(cache.Values(layer).Run(static_cast<int64_t>(r), 1).Row<float>(0)[3],
                FedCache::Element(layer + 100, slots[r].index, 3));
    }
  }
  const KvUsage all = cache.usage();
  EXPECT_EQ(all.final, 200);
  EXPECT_EQ(all.peak, 200);
  int64_t stored = 0, peaks = 0;
  for (int32_t layer = 0; layer < 5; ++layer) {
    stored += static_cast<int64_t>(cache.slots(layer).size());
    peaks += cache.usage(layer).peak;
  }
  EXPECT_DOUBLE_EQ(all.final_mean, static_cast<double>(stored) / 5);
  EXPECT_DOUBLE_EQ(all.final_mean, 200 * all.final_ratio);
  EXPECT_DOUBLE_EQ(all.peak_mean, static_cast<double>(peaks) / 5);
  EXPECT_DOUBLE_EQ(KvReportJson(cache)["final_mean"], all.final_mean);
  const std::string text = KvReportText(cache);
  EXPECT_NE(text.find(fmt::format("at the end {:g} of 200 slots ({:.1f} %)", all.final_mean, all.final_mean / 2)),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("the layer that holds most: peak 200, at the end 200"), std::string::npos) << text;
  EXPECT_DOUBLE_EQ(all.mean, (2 * cache.usage(0).mean + 2 * cache.usage(1).mean + cache.usage(2).mean) / 5);
  EXPECT_DOUBLE_EQ(cache.usage(1).final_ratio, static_cast<double>(cache.slots(1).size()) / 200);
  EXPECT_THROW(FedCache(backend_.get(), spec_, "sep:2,6+9"), Error);
  EXPECT_THROW(FedCache(backend_.get(), spec_, "window:3,full-layers=5"), Error);
}

TEST_F(KvCacheTest, LongStreamsNeitherDriftNorGrow) {
  // A stored key is never rotated again from its rotated form, and what is bounded stays where it is.
  for (const char* policy : {"sink:3,20", "sep-stream:2,3,10,40", "window:30", "sep-stream:2,3,10,40,policy=full",
                             "window:30,dtype=q8_0", "sep-stream:2,3,10,40,dtype=q8_0"}) {
    FedCache fed(backend_.get(), spec_, policy);
    while (fed.cache().seen() < 200) fed.Chunk(1, 1);
    const int64_t bytes = fed.cache().bytes();
    while (fed.cache().seen() < 5000) fed.Chunk(1, 1);
    fed.Chunk(1, 1, [](FedCache& f) { f.Check(); });
    EXPECT_EQ(fed.cache().bytes(), bytes) << policy;
    const bool rank = fed.cache().policy().positions() == KvPositions::kRank;
    const bool blocks = fed.cache().stored() == DType::kQ8_0;  // one of keys, and what they are rotated by
    const int64_t row = blocks ? spec_.layers * fed.cache().row_bytes() + (rank ? 4 * spec_.rope.rotary_dim : 0)
                               : (rank ? 3 : 2) * spec_.layers * fed.width() * 4;
    const int64_t lines = int64_t{3} * spec_.layers * 64;  // tensors begin at lines
    EXPECT_LE(bytes, (fed.cache().policy().MaxSlots() * 5 / 4 + 16) * row + lines) << policy;
  }
}

TEST_F(KvCacheTest, E4_ChunkedEqualsTokenByToken) {
  for (const char* policy : kPolicies) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      FedCache one(backend_.get(), spec_, policy), many(backend_.get(), spec_, policy);
      Rng rng{.seed = seed, .stream = 6};
      while (many.cache().seen() < 120) {
        many.Chunk(40, 1 + static_cast<int32_t>(rng.Below(30)));
        while (one.cache().seen() < many.cache().seen()) one.Chunk(1, 1);
        const auto a = one.cache().slots(), b = many.cache().slots();
        ASSERT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << policy << " at " << one.cache().seen();
        ASSERT_EQ(one.cache().usage().mean, many.cache().usage().mean) << policy;
        ASSERT_EQ(one.cache().usage().peak, many.cache().usage().peak) << policy;
        ASSERT_EQ(one.cache().usage().ratio, many.cache().usage().ratio) << policy;
      }
    }
  }
}

TEST_F(KvCacheTest, UsageIsTheMeanOfTheStoredSizes) {
  FedCache full(backend_.get(), spec_, "full");
  while (full.cache().seen() < 10) full.Chunk(10 - full.cache().seen(), 7);
  EXPECT_DOUBLE_EQ(full.cache().usage().mean, 5.5);
  EXPECT_EQ(full.cache().usage().peak, 10);
  EXPECT_DOUBLE_EQ(full.cache().usage().ratio, 1.0);

  // Every token a separator: from t = c on, sizes run through a+s+w .. c, and their mean is (a+s+w+c)/2.
  FedCache stream(backend_.get(), spec_, "sep-stream:2,3,4,14", DType::kF32, 1.0);
  while (stream.cache().seen() < 3014) stream.Chunk(3014 - stream.cache().seen(), 100);
  const double warm_up = 14 * 15 / 2, periods = 3000 * (9 + 14) / 2.0;
  EXPECT_DOUBLE_EQ(stream.cache().usage().mean, (warm_up + periods) / 3014);
  EXPECT_EQ(stream.cache().usage().peak, 14);
  EXPECT_DOUBLE_EQ(stream.cache().usage().ratio, (warm_up + periods) / (3014.0 * 3015 / 2));
}

TEST_F(KvCacheTest, OneTokenNeedsNoSchedule) {
  for (const char* policy : kPolicies) {
    FedCache fed(backend_.get(), spec_, policy);
    for (int i = 0; i < 60; ++i) {
      const int32_t n = fed.Chunk(1 + i % 3, 3, [&](FedCache& f) {
        const AttnSchedule& schedule = f.cache().schedule();
        if (!f.cache().needs_schedule()) return;
        EXPECT_EQ(schedule.num_keys, static_cast<int32_t>(f.cache().slots().size()));
      });
      EXPECT_LE(n, 3);
      fed.Chunk(1, 1, [&](FedCache& f) { EXPECT_FALSE(f.cache().needs_schedule()) << policy; });
    }
  }
  spec_.sliding_window = 4;  // the model's own window hides what the policy keeps
  FedCache fed(backend_.get(), spec_, "full");
  for (int i = 0; i < 10; ++i) {
    fed.Chunk(1, 1, [&](FedCache& f) { EXPECT_EQ(f.cache().needs_schedule(), i >= 4) << i; });
  }
}

/// Everything that a cache holds: slots, rows, rotations and figures.
struct Contents {
  explicit Contents(const KvCache& cache) : seen(cache.seen()), separators(cache.separators_seen()) {
    for (int32_t layer = 0; layer < cache.layers(); ++layer) {
      slots.emplace_back(cache.slots(layer).begin(), cache.slots(layer).end());
      Add(cache.Keys(layer));
      Add(cache.Values(layer));
      means.push_back(cache.usage(layer).mean);
      const KeyRotation rotation = cache.rotation(layer);
      const auto table = cache.slots(layer).size() * static_cast<size_t>(rotation.half);
      if (rotation.half > 0) rotations.insert(rotations.end(), rotation.cos, rotation.cos + table);
    }
  }
  bool operator==(const Contents&) const = default;

  int64_t seen, separators;
  std::vector<std::vector<SlotInfo>> slots;
  std::vector<std::byte> rows;
  std::vector<double> means;
  std::vector<float> rotations;

 private:
  void Add(const KvRows& from) {
    for (int64_t r = 0; r < from.rows(); ++r) {
      const ConstMat row = from.Run(r, 1);
      const auto* data = static_cast<const std::byte*>(row.data);
      rows.insert(rows.end(), data, data + row.cols * static_cast<int64_t>(SizeOf(row.dtype)));
    }
  }
};

TEST_F(KvCacheTest, AChunkThatIsRolledBackLeavesTheSameBytes) {
  for (const std::string policy : kPolicies) {
    for (const char* dtype : {"", "dtype=q8_0"}) {
      const std::string text = WithOption(policy, dtype);
      FedCache fed(backend_.get(), spec_, text), plain(backend_.get(), spec_, text);
      Rng rng{.seed = 5, .stream = 2};
      while (fed.cache().seen() < 300) {
        const auto n = static_cast<int32_t>(1 + rng.Below(40));
        // What a policy drops before any token that comes is dropped for this one.
        const bool trims = policy.find("policy=full") != std::string::npos;
        const Contents before(fed.cache());
        fed.RollBack(n, n);
        if (!trims) {
          ASSERT_EQ(Contents(fed.cache()), before) << text << " at " << fed.cache().seen();
        }
        const Contents once(fed.cache());
        fed.RollBack(n, 1);
        ASSERT_EQ(Contents(fed.cache()), once) << text << " at " << fed.cache().seen();
        const int32_t took = fed.Chunk(n, n);
        ASSERT_EQ(plain.Chunk(n, n), took);
        ASSERT_EQ(Contents(fed.cache()), Contents(plain.cache())) << text << " at " << fed.cache().seen();
      }
    }
  }
}

TEST_F(KvCacheTest, ARollbackTakesBackLongerFrequenciesToo) {
  spec_.rope.scaling = {.kind = RopeKind::kDynamic, .factor = 4, .original = 8};
  for (const char* policy : {"full", "full:dtype=q8_0", "window:30", "sep-stream:2,3,4,14"}) {
    FedCache fed(backend_.get(), spec_, policy, DType::kF32, 0.2, 0);
    while (fed.cache().seen() < 40) {
      const Contents before(fed.cache());
      fed.RollBack(20, 20);
      ASSERT_EQ(Contents(fed.cache()), before) << policy << " at " << fed.cache().seen();
      fed.Chunk(3, 3);
    }
  }
}

TEST_F(KvCacheTest, ForksThatDivergeAreCachesFedApart) {
  for (const std::string policy : kPolicies) {
    for (const int64_t shared : {1, 90, 256, 300}) {
      FedCache apart(backend_.get(), spec_, policy), fed(backend_.get(), spec_, policy);
      while (fed.cache().seen() < shared) fed.Chunk(shared - fed.cache().seen(), 50);
      while (apart.cache().seen() < shared) apart.Chunk(shared - apart.cache().seen(), 50);
      FedCache fork = fed.Fork(shared);
      const std::array<FedCache*, 3> all = {&fed, &fork, &apart};
      for (int round = 0; round < 40; ++round) {
        fork.Salt(round / 7);  // other tokens come to it in some rounds
        for (FedCache* one : all) one->Chunk(1 + round % 9, 9);
      }
      EXPECT_EQ(Contents(fed.cache()), Contents(apart.cache())) << policy << " after " << shared;
      fork.Chunk(1, 1, [](FedCache& f) { f.Check(); });
    }
  }
}

TEST_F(KvCacheTest, MemoryOfManyForksIsThatOfTheirPrefix) {
  FedCache fed(backend_.get(), spec_, "full");
  while (fed.cache().seen() < 2000) fed.Chunk(2000 - fed.cache().seen(), 500);
  std::vector<std::unique_ptr<KvCache>> forks;
  std::vector<const KvCache*> all = {&fed.cache()};
  for (int i = 0; i < 16; ++i) {
    forks.push_back(fed.cache().Fork(2000 - 7 * i));
    all.push_back(forks.back().get());
  }
  EXPECT_EQ(HeldBytes(all), fed.cache().bytes());
  const int64_t page = KvRows::kPage * fed.cache().row_bytes() * spec_.layers;
  for (const auto& fork : forks) {
    KvCache::Chunk chunk = fork->Begin(std::vector<int32_t>{1}, 1);
    const Matrix rows(1, fed.width());
    for (int32_t layer = 0; layer < spec_.layers; ++layer) fork->Append(layer, rows, rows);
    chunk.Commit();
  }
  EXPECT_EQ(HeldBytes(all), fed.cache().bytes() + 16 * page);
}

TEST_F(KvCacheTest, TruncatedIsNeverHavingHadTheTail) {
  for (const char* policy : {"full", "full:dtype=q8_0", "full:dtype=bf16", "sink:3,700", "window:700"}) {
    FedCache fed(backend_.get(), spec_, policy), plain(backend_.get(), spec_, policy);
    for (const int64_t stop : {0, 3, 255, 256, 257, 511, 600}) {
      while (fed.cache().seen() < stop) fed.Chunk(stop - fed.cache().seen(), 100);
      while (plain.cache().seen() < stop) plain.Chunk(stop - plain.cache().seen(), 100);
      fed.Salt(1);
      fed.Chunk(90, 90);
      fed.Salt(0);
      ASSERT_TRUE(fed.Truncate(stop)) << policy;
      Contents got(fed.cache()), want(plain.cache());
      got.means = want.means = {};  // figures count what came
      ASSERT_EQ(got, want) << policy << " at " << stop;
    }
  }
  FedCache dropped(backend_.get(), spec_, "window:9");
  dropped.Chunk(30, 30);
  EXPECT_FALSE(dropped.Truncate(20));
  EXPECT_EQ(dropped.cache().seen(), 30);
}

TEST_F(KvCacheTest, ResetForgetsEverything) {
  for (const char* policy : kPolicies) {
    FedCache fed(backend_.get(), spec_, policy), fresh(backend_.get(), spec_, policy);
    while (fed.cache().seen() < 77) fed.Chunk(7, 7);
    fed.cache().Reset();
    EXPECT_EQ(fed.cache().seen(), 0);
    EXPECT_EQ(fed.cache().slots().size(), 0u);
    while (fed.cache().seen() < 61) {
      fed.Chunk(1, 1);
      fresh.Chunk(1, 1);
    }
    EXPECT_EQ(fed.cache().usage().mean, fresh.cache().usage().mean);
    const ConstMat a = fed.cache().Keys(1).m, b = fresh.cache().Keys(1).m;  // of fewer slots than a page
    ASSERT_EQ(a.rows, b.rows);
    for (int64_t i = 0; i < a.rows * a.cols; ++i) ASSERT_EQ(a.Row<float>(0)[i], b.Row<float>(0)[i]) << policy;
  }
}

TEST_F(KvCacheTest, BytesAreThoseOfTheStoredDType) {
  spec_ = CacheSpec{.layers = 3, .kv_heads = 2, .head_dim = 40};  // a block of 32 and one of 8: 34 + 10 bytes
  for (const auto& [policy, row] : {std::pair("full", 2 * 2 * 40 * 4), std::pair("full:dtype=bf16", 2 * 2 * 40 * 2),
                                    std::pair("full:dtype=q8_0", 2 * 2 * (34 + 10))}) {
    FedCache fed(backend_.get(), spec_, policy);
    while (fed.cache().seen() < 100) fed.Chunk(1, 1);
    EXPECT_EQ(fed.cache().row_bytes(), row) << policy;
    EXPECT_EQ(KvReportJson(fed.cache())["peak_bytes"], 3 * 100 * row) << policy;
    EXPECT_EQ(fed.cache().bytes() % (3 * row), 0) << policy;
    EXPECT_GE(fed.cache().bytes(), 3 * 100 * row) << policy;
  }
}

TEST_F(KvCacheTest, MistakesAreNamed) {
  const auto make = [&](size_t flags, DType dtype) {
    return NewCacheOf(backend_.get(), spec_, "full", std::vector<uint8_t>(flags), dtype, 100);
  };
  EXPECT_THROW(make(3, DType::kF32), Error);
  EXPECT_THROW(make(0, DType::kF16), Error);
  KvCache cache = make(0, DType::kF32);
  spec_.rope.numerics.math = FloatFormat::kBF16;
  EXPECT_THROW(FedCache(backend_.get(), spec_, "full:dtype=q8_0"), Error);
  for (int32_t token : {-1, spec_.vocab, std::numeric_limits<int32_t>::max()}) {
    EXPECT_THROW(cache.Begin(std::vector<int32_t>{0, token}, 2), Error);
  }
  EXPECT_EQ(cache.Begin(std::vector<int32_t>{0, spec_.vocab - 1}, 2).size(), 2);
}

}  // namespace
}  // namespace hawser
