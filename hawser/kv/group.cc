#include "hawser/kv/group.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/q8.h"

namespace hawser {
namespace {

KvShape WithoutLayers(KvShape shape) {
  shape.layers.clear();
  return shape;
}

/// Whether scores know differences of positions only, however large these are.
bool IsExact(const RopeNumerics& numerics) {
  RopeNumerics exact;
  exact.qk = numerics.qk;
  return numerics == exact;
}

/// Whether frequencies follow the stream: not where ranks end before they would change.
bool FollowsStream(const KvLayerShape& layer, const KvPolicy& policy, int64_t max_length) {
  if (!layer.rope || !DependsOnLength(*layer.rope) || max_length > 0) return false;
  const int64_t most = policy.MostSeen();
  const bool ends = policy.positions() == KvPositions::kRank && !policy.dense_prefill() && most >= 0;
  return !ends || most > SameFrequenciesUntil(*layer.rope, 1);
}

}  // namespace

KvGroup::KvGroup(Backend* backend, const KvShape& shape, const KvLayerShape& layer,
                 std::shared_ptr<const KvPolicy> policy, int32_t num_layers, DType stored, int64_t max_length)
    : backend_(backend),
      shape_(WithoutLayers(shape)),
      layer_(layer),
      num_layers_(num_layers),
      max_length_(max_length),
      stored_(stored),
      grows_(FollowsStream(layer, *policy, max_length)),
      two_phases_(policy->two_phases() && shape.standard_softmax && rotates() && !grows_ &&
                  IsExact(layer.rope->numerics)),
      table_(std::move(policy), layer.window, layer.rope ? layer.rope->fold.shift : 0, two_phases_),
      kinds_(keeps_raw() && !rotates_on_reading() ? 3 : 2),
      columns_(shape.kv_heads * (stored == DType::kQ8_0 ? Q8Bytes(shape.head_dim) : int64_t{shape.head_dim})),
      pages_(backend, num_layers * kinds_, columns_, stored, table_.policy().form().keeps_all()) {
  const KvPositions positions = table_.policy().positions();
  if (grows_ && (positions == KvPositions::kCacheLength || shape.segments.places > 0)) {
    Fail(
        ErrorKind::kUnsupported,
        "kv policy \"{}\": under rope \"{}\" keys that came earlier turn with each token, which positions=cachelen and "
        "segments do not allow; declare a length with --context",
        table_.policy().Name(), ToString(*layer.rope));
  }
  if (shape.alibi && positions == KvPositions::kCacheLength) {
    Fail(ErrorKind::kUnsupported,
         "kv policy \"{}\": positions=cachelen counts rotations; this model has none but biases by distance (ALiBi)",
         table_.policy().Name());
  }
  const bool starts_short = rotates() && DependsOnLength(*layer.rope) && max_length == 0;
  chooser_ = NewChooser();
  if (chooser_ != nullptr && rotates_on_reading() && !table_.policy().every_step()) {
    Fail(ErrorKind::kUnsupported,
         "kv policy \"{}\": under rope \"{}\" keys in q8_0 turn with each token, row by row, and here heads keep other "
         "tokens in a row; declare a length with --context, or pass another dtype",
         table_.policy().Name(), ToString(*layer.rope));
  }
  SetLength(starts_short ? SameFrequenciesUntil(*layer.rope, 1) : max_length);
  for (int32_t l = 0; l < num_layers; ++l) {
    for (int32_t kind = 0; kind < kinds_; ++kind) {
      if (kind < kRotated || !rank()) moved_tensors_.push_back(Tensor(l, kind));
    }
  }
}

std::unique_ptr<KeyChooser> KvGroup::NewChooser() const {
  const ChooserShape shape{.heads = shape_.heads,
                           .kv_heads = shape_.kv_heads,
                           .head_dim = shape_.head_dim,
                           .scale = shape_.score_scale,
                           .cap = shape_.score_cap};
  return MakeKeyChooser(table_.policy().form(), shape);
}

int64_t KvGroup::bytes() const {
  return pages_.bytes() + static_cast<int64_t>((row_cos_.size() + row_sin_.size()) * sizeof(float));
}

int64_t KvGroup::BytesFor(int64_t prompt, int64_t more) const {
  const KvPolicy& policy = table_.policy();
  const int64_t most = policy.MaxSlots(), all = table_.size() + prompt, seen = table_.seen() + prompt;
  const bool dense = policy.dense_prefill() && prompt > 0;
  int64_t slots = all;
  if (dense && policy.Chosen(seen) >= 0) slots = std::min(slots, policy.Chosen(seen));
  slots += more;
  if (policy.every_step()) slots = std::min(slots, policy.Chosen(seen + more) + 1);
  if (most >= 0) slots = std::min(slots, most);
  int64_t capacity = pages_.CapacityFor(slots, most);
  if (dense) capacity = std::max(capacity, pages_.CapacityFor(all, -1));
  const int64_t rotations = rotates_on_reading() ? 2 * capacity * std::ssize(frequencies_.inv_freq) : 0;
  return pages_.BytesOf(capacity) + rotations * static_cast<int64_t>(sizeof(float));
}

void KvGroup::VisitMemory(const std::function<void(const void*, int64_t)>& visit) const {
  pages_.Visit(visit);
  if (!row_cos_.empty()) visit(row_cos_.data(), static_cast<int64_t>(2 * row_cos_.size() * sizeof(float)));
}

template <class F>
void KvGroup::ForRuns(int64_t begin, int64_t count, F&& f) const {
  for (const int64_t end = begin + count; begin < end;) {
    const int64_t n = pages_.Together(begin, end - begin);
    f(begin, n);
    begin += n;
  }
}

int64_t KvGroup::Prepare(std::span<const SlotInfo> coming) {
  length_before_ = length_;
  if (!pages_.paged()) pages_.Own();  // before anything changes
  Keep(table_.TrimBefore(coming.front()));
  const bool prompt = table_.inside_prompt();
  const int64_t limit = table_.Limit(coming);
  // As far as the frequencies are the same for all of them, so that chunks give what single tokens give.
  return grows_ && !prompt ? std::min(limit, std::max<int64_t>(1, length_ - Reach(0))) : limit;
}

/// The length that `tokens` more need: the highest place that is taken, and one.
int64_t KvGroup::Reach(int64_t tokens) const { return (rank() ? table_.size() : table_.seen()) + tokens; }

void KvGroup::SetLength(int64_t length) {
  length_ = length;
  if (rotates()) frequencies_ = ComputeFrequencies(*layer_.rope, length);
}

void KvGroup::Grow(int64_t length) {
  if (!grows_ || length <= length_) return;
  SetLength(SameFrequenciesUntil(*layer_.rope, length));
  TurnAll();
}

void KvGroup::TurnAll() {
  if (rotates_on_reading()) return FillRotations();
  pages_.Own();
  Turn(0, pages_.size());
}

/// Rotates the keys of `count` slots to their places, from their raw rows.
void KvGroup::Turn(int64_t begin, int64_t count) {
  if (count == 0) return;
  positions_.resize(static_cast<size_t>(count));
  const size_t half = frequencies_.inv_freq.size();
  moved_cos_.resize(static_cast<size_t>(count) * half);
  moved_sin_.resize(moved_cos_.size());
  const int32_t parts = own_places() == 0 ? 1 : shape_.kv_heads;  // that stand at places of their own
  const int64_t columns = columns_ / parts;
  for (int32_t part = 0; part < parts; ++part) {
    for (int64_t i = 0; i < count; ++i) {
      positions_[static_cast<size_t>(i)] = rank() ? origin_ + begin + i : PlaceOf(part, begin + i);
    }
    FillRopeTable(frequencies_, positions_.data(), count, moved_cos_.data(), moved_sin_.data());
    for (int32_t layer = 0; layer < num_layers_; ++layer) {
      ForRuns(begin, count, [&](int64_t first, int64_t n) {
        const Mat rotated = pages_.Run(Tensor(layer, kRotated), first, n).Cols(part * columns, columns);
        backend_->Copy(pages_.Run(Tensor(layer, kKept), first, n).Cols(part * columns, columns), rotated);
        const size_t at = static_cast<size_t>(first - begin) * half;
        Rotate(rotated, moved_cos_.data() + at, moved_sin_.data() + at);
      });
    }
  }
}

void KvGroup::Begin(std::span<const SlotInfo> chunk, std::span<const int64_t> positions) {
  const auto n = static_cast<int64_t>(chunk.size());
  const int64_t resident = table_.size();
  Grow(Reach(n));
  const bool moved = pages_.Extend(n, table_.inside_prompt() ? -1 : table_.policy().MaxSlots());
  if (moved && rotates_on_reading() && rank()) FillRotations();
  table_.Begin(chunk);

  positions_.resize(static_cast<size_t>(n));
  if (rank()) {
    std::iota(positions_.begin(), positions_.end(), origin_ + resident);
  } else if (table_.policy().positions() == KvPositions::kCacheLength) {
    std::iota(positions_.begin(), positions_.end(), resident);
    positions_[0] = table_.held_before();
  } else {
    std::ranges::copy(positions, positions_.begin());
  }
  const size_t half = frequencies_.inv_freq.size();
  cos_.resize(static_cast<size_t>(n) * half);
  sin_.resize(cos_.size());
  FillRopeTable(frequencies_, positions_.data(), n, cos_.data(), sin_.data());
  query_scale_.clear();
  if (rotates() && layer_.rope->query_scale) {
    const int64_t first = rank() ? origin_ : 0;  // ranks count from the first slot
    const std::span<const int64_t> places = two_phases_ ? table_.ranks() : std::span<const int64_t>(positions_);
    for (const int64_t place : places) query_scale_.push_back(layer_.rope->query_scale.At(place - first));
  }
  if (rotates_on_reading() && !rank()) FillRotations();
  if (shape_.alibi) FillPlaces();
  if (two_phases_ || (rotates() && layer_.rope->fold.active())) FillFar();
}

/// Keys stand at their places in the stream: KvCache refuses others under a fold.
void KvGroup::FillFar() {
  const size_t table = table_.far_slots() == 0 ? 0 : cos_.size();
  far_cos_.resize(table);
  far_sin_.resize(table);
  if (table == 0) return;
  const std::span<const SlotInfo> chunk = table_.slots().last(static_cast<size_t>(table_.chunk()));
  positions_.resize(chunk.size());
  if (two_phases_) {
    std::ranges::copy(table_.ranks(), positions_.begin());
  } else {
    std::ranges::transform(chunk, positions_.begin(),
                           [&](const SlotInfo& slot) { return layer_.rope->fold.FarPosition(slot.index); });
  }
  FillRopeTable(frequencies_, positions_.data(), table_.chunk(), far_cos_.data(), far_sin_.data());
}

/// Distances are what counts: places are told from the newest token, which stands at 0. Biases in bf16 are those of
/// places themselves.
void KvGroup::FillPlaces() {
  const std::span<const SlotInfo> slots = table_.slots();
  places_.resize(slots.size());
  const auto at = [&](size_t slot) { return rank() ? static_cast<int64_t>(slot) : slots[slot].index; };
  const int64_t newest = at(slots.size() - 1);
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    if (shape_.alibi->bf16) {
      places_[slot] = static_cast<int32_t>(std::min<int64_t>(at(slot), INT32_MAX));
    } else {
      places_[slot] = -static_cast<int32_t>(std::min<int64_t>(newest - at(slot), INT32_MAX));
    }
  }
}

