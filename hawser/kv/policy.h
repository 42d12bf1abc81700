// kv/policy.h - what stays resident in a cache. A policy sees slot metadata, never floats, and holds no state:
// the same slots give the same answer, so that a saved stream goes on as if it had never stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/kv/form.h"

namespace hawser {

struct SlotInfo {
  int64_t index = 0;  // place in the stream
  int32_t token = 0;
  bool separator = false;
  bool settled = false;  // a separator that a compression has kept: before the recent run of its stream

  bool operator==(const SlotInfo&) const = default;
};

/// True if every later query sees the slot, however far behind it falls.
inline bool Pinned(const AttnPattern& pattern, const SlotInfo& slot) {
  return pattern.Pins(slot.index, slot.separator);
}

class KvPolicy {
 public:
  virtual ~KvPolicy() = default;

  /// The text form; parses back.
  std::string Name() const { return ToString(form_); }
  const KvForm& form() const { return form_; }

  KvPositions positions() const { return form_.positions; }
  bool dense_prefill() const { return form_.prefill == KvPrefill::kDense; }

  /// What a query sees among the slots (its own included). Streaming policies see all that is resident: {}.
  virtual AttnPattern Pattern() const { return {}; }
  /// First tokens of the stream that always stay.
  virtual int64_t initial() const = 0;

  /// At ranks: whether what a query sees behind the first initial() tokens stands at its place in the stream but for
  /// one shift. Then no key needs to move: a query is rotated twice, for those and for the first (arXiv:2309.17453).
  virtual bool two_phases() const { return false; }

  /// How many of the coming tokens, at least 1, can be attended in one causal call over the resident slots before a
  /// trim must happen. Depends on slot metadata and the flags of the coming tokens alone. `moving`: keys at ranks move
  /// when one is dropped, even where two_phases().
  virtual int64_t ChunkLimit(std::span<const SlotInfo> slots, std::span<const SlotInfo> coming,
                             bool moving = true) const = 0;

  /// Slots to keep before a chunk whose first token is `next` is attended (`full` trigger), ascending; false: keep all.
  /// May settle slots.
  virtual bool TrimBefore(std::span<SlotInfo> slots, const SlotInfo& next, std::vector<int32_t>* keep) const;
  /// Slots to keep after a chunk was appended (`overflow` trigger, windows, sinks), ascending; false: keep all.
  virtual bool TrimAfter(std::span<SlotInfo> slots, std::vector<int32_t>* keep) const;

  /// Where queries choose what stays (kv/chooser.h): how many slots do of `seen` tokens, at the end of a prompt and if
  /// every_step() after each token; -1: elsewhere.
  virtual int64_t Chosen(int64_t /*seen*/) const { return -1; }
  virtual bool every_step() const { return false; }

  /// The most slots ever held at once (while attending), or -1 if it grows with the stream (a dense prompt aside).
  virtual int64_t MaxSlots() const = 0;

  /// The most slots that a token sees, itself among them and a dense prompt aside, or -1: how far ranks go.
  virtual int64_t MostSeen() const { return MaxSlots(); }

  /// Mean of the stored size after each of `tokens` tokens by the formula, separators at a share of `density`:
  /// patterns exactly for evenly spread separators, min(t, m) + density * max(0, t - m) with m what a query sees before
  /// any separator is out of the window; streams (a + s + w + c) / 2, less 1/2 for the `full` trigger (arXiv:2412.12094
  /// equations 3 and 4), once they have come to c. NaN where there is none (unbounded separators).
  virtual double FormulaMean(int64_t tokens, double density) const = 0;

 protected:
  explicit KvPolicy(KvForm form) : form_(std::move(form)) {}

 private:
  KvForm form_;
};

/// The policy of a form, or of a text form (kv/form.h), that is the same in every layer.
/// Errors: kUsage as ParseKvForm, and for a layered form.
std::unique_ptr<KvPolicy> MakeKvPolicy(const KvForm& form);
std::unique_ptr<KvPolicy> MakeKvPolicy(std::string_view text);

}  // namespace hawser
