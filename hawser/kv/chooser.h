// kv/chooser.h - which keys of a layer stay where its queries decide. A form of this kind is one KeyChooser: it is
// shown the queries of a prompt (or of every step) and scores the keys that are held; those with the greatest scores
// stay.
//   snapkv.cc    SnapKV, arXiv:2404.14469            tova.cc   TOVA, arXiv:2401.06104
//   expected.cc  Expected Attention, arXiv:2510.00636
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hawser/kv/form.h"
#include "hawser/ops/backend.h"
#include "hawser/pos/scheme.h"

namespace hawser {

/// The attention whose keys are chosen.
struct ChooserShape {
  int32_t heads = 0, kv_heads = 0, head_dim = 0;  // H, G, D
  float scale = 0, cap = 0;                       // of scores, as in AttnShape

  int32_t group() const { return heads / kv_heads; }  // query heads that read one head of keys
};

/// The queries of the tokens of a chunk.
struct ChunkQueries {
  Backend* backend = nullptr;
  ConstMat q;         // [n, H*D], not rotated
  int64_t first = 0;  // place of the first in the stream
  RopeArgs rope;      // how they are rotated, x aside; half 0: not at all

  /// All of them, or the last `count` rotated: [rows][H*D].
  std::vector<float> Plain() const;
  std::vector<float> Rotated(int64_t count) const;
};

/// What a layer holds, S slots, and how the queries to come will be rotated.
struct HeldRows {
  Backend* backend = nullptr;
  ConstMat keys, values;                         // [S, G*D] F32; keys are rotated
  const RopeFrequencies* frequencies = nullptr;  // null: nothing is rotated
  RopePairing pairing = RopePairing::kHalf;
  const QueryScale* query_scale = nullptr;  // null: queries do not grow
  int64_t seen = 0;                         // place of the next query
};

class KeyChooser {
 public:
  virtual ~KeyChooser() = default;

  /// A chunk's queries; then Commit, or RollBack: they never came.
  virtual void Observe(const ChunkQueries& queries) = 0;
  virtual void Commit() = 0;
  virtual void RollBack() = 0;
  /// Forgets what was observed: another prompt begins.
  virtual void Clear() = 0;

  /// Of each slot [S], for each head of keys, or once where all of them keep the same. Infinite: always stays. The last
  /// slots are the tokens that were observed last.
  virtual std::vector<std::vector<float>> Scores(const HeldRows& held) const = 0;
};

/// Null for forms whose queries choose nothing.
std::unique_ptr<KeyChooser> MakeKeyChooser(const KvForm& form, const ChooserShape& shape);
std::unique_ptr<KeyChooser> MakeChooser(const KvSnap& form, const ChooserShape& shape);
std::unique_ptr<KeyChooser> MakeChooser(const KvTova& form, const ChooserShape& shape);
std::unique_ptr<KeyChooser> MakeChooser(const KvExpected& form, const ChooserShape& shape);

/// The `count` slots with the greatest scores, ascending; of equal ones the first. A NaN is below everything.
std::vector<int32_t> GreatestSlots(std::span<const float> scores, int64_t count);

/// The last queries of a stream, rotated.
class RecentQueries {
 public:
  explicit RecentQueries(int64_t most) : most_(most) {}
  void Observe(const ChunkQueries& queries);
  void Commit();
  void RollBack() { coming_.clear(); }
  void Clear();

  int64_t rows() const { return columns_ == 0 ? 0 : static_cast<int64_t>(queries_.size()) / columns_; }
  /// What each of them reads of the keys: softmax(scale q k), capped where scores are; a query sees the slots up to its
  /// own, which are the last. [heads][S], the mean over the queries. None without queries.
  std::vector<std::vector<float>> MeanWeights(const ChooserShape& shape, const HeldRows& held) const;

 private:
  int64_t most_, columns_ = 0;
  std::vector<float> queries_, coming_;  // [rows][H*D]
};

}  // namespace hawser