void KvGroup::Rotate(Mat keys, const float* cos, const float* sin) {
  if (!rotates()) return;
  backend_->Rope({.x = keys,
                  .heads = static_cast<int32_t>(keys.cols / shape_.head_dim),
                  .head_dim = shape_.head_dim,
                  .half = static_cast<int32_t>(frequencies_.inv_freq.size()),
                  .pairing = layer_.rope->pairing,
                  .cos = cos,
                  .sin = sin,
                  .math = layer_.rope->numerics.math});
}

void KvGroup::Append(int32_t layer, ConstMat k, ConstMat v) {
  const int64_t chunk = table_.chunk();
  HAWSER_CHECK(k.rows == chunk && v.rows == chunk);
  const int64_t begin = table_.size() - chunk;
  const bool blocks = stored_ == DType::kQ8_0;
  if (blocks && !rotates_on_reading() && rotating_.rows() < chunk) {
    rotating_ = backend_->NewMatrix(chunk, k.cols, shape_.dtype);
  }
  ForRuns(begin, chunk, [&](int64_t first, int64_t n) {
    const int64_t row = first - begin;
    Store(v.Rows(row, n), pages_.Run(Tensor(layer, kValues), first, n));
    if (keeps_raw()) Store(k.Rows(row, n), pages_.Run(Tensor(layer, kKept), first, n));
    if (rotates_on_reading()) return;
    const Mat kept = pages_.Run(Tensor(layer, kinds_ - 1), first, n);
    const Mat rotated = blocks ? rotating_.view().Rows(0, n) : kept;
    backend_->Copy(k.Rows(row, n), rotated);
    const size_t at = static_cast<size_t>(row) * frequencies_.inv_freq.size();
    Rotate(rotated, cos_.data() + at, sin_.data() + at);
    if (blocks) Store(rotated, kept);
  });
}

