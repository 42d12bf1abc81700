#include "hawser/infer/constraint.h"

#include <algorithm>
#include <deque>
#include <span>
#include <unordered_map>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"

namespace hawser {
namespace {

constexpr int64_t kEnoughBytes = int64_t{16} << 20;  // of states; then new ones are begun
constexpr int64_t kMostBytes = int64_t{128} << 20;   // that a single token may make them
constexpr size_t kMostReadings = 512;                // of a text at once
constexpr int64_t kMostWork = int64_t{1} << 23;      // frames looked at for the tokens of one state
constexpr int32_t kUnknown = -1, kNone = -2;

}  // namespace

/// Stacks are lists that share their tails: a frame is a place in the grammar, to go on from once what lies above it
/// has ended, and the frame below. A state is the set of frames whose places read a byte, or the end (frame 0).
class ConstraintStates {
 public:
  ConstraintStates(const Grammar* grammar, const TokenTrie* trie) : grammar_(*grammar), trie_(*trie) {
    frames_.push_back({-1, -1, 0});
    marks_.push_back(0);
    Begin();
    Expand(grammar_.root(), 0);
    start_ = End();
  }

  std::mutex mutex;  // of all that follows

  int32_t start() const { return start_; }
  bool full() const { return bytes_ > kEnoughBytes; }
  bool may_end(int32_t state) const { return Frames(state).front() == 0; }
  bool must_end(int32_t state) const { return may_end(state) && states_[static_cast<size_t>(state)].count == 1; }

  int32_t Step(int32_t state, uint8_t byte) {
    std::unique_ptr<int32_t[]>& row = states_[static_cast<size_t>(state)].next;
    if (row == nullptr) {
      row = std::make_unique<int32_t[]>(256);
      std::fill_n(row.get(), 256, kUnknown);
      Charge(256 * sizeof(int32_t));
    }
    if (row[byte] != kUnknown) return row[byte];
    Begin();
    const int32_t first = states_[static_cast<size_t>(state)].first, count = states_[static_cast<size_t>(state)].count;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t frame = sets_[static_cast<size_t>(first + i)];
      if (frame == 0) continue;
      const Frame f = frames_[static_cast<size_t>(frame)];
      const Grammar::Part& part = grammar_.parts()[static_cast<size_t>(f.place)];
      if (grammar_.bytes(part.value)[byte]) Reach(f.place + 1, f.below);
    }
    row[byte] = End();
    return row[byte];
  }
  /// kNone where the bytes may not come.
  int32_t Follow(int32_t state, std::string_view bytes) {
    work_ = 0;
    for (const char c : bytes) {
      state = Step(state, static_cast<uint8_t>(c));
      if (state == kNone) break;
    }
    return state;
  }

  /// Tokens that may come in a state.
  const TokenSet& Allowed(int32_t state) {
    std::unique_ptr<TokenSet>& known = states_[static_cast<size_t>(state)].allowed;
    if (known != nullptr) return *known;
    auto allowed = std::make_unique<TokenSet>((static_cast<size_t>(trie_.vocab()) + 63) / 64);
    Walk(state, 0, static_cast<int32_t>(trie_.nodes().size()), allowed.get());
    Charge(static_cast<int64_t>(allowed->size() * sizeof(uint64_t)));
    states_[static_cast<size_t>(state)].allowed = std::move(allowed);
    return *states_[static_cast<size_t>(state)].allowed;
  }
  /// Of a state at which a blank in front of a token does not count.
  TokenSet AllowedCut(int32_t state) {
    TokenSet allowed((static_cast<size_t>(trie_.vocab()) + 63) / 64);
    const std::vector<TokenTrie::Node>& nodes = trie_.nodes();
    for (int32_t i = 0; i < static_cast<int32_t>(nodes.size()); i = nodes[static_cast<size_t>(i)].end) {
      const TokenTrie::Node& node = nodes[static_cast<size_t>(i)];
      if (node.byte == ' ') {
        Add(node, &allowed);
        Walk(state, i + 1, node.end, &allowed);
      } else {
        Walk(state, i, node.end, &allowed);
      }
    }
    return allowed;
  }

