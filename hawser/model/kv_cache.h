// model/kv_cache.h - the keys and values of one sequence under a policy. Layers with the same policy share a slot
// table.
//   for each chunk: n = BeginChunk(tokens); for each layer: Append(l, k, v), attend to Keys(l), Values(l); EndChunk()
// A chunk that fails between is taken back by AbandonChunk().
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "hawser/model/kv_group.h"

namespace hawser {

class KvCache {
 public:
  /// A model with sliding windows of its own sees through both windows, and holds what the policy keeps.
  /// `separators`: [V] flags of separator token ids (empty: none). `max_length`: the declared maximum stream length,
  /// used by schemes whose frequencies depend on it (dynamic); 0: they follow the tokens that are seen, keys turning
  /// with them. `dtype`: of activations; keys and values are stored in QkvDType,
  /// or as the form says. Errors: kUsage (a form for another number of layers, flags of another length, another dtype),
  /// kUnsupported (Q8_0 with a rotation that is not computed in F32, bilevel positions with others than true ones).
  KvCache(Backend* backend, const ModelSpec& spec, const KvForm& form, std::vector<uint8_t> separators, DType dtype,
          int64_t max_length);
  KvCache(KvCache&&) = default;
  KvCache& operator=(KvCache&&) = default;

  const KvForm& form() const { return form_; }
  int32_t layers() const { return static_cast<int32_t>(places_.size()); }
  const KvPolicy& policy(int32_t layer = 0) const { return Group(layer).policy(); }
  std::span<const SlotInfo> slots(int32_t layer = 0) const { return Group(layer).slots(); }
  int64_t seen() const { return seen_; }
  int64_t separators_seen() const { return separators_seen_; }
  /// Of the tokens of the chunk under way, where the model has bilevel positions (pos/segments.h); else empty.
  const std::vector<int32_t>& segment_places() const { return segment_places_; }
  int64_t bytes() const;                            // held in memory now
  DType stored() const { return stored_; }          // of keys and values: F32, BF16 or Q8_0
  int64_t row_bytes() const { return row_bytes_; }  // of one key and one value of a layer
  KvUsage usage() const;                            // of all layers
  KvUsage usage(int32_t layer) const { return Group(layer).usage(); }

  /// Trims where a policy wants it now, takes slots for as many of `tokens` as one causal call may hold (at most
  /// `limit`), and returns that number. Afterwards cos() and sin() hold the rotations of the chunk's queries,
  /// [n, rotary_dim/2] each, and schedule() what they see.
  int32_t BeginChunk(std::span<const int32_t> tokens, int32_t limit);
  const float* cos(int32_t layer = 0) const { return Group(layer).cos(); }
  const float* sin(int32_t layer = 0) const { return Group(layer).sin(); }
  const float* query_scale(int32_t layer) const { return Group(layer).query_scale(); }  // [n], where the rope has one
  const AttnSchedule& schedule(int32_t layer = 0) const { return Group(layer).schedule(); }
  /// False when the chunk is one token that sees every slot: decode without a schedule (which is compiled only if
  /// true).
  bool needs_schedule(int32_t layer = 0) const { return Group(layer).needs_schedule(); }

  /// k, v [n, G*D], not rotated. Stores v, stores k raw (kRank) and rotated.
  void Append(int32_t layer, ConstMat k, ConstMat v);
  /// [slots, G*D], or in Q8_0 [slots, G * Q8Bytes(D)]; keys are rotated, or get rotation() when they are read.
  ConstMat Keys(int32_t layer) const { return Group(layer).Keys(places_[layer].layer); }
  KeyRotation rotation(int32_t layer) const { return Group(layer).rotation(); }
  const int32_t* query_places(int32_t layer) const { return Group(layer).query_places(); }
  const int32_t* key_places(int32_t layer) const { return Group(layer).key_places(); }
  ConstMat Values(int32_t layer) const { return Group(layer).Values(places_[layer].layer); }
  void EndChunk();
  /// Tokens of the chunk under way.
  int32_t chunk() const { return static_cast<int32_t>(coming_.size()); }
  /// Instead of EndChunk: the chunk never came, what a policy dropped before it apart. Nothing where none is under way.
  void AbandonChunk();

  /// A cache of its own that has seen the same, or its first `tokens` alone: null where KeepFirst would be false.
  /// Between chunks, outside of prompts. Copies what it holds.
  std::unique_ptr<KvCache> Fork(int64_t tokens) const;
  std::unique_ptr<KvCache> Fork() const { return Fork(seen_); }
  /// Whether KeepFirst and Fork can go back to fewer tokens.
  bool holds_all() const;

  /// The chunks between these two are a prompt: where the policy says prefill=dense its tokens see all that came before
  /// them in it, all of it is held until the end, and only then trimmed. Frequencies that follow the stream are those
  /// of its end, `tokens` further, for all of it, as readers that take a prompt in one go have it. Otherwise they
  /// change nothing.
  void BeginPrefill(int64_t tokens = 0);
  void EndPrefill();

  /// Forgets all but the first `tokens` that were seen, as if the others had never come, figures apart. False, and
  /// nothing is forgotten, where that cannot be: something was dropped already, keys have turned, or segments count.
  bool KeepFirst(int64_t tokens);

  /// Forgets everything; the policy stays.
  void Reset();

 private:
  friend class KvStateIo;  // model/kv_state.cc

  KvCache(const KvCache& other, int64_t tokens);

  struct Place {
    int32_t group = 0, layer = 0;  // place of a layer in its group
  };
  int64_t SeparatorsFrom(int64_t first) const;
  const KvGroup& Group(int32_t layer) const { return groups_[static_cast<size_t>(places_[layer].group)]; }

  KvForm form_;
  int32_t vocab_;
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
};

}  // namespace hawser