void KvGroup::Observe(ConstMat q, const float* query_scale) {
  if (chooser_ == nullptr || !(table_.inside_prompt() || table_.policy().every_step())) return;
  HAWSER_CHECK(num_layers_ == 1 && q.rows == table_.chunk());
  queries_grow_ = query_scale != nullptr;
  ChunkQueries queries{.backend = backend_, .q = q, .first = table_.seen(), .rope = {}};
  if (rotates()) {
    queries.rope = {.x = {},
                    .heads = shape_.heads,
                    .head_dim = shape_.head_dim,
                    .half = static_cast<int32_t>(frequencies_.inv_freq.size()),
                    .pairing = layer_.rope->pairing,
                    .cos = cos_.data(),
                    .sin = sin_.data(),
                    .row_scale = query_scale,
                    .math = layer_.rope->numerics.math};
  }
  chooser_->Observe(queries);
}

SlotTable::Kept KvGroup::Choose(int64_t seen) {
  const int64_t count = table_.policy().Chosen(seen);
  if (chooser_ == nullptr || table_.size() <= count) return nullptr;
  Matrix keys, values;
  const HeldRows held{.backend = backend_,
                      .keys = WideRows(Tensor(0, kinds_ - 1), &keys),
                      .values = WideRows(Tensor(0, kValues), &values),
                      .frequencies = rotates() ? &frequencies_ : nullptr,
                      .pairing = rotates() ? layer_.rope->pairing : RopePairing::kHalf,
                      .query_scale = queries_grow_ ? &layer_.rope->query_scale : nullptr,
                      .seen = seen};
  chosen_.clear();
  for (const std::vector<float>& scores : chooser_->Scores(held)) chosen_.push_back(GreatestSlots(scores, count));
  if (chosen_.size() == 1) return chosen_.data();
  std::vector<std::vector<int64_t>> places;
  for (size_t head = 0; head < chosen_.size(); ++head) {
    std::vector<int64_t>& of = places.emplace_back();
    for (const int32_t slot : chosen_[head]) of.push_back(PlaceOf(static_cast<int32_t>(head), slot));
  }
  head_places_ = std::move(places);
  return chosen_.data();
}