  /// The state of other states of the same grammar here.
  int32_t Import(ConstraintStates& other, int32_t state) {
    std::vector<int32_t> set;
    for (const int32_t frame : other.Frames(state)) {
      std::vector<int32_t> places;
      for (int32_t f = frame; f != 0; f = other.frames_[static_cast<size_t>(f)].below) {
        places.push_back(other.frames_[static_cast<size_t>(f)].place);
      }
      int32_t own = 0;
      for (size_t i = places.size(); i-- > 0;) own = FrameOf(places[i], own);
      set.push_back(own);
    }
    return StateOf(std::move(set));
  }

 private:
  struct Frame {
    int32_t place, below, level;
  };
  struct State {
    std::unique_ptr<int32_t[]> next;  // [256]
    std::unique_ptr<TokenSet> allowed;
    int32_t first = 0, count = 0;  // in sets_
  };

  std::span<const int32_t> Frames(int32_t state) const {
    const State& s = states_[static_cast<size_t>(state)];
    return std::span(sets_).subspan(static_cast<size_t>(s.first), static_cast<size_t>(s.count));
  }
  void Charge(int64_t bytes) {
    bytes_ += bytes;
    if (bytes_ > kMostBytes) Fail(ErrorKind::kFormat, "the grammar takes more than {} bytes to follow", kMostBytes);
  }
  int32_t FrameOf(int32_t place, int32_t below) {
    const uint64_t key = static_cast<uint64_t>(place) << 32 | static_cast<uint32_t>(below);
    const auto [known, is_new] = frame_ids_.emplace(key, static_cast<int32_t>(frames_.size()));
    if (is_new) {
      frames_.push_back({place, below, frames_[static_cast<size_t>(below)].level + 1});
      marks_.push_back(0);
      Charge(64);
    }
    return known->second;
  }

  /// The set that becomes the next state is empty.
  void Begin() {
    set_.clear();
    ++round_;
  }
  /// False where a frame was met before in this round.
  bool Mark(int32_t frame) { return std::exchange(marks_[static_cast<size_t>(frame)], round_) != round_; }
  /// What can be read from a place with that below.
  void Reach(int32_t place, int32_t below) {
    if (++work_ > kMostWork) Fail(ErrorKind::kFormat, "the grammar can be read in too many ways to be followed");
    // What has ended, ends what waits for it.
    while (grammar_.parts()[static_cast<size_t>(place)].kind == Grammar::Kind::kEnd) {
      if (below == 0) return Put(0);
      place = frames_[static_cast<size_t>(below)].place;
      below = frames_[static_cast<size_t>(below)].below;
    }
    const Grammar::Part& part = grammar_.parts()[static_cast<size_t>(place)];
    const int32_t frame = FrameOf(place, below);
    if (part.kind == Grammar::Kind::kBytes) return Put(frame);
    if (!Mark(frame)) return;
    const bool last = grammar_.parts()[static_cast<size_t>(place) + 1].kind == Grammar::Kind::kEnd;
    Expand(part.value, last ? below : FrameOf(place + 1, below));
  }
  void Expand(int32_t rule, int32_t below) {
    const int32_t level = frames_[static_cast<size_t>(below)].level + 1;
    for (const int32_t start : grammar_.starts(rule)) {
      const bool fits = level + grammar_.parts()[static_cast<size_t>(start)].need < Grammar::kMostLevels;
      if (fits) Reach(start, below);
    }
  }
  void Put(int32_t frame) {
    if (!Mark(frame)) return;
    if (set_.size() >= kMostReadings) {
      Fail(ErrorKind::kFormat, "the grammar can be read in more than {} ways at once", kMostReadings);
    }
    set_.push_back(frame);
  }
  int32_t End() { return set_.empty() ? kNone : StateOf(set_); }
  int32_t StateOf(std::vector<int32_t> set) {
    std::ranges::sort(set);
    const uint64_t hash = Hash64(std::as_bytes(std::span(set)));
    std::vector<int32_t>& same_hash = state_ids_[hash];
    for (const int32_t state : same_hash) {
      if (std::ranges::equal(Frames(state), set)) return state;
    }
    const auto state = static_cast<int32_t>(states_.size());
    same_hash.push_back(state);
    states_.push_back({nullptr, nullptr, static_cast<int32_t>(sets_.size()), static_cast<int32_t>(set.size())});
    sets_.insert(sets_.end(), set.begin(), set.end());
    Charge(static_cast<int64_t>(128 + set.size() * sizeof(int32_t)));
    return state;
  }

