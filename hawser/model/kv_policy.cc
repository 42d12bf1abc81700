#include "hawser/model/kv_policy.h"

#include <algorithm>
#include <array>

#include "hawser/base/error.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

constexpr std::array<std::string_view, 3> kPositionNames = {"absolute", "rank", "cachelen"};
constexpr std::array<std::string_view, 2> kTriggerNames = {"overflow", "full"};
constexpr std::string_view kForms = "full, window:W, sink:a,c, sep:a,n, sep-stream:a,s,w,c";

enum class Trigger : uint8_t { kOverflow, kFull };

std::string PositionsOption(KvPositions positions, KvPositions standard) {
  return positions == standard ? "" : fmt::format(",positions={}", kPositionNames[static_cast<size_t>(positions)]);
}

/// full, window, sink and sep: what later queries can see stays, everything else goes as soon as nobody can see it.
class PatternPolicy final : public KvPolicy {
 public:
  PatternPolicy(std::string name, const AttnPattern& pattern, KvPositions positions)
      : KvPolicy(positions), name_(std::move(name)), pattern_(pattern) {}

  std::string Name() const override { return name_; }
  AttnPattern Pattern() const override { return pattern_; }

  int64_t ChunkLimit(std::span<const SlotInfo> slots, std::span<const SlotInfo> coming) const override {
    const int64_t available = std::max<int64_t>(1, static_cast<int64_t>(coming.size()));
    if (pattern_.window == AttnPattern::kAll) return available;
    if (positions() == KvPositions::kAbsolute) return std::min(available, kMaxChunk);
    // Positions depend on how many keys are held: the chunk ends with the first token after which a key is dropped.
    const int64_t resident = static_cast<int64_t>(slots.size());
    for (int64_t i = 0; i < static_cast<int64_t>(coming.size()); ++i) {
      const int64_t leaving = resident + i - (pattern_.window - 1);  // in slots ++ coming, whose end has no gaps
      if (leaving >= 0 && !Pinned(pattern_, leaving < resident ? slots[leaving] : coming[leaving - resident]))
        return i + 1;
    }
    return available;
  }

  bool TrimAfter(std::span<const SlotInfo> slots, std::vector<int32_t>* keep) const override {
    if (slots.empty() || pattern_.window == AttnPattern::kAll) return false;
    const int64_t first_seen = slots.back().index + 2 - pattern_.window;  // by the next query
    keep->clear();
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].index >= first_seen || Pinned(pattern_, slots[i])) keep->push_back(static_cast<int32_t>(i));
    }
    return keep->size() < slots.size();
  }

  int64_t MaxSlots() const override {
    if (pattern_.window == AttnPattern::kAll || pattern_.separators) return -1;
    return int64_t{pattern_.sinks} + pattern_.window - 1 + (positions() == KvPositions::kAbsolute ? kMaxChunk : 1);
  }

 private:
  // Long enough for the matrix products, short enough that what a chunk holds beyond the window does not matter.
  static constexpr int64_t kMaxChunk = 512;

  std::string name_;
  AttnPattern pattern_;
};

/// SepLLM streaming (arXiv:2412.12094 section 3.3). The recent run and the separators kept before it need no border
/// between them: a separator that has left the run stays one, so "the last s separators between the initial tokens and
/// the last w" is the same set wherever the run began.
class SepStreamPolicy final : public KvPolicy {
 public:
  SepStreamPolicy(int64_t a, int64_t s, int64_t w, int64_t c, Trigger trigger, KvPositions positions)
      : KvPolicy(positions), a_(a), s_(s), w_(w), c_(c), trigger_(trigger) {}

  std::string Name() const override {
    return fmt::format("sep-stream:{},{},{},{}{}{}", a_, s_, w_, c_, trigger_ == Trigger::kFull ? ",policy=full" : "",
                       PositionsOption(positions(), KvPositions::kRank));
  }

  int64_t ChunkLimit(std::span<const SlotInfo> slots, std::span<const SlotInfo> coming) const override {
    const int64_t free = MaxSlots() - static_cast<int64_t>(slots.size());
    return std::max<int64_t>(1, std::min(free, static_cast<int64_t>(coming.size())));
  }

  bool TrimBefore(std::span<const SlotInfo> slots, const SlotInfo&, std::vector<int32_t>* keep) const override {
    if (trigger_ != Trigger::kFull || static_cast<int64_t>(slots.size()) + 1 < c_) return false;
    return Compress(slots, w_ - 1, keep);
  }

  bool TrimAfter(std::span<const SlotInfo> slots, std::vector<int32_t>* keep) const override {
    if (trigger_ != Trigger::kOverflow || static_cast<int64_t>(slots.size()) <= c_) return false;
    return Compress(slots, w_, keep);
  }

  int64_t MaxSlots() const override { return trigger_ == Trigger::kOverflow ? c_ + 1 : c_ - 1; }

 private:
  bool Compress(std::span<const SlotInfo> slots, int64_t local, std::vector<int32_t>* keep) const {
    const int64_t size = static_cast<int64_t>(slots.size());
    int64_t surplus = -s_;  // separators between the initial tokens and the local window, less those that may stay
    for (int64_t i = a_; i < size - local; ++i) surplus += slots[i].separator;
    keep->clear();
    for (int64_t i = 0; i < size; ++i) {
      const bool middle = i >= a_ && i < size - local;
      if (!middle || (slots[i].separator && surplus-- <= 0)) keep->push_back(static_cast<int32_t>(i));
    }
    return true;
  }

