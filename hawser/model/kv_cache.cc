#include "hawser/model/kv_cache.h"

#include <algorithm>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/q8.h"

namespace hawser {

KvCache::KvCache(Backend* backend, const ModelSpec& spec, const KvForm& form, std::vector<uint8_t> separators,
                 DType dtype, int64_t max_length)
    : form_(form),
      vocab_(spec.vocab),
      separators_(std::move(separators)),
      stored_(form.dtype.value_or(QkvDType(spec, dtype))),
      max_length_(max_length),
      row_bytes_(
          int64_t{2} * spec.kv_heads *
          (stored_ == DType::kQ8_0 ? Q8Bytes(spec.head_dim) : spec.head_dim * static_cast<int64_t>(SizeOf(stored_)))) {
  if (dtype != DType::kF32 && dtype != DType::kBF16) {
    Fail(ErrorKind::kUsage, "a cache is for activations in f32 or bf16, not {}", Name(dtype));
  }
  if (stored_ == DType::kQ8_0 && spec.rope.numerics.math != FloatFormat::kF32) {
    Fail(ErrorKind::kUnsupported, "kv policy \"{}\": q8_0 wants a rotation in f32, found rope numerics '{}'",
         ToString(form), ToString(spec.rope.numerics));
  }
  if (!separators_.empty() && static_cast<int64_t>(separators_.size()) != spec.vocab) {
    Fail(ErrorKind::kUsage, "separator flags: wanted one for each of {} token ids, found {}", spec.vocab,
         separators_.size());
  }
  struct Kind {
    KvForm form;
    int32_t window = 0;  // the model's own
    const RopeSpec* rope = nullptr;
    bool rotates = true;
    bool operator==(const Kind&) const = default;
  };
  std::vector<Kind> kinds;  // the distinct ones
  std::vector<int32_t> sizes;
  const AttnPattern own = OwnPattern(spec);
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const Kind of{.form = form.OfLayer(layer, spec.layers),
                  .window = own.OfLayer(layer, spec.layers).window,
                  .rope = &RopeOf(spec, layer),
                  .rotates = Rotates(spec, layer)};
    const auto same = std::ranges::find(kinds, of) - kinds.begin();
    if (same == static_cast<int64_t>(kinds.size())) {
      kinds.push_back(of);
      sizes.push_back(0);
    }
    places_.push_back({static_cast<int32_t>(same), sizes[static_cast<size_t>(same)]++});
  }
  segments_ = spec.segments;
  for (const Kind& of : kinds) {
    if (segments_.places == 0 || of.form.positions == KvPositions::kAbsolute) continue;
    Fail(ErrorKind::kUnsupported,
         "kv policy \"{}\": this model counts segments, whose keys cannot move; pass positions=absolute",
         ToString(form));
  }
  groups_.reserve(kinds.size());
  for (size_t g = 0; g < kinds.size(); ++g) {
    ModelSpec own_spec = spec;
    own_spec.rope = *kinds[g].rope;
    if (spec.places == Places::kRope && !kinds[g].rotates) own_spec.places = Places::kNone;
    groups_.emplace_back(backend, own_spec, MakeKvPolicy(kinds[g].form), sizes[g], kinds[g].window,
                         QkvDType(spec, dtype), stored_, max_length);
  }
}

int64_t KvCache::bytes() const {
  int64_t sum = 0;
  for (const KvGroup& group : groups_) sum += group.bytes();
  return sum;
}

KvUsage KvCache::usage() const {
  KvUsage sum;
  for (int32_t layer = 0; layer < layers(); ++layer) {
    const KvUsage usage = Group(layer).usage();
    sum.mean += usage.mean;
    sum.peak_mean += usage.peak_mean;
    sum.final_mean += usage.final_mean;
    sum.ratio += usage.ratio;
    sum.final_ratio += usage.final_ratio;
    sum.peak = std::max(sum.peak, usage.peak);
    sum.final = std::max(sum.final, usage.final);
  }
  sum.mean /= layers();
  sum.peak_mean /= layers();
  sum.final_mean /= layers();
  sum.ratio /= layers();
  sum.final_ratio /= layers();
  return sum;
}

