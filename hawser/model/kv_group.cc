#include "hawser/model/kv_group.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/q8.h"

namespace hawser {
namespace {

int64_t WithSpare(int64_t rows) { return rows + rows / 4 + 16; }

/// Moves `count` rows between matrices of one width and dtype, or inside one; the ranges may overlap.
void MoveRows(const Matrix& of, int64_t from, Matrix& into, int64_t to, int64_t count) {
  if (count == 0 || of.rows() == 0) return;
  const ConstMat m = of.view();
  std::memmove(into.view().Rows(to, count).data, m.Rows(from, count).data,
               static_cast<size_t>(count * m.ld) * SizeOf(m.dtype));
}

}  // namespace

KvGroup::KvGroup(Backend* backend, const ModelSpec& spec, std::unique_ptr<KvPolicy> policy, int32_t num_layers,
                 int32_t own_window, DType dtype, DType stored, int64_t max_length)
    : backend_(backend),
      spec_(spec),
      policy_(std::move(policy)),
      max_length_(max_length),
      pattern_(policy_->Pattern()),
      policy_window_(pattern_.window),
      dtype_(dtype),
      stored_(stored),
      grows_(rotates() && DependsOnLength(spec.rope) && max_length == 0),
      layers_(static_cast<size_t>(num_layers)) {
  if (grows_ && (policy_->positions() == KvPositions::kCacheLength || spec.segments.places > 0)) {
    Fail(
        ErrorKind::kUnsupported,
        "kv policy \"{}\": under rope \"{}\" keys that came earlier turn with each token, which positions=cachelen and "
        "segments do not allow; declare a length with --context",
        policy_->Name(), ToString(spec.rope));
  }
  if (spec.places == Places::kAlibi && policy_->positions() == KvPositions::kCacheLength) {
    Fail(ErrorKind::kUnsupported,
         "kv policy \"{}\": positions=cachelen counts rotations; this model has none but biases by distance (ALiBi)",
         policy_->Name());
  }
  SetLength(grows_ ? SameFrequenciesUntil(spec.rope, 1) : max_length);
  dense_.window = own_window;
  pattern_.window = std::min(pattern_.window, dense_.window);
}

int64_t KvGroup::bytes() const {
  size_t bytes = 0;
  for (const Layer& layer : layers_) bytes += layer.raw.bytes() + layer.rotated.bytes() + layer.values.bytes();
  bytes += (row_cos_.size() + row_sin_.size()) * sizeof(float);
  return static_cast<int64_t>(bytes);
}

int64_t KvGroup::columns() const {
  return spec_.kv_heads * (stored_ == DType::kQ8_0 ? Q8Bytes(spec_.head_dim) : int64_t{spec_.head_dim});
}

KvUsage KvGroup::usage() const {
  const auto stored = static_cast<int64_t>(slots_.size());
  return {.mean = steps_ > 0 ? stored_sum_ / static_cast<double>(steps_) : 0,
          .peak = peak_,
          .peak_mean = static_cast<double>(peak_),
          .ratio = seen_sum_ > 0 ? stored_sum_ / seen_sum_ : 0,
          .final = stored,
          .final_mean = static_cast<double>(stored),
          .final_ratio = seen_ > 0 ? static_cast<double>(stored) / static_cast<double>(seen_) : 0};
}

int64_t KvGroup::Prepare(std::span<const SlotInfo> coming) {
  held_ = static_cast<int64_t>(slots_.size());
  const bool inside_prompt = prefill_ == Prefill::kUnderWay;
  if (!inside_prompt && policy_->TrimBefore(slots_, coming.front(), &keep_)) Keep(keep_);
  if (prefill_ != Prefill::kNone) {
    prefill_ = Prefill::kUnderWay;
    return static_cast<int64_t>(coming.size());
  }
  const int64_t limit = policy_->ChunkLimit(slots_, coming);
  // As far as the frequencies are the same for all of them, so that chunks give what single tokens give.
  return grows_ ? std::min(limit, std::max<int64_t>(1, length_ - Reach(0))) : limit;
}

/// The length that `tokens` more need: the highest place that is taken, and one.
int64_t KvGroup::Reach(int64_t tokens) const { return (rank() ? static_cast<int64_t>(slots_.size()) : seen_) + tokens; }

void KvGroup::SetLength(int64_t length) {
  length_ = length;
  if (rotates()) frequencies_ = ComputeFrequencies(spec_.rope, length);
}

void KvGroup::Grow(int64_t length) {
  if (!grows_ || length <= length_) return;
  SetLength(SameFrequenciesUntil(spec_.rope, length));
  if (rotates_on_reading()) return FillRotations();
  Turn(0, static_cast<int64_t>(slots_.size()));
}

/// Rotates the keys of `count` slots to their places, from their raw rows.
void KvGroup::Turn(int64_t begin, int64_t count) {
  if (count == 0) return;
  positions_.resize(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    positions_[static_cast<size_t>(i)] = rank() ? origin_ + begin + i : slots_[static_cast<size_t>(begin + i)].index;
  }
  const size_t table = static_cast<size_t>(count) * frequencies_.inv_freq.size();
  moved_cos_.resize(table);
  moved_sin_.resize(table);
  FillRopeTable(frequencies_, positions_.data(), count, moved_cos_.data(), moved_sin_.data());
  for (Layer& layer : layers_) {
    const Mat rotated = layer.rotated.view().Rows(base_ + begin, count);
    backend_->Copy(layer.raw.view().Rows(base_ + begin, count), rotated);
    Rotate(rotated, moved_cos_.data(), moved_sin_.data());
  }
}

void KvGroup::Begin(std::span<const SlotInfo> chunk, std::span<const int64_t> positions) {
  const auto n = static_cast<int64_t>(chunk.size());
  const int64_t resident = static_cast<int64_t>(slots_.size());
  Grow(Reach(n));
  Reserve(resident + n);
  slots_.insert(slots_.end(), chunk.begin(), chunk.end());
  chunk_ = static_cast<int32_t>(n);

  positions_.resize(n);
  switch (policy_->positions()) {
    case KvPositions::kAbsolute:
      std::ranges::copy(positions, positions_.begin());
      break;
    case KvPositions::kRank:
      std::iota(positions_.begin(), positions_.end(), origin_ + resident);
      break;
    case KvPositions::kCacheLength:
      std::iota(positions_.begin(), positions_.end(), resident);
      positions_[0] = held_;
      break;
  }
  const size_t half = frequencies_.inv_freq.size();
  cos_.resize(n * half);
  sin_.resize(n * half);
  FillRopeTable(frequencies_, positions_.data(), n, cos_.data(), sin_.data());
  query_scale_.clear();
  if (const QueryScale& scale = spec_.rope.query_scale) {
    const int64_t first = rank() ? origin_ : 0;  // ranks count from the first slot
    for (const int64_t position : positions_) query_scale_.push_back(scale.At(position - first));
  }
  if (rotates_on_reading() && !rank()) FillRotations();
  if (spec_.places == Places::kAlibi) FillPlaces();

  // A policy drops what the next token cannot see together with the token before it, so a single token sees all that
  // is here, unless the model's own window is narrower than the policy's.
  const AttnPattern& pattern = prefill_ == Prefill::kNone ? pattern_ : dense_;
  const int32_t window = prefill_ == Prefill::kNone ? policy_window_ : AttnPattern::kAll;
  const auto hidden = [&](const SlotInfo& slot) {
    return slot.index <= slots_.back().index - pattern.window && !Pinned(pattern, slot);
  };
  needs_schedule_ = n > 1 || (pattern.window < window && std::ranges::any_of(slots_, hidden));
  if (needs_schedule_) {
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
  }
}

/// Distances are what counts: places are told from the newest token, which stands at 0. Biases in bf16 are those of
/// places themselves.
void KvGroup::FillPlaces() {
  places_.resize(slots_.size());
  const auto at = [&](size_t slot) { return rank() ? static_cast<int64_t>(slot) : slots_[slot].index; };
  const int64_t newest = at(slots_.size() - 1);
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if (spec_.alibi.bf16) {
      places_[slot] = static_cast<int32_t>(std::min<int64_t>(at(slot), INT32_MAX));
    } else {
      places_[slot] = -static_cast<int32_t>(std::min<int64_t>(newest - at(slot), INT32_MAX));
    }
  }
}

