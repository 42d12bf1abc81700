#include "hawser/kv/policy.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "hawser/base/error.h"

namespace hawser {
namespace {

/// full, window, sink, sep and fix: what later queries can see stays, everything else goes as soon as nobody can see
/// it.
class PatternPolicy final : public KvPolicy {
 public:
  PatternPolicy(const KvForm& form, const AttnPattern& pattern) : KvPolicy(form), pattern_(pattern) {}

  AttnPattern Pattern() const override { return pattern_; }
  int64_t initial() const override { return pattern_.sinks; }

  bool two_phases() const override {
    return positions() == KvPositions::kRank && pattern_.window != AttnPattern::kAll && !pattern_.separators &&
           pattern_.every == 0;
  }

  int64_t ChunkLimit(std::span<const SlotInfo> slots, std::span<const SlotInfo> coming, bool moving) const override {
    const int64_t available = std::max<int64_t>(1, static_cast<int64_t>(coming.size()));
    if (pattern_.window == AttnPattern::kAll) return available;
    if (positions() == KvPositions::kAbsolute || (two_phases() && !moving)) return std::min(available, kMaxChunk);
    // Positions depend on how many keys are held: the chunk ends with the first token after which a key is dropped.
    const int64_t resident = static_cast<int64_t>(slots.size());
    for (int64_t i = 0; i < static_cast<int64_t>(coming.size()); ++i) {
      const int64_t leaving = resident + i - (pattern_.window - 1);  // in slots ++ coming, whose end has no gaps
      if (leaving >= 0 && !Pinned(pattern_, leaving < resident ? slots[leaving] : coming[leaving - resident]))
        return i + 1;
    }
    return available;
  }

  bool TrimAfter(std::span<SlotInfo> slots, std::vector<int32_t>* keep) const override {
    if (slots.empty() || pattern_.window == AttnPattern::kAll) return false;
    const int64_t first_seen = slots.back().index + 2 - pattern_.window;  // by the next query
    keep->clear();
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].index >= first_seen || Pinned(pattern_, slots[i])) keep->push_back(static_cast<int32_t>(i));
    }
    return keep->size() < slots.size();
  }

  int64_t MaxSlots() const override {
    const int64_t seen = MostSeen();
    if (seen < 0 || !(positions() == KvPositions::kAbsolute || two_phases())) return seen;
    return seen - 1 + kMaxChunk;
  }
  int64_t MostSeen() const override {
    if (pattern_.window == AttnPattern::kAll || pattern_.separators || pattern_.every > 0) return -1;
    return int64_t{pattern_.sinks} + pattern_.window;
  }

  double FormulaMean(int64_t tokens, double density) const override {
    const auto sum_to = [](double n) { return n * (n + 1) / 2; };
    const auto t = static_cast<double>(tokens);
    if (tokens < 1) return 0;
    if (pattern_.window == AttnPattern::kAll) return (t + 1) / 2;
    // After a token is stored what the next one sees: its window less itself.
    const double m = std::min(t, static_cast<double>(int64_t{pattern_.sinks} + pattern_.window - 1));
    const double share = pattern_.separators ? density : pattern_.every > 0 ? 1.0 / pattern_.every : 0.0;
    return (sum_to(m) + (t - m) * m + share * sum_to(t - m)) / t;
  }

 private:
  // Long enough for the matrix products, short enough that what a chunk holds beyond the window does not matter.
  static constexpr int64_t kMaxChunk = 512;

  AttnPattern pattern_;
};

/// SepLLM streaming (arXiv:2412.12094 section 3.3). The recent run and the separators kept before it need no border
/// between them as long as separators accumulate: a separator that has left the run stays one, so "the last s
/// separators between the initial tokens and the last w" is the same set wherever the run began. Settled slots mark
/// the border for what needs it.
class SepStreamPolicy final : public KvPolicy {
 public:
  SepStreamPolicy(const KvForm& form, const KvSepStream& stream)
      : KvPolicy(form),
        a_(stream.initial[0]),
        s_(stream.separators[0]),
        w_(stream.local[0]),
        c_(stream.capacity[0]),
        overflow_(stream.trigger == KvTrigger::kOverflow),
        accumulate_(stream.accumulate),
        bounded_(stream.bounded) {}

  int64_t initial() const override { return a_; }

  int64_t ChunkLimit(std::span<const SlotInfo> slots, std::span<const SlotInfo> coming, bool) const override {
    const int64_t free = Most() + Excess(slots) - static_cast<int64_t>(slots.size());
    return std::max<int64_t>(1, std::min(free, static_cast<int64_t>(coming.size())));
  }

  bool TrimBefore(std::span<SlotInfo> slots, const SlotInfo&, std::vector<int32_t>* keep) const override {
    if (overflow_ || static_cast<int64_t>(slots.size()) + 1 < c_ + Excess(slots)) return false;
    return Compress(slots, w_ - 1, keep);
  }

  bool TrimAfter(std::span<SlotInfo> slots, std::vector<int32_t>* keep) const override {
    if (!overflow_ || static_cast<int64_t>(slots.size()) <= c_ + Excess(slots)) return false;
    return Compress(slots, w_, keep);
  }

  int64_t MaxSlots() const override { return bounded_ ? Most() : -1; }

  double FormulaMean(int64_t tokens, double) const override {
    if (tokens <= c_) return (static_cast<double>(tokens) + 1) / 2;
    if (!bounded_) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(a_ + s_ + w_ + c_ - (overflow_ ? 0 : 1)) / 2;
  }

