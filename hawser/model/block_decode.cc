#include <algorithm>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/kv/squeezed.h"
#include "hawser/model/block.h"
#include "hawser/model/block_rows.h"

namespace hawser {
namespace {

constexpr size_t kRowsOfPrefix = 64;  // that read parts of a prefix, decoded together

}  // namespace

void BlockDecode(const BlockContext& c, int32_t layer, std::span<KvCache* const> caches, Mat x) {
  const ModelSpec& s = c.weights->spec();
  HAWSER_CHECK(x.rows <= kMlpRows);  // else rows of products would not be those of all
  const Mat qkv = QkvScratch(c, Workspace::kQkv, x.rows);
  BlockQkv(c, layer, x, qkv);
  GiveRaw(c, qkv);
  const Mat q = QueryOf(s, qkv);
  const Mat attn_out = c.work->Get(Workspace::kAttnOut, x.rows, QueryCols(s), x.dtype);
  const bool any_far =
      std::ranges::any_of(caches, [&](const KvCache* cache) { return cache->far_cos(layer) != nullptr; });
  const Mat q_far = any_far ? c.work->Get(Workspace::kFarQueries, x.rows, QueryCols(s), q.dtype) : Mat();
  const auto decode = [&](int64_t first, std::span<const DecodeArgs::Row> seen) {
    const auto count = static_cast<int64_t>(seen.size());
    c.backend->AttentionDecode({.shape = c.Shape(),
                                .q = q.Rows(first, count),
                                .out = attn_out.Rows(first, count),
                                .rows = seen,
                                .q_far = any_far ? ConstMat(q_far.Rows(first, count)) : ConstMat()});
  };
  std::vector<DecodeArgs::Row>& seen = *c.decode_rows;  // of streams not yet attended to, which end before row `next`
  seen.clear();
  int64_t next = 0;
  for (KvCache* cache : caches) {
    const int64_t rows = cache->chunk();
    const Mat queries = q.Rows(next, rows);
    const Mat far = cache->far_cos(layer) != nullptr ? q_far.Rows(next, rows) : Mat();
    const float* scale = ScalesQueries(s, layer) ? cache->query_scale(layer) : nullptr;
    cache->Observe(layer, queries, scale);
    if (!far.empty()) RotateFar(c, queries, cache->far_cos(layer), cache->far_sin(layer), scale, far);
    if (c.rope != nullptr) Rotate(c, queries, s.heads, cache->cos(layer), cache->sin(layer), scale);
    cache->Append(layer, KeyOf(s, qkv).Rows(next, rows), ValueOf(s, qkv).Rows(next, rows));
    if (cache->watch()) cache->watch()(layer, queries);
    if (SqueezedReader* prefix = cache->prefix()) {
      prefix->Choose(layer, c.Shape(), queries, cache->seen() - prefix->tokens(), cache->inside_prompt());
      KvRows k = cache->Keys(layer), v = cache->Values(layer);
      const int64_t before = k.rows() - rows;
      for (int64_t r = 0; r < rows; ++r) {
        k.m.rows = v.m.rows = before + r + 1;
        seen.push_back({.k = k, .v = v, .rotation = cache->rotation(layer), .parts = prefix->parts(r)});
        if (seen.size() < kRowsOfPrefix) continue;
        decode(next + r + 1 - static_cast<int64_t>(seen.size()), seen);
        seen.clear();
      }
    } else if (cache->needs_schedule(layer)) {
      if (!seen.empty()) decode(next - static_cast<int64_t>(seen.size()), seen);
      seen.clear();
      const AttnSequence sequence{.schedule = &cache->schedule(layer)};
      const Mat lse = c.work->Get(Workspace::kLse, rows, s.heads, DType::kF32);
      c.backend->AttentionForward({.shape = c.Shape(),
                                   .q = queries,
                                   .k = cache->Keys(layer),
                                   .v = cache->Values(layer),
                                   .out = attn_out.Rows(next, rows),
                                   .lse = lse.Row<float>(0),
                                   .sequences = {&sequence, 1},
                                   .rotation = cache->rotation(layer),
                                   .query_place = cache->query_places(layer),
                                   .key_place = cache->key_places(layer),
                                   .q_far = far});
    } else {
      const int32_t* place = cache->query_places(layer);
      seen.push_back({.k = cache->Keys(layer),
                      .v = cache->Values(layer),
                      .rotation = cache->rotation(layer),
                      .key_place = cache->key_places(layer),
                      .query_place = place != nullptr ? *place : 0,
                      .far = cache->far_slots(layer)});
    }
    next += rows;
  }
  if (!seen.empty()) decode(next - static_cast<int64_t>(seen.size()), seen);
  BlockFinish(c, layer, attn_out, x);
}

}  // namespace hawser
