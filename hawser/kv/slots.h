// kv/slots.h - which tokens of a stream have a slot, under one policy: all of a cache but its memory. Whoever holds
// rows of the slots moves them as the tables say. The calls come in the order of a chunk: TrimBefore, Limit, Begin,
// then End or RollBack.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hawser/attn/schedule.h"
#include "hawser/kv/policy.h"

namespace hawser {

/// Slots of one layer, or of all: then means over layers, and `peak` and `final` of the layer that holds most. Sizes as
/// if tokens came one at a time.
struct KvUsage {
  double mean = 0;         // of the stored size after each token
  int64_t peak = 0;        // of the same sizes
  double peak_mean = 0;    // over layers; of one layer: peak
  double ratio = 0;        // sum of stored over sum of seen: what SepCache logs
  int64_t final = 0;       // stored now
  double final_mean = 0;   // over layers; of one layer: final
  double final_ratio = 0;  // stored now over seen: what the mask form of the reference prints
};

class SlotTable {
 public:
  /// What it counts, which a saved stream takes along.
  struct Counters {
    int64_t seen = 0;
    int64_t steps = 0, peak = 0;          // tokens that were counted, the most slots after any of them
    double stored_sum = 0, seen_sum = 0;  // slots, and tokens seen, after each
  };
  /// Numbers of slots that stay, ascending; null: all of them.
  using Kept = const std::vector<int32_t>*;

  /// `own_window`: of the model itself, in tokens; AttnPattern::kAll: none. `far_from`: a key is far so many tokens
  /// before its query, or more (pos/fold.h); 0: none is. `two_phases`: ranks by way of two queries
  /// (KvPolicy::two_phases), so that keys stay at their places; then the first tokens are far where some that came
  /// between were dropped.
  SlotTable(std::shared_ptr<const KvPolicy> policy, int32_t own_window, int64_t far_from = 0, bool two_phases = false);

  const KvPolicy& policy() const { return *policy_; }
  std::span<const SlotInfo> slots() const { return slots_; }
  int64_t size() const { return static_cast<int64_t>(slots_.size()); }
  int64_t seen() const { return counters_.seen; }
  int32_t chunk() const { return chunk_; }  // slots at the end that belong to the chunk under way
  /// Slots when the chunk under way came, before any trim.
  int64_t held_before() const { return held_; }
  const Counters& counters() const { return counters_; }
  KvUsage usage() const;
  /// Nothing that was seen has been dropped.
  bool holds_all() const { return size() == seen() - first_; }
  /// Of a table that has seen nothing: the slots to come stand behind `tokens` others, which have none.
  void Follow(int64_t tokens);
  int64_t first() const { return first_; }

  /// What goes before a chunk that begins with `next`.
  Kept TrimBefore(const SlotInfo& next);
  /// How many of the coming tokens, at least one, a causal call may hold.
  int64_t Limit(std::span<const SlotInfo> coming);
  void Begin(std::span<const SlotInfo> chunk);
  /// False when the chunk is one token that sees every slot; else schedule() is what its tokens see.
  bool needs_schedule() const { return needs_schedule_; }
  const AttnSchedule& schedule() const { return schedule_; }
  /// Slots that are far for the newest token: the first ones. Which are far for others schedule() marks.
  int32_t far_slots() const { return far_slots_; }
  /// With two phases: the ranks of the chunk's tokens, at which they see far keys.
  std::span<const int64_t> ranks() const { return ranks_; }
  /// The chunk was attended; returns what stays of all slots. `chosen`: what does where queries choose; null: all.
  Kept End(Kept chosen = nullptr);
  /// The chunk never came. What went before it stays away: the same goes before any other that comes.
  void RollBack();

  /// The chunks between these two are a prompt. Where the policy says prefill=dense its tokens see all that came before
  /// them in it, and all of it is held to its end.
  void BeginPrefill();
  Kept EndPrefill(Kept chosen = nullptr);
  bool inside_prompt() const { return prefill_ != Prefill::kNone; }
  /// And some of it has come.
  bool prompt_under_way() const { return prefill_ == Prefill::kUnderWay; }

  /// A table of its own that has seen the same, or where holds_all() the first `tokens` alone. Between chunks.
  SlotTable Fork(int64_t tokens) const;
  /// Forgets what came behind the first `tokens`, figures apart; where holds_all() alone.
  void Truncate(int64_t tokens);
  void Reset();
  void Restore(std::vector<SlotInfo> slots, const Counters& counters);

 private:
  enum class Prefill : uint8_t { kNone, kComing, kUnderWay };  // of a dense prompt
  void Compile();
  void FindRanks();
  void Account();
  void Keep(const std::vector<int32_t>& keep);

  std::shared_ptr<const KvPolicy> policy_;
  AttnPattern pattern_;    // the policy's, and the model's own sliding window
  AttnPattern dense_;      // the model's own window alone
  int32_t policy_window_;  // the policy's alone
  int64_t far_from_;
  bool two_phases_;
  std::vector<SlotInfo> slots_;
  int32_t chunk_ = 0;
  int64_t first_ = 0;  // tokens in front of all slots
  int64_t held_ = 0;
  bool rolled_back_ = false;  // the last chunk was
  Prefill prefill_ = Prefill::kNone, prefill_before_ = Prefill::kNone;
  Counters counters_;
  TokenLayout layout_;
  AttnSchedule schedule_;
  bool needs_schedule_ = false;
  int32_t far_slots_ = 0;
  std::vector<int64_t> ranks_;
  std::vector<int64_t> positions_;  // scratch
  std::vector<int32_t> keep_;       // kept so that a token allocates nothing
};

}  // namespace hawser
