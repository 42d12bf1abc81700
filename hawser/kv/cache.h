// kv/cache.h - the keys and values of one sequence under a policy. Layers with the same policy share a slot table.
//   for each chunk: chunk = Begin(tokens); for each layer: Append(l, k, v), attend to Keys(l), Values(l);
//   chunk.Commit()
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/kv/group.h"

namespace hawser {

class SqueezedReader;

class KvCache {
 public:
  /// Tokens that are being attended to. Only one at a time of each cache, which stays where it is meanwhile.
  class Chunk {
   public:
    Chunk() = default;
    Chunk(Chunk&& other) noexcept : cache_(std::exchange(other.cache_, nullptr)), size_(other.size_) {}
    Chunk& operator=(Chunk&& other) noexcept {
      std::swap(cache_, other.cache_);
      std::swap(size_, other.size_);
      return *this;
    }
    /// Not committed: rolled back. The tokens never came; what a policy drops before any token that may come is gone.
    ~Chunk() {
      if (cache_ != nullptr) cache_->RollBack();
    }
    /// The cache has seen the tokens, and trims where its policy says so.
    void Commit() { std::exchange(cache_, nullptr)->End(); }
    int32_t size() const { return size_; }

   private:
    friend class KvCache;
    Chunk(KvCache* cache, int32_t size) : cache_(cache), size_(size) {}
    KvCache* cache_ = nullptr;
    int32_t size_ = 0;
  };

  /// A model with sliding windows of its own sees through both windows, and holds what the policy keeps.
  /// `separators`: [V] flags of separator token ids (empty: none). `max_length`: the declared maximum stream length,
  /// used by schemes whose frequencies depend on it (dynamic); 0: they follow the tokens that are seen, keys turning
  /// with them. Keys and values are stored in the dtype of the shape, or as the form says. Errors: kUsage (a form for
  /// another number of layers, flags of another length, another dtype than F32 and BF16), kUnsupported (Q8_0 with a
  /// rotation that is not computed in F32, bilevel positions with others than true ones, a fold with keys that move or
  /// with a wider window than its shift, queries that choose keys where a bias, a fold, segments or another softmax
  /// enter scores, or where every layer has a window of its own).
  KvCache(Backend* backend, const KvShape& shape, const KvForm& form, std::vector<uint8_t> separators,
          int64_t max_length);
  KvCache(KvCache&&) = default;
  KvCache& operator=(KvCache&&) = default;

  const KvForm& form() const { return form_; }
  int32_t layers() const { return static_cast<int32_t>(places_.size()); }
  const KvPolicy& policy(int32_t layer = 0) const { return Group(layer).table().policy(); }
  std::span<const SlotInfo> slots(int32_t layer = 0) const { return Group(layer).table().slots(); }
  int64_t seen() const { return seen_; }
  int64_t separators_seen() const { return separators_seen_; }
  /// Of the tokens of the chunk under way, where the model has bilevel positions (pos/segments.h); else empty.
  const std::vector<int32_t>& segment_places() const { return segment_places_; }
  int64_t bytes() const;  // held in memory now, what is shared with other caches too
  /// The most of them while a prompt of so many tokens comes, and then `more` single ones: all of a dense prompt is
  /// held to its end.
  int64_t BytesFor(int64_t prompt, int64_t more) const;
  /// visit(memory, bytes) for each piece of it: what caches share has the same address.
  void VisitMemory(const std::function<void(const void*, int64_t)>& visit) const;
  DType stored() const { return stored_; }          // of keys and values: F32, BF16 or Q8_0
  int64_t row_bytes() const { return row_bytes_; }  // of one key and one value of a layer
  KvUsage usage() const;                            // of all layers
  KvUsage usage(int32_t layer) const { return Group(layer).table().usage(); }

  /// Trims where a policy wants it now, takes slots for as many of `tokens` as one causal call may hold (at most
  /// `limit`). Afterwards cos() and sin() hold the rotations of the chunk's queries, [n, rotary_dim/2] each, and
  /// schedule() what they see. Errors: kUsage for a token outside the vocabulary; then nothing has changed.
  Chunk Begin(std::span<const int32_t> tokens, int32_t limit);
  const float* cos(int32_t layer = 0) const { return Group(layer).cos(); }
  const float* sin(int32_t layer = 0) const { return Group(layer).sin(); }
  const float* query_scale(int32_t layer) const { return Group(layer).query_scale(); }  // [n], where the rope has one
  /// Likewise of the queries of far keys (pos/fold.h), which schedule() marks; null where the chunk sees none. Without
  /// a schedule the first far_slots() are far.
  const float* far_cos(int32_t layer) const { return Group(layer).far_cos(); }
  const float* far_sin(int32_t layer) const { return Group(layer).far_sin(); }
  int32_t far_slots(int32_t layer) const { return Group(layer).table().far_slots(); }
  const AttnSchedule& schedule(int32_t layer = 0) const { return Group(layer).table().schedule(); }
  /// False when the chunk is one token that sees every slot: decode without a schedule (which is compiled only if
  /// true).
  bool needs_schedule(int32_t layer = 0) const { return Group(layer).table().needs_schedule(); }

