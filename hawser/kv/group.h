// kv/group.h - the keys and values of those layers of one sequence that share a policy: a slot table, the rows of its
// slots, and how keys are rotated.
// Rotary attention knows differences of positions only, so kRank counts ranks from an origin of its own: slot r stands
// at origin + r. A trim may then either move the rows behind a gap down, or move the rows before it up and the origin
// with them; the cheaper way is taken, and the same rows that move are the ones rotated again (always from their raw
// keys). A stream that drops one key a token so moves and rotates its few initial tokens, not its window.
// Keys and values may be stored as Q8_0 (base/q8.h). Each row is quantised once, when it comes: where keys move (kRank)
// only their raw rows are kept, and they are rotated whenever attention reads them, from the table of all places.
// Where the frequencies follow the stream (dynamic scaling), raw keys are kept too, and all are rotated again when the
// frequencies change: past the original context, with every token, or once for a prompt.
// Where queries choose keys (kv/chooser.h) a group is one layer. Heads that choose each for itself keep as many keys: a
// row then holds another token for each of them, which attention cannot tell, as every key is rotated.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "hawser/attn/schedule.h"
#include "hawser/kv/chooser.h"
#include "hawser/kv/pages.h"
#include "hawser/kv/shape.h"
#include "hawser/kv/slots.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// The part of a KvCache (kv/cache.h) that one policy rules. The calls come in the order of a chunk: Prepare, Begin,
/// Append for each layer, then End or RollBack.
class KvGroup {
 public:
  /// `layer`: what these layers have in common. `stored`: F32, BF16 or Q8_0. `max_length`: as that of KvCache. Errors:
  /// kUnsupported (KvPositions::kCacheLength with frequencies that follow the stream, or without rotations but with
  /// biases).
  KvGroup(Backend* backend, const KvShape& shape, const KvLayerShape& layer, std::shared_ptr<const KvPolicy> policy,
          int32_t num_layers, DType stored, int64_t max_length);

  const SlotTable& table() const { return table_; }
  const KvLayerShape& layer() const { return layer_; }
  int64_t bytes() const;  // of keys and values, and of the rotations of keys that are stored without one
  /// The most of them while a prompt of so many tokens comes, and then `more` single ones.
  int64_t BytesFor(int64_t prompt, int64_t more) const;
  /// visit(memory, bytes): what groups share has the same address.
  void VisitMemory(const std::function<void(const void*, int64_t)>& visit) const;

  /// Trims if the policy wants it now; returns how many of the coming tokens one causal call may hold.
  int64_t Prepare(std::span<const SlotInfo> coming);
  /// Takes slots for the chunk, whose tokens stand at `positions` where positions are true ones. Afterwards cos() and
  /// sin() hold the rotations of its queries.
  void Begin(std::span<const SlotInfo> chunk, std::span<const int64_t> positions);
  const float* cos() const { return cos_.data(); }
  const float* sin() const { return sin_.data(); }
  const float* query_scale() const { return query_scale_.data(); }  // where the rope has one
  /// Of the queries of far keys; null where the chunk sees none.
  const float* far_cos() const { return far_cos_.empty() ? nullptr : far_cos_.data(); }
  const float* far_sin() const { return far_cos_.empty() ? nullptr : far_sin_.data(); }
  void Append(int32_t layer, ConstMat k, ConstMat v);
  /// The queries of the chunk [n, H*D], not rotated, and what they are multiplied by [n], or null: read where they
  /// choose keys.
  void Observe(ConstMat q, const float* query_scale);
  KvRows Keys(int32_t layer) const { return pages_.Rows(Tensor(layer, kinds_ - 1)); }
  KvRows Values(int32_t layer) const { return pages_.Rows(Tensor(layer, kValues)); }
  KeyRotation rotation() const;
  /// Where queries of the chunk and keys stand, for a bias of scores (ALiBi); null in other models.
  const int32_t* query_places() const {
    return places_.empty() ? nullptr : &places_[static_cast<size_t>(table_.size() - table_.chunk())];
  }
  const int32_t* key_places() const { return places_.empty() ? nullptr : places_.data(); }
  void End();
  void RollBack();

  /// A group of its own that has seen the same, or where holds_all() the first `tokens` alone. Rows are shared until
  /// one of both writes. Between chunks.
  KvGroup Fork(int64_t tokens) const;

  /// Nothing that was seen has been dropped, and every key stands where it first did.
  bool holds_all() const { return !grows_ && table_.holds_all(); }
  /// Forgets what came behind the first `tokens`; where holds_all() alone.
  void Truncate(int64_t tokens);
  /// Of a group that has seen nothing: its tokens stand behind `tokens` others.
  void Follow(int64_t tokens) { table_.Follow(tokens); }

  void BeginPrefill(int64_t tokens);
  void EndPrefill();
  void Reset();

