// model/kv_group.h - the keys and values of those layers of one sequence that share a policy, and so one slot table.
// Rotary attention knows differences of positions only, so kRank counts ranks from an origin of its own: slot r stands
// at origin + r. A trim may then either move the rows behind a gap down, or move the rows before it up and the origin
// with them; the cheaper way is taken, and the same rows that move are the ones rotated again (always from their raw
// keys). A stream that drops one key a token so moves and rotates its few initial tokens, not its window.
// Keys and values may be stored as Q8_0 (base/q8.h). Each row is quantised once, when it comes: where keys move (kRank)
// only their raw rows are kept, and they are rotated whenever attention reads them, from the table of all places.
// Where the frequencies follow the stream (dynamic scaling), raw keys are kept too, and all are rotated again when the
// frequencies change: past the original context, with every token, or once for a prompt.
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

/// The part of a KvCache (model/kv_cache.h) that one policy rules. The calls come in the order of a chunk: Prepare,
/// Begin, Append for each layer, End.
class KvGroup {
 public:
  /// `spec`: with the rope and places of these layers. `own_window`: of the model itself in them. `dtype`: of queries
  /// and of keys and values as they come; `stored`: F32, BF16 or Q8_0. `max_length`: as that of KvCache. Errors:
  /// kUnsupported (KvPositions::kCacheLength with frequencies that follow the stream, or without rotations but with
  /// biases).
  KvGroup(Backend* backend, const ModelSpec& spec, std::unique_ptr<KvPolicy> policy, int32_t num_layers,
          int32_t own_window, DType dtype, DType stored, int64_t max_length);

  const KvPolicy& policy() const { return *policy_; }
  std::span<const SlotInfo> slots() const { return slots_; }
  int64_t bytes() const;  // of keys and values, and of the rotations of keys that are stored without one
  KvUsage usage() const;

  /// Trims if the policy wants it now; returns how many of the coming tokens one causal call may hold.
  int64_t Prepare(std::span<const SlotInfo> coming);
  /// Takes slots for the chunk, whose tokens stand at `positions` where positions are true ones. Afterwards cos() and
  /// sin() hold the rotations of its queries, and schedule() what they see.
  void Begin(std::span<const SlotInfo> chunk, std::span<const int64_t> positions);
  const float* cos() const { return cos_.data(); }
  const float* sin() const { return sin_.data(); }
  const float* query_scale() const { return query_scale_.data(); }
  const AttnSchedule& schedule() const { return schedule_; }
  bool needs_schedule() const { return needs_schedule_; }
  void Append(int32_t layer, ConstMat k, ConstMat v);
  ConstMat Keys(int32_t layer) const;
  ConstMat Values(int32_t layer) const;
  KeyRotation rotation() const;
  /// Where queries of the chunk and keys stand, for a bias of scores (ALiBi); null in other models.
  const int32_t* query_places() const { return places_.empty() ? nullptr : &places_[slots_.size() - chunk_]; }
  const int32_t* key_places() const { return places_.empty() ? nullptr : places_.data(); }
  void End();
  /// Instead of End: the chunk never came, a trim before it apart.
  void Abandon();

  /// A group of its own with the same rows, policy and figures, or where holds_all() with the first `tokens` alone.
  /// Between chunks.
  KvGroup Fork(int64_t tokens) const;

  /// Nothing that was seen has been dropped, and every key stands where it first did.
  bool holds_all() const { return !grows_ && static_cast<int64_t>(slots_.size()) == seen_; }
  /// Forgets what came behind the first `tokens`; where holds_all() alone.
  void KeepFirst(int64_t tokens);

  void BeginPrefill(int64_t tokens);
  void EndPrefill();
  void Reset();

  /// Fills the rows of all slots from [slots, columns] elements each: values, and keys as they are kept (raw where they
  /// may turn). EndRestore once after all layers.
  void Restore(int32_t layer, std::span<const std::byte> keys, std::span<const std::byte> values);
  void EndRestore();

 private:
  friend class KvStateIo;  // model/kv_state.cc saves and restores what follows

  struct Layer {
    Matrix raw, rotated, values;  // [capacity, columns]; raw only if keeps_raw, rotated not if rotates_on_reading
  };
  enum class Prefill : uint8_t { kNone, kComing, kUnderWay };  // of a dense prompt
  void Keep(const std::vector<int32_t>& keep);
  bool rank() const { return policy_->positions() == KvPositions::kRank; }
  bool rotates() const { return spec_.places == Places::kRope; }
  bool keeps_raw() const { return rotates() && (rank() || grows_); }
  /// Keys are stored raw only.
  bool rotates_on_reading() const { return keeps_raw() && stored_ == DType::kQ8_0; }
  int64_t columns() const;  // of a stored row
  Matrix& KeptKeys(Layer& layer) const { return keeps_raw() ? layer.raw : layer.rotated; }
  const Matrix& KeptKeys(const Layer& layer) const { return keeps_raw() ? layer.raw : layer.rotated; }
  void Store(ConstMat from, Mat to);
  void Rotate(Mat keys, const float* cos, const float* sin);
  void Turn(int64_t begin, int64_t count);
  int64_t Reach(int64_t tokens) const;
  void SetLength(int64_t length);
  void Grow(int64_t length);
  void FillRotations();
  void FillPlaces();
  void Reserve(int64_t slots);
  void Place(int64_t capacity);
  void Account();

  Backend* backend_;
  ModelSpec spec_;
  std::unique_ptr<KvPolicy> policy_;
  int64_t max_length_;
  AttnPattern pattern_;    // the policy's, and the model's own sliding window
  AttnPattern dense_;      // the model's own window alone
  int32_t policy_window_;  // the policy's alone
  DType dtype_, stored_;
  bool grows_ = false;  // the frequencies follow the stream
  int64_t length_ = 0;  // that they are for
  RopeFrequencies frequencies_;
  std::vector<Layer> layers_;
  int64_t capacity_ = 0;  // rows of each matrix
  int64_t base_ = 0;      // row of slot 0
  int64_t origin_ = 0;    // position of slot 0 (kRank)
  std::vector<SlotInfo> slots_;
  int32_t chunk_ = 0;  // slots at the end that belong to the chunk under way
  int64_t held_ = 0;   // slots when the chunk came, before any trim
  Prefill prefill_ = Prefill::kNone;
  int64_t seen_ = 0;
  double stored_sum_ = 0, seen_sum_ = 0;
  int64_t steps_ = 0, peak_ = 0;
  std::vector<float> cos_, sin_;
  std::vector<float> query_scale_;
  std::vector<int32_t> places_;  // of all slots; only with a bias of scores
  TokenLayout layout_;
  AttnSchedule schedule_;
  bool needs_schedule_ = false;
  std::vector<int32_t> keep_;  // scratch, kept so that a token allocates nothing
  std::vector<int64_t> positions_;
  std::vector<float> moved_cos_, moved_sin_;
  std::vector<float> row_cos_, row_sin_;  // [capacity, half] of rows (rotates_on_reading): at kRank of every one
  Matrix rotating_;                       // [at least chunk, G*D] keys on their way to Q8_0
};

}  // namespace hawser