ConstMat KvGroup::WideRows(int32_t tensor, Matrix* hold) {
  const Mat rows = pages_.Run(tensor, 0, pages_.size());
  if (stored_ == DType::kF32) return rows;
  const int64_t columns = int64_t{shape_.kv_heads} * shape_.head_dim;
  *hold = backend_->NewMatrix(rows.rows, columns, DType::kF32);
  if (stored_ != DType::kQ8_0) {
    backend_->Copy(rows, *hold);
  } else {
    const int64_t head_bytes = columns_ / shape_.kv_heads;
    std::vector<std::byte> bytes(static_cast<size_t>(rows.rows * columns_));
    std::vector<float> wide(static_cast<size_t>(rows.rows * columns));
    backend_->Download(rows, bytes.data());
    for (int64_t head = 0; head < rows.rows * shape_.kv_heads; ++head) {
      DequantizeQ8(bytes.data() + head * head_bytes, shape_.head_dim, wide.data() + head * shape_.head_dim);
    }
    backend_->Upload(wide.data(), *hold);
  }
  if (rotates_on_reading() && tensor == Tensor(0, kKept)) {
    const size_t at = static_cast<size_t>(pages_.base()) * frequencies_.inv_freq.size();
    Rotate(*hold, row_cos_.data() + at, row_sin_.data() + at);
  }
  return *hold;
}