  void Add(const TokenTrie::Node& node, TokenSet* allowed) const {
    for (int32_t t = node.tokens; t < node.tokens_end; ++t) {
      const auto id = static_cast<size_t>(trie_.ids()[static_cast<size_t>(t)]);
      (*allowed)[id / 64] |= uint64_t{1} << (id % 64);
    }
  }
  /// Tokens of the nodes [begin, end), the first of which are read from `state`.
  void Walk(int32_t state, int32_t begin, int32_t end, TokenSet* allowed) {
    const std::vector<TokenTrie::Node>& nodes = trie_.nodes();
    if (begin == end) return;
    const int32_t base = nodes[static_cast<size_t>(begin)].depth;
    path_.assign(static_cast<size_t>(trie_.longest()) + 1, kNone);
    path_[0] = state;
    work_ = 0;
    for (int32_t i = begin; i < end;) {
      const TokenTrie::Node& node = nodes[static_cast<size_t>(i)];
      const auto depth = static_cast<size_t>(node.depth - base);
      const int32_t next = Step(path_[depth], node.byte);
      if (next == kNone) {
        i = node.end;
        continue;
      }
      path_[depth + 1] = next;
      Add(node, allowed);
      ++i;
    }
  }

  const Grammar& grammar_;
  const TokenTrie& trie_;
  std::vector<Frame> frames_;
  std::unordered_map<uint64_t, int32_t> frame_ids_;
  std::deque<State> states_;
  std::vector<int32_t> sets_;
  std::unordered_map<uint64_t, std::vector<int32_t>> state_ids_;
  std::vector<int32_t> set_, path_;
  std::vector<uint64_t> marks_;  // of frames: the round that met each last
  uint64_t round_ = 0;
  int32_t start_ = 0;
  int64_t bytes_ = 0, work_ = 0;
};

Constraint::Constraint(Grammar grammar, std::shared_ptr<const TokenTrie> trie)
    : grammar_(std::move(grammar)), trie_(std::move(trie)) {
  states_ = std::make_shared<ConstraintStates>(&grammar_, trie_.get());
}

Constraint::~Constraint() = default;

/// States in use that are not `full`.
std::shared_ptr<ConstraintStates> Constraint::States(const ConstraintStates* full) const {
  const std::lock_guard lock(mutex_);
  if (states_.get() == full) states_ = std::make_shared<ConstraintStates>(&grammar_, trie_.get());
  return states_;
}

ConstraintWalk::ConstraintWalk(std::shared_ptr<const Constraint> constraint)
    : constraint_(std::move(constraint)), states_(constraint_->States(nullptr)) {
  const std::lock_guard lock(states_->mutex);
  Enter(states_->start());
}

void ConstraintWalk::Enter(int32_t state) {
  state_ = state;
  may_end_ = states_->may_end(state);
  must_end_ = states_->must_end(state);
}

/// Where what was worked out has become too much, this text takes its place along to where little is known.
void ConstraintWalk::Renew() {
  const std::shared_ptr<ConstraintStates> old = states_;
  states_ = constraint_->States(old.get());
  const std::scoped_lock both(old->mutex, states_->mutex);
  state_ = states_->Import(*old, state_);
}

void ConstraintWalk::Allowed(bool cut_blank, TokenSet* allowed) {
  bool full = false;
  {
    const std::lock_guard lock(states_->mutex);
    full = states_->full();
  }
  if (full) Renew();
  const std::lock_guard lock(states_->mutex);
  *allowed = cut_blank ? states_->AllowedCut(state_) : states_->Allowed(state_);
}

bool ConstraintWalk::Take(std::string_view bytes) {
  const std::lock_guard lock(states_->mutex);
  const int32_t state = states_->Follow(state_, bytes);
  if (state == kNone) return false;
  Enter(state);
  return true;
}

}  // namespace hawser