  int64_t a_, s_, w_, c_;
  Trigger trigger_;
};

/// The pieces of one text form, taken from the front.
class FormReader {
 public:
  explicit FormReader(std::string_view text) : text_(text) {
    size_t end = std::min(text.find(':'), text.size());
    kind_ = text.substr(0, end);
    while (end < text.size()) {
      const size_t begin = end + 1;
      end = std::min(text.find(',', begin), text.size());
      parts_.push_back(text.substr(begin, end - begin));
    }
  }

  std::string_view kind() const { return kind_; }

  int64_t Number(std::string_view field, int64_t least) {
    // Leaves room for sums and + 1 in int32, the type of windows and slot numbers.
    constexpr int64_t kMost = int64_t{1} << 29;
    if (next_ >= parts_.size() || parts_[next_].find('=') != std::string_view::npos) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} is missing; the forms are {}", text_, field, kForms);
    }
    const std::string_view part = parts_[next_++];
    const auto value = ParseNumber<int64_t>(part);
    if (!value || *value < least || *value > kMost) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} must be a whole number from {} to {}, found \"{}\"", text_, field,
           least, kMost, part);
    }
    return *value;
  }

  /// The rest must be key=value options out of those that apply.
  void Options(KvPositions* positions, Trigger* trigger) {
    std::string known;
    if (positions != nullptr) known = fmt::format("positions={}", fmt::join(kPositionNames, "|"));
    if (trigger != nullptr) known += fmt::format(", policy={}", fmt::join(kTriggerNames, "|"));
    for (; next_ < parts_.size(); ++next_) {
      const std::string_view part = parts_[next_];
      const size_t equals = part.find('=');
      const std::string_view key = part.substr(0, equals);
      const std::string_view value = equals == std::string_view::npos ? "" : part.substr(equals + 1);
      if (!(key == "positions" && Choose(value, kPositionNames, positions)) &&
          !(key == "policy" && Choose(value, kTriggerNames, trigger))) {
        Fail(ErrorKind::kUsage, "kv policy \"{}\": unknown option \"{}\"; {} knows {}", text_, part, kind_,
             known.empty() ? "none" : known);
      }
    }
  }

 private:
  template <class Enum, size_t N>
  static bool Choose(std::string_view value, const std::array<std::string_view, N>& names, Enum* out) {
    const auto found = std::find(names.begin(), names.end(), value);
    if (out == nullptr || found == names.end()) return false;
    *out = static_cast<Enum>(found - names.begin());
    return true;
  }

  std::string_view text_, kind_;
  std::vector<std::string_view> parts_;
  size_t next_ = 0;
};

}  // namespace

bool KvPolicy::TrimBefore(std::span<const SlotInfo>, const SlotInfo&, std::vector<int32_t>*) const { return false; }
bool KvPolicy::TrimAfter(std::span<const SlotInfo>, std::vector<int32_t>*) const { return false; }

std::unique_ptr<KvPolicy> MakeKvPolicy(std::string_view text) {
  FormReader form(text);
  KvPositions positions = KvPositions::kAbsolute;
  const auto pattern_policy = [&](std::string name, const AttnPattern& pattern, KvPositions standard) {
    positions = standard;
    form.Options(&positions, nullptr);
    return std::make_unique<PatternPolicy>(name + PositionsOption(positions, standard), pattern, positions);
  };
  if (form.kind() == "full") {
    form.Options(nullptr, nullptr);
    return std::make_unique<PatternPolicy>("full", AttnPattern{}, positions);
  }
  if (form.kind() == "window") {
    const auto w = static_cast<int32_t>(form.Number("W", 1));
    return pattern_policy(fmt::format("window:{}", w), {.window = w}, KvPositions::kAbsolute);
  }
  if (form.kind() == "sink") {
    const auto a = static_cast<int32_t>(form.Number("a", 0));
    const auto c = static_cast<int32_t>(form.Number("c", 1));
    return pattern_policy(fmt::format("sink:{},{}", a, c), {.window = c + 1, .sinks = a}, KvPositions::kRank);
  }
  if (form.kind() == "sep") {
    const auto a = static_cast<int32_t>(form.Number("a", 0));
    const auto n = static_cast<int32_t>(form.Number("n", 1));
    return pattern_policy(fmt::format("sep:{},{}", a, n), {.window = n, .sinks = a, .separators = true},
                          KvPositions::kAbsolute);
  }
  if (form.kind() == "sep-stream") {
    const int64_t a = form.Number("a", 0);
    const int64_t s = form.Number("s", 1);
    const int64_t w = form.Number("w", 1);
    const int64_t c = form.Number("c", 1);
    if (a + s + w >= c) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": a + s + w must be less than c, found {} + {} + {} = {} and c = {}",
           text, a, s, w, a + s + w, c);
    }
    positions = KvPositions::kRank;
    Trigger trigger = Trigger::kOverflow;
    form.Options(&positions, &trigger);
    return std::make_unique<SepStreamPolicy>(a, s, w, c, trigger, positions);
  }
  Fail(ErrorKind::kUsage, "unknown kv policy \"{}\"; the forms are {}", text, kForms);
}

}  // namespace hawser
