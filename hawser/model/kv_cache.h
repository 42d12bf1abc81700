// model/kv_cache.h - the keys and values of one sequence under a policy. All layers share one slot table.
//   for each chunk: n = BeginChunk(tokens); for each layer: Append(l, k, v), attend to Keys(l), Values(l); EndChunk()
// Rotary attention knows differences of positions only, so kRank counts ranks from an origin of its own: slot r stands
// at origin + r. A trim may then either move the rows behind a gap down, or move the rows before it up and the origin
// with them; the cheaper way is taken, and the same rows that move are the ones rotated again (always from their raw
// keys). A stream that drops one key a token so moves and rotates its few initial tokens, not its window.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hawser/attn/schedule.h"
#include "hawser/model/kv_policy.h"
#include "hawser/model/spec.h"
#include "hawser/ops/backend.h"

namespace hawser {

struct KvUsage {     // slots per layer
  double mean = 0;   // of the stored size after each token, as if tokens came one at a time
  int64_t peak = 0;  // of the same sizes
  double ratio = 0;  // sum of stored over sum of seen
};

class KvCache {
 public:
  /// A model with a sliding window of its own sees through both windows, and holds what the policy keeps.
  /// `separators`: [V] flags of separator token ids (empty: none). `max_length`: the declared maximum stream length,
  /// used by schemes whose frequencies depend on it. `dtype`: of the stored keys and values.
  KvCache(Backend* backend, const ModelSpec& spec, std::unique_ptr<KvPolicy> policy, std::vector<uint8_t> separators,
          DType dtype, int64_t max_length);

  const KvPolicy& policy() const { return *policy_; }
  std::span<const SlotInfo> slots() const { return slots_; }
  int64_t seen() const { return seen_; }
  int64_t bytes() const;  // of keys and values held in memory now
  KvUsage usage() const;

  /// Trims if the policy wants it now, takes slots for as many of `tokens` as one causal call may hold (at most
  /// `limit`), and returns that number. Afterwards cos() and sin() hold the rotations of the chunk's queries,
  /// [n, rotary_dim/2] each, and schedule() what they see.
  int32_t BeginChunk(std::span<const int32_t> tokens, int32_t limit);
  const float* cos() const { return cos_.data(); }
  const float* sin() const { return sin_.data(); }
  const AttnSchedule& schedule() const { return schedule_; }  // compiled only when needs_schedule()
  /// False when the chunk is one token that sees every slot: decode without a schedule.
  bool needs_schedule() const { return needs_schedule_; }

  /// k, v [n, G*D], not rotated. Stores v, stores k raw (kRank) and rotated.
  void Append(int32_t layer, ConstMat k, ConstMat v);
  ConstMat Keys(int32_t layer) const;    // [slots, G*D], rotated
  ConstMat Values(int32_t layer) const;  // [slots, G*D]
  void EndChunk();

  /// Forgets everything; the policy stays.
  void Reset();

 private:
  struct Layer {
    Matrix raw, rotated, values;  // [capacity, G*D]; raw only for kRank
  };
  void Keep(const std::vector<int32_t>& keep);
  void Rotate(Mat keys, const float* cos, const float* sin);
  void Reserve(int64_t slots);
  void Account();

  Backend* backend_;
  ModelSpec spec_;
  std::unique_ptr<KvPolicy> policy_;
  AttnPattern pattern_;        // the policy's, and the model's own sliding window
  int32_t policy_window_ = 0;  // the policy's alone
  std::vector<uint8_t> separators_;
  DType dtype_;
  RopeFrequencies frequencies_;
  std::vector<Layer> layers_;
  int64_t capacity_ = 0;  // rows of each matrix
  int64_t base_ = 0;      // row of slot 0
  int64_t origin_ = 0;    // position of slot 0 (kRank)
  std::vector<SlotInfo> slots_;
  int32_t chunk_ = 0;  // slots at the end that belong to the chunk under way
  int64_t seen_ = 0;
  double stored_sum_ = 0, seen_sum_ = 0;
  int64_t steps_ = 0, peak_ = 0;
  std::vector<float> cos_, sin_;
  TokenLayout layout_;
  AttnSchedule schedule_;
  bool needs_schedule_ = false;
  std::vector<SlotInfo> coming_;  // scratch, kept so that a token allocates nothing
  std::vector<int32_t> keep_;
  std::vector<int64_t> positions_;
  std::vector<float> moved_cos_, moved_sin_;
};

}  // namespace hawser