void KvGroup::Rotate(Mat keys, const float* cos, const float* sin) {
  if (!rotates()) return;
  backend_->Rope({.x = keys,
                  .heads = spec_.kv_heads,
                  .head_dim = spec_.head_dim,
                  .half = static_cast<int32_t>(frequencies_.inv_freq.size()),
                  .pairing = spec_.rope.pairing,
                  .cos = cos,
                  .sin = sin,
                  .math = spec_.rope.numerics.math});
}

void KvGroup::Append(int32_t layer, ConstMat k, ConstMat v) {
  HAWSER_CHECK(k.rows == chunk_ && v.rows == chunk_);
  Layer& to = layers_[layer];
  const int64_t row = base_ + static_cast<int64_t>(slots_.size()) - chunk_;
  Store(v, to.values.view().Rows(row, chunk_));
  if (keeps_raw()) Store(k, to.raw.view().Rows(row, chunk_));
  if (rotates_on_reading()) return;
  const Mat kept = to.rotated.view().Rows(row, chunk_);
  if (stored_ == DType::kQ8_0 && rotating_.rows() < chunk_) rotating_ = backend_->NewMatrix(chunk_, k.cols, dtype_);
  const Mat rotated = stored_ == DType::kQ8_0 ? rotating_.view().Rows(0, chunk_) : kept;
  backend_->Copy(k, rotated);
  Rotate(rotated, cos_.data(), sin_.data());
  if (stored_ == DType::kQ8_0) Store(rotated, kept);
}