  /// Place in the stream of what a head of keys holds in a slot: that of table().slots(), but where heads chose keys
  /// each for itself. Then the slots before own_places() are of the first head.
  int64_t PlaceOf(int32_t head, int64_t slot) const {
    return slot < own_places() ? head_places_[static_cast<size_t>(head)][static_cast<size_t>(slot)]
                               : table_.slots()[static_cast<size_t>(slot)].index;
  }
  int64_t own_places() const { return head_places_.empty() ? 0 : static_cast<int64_t>(head_places_.front().size()); }

  // Saving. Keys are those that are kept: raw where they may turn.
  bool two_phases() const { return two_phases_; }  // ranks with keys that stay at their places
  bool grows() const { return grows_; }            // the frequencies follow the stream, and
  int64_t length() const { return length_; }       // are those of this length
  int64_t origin() const { return origin_; }
  int64_t columns() const { return columns_; }  // of a row; Q8_0: bytes
  DType stored() const { return stored_; }
  void Download(int32_t layer, std::byte* keys, std::byte* values) const;
  /// A group that has seen nothing takes these slots and room for their rows; then Upload for each layer, EndRestore.
  void Restore(std::vector<SlotInfo> slots, const SlotTable::Counters& counters, int64_t origin, int64_t length,
               std::vector<std::vector<int64_t>> head_places = {});
  void Upload(int32_t layer, std::span<const std::byte> keys, std::span<const std::byte> values);
  /// Rotates the keys that were uploaded to their places, where they came without; with two phases.
  void PlaceKeys(int32_t layer);
  void EndRestore();

 private:
  KvGroup(const KvGroup& other, int64_t tokens);

  // The rows of a slot in a layer: values, keys as they are kept, and where those are raw and not rotated on reading,
  // rotated ones.
  enum Kind : int32_t { kValues, kKept, kRotated };
  int32_t Tensor(int32_t layer, int32_t kind) const { return layer * kinds_ + kind; }
  /// Keys stand at the numbers of their slots, and move with them.
  bool rank() const { return table_.policy().positions() == KvPositions::kRank && !two_phases_; }
  bool rotates() const { return layer_.rope.has_value(); }
  bool keeps_raw() const { return rotates() && (rank() || grows_); }
  /// Keys are stored raw only.
  bool rotates_on_reading() const { return keeps_raw() && stored_ == DType::kQ8_0; }
  /// f(begin, count) for runs of slots that lie together.
  template <class F>
  void ForRuns(int64_t begin, int64_t count, F&& f) const;
  std::unique_ptr<KeyChooser> NewChooser() const;
  /// Finds what stays once `seen` tokens were; null: all.
  SlotTable::Kept Choose(int64_t seen);
  void Keep(SlotTable::Kept kept);
  /// Keys or values of a layer in F32, keys rotated; `hold` is their memory where they are stored otherwise.
  ConstMat WideRows(int32_t tensor, Matrix* hold);
  void Store(ConstMat from, Mat to);
  void Rotate(Mat keys, const float* cos, const float* sin);
  void Turn(int64_t begin, int64_t count);
  void TurnAll();
  int64_t Reach(int64_t tokens) const;
  void SetLength(int64_t length);
  void Grow(int64_t length);
  void FillRotations();
  void FillPlaces();
  void FillFar();

  Backend* backend_;
  KvShape shape_;  // without its layers
  KvLayerShape layer_;
  int32_t num_layers_;
  int64_t max_length_;
  DType stored_;
  bool grows_, two_phases_;
  SlotTable table_;
  int64_t length_ = 0;
  RopeFrequencies frequencies_;
  int32_t kinds_;
  int64_t columns_;
  KvPages pages_;
  std::unique_ptr<KeyChooser> chooser_;            // null: queries choose nothing
  bool queries_grow_ = false;                      // those of the last chunk did
  std::vector<std::vector<int32_t>> chosen_;       // slots that stay, of all heads or of each
  std::vector<std::vector<int64_t>> head_places_;  // [G][slots that were chosen]; empty: nothing was, by heads
  std::vector<int32_t> moved_tensors_;             // whose rows a trim moves; the others are made again
  int64_t origin_ = 0;                             // position of slot 0 (kRank)
  int64_t length_before_ = 0;                      // the chunk under way
  std::vector<float> cos_, sin_;
  std::vector<float> query_scale_;
  std::vector<float> far_cos_, far_sin_;  // empty: the chunk sees no far key
  std::vector<int32_t> places_;           // of all slots; only with a bias of scores
  std::vector<int64_t> positions_;        // scratch, kept so that a token allocates nothing
  std::vector<float> moved_cos_, moved_sin_;
  std::vector<float> row_cos_, row_sin_;  // [capacity, half] of rows (rotates_on_reading): at kRank of every one
  Matrix rotating_;                       // [at least chunk, G*D] keys on their way to Q8_0
};

}  // namespace hawser
