#include "hawser/infer/focus.h"

#include <algorithm>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/model/kv_shape.h"

namespace hawser {
namespace {

constexpr int64_t kFeedRows = 1024;  // of chunks, between questions whether to go on

}  // namespace

int64_t FocusMemory(const FocusShape& shape, int64_t tokens, bool bos) {
  const int64_t front = tokens - shape.local;
  return front <= (bos ? 1 : 0) ? 0 : front;
}

int32_t FocusBos(const Tokenizer& tokenizer, BosRule rule) {
  const std::vector<int32_t> prefix = TextPrefix(tokenizer, rule);
  return prefix.empty() ? -1 : prefix.front();
}

int64_t FocusRoom(const ModelSpec& spec, const FocusShape& shape, int64_t tokens, bool bos) {
  const int64_t memory = FocusMemory(shape, tokens, bos), front = bos ? 1 : 0;
  if (memory == 0) {
    if (tokens > spec.context) {
      Fail(ErrorKind::kUsage, "focus: a window of {} tokens is longer than the context of {}; give a smaller local",
           tokens, spec.context);
    }
    return spec.context - tokens;
  }
  const int64_t chunks = (memory + shape.chunk - 1) / shape.chunk;
  CheckFocusFits(spec, shape, chunks, front, /*more=*/0);
  return spec.context - front - std::max(shape.chunk + shape.prompt, chunks + shape.local);
}

int64_t FocusReach(const ModelSpec& spec, const FocusShape& shape, int64_t more) {
  CheckFocusFits(spec, shape, /*chunks=*/1, /*bos=*/1, more);
  return shape.local + shape.chunk * (spec.context - 1 - shape.local - more);
}

FocusStream::FocusStream(Backend* backend, Decoder* base, Decoder* candidates, DType activations, int32_t bos,
                         const FocusOptions& options)
    : backend_(backend),
      base_(base),
      condense_(candidates),
      activations_(activations),
      bos_(bos),
      options_(options),
      logits_(1, base->spec().vocab) {
  CheckFocus(base->spec());
  const FocusShape& shape = options_.shape;
  if (shape.chunk < 1 || shape.prompt < 1 || shape.local < 1 || options_.sync < 1) {
    Fail(ErrorKind::kUsage, "focus: chunk={}, prompt={}, local={} and sync={} must be 1 or more", shape.chunk,
         shape.prompt, shape.local, options_.sync);
  }
  if (shape.prompt > shape.local) {
    Fail(ErrorKind::kUsage, "focus: prompt={} is the end of the window, which has local={} tokens", shape.prompt,
         shape.local);
  }
  local_ = std::make_unique<KvCache>(NewCache());
}

KvCache FocusStream::NewCache() const {
  return NewKvCache(backend_, base_->spec(), KvForm(), {}, activations_, /*max_length=*/0);
}

void FocusStream::Reset() {
  text_.clear();
  chunks_.clear();
  local_->Reset();
  candidates_.reset();
  memory_ = fed_ = since_sync_ = 0;
}

std::span<const float> FocusStream::Prefill(std::span<const int32_t> ids, const Cancelled& cancelled) {
  if (ids.empty()) Fail(ErrorKind::kUsage, "a prompt needs at least one token");
  std::vector<int32_t> text = std::move(text_);
  Reset();
  text.insert(text.end(), ids.begin(), ids.end());
  text_ = std::move(text);
  has_bos_ = bos_ >= 0 && text_.front() == bos_;
  const auto n = static_cast<int64_t>(text_.size());
  memory_ = FocusMemory(options_.shape, n, has_bos_);
  if (memory_ == 0) {
    base_->Extend(text_, local_.get(), logits_);
    rows_.local += n;
    return Logits();
  }
  const int64_t m = options_.shape.chunk, count = (memory_ + m - 1) / m;
  CheckFocusFits(base_->spec(), options_.shape, count, has_bos_ ? 1 : 0, /*more=*/0);
  const std::span<const int32_t> window = std::span(text_).subspan(static_cast<size_t>(memory_));
  std::vector<int32_t> prompt = FocusPrompt(has_bos_ ? bos_ : -1, window, options_.shape.prompt);
  prompt.pop_back();  // the candidate
  for (int64_t c = 0; c < count; ++c) chunks_.push_back(std::make_unique<KvCache>(NewCache()));
  const int64_t together = std::max<int64_t>(1, kFeedRows / (m + std::ssize(prompt)));
  std::vector<std::vector<int32_t>> pieces;
  for (int64_t first = 0; first < count; first += together) {
    if (cancelled && cancelled(first * m)) return {};
    std::vector<DecodeChunk> feed;
    pieces.clear();
    for (int64_t c = first; c < std::min(count, first + together); ++c) {
      const auto begin = text_.begin() + c * m;
      std::vector<int32_t>& piece = pieces.emplace_back(begin, begin + std::min(m, memory_ - c * m));
      piece.insert(piece.end(), prompt.begin(), prompt.end());
      rows_.chunk += std::ssize(piece);
    }
    for (size_t i = 0; i < pieces.size(); ++i) {
      feed.push_back({chunks_[static_cast<size_t>(first) + i].get(), pieces[i], Wanted::kNone});
    }
    base_->Run(feed, nullptr);
  }
  fed_ = n - 1;
  Sync();
  return Logits();
}

/// Every chunk sees the text up to `end`, but for the window's first tokens, which are no part of its prompt.
void FocusStream::FeedChunks(int64_t end) {
  if (end <= fed_) return;
  const std::span<const int32_t> fresh =
      std::span(text_).subspan(static_cast<size_t>(fed_), static_cast<size_t>(end - fed_));
  std::vector<DecodeChunk> feed;
  for (const auto& cache : chunks_) feed.push_back({cache.get(), fresh, Wanted::kNone});
  base_->Run(feed, nullptr);
  rows_.chunk += chunks() * std::ssize(fresh);
  fed_ = end;
}

void FocusStream::Sync() {
  FeedChunks(std::ssize(text_) - 1);
  std::vector<KvCache*> caches;
  for (const auto& cache : chunks_) caches.push_back(cache.get());
  const std::vector<int32_t> last(caches.size(), text_.back());
  if (candidates_ == nullptr) {
    candidates_ = std::make_unique<KeyBank>(backend_, base_->spec(), activations_);
    candidates_->MakeRaw(chunks());
  }
  condense_->Peek(last, caches, candidates_.get());
  rows_.candidate += chunks();
  ReadWindow();
  since_sync_ = 0;
}

void FocusStream::ReadWindow() {
  local_->Reset();
  // Candidates take the first slots, whose tokens nothing reads.
  const std::vector<int32_t> slots(static_cast<size_t>(chunks()), text_.back());
  for (int64_t first = 0; first < chunks();) {
    KvCache::Chunk chunk =
        local_->Begin(std::span(slots).subspan(static_cast<size_t>(first)), static_cast<int32_t>(chunks() - first));
    for (int32_t layer = 0; layer < base_->spec().layers; ++layer) {
      const BankedKeys keys = candidates_->Layer(layer);
      local_->Append(layer, keys.raw_k.Rows(first, chunk.size()), keys.raw_v.Rows(first, chunk.size()));
    }
    first += chunk.size();
    chunk.Commit();
  }
  std::vector<int32_t> window;
  if (has_bos_) window.push_back(bos_);
  window.insert(window.end(), text_.begin() + memory_, text_.end());
  base_->Extend(window, local_.get(), logits_);
  rows_.local += std::ssize(window);
}

std::span<const float> FocusStream::Step(int32_t id) {
  if (chunks_.empty()) {
    base_->Extend({&id, 1}, local_.get(), logits_);
    text_.push_back(id);
    ++rows_.local;
    return Logits();
  }
  const int64_t more = std::ssize(text_) + 1 - memory_ - options_.shape.local;
  CheckFocusFits(base_->spec(), options_.shape, chunks(), has_bos_ ? 1 : 0, more);
  text_.push_back(id);
  if (++since_sync_ >= options_.sync) {
    Sync();
  } else {
    base_->Extend({&id, 1}, local_.get(), logits_);
    ++rows_.local;
  }
  return Logits();
}

int64_t FocusStream::bytes() const {
  int64_t sum = local_->bytes();
  for (const auto& cache : chunks_) sum += cache->bytes();
  return sum;
}

}  // namespace hawser
