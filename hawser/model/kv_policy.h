// model/kv_policy.h - what stays resident in a cache. A policy sees slot metadata, never floats, and holds no state:
// the same slots give the same answer, so that a saved stream goes on as if it had never stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/attn/pattern.h"

namespace hawser {

/// kRank: a key stands at its slot number; kAbsolute: at its place in the stream; kCacheLength: at the number of keys
/// held when it came, never moved (bug-compatible with the reference's "no shift" rows).
enum class KvPositions : uint8_t { kAbsolute, kRank, kCacheLength };

struct SlotInfo {
  int64_t index = 0;  // place in the stream
  int32_t token = 0;
  bool separator = false;

  bool operator==(const SlotInfo&) const = default;
};

/// True if every later query sees the slot, however far behind it falls.
inline bool Pinned(const AttnPattern& pattern, const SlotInfo& slot) {
  return slot.index < pattern.sinks || (pattern.separators && slot.separator);
}

/// Text forms: `full` | `window:W` | `sink:a,c` | `sep:a,n` | `sep-stream:a,s,w,c`, with `,policy=overflow|full` and
/// `,positions=rank|absolute|cachelen` where they apply.
class KvPolicy {
 public:
  virtual ~KvPolicy() = default;

  /// The text form; parses back.
  virtual std::string Name() const = 0;

  KvPositions positions() const { return positions_; }

  /// What a query sees among the slots (its own included). Streaming policies see all that is resident: {}.
  virtual AttnPattern Pattern() const { return {}; }

  /// How many of the coming tokens can be attended in one causal call over the resident slots before a trim must
  /// happen:
  /// >= 1. Depends on slot metadata and the flags of the coming tokens alone.
  virtual int64_t ChunkLimit(std::span<const SlotInfo> slots, std::span<const SlotInfo> coming) const = 0;

  /// Slots to keep before a chunk whose first token is `next` is attended (`full` trigger), ascending; false: keep all.
  virtual bool TrimBefore(std::span<const SlotInfo> slots, const SlotInfo& next, std::vector<int32_t>* keep) const;
  /// Slots to keep after a chunk was appended (`overflow` trigger, windows, sinks), ascending; false: keep all.
  virtual bool TrimAfter(std::span<const SlotInfo> slots, std::vector<int32_t>* keep) const;

  /// The most slots ever held at once (while attending), or -1 if it grows with the stream.
  virtual int64_t MaxSlots() const = 0;

 protected:
  explicit KvPolicy(KvPositions positions) : positions_(positions) {}

 private:
  KvPositions positions_;
};

/// Errors: kUsage naming the field (a + s + w >= c, n = 0, unknown policy or option).
std::unique_ptr<KvPolicy> MakeKvPolicy(std::string_view text);

}  // namespace hawser
