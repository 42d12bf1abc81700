#include "hawser/kv/cache.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/q8.h"
#include "hawser/kv/squeezed.h"

namespace hawser {
namespace {

/// What a layer that folds distances does not go with.
void CheckFold(const KvForm& form, const KvLayerShape& layer) {
  const RopeSpec& rope = *layer.rope;
  if (form.positions != KvPositions::kAbsolute) {
    Fail(ErrorKind::kUnsupported,
         "kv policy \"{}\": its keys move or are counted by slots, and string (rope \"{}\") needs them at their places "
         "in the text; pass positions=absolute, or another policy",
         ToString(form), ToString(rope));
  }
  const int32_t window = std::min(MakeKvPolicy(form)->Pattern().window, layer.window);
  if (window == AttnPattern::kAll || window <= rope.fold.shift) return;
  Fail(ErrorKind::kUnsupported,
       "rope \"{}\": under kv policy \"{}\" the window of {} tokens is wider than the shift of string, which is not "
       "supported; give a shift of {} or more, or a narrower window",
       ToString(rope), ToString(form), window, window);
}

/// What a form whose queries choose keys does not go with.
void CheckChosen(const KvForm& form, const KvShape& shape) {
  if (!form.chosen()) return;
  std::string_view why;
  const auto windowed = [](const KvLayerShape& layer) { return layer.window != AttnPattern::kAll; };
  if (shape.alibi) {
    why = "biases its scores by distance (ALiBi)";
  } else if (shape.segments.places > 0) {
    why = "counts segments";
  } else if (!shape.standard_softmax) {
    why = "has another softmax than the standard one";
  } else if (std::ranges::any_of(shape.layers, [](const auto& of) { return of.rope && of.rope->fold.active(); })) {
    why = "folds distances (string)";
  } else if (std::ranges::all_of(shape.layers, windowed)) {
    why = "has a window of its own in every layer";
  }
  if (why.empty()) return;
  Fail(ErrorKind::kUnsupported,
       "kv policy \"{}\": its queries choose which keys stay, which does not go with a model that {}; pass another "
       "policy, such as sink:4,796,positions=absolute",
       ToString(form), why);
}

}  // namespace

KvCache::KvCache(Backend* backend, const KvShape& shape, const KvForm& form, std::vector<uint8_t> separators,
                 int64_t max_length)
    : form_(form),
      vocab_(shape.vocab),
      kv_heads_(shape.kv_heads),
      head_dim_(shape.head_dim),
      alibi_(shape.alibi),
      separators_(std::move(separators)),
      stored_(form.dtype.value_or(shape.dtype)),
      max_length_(max_length),
      row_bytes_(int64_t{2} * shape.kv_heads *
                 (stored_ == DType::kQ8_0 ? Q8Bytes(shape.head_dim)
                                          : shape.head_dim * static_cast<int64_t>(SizeOf(stored_)))) {
  if (shape.dtype != DType::kF32 && shape.dtype != DType::kBF16) {
    Fail(ErrorKind::kUsage, "a cache is for activations in f32 or bf16, not {}", Name(shape.dtype));
  }
  if (!separators_.empty() && static_cast<int64_t>(separators_.size()) != shape.vocab) {
    Fail(ErrorKind::kUsage, "separator flags: wanted one for each of {} token ids, found {}", shape.vocab,
         separators_.size());
  }
  CheckChosen(form, shape);
  struct Kind {
    KvForm form;
    KvLayerShape layer;
    int32_t alone = -1;  // the only layer of its kind: its queries choose
    bool operator==(const Kind&) const = default;
  };
  std::vector<Kind> kinds;  // the distinct ones
  std::vector<int32_t> sizes;
  const auto layers = static_cast<int32_t>(shape.layers.size());
  for (int32_t layer = 0; layer < layers; ++layer) {
    Kind of{form.OfLayer(layer, layers), shape.layers[static_cast<size_t>(layer)]};
    if (of.form.chosen()) {
      // Behind a window of the model's own there is nothing to choose.
      const bool windowed = of.layer.window != AttnPattern::kAll;
      if (windowed) of.form = {.kind = KvWindow{{of.layer.window}}, .dtype = form.dtype};
      if (!windowed) of.alone = layer;
    }
    // Where nothing is read of them, positions stay as they are and cut no chunk.
    if (!of.layer.rope && !shape.alibi) of.form.positions = KvPositions::kAbsolute;
    if (stored_ == DType::kQ8_0 && of.layer.rope && of.layer.rope->numerics.math != FloatFormat::kF32) {
      Fail(ErrorKind::kUnsupported, "kv policy \"{}\": q8_0 wants a rotation in f32, found rope numerics '{}'",
           ToString(form), ToString(of.layer.rope->numerics));
    }
    const auto same = std::ranges::find(kinds, of) - kinds.begin();
    if (same == static_cast<int64_t>(kinds.size())) {
      kinds.push_back(of);
      sizes.push_back(0);
    }
    places_.push_back({static_cast<int32_t>(same), sizes[static_cast<size_t>(same)]++});
  }
  segments_ = shape.segments;
  for (const Kind& of : kinds) {
    if (of.layer.rope && of.layer.rope->fold.active()) CheckFold(of.form, of.layer);
    if (segments_.places == 0 || of.form.positions == KvPositions::kAbsolute) continue;
    Fail(ErrorKind::kUnsupported,
         "kv policy \"{}\": this model counts segments, whose keys cannot move; pass positions=absolute",
         ToString(form));
  }
  groups_.reserve(kinds.size());
  for (size_t g = 0; g < kinds.size(); ++g) {
    groups_.emplace_back(backend, shape, kinds[g].layer, MakeKvPolicy(kinds[g].form), sizes[g], stored_, max_length);
  }
}

int64_t KvCache::bytes() const {
  int64_t sum = 0;
  for (const KvGroup& group : groups_) sum += group.bytes();
  return sum;
}

int64_t KvCache::BytesFor(int64_t prompt, int64_t more) const {
  constexpr int64_t kMost = int64_t{1} << 36;  // tokens: far beyond any machine, and their bytes are still a number
  int64_t sum = 0;
  for (const KvGroup& group : groups_) sum += group.BytesFor(std::min(prompt, kMost), std::min(more, kMost));
  return sum;
}

KvUsage KvCache::usage() const {
  KvUsage sum;
  for (int32_t layer = 0; layer < layers(); ++layer) {
    const KvUsage usage = Group(layer).table().usage();
    sum.mean += usage.mean;
    sum.peak_mean += usage.peak_mean;
    sum.final_mean += usage.final_mean;
    sum.ratio += usage.ratio;
    sum.final_ratio += usage.final_ratio;
    sum.peak = std::max(sum.peak, usage.peak);
    sum.final = std::max(sum.final, usage.final);
  }
  sum.mean /= layers();
  sum.peak_mean /= layers();
  sum.final_mean /= layers();
  sum.ratio /= layers();
  sum.final_ratio /= layers();
  return sum;
}

void KvCache::VisitMemory(const std::function<void(const void*, int64_t)>& visit) const {
  for (const KvGroup& group : groups_) group.VisitMemory(visit);
}

int64_t HeldBytes(std::span<const KvCache* const> caches) {
  std::unordered_set<const void*> counted;
  int64_t sum = 0;
  for (const KvCache* cache : caches) {
    cache->VisitMemory([&](const void* memory, int64_t bytes) { sum += counted.insert(memory).second ? bytes : 0; });
  }
  return sum;
}

KvCache::Chunk KvCache::Begin(std::span<const int32_t> tokens, int32_t limit) {
  HAWSER_CHECK(!tokens.empty() && limit >= 1 && coming_.empty());
  chunk_counter_ = counter_;
  for (int32_t token : tokens.first(std::min<size_t>(tokens.size(), limit))) {
    if (token < 0 || token >= vocab_) {
      coming_.clear();
      Fail(ErrorKind::kUsage, "token id {} is outside the vocabulary of {}", token, vocab_);
    }
    coming_.push_back({.index = seen_ + static_cast<int64_t>(coming_.size()),
                       .token = token,
                       .separator = !separators_.empty() && separators_[token] != 0});
  }
  Chunk chunk(this, 0);
  // Cuts depend on ids alone; where layers differ, a chunk ends at the first cut of any of them.
  auto n = static_cast<int64_t>(coming_.size());
  for (KvGroup& group : groups_) n = std::min(n, group.Prepare(coming_));
  HAWSER_CHECK(n >= 1);
  coming_.resize(static_cast<size_t>(n));
  chunk.size_ = static_cast<int32_t>(n);
  positions_.clear();
  segment_places_.clear();
  for (const SlotInfo& slot : coming_) {
    positions_.push_back(segments_.places > 0 ? counter_.segment : slot.index);
    if (segments_.places == 0) continue;
    segment_places_.push_back(counter_.Row(segments_));
    counter_.Pass(segments_, slot.token);
  }
  for (KvGroup& group : groups_) group.Begin(coming_, positions_);
  return chunk;
}

void KvCache::Append(int32_t layer, ConstMat k, ConstMat v) {
  groups_[static_cast<size_t>(places_[layer].group)].Append(places_[layer].layer, k, v);
}

void KvCache::End() {
  for (KvGroup& group : groups_) group.End();
  seen_ += static_cast<int64_t>(coming_.size());
  separators_seen_ += std::ranges::count_if(coming_, [](const SlotInfo& slot) { return slot.separator; });
  coming_.clear();
}

void KvCache::RollBack() {
  for (KvGroup& group : groups_) group.RollBack();
  coming_.clear();
  counter_ = chunk_counter_;
}

KvCache::KvCache(const KvCache& other, int64_t tokens)
    : form_(other.form_),
      vocab_(other.vocab_),
      kv_heads_(other.kv_heads_),
      head_dim_(other.head_dim_),
      alibi_(other.alibi_),
      separators_(other.separators_),
      places_(other.places_),
      stored_(other.stored_),
      max_length_(other.max_length_),
      row_bytes_(other.row_bytes_),
      seen_(tokens),
      separators_seen_(other.separators_seen_),
      segments_(other.segments_),
      counter_(other.counter_) {
  HAWSER_CHECK(other.coming_.empty());
  groups_.reserve(other.groups_.size());
  for (const KvGroup& group : other.groups_) groups_.push_back(group.Fork(tokens));
  if (tokens < other.seen_) separators_seen_ -= other.SeparatorsFrom(tokens);
  if (other.prefix_ != nullptr) prefix_ = std::make_shared<SqueezedReader>(*other.prefix_);
}

std::unique_ptr<KvCache> KvCache::Fork(int64_t tokens) const {
  if (tokens != seen_ && (!holds_all() || tokens < prefix_tokens())) return nullptr;
  return std::unique_ptr<KvCache>(new KvCache(*this, tokens));
}

bool KvCache::holds_all() const { return segments_.places == 0 && std::ranges::all_of(groups_, &KvGroup::holds_all); }

/// Separators among the tokens from `first` on, where all are held.
int64_t KvCache::SeparatorsFrom(int64_t first) const {
  const SlotTable& table = groups_.front().table();
  return std::ranges::count_if(table.slots().subspan(static_cast<size_t>(first - table.first())), &SlotInfo::separator);
}

void KvCache::BeginPrefill(int64_t tokens) {
  inside_prompt_ = true;
  for (KvGroup& group : groups_) group.BeginPrefill(tokens);
}

void KvCache::EndPrefill() {
  inside_prompt_ = false;
  for (KvGroup& group : groups_) group.EndPrefill();
}

bool KvCache::Truncate(int64_t tokens) {
  HAWSER_CHECK(tokens >= 0 && tokens <= seen_ && coming_.empty());
  if (!holds_all() || tokens < prefix_tokens()) return false;
  separators_seen_ -= SeparatorsFrom(tokens);
  for (KvGroup& group : groups_) group.Truncate(tokens);
  seen_ = tokens;
  return true;
}

void KvCache::Restore(int64_t seen, int64_t separators_seen, SegmentCounter segment) {
  seen_ = seen;
  separators_seen_ = separators_seen;
  counter_ = segment;
}

void KvCache::Reset() {
  for (KvGroup& group : groups_) group.Reset();
  coming_.clear();
  seen_ = prefix_tokens();
  separators_seen_ = 0;
  inside_prompt_ = false;
  counter_ = {};
}

void KvCache::CheckFollow() const {
  const auto refuse = [&](std::string_view what) {
    Fail(ErrorKind::kUnsupported, "a squeezed prefix cannot be read: {}", what);
  };
  if (!form_.keeps_all()) refuse(fmt::format("kv policy \"{}\" drops keys; pass --kv full", ToString(form_)));
  if (alibi_) refuse("the model biases scores by distance (ALiBi)");
  if (segments_.places > 0) refuse("the model counts segments");
  for (const KvGroup& group : groups_) {
    const KvLayerShape& layer = group.layer();
    if (group.grows()) {
      refuse(fmt::format("under rope \"{}\" held keys turn; declare a length with --context", ToString(*layer.rope)));
    }
    if (layer.window != AttnPattern::kAll) refuse("the model has layers with a sliding window");
    if (layer.rope && layer.rope->fold.active()) refuse("under string far keys have queries of their own");
  }
}

void KvCache::Follow(std::shared_ptr<SqueezedReader> prefix) {
  HAWSER_CHECK(seen_ == 0 && prefix != nullptr);
  CheckFollow();
  for (KvGroup& group : groups_) group.Follow(prefix->tokens());
  seen_ = prefix->tokens();
  prefix_ = std::move(prefix);
}

}  // namespace hawser