  /// k, v [n, G*D], not rotated. Stores v, stores k raw (kRank) and rotated.
  void Append(int32_t layer, ConstMat k, ConstMat v);
  /// The queries of the chunk [n, H*D], not rotated, and what they are multiplied by [n], or null. To be shown where
  /// form().chosen(); elsewhere nothing reads them.
  void Observe(int32_t layer, ConstMat q, const float* query_scale) {
    groups_[static_cast<size_t>(places_[layer].group)].Observe(q, query_scale);
  }
  /// [slots, G*D], or in Q8_0 [slots, G * Q8Bytes(D)]; keys are rotated, or get rotation() when they are read.
  KvRows Keys(int32_t layer) const { return Group(layer).Keys(places_[layer].layer); }
  KeyRotation rotation(int32_t layer) const { return Group(layer).rotation(); }
  const int32_t* query_places(int32_t layer) const { return Group(layer).query_places(); }
  const int32_t* key_places(int32_t layer) const { return Group(layer).key_places(); }
  KvRows Values(int32_t layer) const { return Group(layer).Values(places_[layer].layer); }
  /// Tokens of the chunk under way.
  int32_t chunk() const { return static_cast<int32_t>(coming_.size()); }

  /// A cache of its own that has seen the same, or its first `tokens` alone: null where Truncate would be false. Memory
  /// is shared until one of both writes. Between chunks, outside of prompts.
  std::unique_ptr<KvCache> Fork(int64_t tokens) const;
  std::unique_ptr<KvCache> Fork() const { return Fork(seen_); }
  /// Whether Truncate and Fork can go back to fewer tokens.
  bool holds_all() const;

  /// The chunks between these two are a prompt: where the policy says prefill=dense its tokens see all that came before
  /// them in it, all of it is held until the end, and only then trimmed. Frequencies that follow the stream are those
  /// of its end, `tokens` further, for all of it, as readers that take a prompt in one go have it. Otherwise they
  /// change nothing.
  void BeginPrefill(int64_t tokens = 0);
  void EndPrefill();

  /// Forgets all but the first `tokens` that were seen, as if the others had never come, figures apart. False, and
  /// nothing is forgotten, where that cannot be: something was dropped already, keys have turned, or segments count.
  bool Truncate(int64_t tokens);

  /// Forgets everything but a prefix; the policy stays.
  void Reset();

  /// Goes on behind the tokens of a prefix, which have no slots here: queries read of them what `prefix` chooses.
  /// Forks get a reader of their own. Of a cache that has seen nothing. Errors: kUnsupported where something is
  /// dropped, keys turn or are not rotated by place, far keys or windows count, or scores are biased.
  void Follow(std::shared_ptr<SqueezedReader> prefix);
  void CheckFollow() const;                                 // the same errors
  SqueezedReader* prefix() const { return prefix_.get(); }  // null: there is none
  int64_t prefix_tokens() const { return groups_.front().table().first(); }
  bool inside_prompt() const { return inside_prompt_; }

  /// Called with the queries [n, H*D] of each chunk, rotated, of each layer in turn. Empty: nobody looks.
  using QueryWatch = std::function<void(int32_t layer, ConstMat queries)>;
  void set_watch(QueryWatch watch) { watch_ = std::move(watch); }
  const QueryWatch& watch() const { return watch_; }

  // Saving (kv/state.h).
  std::span<const KvGroup> groups() const { return groups_; }
  std::span<KvGroup> groups() { return groups_; }
  struct Place {
    int32_t group = 0, layer = 0;  // place of a layer in its group
  };
  Place place(int32_t layer) const { return places_[static_cast<size_t>(layer)]; }
  int32_t vocab() const { return vocab_; }
  int32_t kv_heads() const { return kv_heads_; }
  int32_t head_dim() const { return head_dim_; }
  const std::optional<AlibiSpec>& alibi() const { return alibi_; }
  int64_t max_length() const { return max_length_; }
  const std::vector<uint8_t>& separators() const { return separators_; }
  bool counts_segments() const { return segments_.places > 0; }
  SegmentCounter segment() const { return counter_; }
  void Restore(int64_t seen, int64_t separators_seen, SegmentCounter segment);

 private:
  KvCache(const KvCache& other, int64_t tokens);

  void End();
  void RollBack();
  int64_t SeparatorsFrom(int64_t first) const;
  const KvGroup& Group(int32_t layer) const { return groups_[static_cast<size_t>(places_[layer].group)]; }

  KvForm form_;
  int32_t vocab_, kv_heads_, head_dim_;
  std::optional<AlibiSpec> alibi_;
  std::vector<uint8_t> separators_;
  std::vector<KvGroup> groups_;
  std::vector<Place> places_;  // [layers]
  DType stored_;
  int64_t max_length_, row_bytes_;
  int64_t seen_ = 0, separators_seen_ = 0;
  SegmentSpec segments_;
  SegmentCounter counter_;          // where the next token stands
  SegmentCounter chunk_counter_;    // where the chunk under way began
  std::vector<SlotInfo> coming_;    // scratch, as the following: of the chunk under way
  std::vector<int64_t> positions_;  // where positions are true ones
  std::vector<int32_t> segment_places_;
  std::shared_ptr<SqueezedReader> prefix_;
  bool inside_prompt_ = false;
  QueryWatch watch_;
};

/// Bytes that caches hold together, what they share counted once.
int64_t HeldBytes(std::span<const KvCache* const> caches);

}  // namespace hawser