void KvGroup::Store(ConstMat from, Mat to) {
  stored_ == DType::kQ8_0 ? backend_->Quantize(from, spec_.head_dim, to) : backend_->Copy(from, to);
}

ConstMat KvGroup::Keys(int32_t layer) const {
  const Matrix& keys = rotates_on_reading() ? layers_[layer].raw : layers_[layer].rotated;
  return keys.view().Rows(base_, static_cast<int64_t>(slots_.size()));
}

ConstMat KvGroup::Values(int32_t layer) const {
  return layers_[layer].values.view().Rows(base_, static_cast<int64_t>(slots_.size()));
}

KeyRotation KvGroup::rotation() const {
  if (!rotates_on_reading()) return {};
  const auto half = static_cast<int32_t>(frequencies_.inv_freq.size());
  return {.cos = row_cos_.data() + base_ * half,
          .sin = row_sin_.data() + base_ * half,
          .half = half,
          .pairing = spec_.rope.pairing};
}

void KvGroup::End() {
  HAWSER_CHECK(chunk_ > 0);
  const int32_t n = chunk_;
  Account();
  seen_ += n;
  chunk_ = 0;
  if (prefill_ == Prefill::kNone && policy_->TrimAfter(slots_, &keep_)) Keep(keep_);
  const auto stored = static_cast<int64_t>(slots_.size());
  stored_sum_ += static_cast<double>(stored);
  peak_ = std::max(peak_, stored);
}

void KvGroup::Abandon() {
  slots_.resize(slots_.size() - static_cast<size_t>(chunk_));
  chunk_ = 0;
}

KvGroup KvGroup::Fork(int64_t tokens) const {
  HAWSER_CHECK(chunk_ == 0 && prefill_ == Prefill::kNone && (tokens == seen_ || (tokens < seen_ && holds_all())));
  KvGroup fork(backend_, spec_, MakeKvPolicy(policy_->form()), static_cast<int32_t>(layers_.size()), dense_.window,
               dtype_, stored_, max_length_);
  const int64_t held = tokens < seen_ ? tokens : static_cast<int64_t>(slots_.size());
  fork.SetLength(length_);
  fork.origin_ = origin_;
  fork.Place(WithSpare(held));
  const auto copy = [&](const Matrix& from, Matrix& to) { MoveRows(from, base_, to, 0, held); };
  for (size_t l = 0; l < layers_.size(); ++l) {
    copy(layers_[l].raw, fork.layers_[l].raw);
    copy(layers_[l].rotated, fork.layers_[l].rotated);
    copy(layers_[l].values, fork.layers_[l].values);
  }
  fork.slots_.assign(slots_.begin(), slots_.begin() + held);
  fork.seen_ = tokens;
  fork.stored_sum_ = stored_sum_;
  fork.seen_sum_ = seen_sum_;
  fork.steps_ = steps_;
  fork.peak_ = peak_;
  if (fork.rotates_on_reading()) fork.FillRotations();
  return fork;
}