void KvGroup::Store(ConstMat from, Mat to) {
  stored_ == DType::kQ8_0 ? backend_->Quantize(from, shape_.head_dim, to) : backend_->Copy(from, to);
}

KeyRotation KvGroup::rotation() const {
  if (!rotates_on_reading()) return {};
  const auto half = static_cast<int32_t>(frequencies_.inv_freq.size());
  return {.cos = row_cos_.data() + pages_.base() * half,
          .sin = row_sin_.data() + pages_.base() * half,
          .half = half,
          .pairing = layer_.rope->pairing};
}

void KvGroup::End() {
  SlotTable::Kept chosen = nullptr;
  if (chooser_ != nullptr) {
    chooser_->Commit();
    const bool now = table_.policy().every_step() && !table_.inside_prompt();
    if (now) chosen = Choose(table_.seen() + table_.chunk());
  }
  Keep(table_.End(chosen));
  length_before_ = length_;
}

void KvGroup::RollBack() {
  if (chooser_ != nullptr) chooser_->RollBack();
  table_.RollBack();
  pages_.Truncate(table_.size());
  if (length_ == length_before_) return;
  SetLength(length_before_);
  TurnAll();
}

KvGroup::KvGroup(const KvGroup& other, int64_t tokens)
    : backend_(other.backend_),
      shape_(other.shape_),
      layer_(other.layer_),
      num_layers_(other.num_layers_),
      max_length_(other.max_length_),
      stored_(other.stored_),
      grows_(other.grows_),
      two_phases_(other.two_phases_),
      table_(other.table_.Fork(tokens)),
      length_(other.length_),
      frequencies_(other.frequencies_),
      kinds_(other.kinds_),
      columns_(other.columns_),
      pages_(other.pages_.Fork(table_.size())),
      chooser_(NewChooser()),
      head_places_(other.head_places_),
      moved_tensors_(other.moved_tensors_),
      origin_(other.origin_),
      row_cos_(other.row_cos_),
      row_sin_(other.row_sin_) {}

KvGroup KvGroup::Fork(int64_t tokens) const { return KvGroup(*this, tokens); }

void KvGroup::Truncate(int64_t tokens) {
  HAWSER_CHECK(holds_all());
  table_.Truncate(tokens);
  pages_.Truncate(table_.size());
}

void KvGroup::BeginPrefill(int64_t tokens) {
  const KvPolicy& policy = table_.policy();
  const bool bounded = rank() && policy.MostSeen() >= 0 && !policy.dense_prefill();
  Grow(bounded ? std::min(Reach(tokens), policy.MostSeen()) : Reach(tokens));
  length_before_ = length_;
  table_.BeginPrefill();
  if (chooser_ != nullptr) chooser_->Clear();
  if (!policy.dense_prefill()) return;
  pages_.Reserve(table_.size() + tokens);  // all of it is held to its end
  if (rotates_on_reading() && rank()) FillRotations();
}

void KvGroup::EndPrefill() {
  if (!table_.inside_prompt()) return;
  if (!pages_.paged()) pages_.Own();
  Keep(table_.EndPrefill(table_.prompt_under_way() ? Choose(table_.seen()) : nullptr));
  if (chooser_ != nullptr) chooser_->Clear();
  // A prompt that was far larger than what is kept of it gives its memory back.
  if (pages_.Shrink() && rotates_on_reading()) FillRotations();
}

void KvGroup::Keep(SlotTable::Kept kept) {
  if (kept == nullptr) return;
  if (kept == chosen_.data() && chosen_.size() > 1) return pages_.KeepOfHeads(chosen_);
  const KvPages::Moved moved = pages_.Keep(*kept, moved_tensors_);
  origin_ += moved.shift;
  if (kinds_ > kRotated && rank()) Turn(moved.begin, moved.count);
}

