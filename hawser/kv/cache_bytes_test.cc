// What a cache says that it may come to hold is never less than what it then holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/kv/cache.h"

namespace hawser {
namespace {

constexpr int32_t kBytesVocab = 64, kBytesHeads = 4, kBytesKvHeads = 2, kBytesDim = 32;

class CacheBytesTest : public ::testing::Test {
 protected:
  KvCache New(const std::string& form) {
    const KvLayerShape layer{.rope = RopeSpec{.rotary_dim = kBytesDim}};
    const KvShape shape{.vocab = kBytesVocab,
                        .kv_heads = kBytesKvHeads,
                        .head_dim = kBytesDim,
                        .heads = kBytesHeads,
                        .score_scale = 1 / std::sqrt(static_cast<float>(kBytesDim)),
                        .layers = {layer, layer}};
    std::vector<uint8_t> separators(kBytesVocab);
    for (size_t id = 0; id < separators.size(); id += 5) separators[id] = 1;
    return KvCache(backend_.get(), shape, ParseKvForm(form), separators, 4096);
  }
  Matrix Random(int64_t rows, int64_t columns) {
    Matrix m(rows, columns);
    for (int64_t i = 0; i < rows * columns; ++i) m.Row<float>(0)[i] = static_cast<float>(rng_.Uniform()) - 0.5f;
    return m;
  }
  /// `tokens` more, `most` at once; returns the most bytes on the way.
  int64_t Feed(KvCache* cache, int64_t tokens, int64_t most) {
    int64_t peak = cache->bytes();
    while (tokens > 0) {
      std::vector<int32_t> ids(static_cast<size_t>(std::min(tokens, most)));
      for (int32_t& id : ids) id = static_cast<int32_t>(rng_.Below(kBytesVocab));
      KvCache::Chunk chunk = cache->Begin(ids, static_cast<int32_t>(ids.size()));
      for (int32_t layer = 0; layer < cache->layers(); ++layer) {
        const int64_t columns = int64_t{kBytesKvHeads} * kBytesDim;
        cache->Append(layer, Random(chunk.size(), columns), Random(chunk.size(), columns));
        cache->Observe(layer, Random(chunk.size(), int64_t{kBytesHeads} * kBytesDim), nullptr);
      }
      tokens -= chunk.size();
      peak = std::max(peak, cache->bytes());
      chunk.Commit();
      peak = std::max(peak, cache->bytes());
    }
    return peak;
  }
  int64_t Prompt(KvCache* cache, int64_t tokens, int64_t most) {
    cache->BeginPrefill(tokens);
    int64_t peak = Feed(cache, tokens, most);
    cache->EndPrefill();
    return std::max(peak, cache->bytes());
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Rng rng_{.seed = 5, .stream = 2};
};

TEST_F(CacheBytesTest, AreNoMoreThanWasSaidBefore) {
  for (const char* form : {"full", "full:dtype=q8_0", "window:40", "sink:4,60", "sink:4,60,prefill=dense",
                           "sink:4,60,positions=absolute", "sep:3,32", "fix:3,32,8", "sep-stream:4,16,32,128",
                           "sep-stream:4,16,32,128,dtype=q8_0", "sep-stream:4,16,32,128,prefill=dense",
                           "sep-stream:4,16,32,128,dtype=q8_0,prefill=dense", "sep-stream:4,16,32,128,bounded=off",
                           "snapkv:50,window=8", "snapkv:25%,window=8", "tova:40", "tova:25%", "expected:50"}) {
    KvCache cache = New(form);
    // Of one text after another, as a session has them.
    for (const auto& [prompt, more] : {std::pair{330, 150}, {1, 60}, {700, 20}}) {
      const int64_t said = cache.BytesFor(prompt, more);
      const int64_t reading = Prompt(&cache, prompt, 64), writing = Feed(&cache, more, 1);
      EXPECT_LE(std::max(reading, writing), said) << form << " " << prompt;
      EXPECT_LE(Prompt(&cache, 0, 1), said) << form;
    }
  }
}

// A dense prompt is held as a whole, and no more than that.
TEST_F(CacheBytesTest, OfADensePromptAreThoseOfAllItsTokens) {
  const int64_t full = New("full").BytesFor(2000, 10);
  for (const char* form : {"sink:4,60,prefill=dense", "snapkv:80", "tova:50", "expected:50"}) {
    KvCache cache = New(form);
    EXPECT_GE(cache.BytesFor(2000, 10), 2 * 2000 * cache.row_bytes()) << form;
    const int64_t copies = form == std::string("sink:4,60,prefill=dense") ? 2 : 1;  // at most: keys that may turn
    EXPECT_LE(cache.BytesFor(2000, 10), copies * full * 3 / 2) << form;
    EXPECT_LE(cache.BytesFor(0, 10), full / 5) << form;
  }
  EXPECT_LT(New("sink:4,60").BytesFor(2000, 10), full);
}

TEST_F(CacheBytesTest, OfAnyNumberOfTokensAreANumber) {
  for (const char* form : {"full", "full:dtype=q8_0", "sink:4,60,prefill=dense", "snapkv:25%,window=8"}) {
    EXPECT_GT(New(form).BytesFor(INT64_MAX, INT64_MAX), int64_t{1} << 40) << form;
  }
}

}  // namespace
}  // namespace hawser
