// model/batch_plan.h - what a batch (model/decoder.h) is to each layer: what its rows see, and where they stand.
#pragma once

#include <cstdint>
#include <vector>

#include "hawser/attn/schedule.h"
#include "hawser/model/block.h"
#include "hawser/model/decoder.h"
#include "hawser/model/spec.h"
#include "hawser/pos/scheme.h"

namespace hawser {

class BatchPlan {
 public:
  /// `spec` outlives it.
  explicit BatchPlan(const ModelSpec* spec);

  /// Checks a batch and compiles its schedules, rotations and places; of the result only pairs are set. `bank`: of the
  /// passes that hand keys to one another, or null. Errors: kUsage, those of schedules and folds.
  StepStats Compile(const Batch& batch, const KeyBank* bank);
  /// Rope and slopes of a layer, which hang on no batch.
  void FillPositions(int32_t layer, BlockContext* context) const;
  /// The same, and what the last batch is in it.
  void Fill(int32_t layer, BlockContext* context) const;
  /// Of rows in their segments; empty where the model counts none.
  const std::vector<int32_t>& places() const { return places_; }
  int64_t bytes() const;  // of rotations

 private:
  /// The rotations of a batch by one rope; layers share it.
  struct Rotation {
    const RopeSpec* rope;
    RopeFrequencies frequencies;
    std::vector<float> cos, sin;
    std::vector<float> query_scale;       // [N], where the rope has one
    std::vector<float> far_cos, far_sin;  // of the queries of far keys; empty: there are none
  };

  int32_t RotationBy(const RopeSpec& rope);
  const Rotation* RotationOf(int32_t layer) const;
  void CheckBank(const KeyBank* bank, int64_t rows, int64_t keys) const;
  void FillRotation(const Batch& batch, Rotation* rotation) const;
  void FillTables(const Batch& batch, const Rotation& rotation, bool far, float* cos, float* sin) const;
  void FoldBatch(const Batch& batch);
  void PlaceSegments(const Batch& batch);

  const ModelSpec& spec_;
  std::vector<Rotation> rotations_;
  std::vector<int32_t> rotation_of_;  // [L] in rotations_; -1: the layer does not rotate
  std::vector<float> slopes_;         // [H] of ALiBi, else empty
  std::vector<int32_t> row_places_;   // [N] that they count with
  std::vector<int64_t> positions_;    // of a batch, as rotations count them
  std::vector<int32_t> places_;       // of its rows in their segments (bilevel positions)
  LayerPatterns patterns_;
  std::vector<std::vector<AttnSchedule>> schedules_;  // one list a pattern, one schedule a sequence
  std::vector<std::vector<AttnSequence>> sequences_;
};

}  // namespace hawser
