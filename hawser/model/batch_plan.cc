#include "hawser/model/batch_plan.h"

#include <algorithm>

#include "hawser/base/error.h"
#include "hawser/model/fold_rules.h"

namespace hawser {
namespace {

/// Errors: kUsage.
void CheckSizes(const Batch& batch) {
  const int64_t rows = batch.rows();
  const auto same = [&](size_t n) { return static_cast<int64_t>(n) == rows; };
  if (rows == 0) Fail(ErrorKind::kUsage, "a batch needs at least one token");
  if (!same(batch.positions.size()) || !same(batch.targets.size()) || !same(batch.weights.size())) {
    Fail(ErrorKind::kUsage, "batch of {} ids has {} positions, {} targets, {} weights", rows, batch.positions.size(),
         batch.targets.size(), batch.weights.size());
  }
  if (!batch.reference.empty() && !same(batch.reference.size())) {
    Fail(ErrorKind::kUsage, "batch of {} ids has references of {} rows", rows, batch.reference.size());
  }
  const size_t extra = batch.extra_rows.size();
  if (batch.extra_targets.size() != extra || batch.extra_weights.size() != extra) {
    Fail(ErrorKind::kUsage, "batch of {} extra rows has {} extra targets, {} extra weights", extra,
         batch.extra_targets.size(), batch.extra_weights.size());
  }
  for (size_t e = 0; e < extra; ++e) {
    const int32_t row = batch.extra_rows[e], least = e == 0 ? 0 : batch.extra_rows[e - 1];
    if (row >= least && row < rows) continue;
    Fail(ErrorKind::kUsage, "extra target {} is of row {}, wanted an ascending row in [{}, {})", e, row, least, rows);
  }
}

}  // namespace

BatchPlan::BatchPlan(const ModelSpec* spec) : spec_(*spec) {
  for (int32_t layer = 0; layer < spec_.layers; ++layer) {
    rotation_of_.push_back(Rotates(spec_, layer) ? RotationBy(RopeOf(spec_, layer)) : -1);
  }
  if (spec_.places == Places::kAlibi) {
    AlibiSpec alibi = spec_.alibi;
    if (alibi.bf16) alibi.multiplier = 1;  // behind the rounding (BlockContext::Shape)
    slopes_ = AlibiSlopes(alibi, spec_.heads);
  }
}

int32_t BatchPlan::RotationBy(const RopeSpec& rope) {
  const auto same = std::ranges::find(rotations_, &rope, &Rotation::rope);
  const auto index = static_cast<int32_t>(same - rotations_.begin());
  if (same == rotations_.end()) {
    rotations_.push_back({.rope = &rope, .frequencies = ComputeFrequencies(rope, spec_.context)});
  }
  return index;
}

StepStats BatchPlan::Compile(const Batch& batch, const KeyBank* bank) {
  CheckSizes(batch);
  const int64_t rows = batch.rows();
  patterns_ = PatternsOfLayers(batch.pattern, spec_.layers, OwnPattern(spec_));
  const size_t distinct = patterns_.distinct.size();
  schedules_.assign(distinct, {});
  sequences_.assign(distinct, {});
  StepStats stats;
  int64_t next = 0, keys = 0;
  std::vector<int64_t> visible(distinct), key_begins;
  for (const Batch::Sequence& sequence : batch.sequences) {
    if (sequence.begin != next) {
      Fail(ErrorKind::kUsage, "batch sequence begins at row {}, wanted {}", sequence.begin, next);
    }
    key_begins.push_back(keys);
    next += sequence.layout.size - sequence.before;
    keys += sequence.layout.size + sequence.behind;
    stats.causal_pairs += static_cast<int64_t>(sequence.layout.size) * (sequence.layout.size + 1) / 2;
  }
  for (size_t p = 0; p < distinct; ++p) {
    schedules_[p].reserve(batch.sequences.size());
    for (size_t b = 0; b < batch.sequences.size(); ++b) {
      const Batch::Sequence& sequence = batch.sequences[b];
      AttnPattern pattern = patterns_.distinct[p];
      if (sequence.stem > 0) {
        pattern.scope = Scope::kDocument;
        pattern.anchors = sequence.stem;
      }
      schedules_[p].push_back(CompileSchedule(pattern, sequence.layout, sequence.layout.size - sequence.before));
      sequences_[p].push_back({sequence.begin, key_begins[b], &schedules_[p].back()});
      visible[p] += schedules_[p].back().visible_pairs;
    }
  }
  for (const size_t p : patterns_.of_layer) stats.visible_pairs += visible[p];
  stats.visible_pairs /= spec_.layers;
  if (next != rows) Fail(ErrorKind::kUsage, "batch sequences cover {} rows of {}", next, rows);
  CheckBank(bank, rows, keys);
  positions_ = batch.positions;
  if (spec_.segments.places > 0) PlaceSegments(batch);
  for (Rotation& rotation : rotations_) FillRotation(batch, &rotation);
  if (spec_.rope.fold.active()) FoldBatch(batch);
  if (!slopes_.empty()) row_places_.assign(positions_.begin(), positions_.end());
  return stats;
}

/// Without a bank keys are those of the rows.
void BatchPlan::CheckBank(const KeyBank* bank, int64_t rows, int64_t keys) const {
  if (bank == nullptr || bank->keys() == 0) {
    HAWSER_CHECK(keys == rows);
    return;
  }
  HAWSER_CHECK(bank->keys() == keys && slopes_.empty() && spec_.segments.places == 0 && !spec_.rope.fold.active());
  for (const Rotation& rotation : rotations_) HAWSER_CHECK(!DependsOnLength(*rotation.rope));
}

void BatchPlan::FillRotation(const Batch& batch, Rotation* rotation) const {
  const size_t half = rotation->frequencies.inv_freq.size();
  rotation->cos.resize(static_cast<size_t>(batch.rows()) * half);
  rotation->sin.resize(rotation->cos.size());
  rotation->query_scale.clear();
  if (const QueryScale& scale = rotation->rope->query_scale) {
    for (const int64_t position : positions_) rotation->query_scale.push_back(scale.At(position));
  }
  FillTables(batch, *rotation, /*far=*/false, rotation->cos.data(), rotation->sin.data());
}

/// cos, sin [N, half] of rows, or of rows as queries of far keys. Frequencies that depend on the length are those of
/// each sequence's own.
void BatchPlan::FillTables(const Batch& batch, const Rotation& rotation, bool far, float* cos, float* sin) const {
  const auto half = static_cast<int64_t>(rotation.frequencies.inv_freq.size());
  std::vector<int64_t> far_positions;
  for (const int64_t position : positions_) {
    if (far) far_positions.push_back(rotation.rope->fold.FarPosition(position));
  }
  const std::vector<int64_t>& at = far ? far_positions : positions_;
  if (!DependsOnLength(*rotation.rope)) {
    FillRopeTable(rotation.frequencies, at.data(), batch.rows(), cos, sin);
    return;
  }
  for (const Batch::Sequence& sequence : batch.sequences) {
    const int64_t* first = positions_.data() + sequence.begin;
    int64_t length = 1;
    for (int32_t k = 0; k < sequence.layout.size; ++k) {
      if (!sequence.layout.IsPadding(k)) length = std::max(length, first[k] + 1);
    }
    FillRopeTable(ComputeFrequencies(*rotation.rope, length), at.data() + sequence.begin, sequence.layout.size,
                  cos + sequence.begin * half, sin + sequence.begin * half);
  }
}

/// Marks far keys in the schedules, and rotates the queries of these, in the layers that fold distances.
void BatchPlan::FoldBatch(const Batch& batch) {
  const RopeFold& fold = spec_.rope.fold;
  CheckFold(spec_, batch.pattern);
  bool far = false;
  for (std::vector<AttnSchedule>& of_pattern : schedules_) {
    for (size_t b = 0; b < batch.sequences.size(); ++b) {
      AttnSchedule& schedule = of_pattern[b];
      const auto first = positions_.begin() + batch.sequences[b].begin;
      SplitFar(fold.shift, {first, first + schedule.num_keys}, &schedule);
      far = far || schedule.has_far();
    }
  }
  for (Rotation& rotation : rotations_) {
    const size_t table = far && rotation.rope->fold.active() ? rotation.cos.size() : 0;
    rotation.far_cos.resize(table);
    rotation.far_sin.resize(table);
    if (table > 0) FillTables(batch, rotation, /*far=*/true, rotation.far_cos.data(), rotation.far_sin.data());
  }
}

/// Bilevel positions, from the start of each sequence.
void BatchPlan::PlaceSegments(const Batch& batch) {
  places_.clear();
  for (const Batch::Sequence& sequence : batch.sequences) {
    SegmentCounter counter;
    for (int64_t row = sequence.begin; row < sequence.begin + sequence.layout.size; ++row) {
      positions_[static_cast<size_t>(row)] = counter.segment;
      places_.push_back(counter.Row(spec_.segments));
      counter.Pass(spec_.segments, batch.ids[static_cast<size_t>(row)]);
    }
  }
}

const BatchPlan::Rotation* BatchPlan::RotationOf(int32_t layer) const {
  const int32_t index = rotation_of_[static_cast<size_t>(layer)];
  return index < 0 ? nullptr : &rotations_[static_cast<size_t>(index)];
}

void BatchPlan::FillPositions(int32_t layer, BlockContext* context) const {
  if (const Rotation* rotation = RotationOf(layer)) context->rope = rotation->rope;
  if (!slopes_.empty()) context->slopes = slopes_.data();
}

void BatchPlan::Fill(int32_t layer, BlockContext* context) const {
  FillPositions(layer, context);
  if (const Rotation* rotation = RotationOf(layer)) {
    context->cos = rotation->cos.data();
    context->sin = rotation->sin.data();
    context->query_scale = rotation->query_scale.data();
    if (!rotation->far_cos.empty()) {
      context->far_cos = rotation->far_cos.data();
      context->far_sin = rotation->far_sin.data();
    }
  }
  if (!slopes_.empty()) context->places = row_places_.data();
  context->sequences = sequences_[patterns_.of_layer[static_cast<size_t>(layer)]];
}

int64_t BatchPlan::bytes() const {
  int64_t sum = 0;
  for (const Rotation& rotation : rotations_) {
    sum += static_cast<int64_t>((rotation.cos.size() + rotation.sin.size()) * sizeof(float));
  }
  return sum;
}

}  // namespace hawser