/// At kRank row r stands at origin_ + r - base, which trims leave as it is: they move both. Elsewhere the rows of slots
/// are filled, whenever a chunk comes.
void KvGroup::FillRotations() {
  const size_t half = frequencies_.inv_freq.size();
  const int64_t first = rank() ? 0 : pages_.base();
  const int64_t count = rank() ? pages_.capacity() : table_.size();
  positions_.resize(static_cast<size_t>(count));
  if (rank()) {
    std::iota(positions_.begin(), positions_.end(), origin_ - pages_.base());
  } else {
    std::ranges::transform(table_.slots(), positions_.begin(), &SlotInfo::index);
  }
  row_cos_.resize(static_cast<size_t>(pages_.capacity()) * half);
  row_sin_.resize(row_cos_.size());
  FillRopeTable(frequencies_, positions_.data(), count, row_cos_.data() + static_cast<size_t>(first) * half,
                row_sin_.data() + static_cast<size_t>(first) * half);
}

void KvGroup::Download(int32_t layer, std::byte* keys, std::byte* values) const {
  const int64_t bytes = columns_ * static_cast<int64_t>(SizeOf(stored_));
  const KvRows kept = pages_.Rows(Tensor(layer, kKept)), mixed = pages_.Rows(Tensor(layer, kValues));
  ForRuns(0, pages_.size(), [&](int64_t first, int64_t n) {
    backend_->Download(kept.Run(first, n), keys + first * bytes);
    backend_->Download(mixed.Run(first, n), values + first * bytes);
  });
}

void KvGroup::Restore(std::vector<SlotInfo> slots, const SlotTable::Counters& counters, int64_t origin, int64_t length,
                      std::vector<std::vector<int64_t>> head_places) {
  pages_.Extend(static_cast<int64_t>(slots.size()), table_.policy().MaxSlots());
  table_.Restore(std::move(slots), counters);
  origin_ = origin;
  head_places_ = std::move(head_places);
  if (grows_) SetLength(length);
  length_before_ = length_;
}

void KvGroup::Upload(int32_t layer, std::span<const std::byte> keys, std::span<const std::byte> values) {
  const int64_t bytes = columns_ * static_cast<int64_t>(SizeOf(stored_));
  ForRuns(0, pages_.size(), [&](int64_t first, int64_t n) {
    backend_->Upload(keys.data() + first * bytes, pages_.Run(Tensor(layer, kKept), first, n));
    backend_->Upload(values.data() + first * bytes, pages_.Run(Tensor(layer, kValues), first, n));
  });
}

void KvGroup::PlaceKeys(int32_t layer) {
  HAWSER_CHECK(two_phases_);
  if (pages_.size() == 0) return;
  positions_.resize(static_cast<size_t>(table_.size()));
  std::ranges::transform(table_.slots(), positions_.begin(), &SlotInfo::index);
  moved_cos_.resize(positions_.size() * frequencies_.inv_freq.size());
  moved_sin_.resize(moved_cos_.size());
  FillRopeTable(frequencies_, positions_.data(), table_.size(), moved_cos_.data(), moved_sin_.data());
  const int64_t columns = int64_t{shape_.kv_heads} * shape_.head_dim;
  Matrix wide = backend_->NewMatrix(table_.size(), columns, DType::kF32);
  Matrix hold;
  backend_->Copy(WideRows(Tensor(layer, kKept), &hold), wide);
  Rotate(wide, moved_cos_.data(), moved_sin_.data());
  Store(wide, pages_.Run(Tensor(layer, kKept), 0, pages_.size()));
}

void KvGroup::EndRestore() {
  if (keeps_raw()) TurnAll();
}

void KvGroup::Reset() {
  table_.Reset();
  pages_.Clear();
  origin_ = 0;
  head_places_.clear();
  if (chooser_ != nullptr) chooser_->Clear();
  if (grows_) SetLength(layer_.rope->scaling.original);
  length_before_ = length_;
  if (rotates_on_reading()) FillRotations();
}

}  // namespace hawser