 private:
  int64_t Most() const { return overflow_ ? c_ + 1 : c_ - 1; }

  /// Separators beyond s, for which c makes room where they are not bounded: what lies between them and the local
  /// window stays c - a - s - w.
  int64_t Excess(std::span<const SlotInfo> slots) const {
    if (bounded_) return 0;
    const int64_t settled = std::ranges::count_if(slots, [](const SlotInfo& slot) { return slot.settled; });
    return std::max<int64_t>(0, settled - s_);
  }

  bool Compress(std::span<SlotInfo> slots, int64_t local, std::vector<int32_t>* keep) const {
    const auto stays = [&](const SlotInfo& slot) { return slot.separator && (accumulate_ || !slot.settled); };
    const int64_t size = static_cast<int64_t>(slots.size());
    int64_t surplus = -s_;  // separators between the initial tokens and the local window, less those that may stay
    for (int64_t i = a_; i < size - local; ++i) surplus += stays(slots[i]);
    if (!bounded_) surplus = 0;
    keep->clear();
    for (int64_t i = 0; i < size; ++i) {
      const bool middle = i >= a_ && i < size - local;
      if (middle && (!stays(slots[i]) || surplus-- > 0)) continue;
      if (middle) slots[i].settled = true;
      keep->push_back(static_cast<int32_t>(i));
    }
    return true;
  }

  int64_t a_, s_, w_, c_;
  bool overflow_, accumulate_, bounded_;
};

/// snapkv, tova, expected: slots are counted here, and chosen where the queries are.
class ChosenPolicy final : public KvPolicy {
 public:
  /// `least`: what stays of a long enough stream, however small a share is.
  ChosenPolicy(const KvForm& form, int64_t capacity, int64_t least, bool every_step)
      : KvPolicy(form), capacity_(capacity), least_(least), every_step_(every_step) {}

  int64_t initial() const override { return 0; }
  int64_t Chosen(int64_t seen) const override {
    if (capacity_ >= 0) return capacity_;
    constexpr int64_t kWhole = 10000;  // in hundredths of a per cent
    return std::max(least_, seen / kWhole * -capacity_ + seen % kWhole * -capacity_ / kWhole);
  }
  bool every_step() const override { return every_step_; }

  int64_t ChunkLimit(std::span<const SlotInfo> slots, std::span<const SlotInfo> coming, bool) const override {
    const auto resident = static_cast<int64_t>(slots.size()), available = static_cast<int64_t>(coming.size());
    for (int64_t n = 1; every_step_ && n < available; ++n) {
      if (resident + n > Chosen(coming.front().index + n)) return n;
    }
    return std::max<int64_t>(1, available);
  }
  int64_t MaxSlots() const override { return every_step_ && capacity_ >= 0 ? capacity_ + 1 : -1; }
  double FormulaMean(int64_t, double) const override { return std::numeric_limits<double>::quiet_NaN(); }

 private:
  int64_t capacity_, least_;
  bool every_step_;
};

int32_t Only(const KvNumbers& numbers) { return static_cast<int32_t>(numbers[0]); }

AttnPattern PatternOf(const KvFull&) { return {}; }
AttnPattern PatternOf(const KvWindow& kind) { return {.window = Only(kind.window)}; }
AttnPattern PatternOf(const KvSink& kind) { return {.window = Only(kind.recent) + 1, .sinks = Only(kind.initial)}; }
AttnPattern PatternOf(const KvSep& kind) {
  return {.window = Only(kind.window), .sinks = Only(kind.initial), .separators = true};
}
AttnPattern PatternOf(const KvFix& kind) {
  return {.window = Only(kind.window), .sinks = Only(kind.initial), .every = Only(kind.every)};
}

std::unique_ptr<KvPolicy> PolicyOf(const KvForm& form, const KvSepStream& kind) {
  return std::make_unique<SepStreamPolicy>(form, kind);
}
int64_t LeastOf(const KvSnap& kind) { return kind.window; }
int64_t LeastOf(const KvTova&) { return 1; }
int64_t LeastOf(const KvExpected& kind) { return kind.sinks + 1; }
template <KvChosen Kind>
std::unique_ptr<KvPolicy> PolicyOf(const KvForm& form, const Kind& kind) {
  return std::make_unique<ChosenPolicy>(form, kind.capacity[0], LeastOf(kind), Kind::kEveryStep);
}
std::unique_ptr<KvPolicy> PolicyOf(const KvForm& form, const auto& kind) {
  return std::make_unique<PatternPolicy>(form, PatternOf(kind));
}

}  // namespace

bool KvPolicy::TrimBefore(std::span<SlotInfo>, const SlotInfo&, std::vector<int32_t>*) const { return false; }
bool KvPolicy::TrimAfter(std::span<SlotInfo>, std::vector<int32_t>*) const { return false; }

std::unique_ptr<KvPolicy> MakeKvPolicy(const KvForm& form) {
  if (form.layered()) {
    Fail(ErrorKind::kUsage, "kv policy \"{}\": layers differ; a policy is that of one layer", ToString(form));
  }
  return std::visit([&](const auto& kind) { return PolicyOf(form, kind); }, form.kind);
}

std::unique_ptr<KvPolicy> MakeKvPolicy(std::string_view text) {
  const KvForm form = ParseKvForm(text);
  return MakeKvPolicy(form.layered() ? form : form.OfLayer(0, 1));
}

}  // namespace hawser
