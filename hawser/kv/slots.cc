#include "hawser/kv/slots.h"

#include <algorithm>
#include <utility>

#include "hawser/base/error.h"

namespace hawser {

SlotTable::SlotTable(std::shared_ptr<const KvPolicy> policy, int32_t own_window, int64_t far_from, bool two_phases)
    : policy_(std::move(policy)),
      pattern_(policy_->Pattern()),
      policy_window_(pattern_.window),
      far_from_(far_from),
      two_phases_(two_phases) {
  HAWSER_CHECK(!two_phases || (policy_->two_phases() && far_from == 0));
  dense_.window = own_window;
  pattern_.window = std::min(pattern_.window, own_window);
}

KvUsage SlotTable::usage() const {
  const Counters& c = counters_;
  const auto stored = static_cast<double>(size());
  return {.mean = c.steps > 0 ? c.stored_sum / static_cast<double>(c.steps) : 0,
          .peak = c.peak,
          .peak_mean = static_cast<double>(c.peak),
          .ratio = c.seen_sum > 0 ? c.stored_sum / c.seen_sum : 0,
          .final = size(),
          .final_mean = stored,
          .final_ratio = c.seen > 0 ? stored / static_cast<double>(c.seen) : 0};
}

SlotTable::Kept SlotTable::TrimBefore(const SlotInfo& next) {
  // Of a chunk that comes instead of another the keys stand where those of the other stood.
  if (!std::exchange(rolled_back_, false)) held_ = size();
  prefill_before_ = prefill_;
  if (prefill_ == Prefill::kUnderWay || !policy_->TrimBefore(slots_, next, &keep_)) return nullptr;
  Keep(keep_);
  return &keep_;
}

int64_t SlotTable::Limit(std::span<const SlotInfo> coming) {
  if (prefill_ == Prefill::kNone) return policy_->ChunkLimit(slots_, coming, !two_phases_);
  prefill_ = Prefill::kUnderWay;
  return static_cast<int64_t>(coming.size());
}

void SlotTable::Begin(std::span<const SlotInfo> chunk) {
  slots_.insert(slots_.end(), chunk.begin(), chunk.end());
  chunk_ = static_cast<int32_t>(chunk.size());
  Compile();
  if (two_phases_) FindRanks();
}

/// A token stands behind all that it sees. Nothing is dropped between those but behind the first tokens, so all others
/// stand at their places for it; those are far where its own place is another.
void SlotTable::FindRanks() {
  const int64_t initial = policy_->initial();
  ranks_.clear();
  for (int64_t slot = size() - chunk_; slot < size(); ++slot) {
    const int64_t place = slots_[static_cast<size_t>(slot)].index;
    ranks_.push_back(prefill_ == Prefill::kNone ? std::min(place, initial + policy_window_ - 1) : slot);
  }
  far_slots_ = ranks_.back() == slots_.back().index ? 0 : static_cast<int32_t>(initial);
  if (far_slots_ == 0 || !needs_schedule_) return;
  AttnSchedule& s = schedule_;
  s.far_anchors.assign(static_cast<size_t>(s.num_queries), 0);
  s.far_pinned = s.pinned_end;
  s.far_band = s.band_begin;
  for (int32_t row = 0; row < s.num_queries; ++row) {
    int32_t& band = s.far_band[static_cast<size_t>(row)];
    band = std::max(band, std::min(far_slots_, s.QueryKey(row)));
  }
}

void SlotTable::Compile() {
  // A policy drops what the next token cannot see together with the token before it, so a single token sees all that
  // is here, unless the model's own window is narrower than the policy's.
  const AttnPattern& pattern = prefill_ == Prefill::kNone ? pattern_ : dense_;
  const int32_t window = prefill_ == Prefill::kNone ? policy_window_ : AttnPattern::kAll;
  const auto hidden = [&](const SlotInfo& slot) {
    return slot.index <= slots_.back().index - pattern.window && !Pinned(pattern, slot);
  };
  const auto is_far = [&](const SlotInfo& slot) { return slots_.back().index - slot.index >= far_from_; };
  far_slots_ = 0;
  if (far_from_ > 0) {
    far_slots_ = static_cast<int32_t>(std::ranges::partition_point(slots_, is_far) - slots_.begin());
  }
  needs_schedule_ = chunk_ > 1 || (pattern.window < window && std::ranges::any_of(slots_, hidden));
  if (!needs_schedule_) return;
  layout_.size = static_cast<int32_t>(slots_.size());
  layout_.index.clear();
  layout_.is_separator.clear();
  if (pattern != AttnPattern{}) {
    for (const SlotInfo& slot : slots_) {
      layout_.index.push_back(slot.index);
      layout_.is_separator.push_back(slot.separator);
    }
  }
  schedule_ = CompileSchedule(pattern, layout_, chunk_);
  if (far_slots_ == 0) return;
  positions_.resize(slots_.size());
  std::ranges::transform(slots_, positions_.begin(), &SlotInfo::index);
  SplitFar(far_from_, positions_, &schedule_);
}

SlotTable::Kept SlotTable::End(Kept chosen) {
  HAWSER_CHECK(chunk_ > 0);
  Account();
  counters_.seen += chunk_;
  chunk_ = 0;
  prefill_before_ = prefill_;
  if (chosen == nullptr && prefill_ == Prefill::kNone && policy_->TrimAfter(slots_, &keep_)) chosen = &keep_;
  if (chosen != nullptr) Keep(*chosen);
  counters_.stored_sum += static_cast<double>(size());
  counters_.peak = std::max(counters_.peak, size());
  return chosen;
}

void SlotTable::RollBack() {
  slots_.resize(slots_.size() - static_cast<size_t>(chunk_));
  chunk_ = 0;
  prefill_ = prefill_before_;
  rolled_back_ = true;
}

/// The sizes after every token of the chunk but the last: what the token after each of them still sees. (The last is
/// counted after the trim.) A policy without a pattern drops nothing inside a chunk.
void SlotTable::Account() {
  Counters& c = counters_;
  c.steps += chunk_;
  c.seen_sum += static_cast<double>(chunk_) * static_cast<double>(2 * c.seen + chunk_ + 1) / 2;
  int64_t dropped = 0;
  for (int64_t t = size() - chunk_, first = 0; t + 1 < size(); ++t) {
    if (policy_window_ != AttnPattern::kAll && prefill_ == Prefill::kNone) {
      while (slots_[first].index < slots_[t].index + 2 - policy_window_) dropped += !Pinned(pattern_, slots_[first++]);
    }
    c.stored_sum += static_cast<double>(t + 1 - dropped);
    c.peak = std::max(c.peak, t + 1 - dropped);
  }
}

void SlotTable::Keep(const std::vector<int32_t>& keep) {
  size_t to = 0;
  for (const int32_t from : keep) slots_[to++] = slots_[static_cast<size_t>(from)];
  slots_.resize(to);
}

void SlotTable::BeginPrefill() {
  HAWSER_CHECK(chunk_ == 0);
  if (policy_->dense_prefill()) prefill_ = prefill_before_ = Prefill::kComing;
  rolled_back_ = false;
}

SlotTable::Kept SlotTable::EndPrefill(Kept chosen) {
  const bool was_dense = std::exchange(prefill_, Prefill::kNone) == Prefill::kUnderWay;
  prefill_before_ = prefill_;
  rolled_back_ = false;
  if (!was_dense) return nullptr;
  if (chosen == nullptr && policy_->TrimAfter(slots_, &keep_)) chosen = &keep_;
  if (chosen != nullptr) Keep(*chosen);
  return chosen;
}

SlotTable SlotTable::Fork(int64_t tokens) const {
  HAWSER_CHECK(chunk_ == 0 && prefill_ == Prefill::kNone && (tokens == seen() || (tokens < seen() && holds_all())));
  SlotTable fork(policy_, dense_.window, far_from_, two_phases_);
  fork.first_ = first_;
  fork.Restore({slots_.begin(), slots_.begin() + (tokens < seen() ? tokens - first_ : size())}, counters_);
  fork.counters_.seen = tokens;
  return fork;
}

void SlotTable::Truncate(int64_t tokens) {
  HAWSER_CHECK(holds_all() && chunk_ == 0 && tokens >= first_ && tokens <= seen());
  slots_.resize(static_cast<size_t>(tokens - first_));
  counters_.seen = tokens;
  rolled_back_ = false;
}

void SlotTable::Reset() {
  slots_.clear();
  chunk_ = 0;
  prefill_ = Prefill::kNone;
  rolled_back_ = false;
  counters_ = {.seen = first_};
}

void SlotTable::Follow(int64_t tokens) {
  HAWSER_CHECK(seen() == 0 && tokens >= 0);
  counters_.seen = first_ = tokens;
}

void SlotTable::Restore(std::vector<SlotInfo> slots, const Counters& counters) {
  slots_ = std::move(slots);
  counters_ = counters;
}

}  // namespace hawser