int32_t KvCache::BeginChunk(std::span<const int32_t> tokens, int32_t limit) {
  HAWSER_CHECK(!tokens.empty() && limit >= 1);
  coming_.clear();
  chunk_counter_ = counter_;
  for (int32_t token : tokens.first(std::min<size_t>(tokens.size(), limit))) {
    if (token < 0 || token >= vocab_) {
      Fail(ErrorKind::kUsage, "token id {} is outside the vocabulary of {}", token, vocab_);
    }
    coming_.push_back({.index = seen_ + static_cast<int64_t>(coming_.size()),
                       .token = token,
                       .separator = !separators_.empty() && separators_[token] != 0});
  }
  // Cuts depend on ids alone; where layers differ, a chunk ends at the first cut of any of them.
  auto n = static_cast<int64_t>(coming_.size());
  for (KvGroup& group : groups_) n = std::min(n, group.Prepare(coming_));
  HAWSER_CHECK(n >= 1);
  coming_.resize(static_cast<size_t>(n));
  positions_.clear();
  segment_places_.clear();
  for (const SlotInfo& slot : coming_) {
    positions_.push_back(segments_.places > 0 ? counter_.segment : slot.index);
    if (segments_.places == 0) continue;
    segment_places_.push_back(counter_.Row(segments_));
    counter_.Pass(segments_, slot.token);
  }
  for (KvGroup& group : groups_) group.Begin(coming_, positions_);
  return static_cast<int32_t>(n);
}

void KvCache::Append(int32_t layer, ConstMat k, ConstMat v) {
  groups_[static_cast<size_t>(places_[layer].group)].Append(places_[layer].layer, k, v);
}

void KvCache::EndChunk() {
  for (KvGroup& group : groups_) group.End();
  seen_ += static_cast<int64_t>(coming_.size());
  separators_seen_ += std::ranges::count_if(coming_, [](const SlotInfo& slot) { return slot.separator; });
  coming_.clear();
}

void KvCache::AbandonChunk() {
  if (coming_.empty()) return;
  for (KvGroup& group : groups_) group.Abandon();
  coming_.clear();
  counter_ = chunk_counter_;
}

KvCache::KvCache(const KvCache& other, int64_t tokens)
    : form_(other.form_),
      vocab_(other.vocab_),
      separators_(other.separators_),
      places_(other.places_),
      stored_(other.stored_),
      max_length_(other.max_length_),
      row_bytes_(other.row_bytes_),
      seen_(tokens),
      separators_seen_(other.separators_seen_),
      segments_(other.segments_),
      counter_(other.counter_) {
  HAWSER_CHECK(other.coming_.empty());
  groups_.reserve(other.groups_.size());
  for (const KvGroup& group : other.groups_) groups_.push_back(group.Fork(tokens));
  if (tokens < other.seen_) separators_seen_ -= other.SeparatorsFrom(tokens);
}

std::unique_ptr<KvCache> KvCache::Fork(int64_t tokens) const {
  if (tokens != seen_ && !holds_all()) return nullptr;
  return std::unique_ptr<KvCache>(new KvCache(*this, tokens));
}

bool KvCache::holds_all() const { return segments_.places == 0 && std::ranges::all_of(groups_, &KvGroup::holds_all); }

/// Separators among the tokens from `first` on, where all are held.
int64_t KvCache::SeparatorsFrom(int64_t first) const {
  return std::ranges::count_if(groups_.front().slots().subspan(static_cast<size_t>(first)), &SlotInfo::separator);
}

void KvCache::BeginPrefill(int64_t tokens) {
  for (KvGroup& group : groups_) group.BeginPrefill(tokens);
}

void KvCache::EndPrefill() {
  for (KvGroup& group : groups_) group.EndPrefill();
}

bool KvCache::KeepFirst(int64_t tokens) {
  HAWSER_CHECK(tokens >= 0 && tokens <= seen_);
  if (!holds_all()) return false;
  separators_seen_ -= SeparatorsFrom(tokens);
  for (KvGroup& group : groups_) group.KeepFirst(tokens);
  seen_ = tokens;
  return true;
}

void KvCache::Reset() {
  for (KvGroup& group : groups_) group.Reset();
  coming_.clear();
  seen_ = separators_seen_ = 0;
  counter_ = {};
}

}  // namespace hawser
