#include "hawser/model/stream_pass.h"

#include <algorithm>

#include "hawser/base/error.h"

namespace hawser {
namespace {

// Rows of a pass at most, so that its scratch stays small whatever the length of a prompt.
constexpr int32_t kMaxChunk = 1024;

/// Takes back what streams have begun where a pass ends by an Error.
struct PassGuard {
  std::vector<KvCache::Chunk>* begun;
  ~PassGuard() { begun->clear(); }
};

}  // namespace

StreamPass::StreamPass(Backend* backend, const Weights* weights, Workspace* work, Ends* ends, const BatchPlan* plan)
    : backend_(backend), weights_(*weights), work_(work), ends_(ends), plan_(*plan) {}

BlockContext StreamPass::Context(int32_t layer) {
  BlockContext context{.backend = backend_, .work = work_, .weights = &weights_, .decode_rows = &decode_rows_};
  plan_.FillPositions(layer, &context);
  return context;
}

Mat StreamPass::EmbedPass(const int32_t* ids, int64_t rows) {
  const Mat x = work_->Get(Workspace::kResidual, rows, weights_.spec().width, weights_.dtype());
  ends_->Embed(ids, places_.data(), x);
  return x;
}

void StreamPass::Run(std::span<const DecodeChunk> chunks, RowSink* sink, const std::function<bool()>& cancelled) {
  size_t left = 0;
  for (const DecodeChunk& chunk : chunks) {
    ends_->CheckIds(chunk.tokens);
    left += chunk.tokens.size();
  }
  done_.assign(chunks.size(), 0);
  while (left > 0 && !(cancelled && cancelled())) {
    Pass(chunks, sink);
    left -= ids_.size();
  }
}

/// As many of the tokens left as the policies and kMaxChunk allow.
void StreamPass::Pass(std::span<const DecodeChunk> chunks, RowSink* sink) {
  const PassGuard guard{&begun_};
  caches_.clear();
  ids_.clear();
  places_.clear();
  wanted_.clear();
  runs_.clear();
  products_.clear();
  int32_t rows = 0;
  enum class Sharing : uint8_t { kAny, kFew, kNone };  // of a product, by the rows of a chunk
  Sharing last = Sharing::kNone;
  for (size_t i = 0; i < chunks.size() && rows < kMaxChunk; ++i) {
    const std::span<const int32_t> rest = chunks[i].tokens.subspan(done_[i]);
    if (rest.empty()) continue;
    // What else is in the pass must not cut a chunk that is to be as if alone.
    const bool cut = rest.size() > static_cast<size_t>(kMaxChunk - rows);
    if (chunks[i].apart && rows > 0 && cut) continue;
    KvCache* cache = chunks[i].cache;
    caches_.push_back(cache);
    begun_.push_back(cache->Begin(rest, kMaxChunk - rows));
    const int32_t n = begun_.back().size();
    ids_.insert(ids_.end(), rest.begin(), rest.begin() + n);
    places_.insert(places_.end(), cache->segment_places().begin(), cache->segment_places().end());
    const bool ends = static_cast<size_t>(n) == rest.size();
    const int32_t first = chunks[i].wanted == Wanted::kAll ? 0 : n - 1;
    if (chunks[i].wanted == Wanted::kAll || (chunks[i].wanted == Wanted::kLast && ends)) {
      runs_.push_back({rows + first, n - first});
      for (int32_t r = first; r < n; ++r) wanted_.push_back({i, static_cast<int64_t>(done_[i]) + r});
    }
    const Sharing sharing = !chunks[i].apart ? Sharing::kAny : n == 1 ? Sharing::kFew : Sharing::kNone;
    const bool joins = sharing == last &&
                       (sharing == Sharing::kAny || (sharing == Sharing::kFew && products_.back().count < kAlikeRows));
    if (joins) {
      products_.back().count += n;
    } else {
      products_.push_back({rows, n});
    }
    last = sharing;
    done_[i] += static_cast<size_t>(n);
    rows += n;
  }
  const Mat x = EmbedPass(ids_.data(), rows);
  for (int32_t layer = 0; layer < weights_.spec().layers; ++layer) {
    BlockContext context = Context(layer);
    context.products = products_;
    BlockDecode(context, layer, caches_, x);
  }
  for (KvCache::Chunk& chunk : begun_) chunk.Commit();
  if (wanted_.empty()) return;
  const Mat hidden = work_->Get(Workspace::kNormed, static_cast<int64_t>(wanted_.size()), x.cols, x.dtype);
  int64_t to = 0;
  for (const auto& [first, count] : runs_) {
    ends_->Norm(x.Rows(first, count), Role::kFinalNorm, hidden.Rows(to, count), nullptr);
    to += count;
  }
  sink->Rows(wanted_, hidden);
}

void StreamPass::Peek(std::span<const int32_t> tokens, std::span<KvCache* const> caches, KeyBank* bank) {
  const auto rows = static_cast<int64_t>(tokens.size());
  HAWSER_CHECK(caches.size() == tokens.size() && bank->rows() == rows);
  ends_->CheckIds(tokens);
  for (int64_t first = 0; first < rows; first += kMaxChunk) {
    const auto at = static_cast<size_t>(first), count = static_cast<size_t>(std::min<int64_t>(kMaxChunk, rows - first));
    PeekPass(tokens.subspan(at, count), caches.subspan(at, count), bank, first);
  }
}

/// Raw keys and values, from row `first` of the bank on, of a token of each stream, which is then taken back.
void StreamPass::PeekPass(std::span<const int32_t> tokens, std::span<KvCache* const> streams, KeyBank* bank,
                          int64_t first) {
  const PassGuard guard{&begun_};
  caches_.assign(streams.begin(), streams.end());
  places_.clear();
  for (size_t r = 0; r < tokens.size(); ++r) {
    begun_.push_back(streams[r]->Begin(tokens.subspan(r, 1), 1));
    places_.insert(places_.end(), streams[r]->segment_places().begin(), streams[r]->segment_places().end());
  }
  const Mat x = EmbedPass(tokens.data(), static_cast<int64_t>(tokens.size()));
  for (int32_t layer = 0; layer < weights_.spec().layers; ++layer) {
    BlockContext context = Context(layer);
    context.bank = bank->Layer(layer);
    context.bank.raw_k = context.bank.raw_k.Rows(first, x.rows);
    context.bank.raw_v = context.bank.raw_v.Rows(first, x.rows);
    BlockDecode(context, layer, caches_, x);
  }
}

}  // namespace hawser