/// The sizes after every token of the chunk but the last: what the token after each of them still sees. (The last is
/// counted after the trim.) A policy without a pattern drops nothing inside a chunk.
void KvGroup::Account() {
  steps_ += chunk_;
  seen_sum_ += static_cast<double>(chunk_) * static_cast<double>(2 * seen_ + chunk_ + 1) / 2;
  const int64_t size = static_cast<int64_t>(slots_.size());
  int64_t dropped = 0;
  for (int64_t t = size - chunk_, first = 0; t + 1 < size; ++t) {
    if (policy_window_ != AttnPattern::kAll && prefill_ == Prefill::kNone) {
      while (slots_[first].index < slots_[t].index + 2 - policy_window_) dropped += !Pinned(pattern_, slots_[first++]);
    }
    stored_sum_ += static_cast<double>(t + 1 - dropped);
    peak_ = std::max(peak_, t + 1 - dropped);
  }
}

void KvGroup::KeepFirst(int64_t tokens) {
  HAWSER_CHECK(holds_all() && chunk_ == 0 && tokens <= seen_);
  slots_.resize(static_cast<size_t>(tokens));
  seen_ = tokens;
}

void KvGroup::BeginPrefill(int64_t tokens) {
  HAWSER_CHECK(chunk_ == 0);
  const bool bounded = rank() && policy_->MaxSlots() >= 0 && !policy_->dense_prefill();
  Grow(bounded ? std::min(Reach(tokens), policy_->MaxSlots()) : Reach(tokens));
  if (policy_->dense_prefill()) prefill_ = Prefill::kComing;
}

void KvGroup::EndPrefill() {
  const bool was_dense = std::exchange(prefill_, Prefill::kNone) == Prefill::kUnderWay;
  if (!was_dense) return;
  if (policy_->TrimAfter(slots_, &keep_)) Keep(keep_);
  // A prompt that was far larger than what is kept of it gives its memory back.
  if (const int64_t enough = WithSpare(static_cast<int64_t>(slots_.size())); 2 * enough < capacity_) Place(enough);
}

void KvGroup::Keep(const std::vector<int32_t>& keep) {
  const auto size = static_cast<int64_t>(slots_.size());
  const auto kept = static_cast<int64_t>(keep.size());
  const int64_t dropped = size - kept;
  // Slots move down by a number that grows from 0 in front of the first gap to `dropped` behind the last.
  int64_t head = 0;  // kept slots before the first gap
  while (head < kept && keep[head] == head) ++head;
  int64_t tail = kept;  // kept slots from here on are behind the last gap
  while (tail > 0 && keep[tail - 1] == tail - 1 + dropped) --tail;
  // Moving up moves what is in front of the last gap, moving down what is behind the first.
  const bool up = tail <= kept - head;
  const int64_t shift = up ? dropped : 0;
  const int64_t begin = up ? 0 : head;
  const int64_t count = up ? tail : kept - head;

  // Runs of neighbours move together; upwards the last run first, so that none is overwritten before it has moved.
  const auto move = [&](Matrix& matrix) {
    for (int64_t done = 0; done < count;) {
      int64_t first = up ? begin + count - 1 - done : begin + done;
      int64_t run = 1;
      if (up) {
        while (first > begin && keep[first - 1] + 1 == keep[first]) --first, ++run;
      } else {
        while (first + run < begin + count && keep[first + run] == keep[first] + run) ++run;
      }
      MoveRows(matrix, base_ + keep[first], matrix, base_ + shift + first, run);
      done += run;
    }
  };
  for (Layer& layer : layers_) {
    move(layer.values);
    if (keeps_raw()) move(layer.raw);
    if (!(rank() && keeps_raw()) && !rotates_on_reading()) move(layer.rotated);
  }
  base_ += shift;
  origin_ += shift;
  for (int64_t i = head; i < kept; ++i) slots_[i] = slots_[keep[i]];
  slots_.resize(kept);
  if (rank() && keeps_raw() && !rotates_on_reading()) Turn(begin, count);
}

/// Room for `slots` rows from base_ on. Rows that moved up leave room in front; when the end is reached, everything
/// goes back to row 0, which the quarter of spare rows makes rare.
void KvGroup::Reserve(int64_t slots) {
  if (base_ + slots <= capacity_) return;
  const bool bounded = policy_->MaxSlots() >= 0 && prefill_ == Prefill::kNone;
  const int64_t bound = bounded ? WithSpare(std::max(slots, policy_->MaxSlots())) : INT64_MAX;
  const bool grow = WithSpare(slots) > capacity_ && capacity_ < bound;
  Place(grow ? std::min(bound, std::max(WithSpare(slots), 2 * capacity_)) : capacity_);
}

/// Moves all slots to row 0 of matrices of `capacity` rows.
void KvGroup::Place(int64_t capacity) {
  const auto held = static_cast<int64_t>(slots_.size());
  const auto place = [&](Matrix& matrix) {
    if (capacity == capacity_) return MoveRows(matrix, base_, matrix, 0, held);
    Matrix other = backend_->NewMatrix(capacity, columns(), stored_);
    MoveRows(matrix, base_, other, 0, held);
    matrix = std::move(other);
  };
  for (Layer& layer : layers_) {
    if (keeps_raw()) place(layer.raw);
    if (!rotates_on_reading()) place(layer.rotated);
    place(layer.values);
  }
  capacity_ = capacity;
  base_ = 0;
  if (rotates_on_reading()) FillRotations();
}

/// At kRank row r stands at origin_ + r - base_, which trims leave as it is: they move both. Elsewhere the rows of
/// slots are filled, whenever a chunk comes.
void KvGroup::FillRotations() {
  const size_t half = frequencies_.inv_freq.size();
  const int64_t first = rank() ? 0 : base_;
  const int64_t count = rank() ? capacity_ : static_cast<int64_t>(slots_.size());
  positions_.resize(static_cast<size_t>(count));
  if (rank()) {
    std::iota(positions_.begin(), positions_.end(), origin_ - base_);
  } else {
    std::ranges::transform(slots_, positions_.begin(), &SlotInfo::index);
  }
  row_cos_.resize(static_cast<size_t>(capacity_) * half);
  row_sin_.resize(row_cos_.size());
  FillRopeTable(frequencies_, positions_.data(), count, row_cos_.data() + static_cast<size_t>(first) * half,
                row_sin_.data() + static_cast<size_t>(first) * half);
}

void KvGroup::Restore(int32_t layer, std::span<const std::byte> keys, std::span<const std::byte> values) {
  const auto held = static_cast<int64_t>(slots_.size());
  if (held == 0) return;
  Layer& to = layers_[layer];
  backend_->Upload(values.data(), to.values.view().Rows(base_, held));
  backend_->Upload(keys.data(), KeptKeys(to).view().Rows(base_, held));
}

void KvGroup::EndRestore() {
  if (rotates_on_reading()) return FillRotations();
  if (keeps_raw()) Turn(0, static_cast<int64_t>(slots_.size()));
}

void KvGroup::Reset() {
  slots_.clear();
  chunk_ = 0;
  prefill_ = Prefill::kNone;
  base_ = origin_ = seen_ = steps_ = peak_ = 0;
  stored_sum_ = seen_sum_ = 0;
  if (grows_) SetLength(spec_.rope.scaling.original);
  if (rotates_on_reading()) FillRotations();
}

}  // namespace hawser
