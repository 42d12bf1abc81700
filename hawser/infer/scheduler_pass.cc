#include <algorithm>
#include <optional>
#include <utility>

#include "hawser/base/parallel.h"
#include "hawser/infer/scheduler_slot.h"

namespace hawser {
namespace {

constexpr int64_t kLogitRows = 64;  // whose logits are held at once

}  // namespace

/// Draws from the rows that end a prompt or a text so far, and takes log-probabilities of the others.
class Scheduler::Sink : public RowSink {
 public:
  Sink(Scheduler* scheduler, std::span<Slot* const> slots) : s_(scheduler), slots_(slots) {}

  void Rows(std::span<const Row> rows, ConstMat hidden) override {
    for (size_t begin = 0, n = 0; begin < rows.size(); begin += n) {
      n = Together(rows.subspan(begin));
      const auto count = static_cast<int64_t>(n);
      if (s_->logits_.rows() < count) s_->logits_ = Matrix(count, s_->decoder_->spec().vocab);
      s_->decoder_->Logits(hidden.Rows(static_cast<int64_t>(begin), count), s_->logits_.view().Rows(0, count));
      Take(rows.subspan(begin, n));
    }
  }

 private:
  struct Result {
    std::optional<Event> event;
    std::optional<Error> error;
  };

  /// How many of the first rows go into one product with the head: as DecodeChunk::apart has it for the others.
  size_t Together(std::span<const Row> rows) const {
    const bool apart = slots_[rows[0].chunk]->apart();
    const auto of_one = [&](size_t i) { return i + 1 < rows.size() && rows[i + 1].chunk == rows[i].chunk; };
    const bool several = apart && of_one(0);
    const auto most = static_cast<size_t>(apart && !several ? kAlikeRows : kLogitRows);
    size_t n = 1;
    for (; n < std::min(rows.size(), most); ++n) {
      const bool same = rows[n].chunk == rows[0].chunk;
      if (several ? !same : slots_[rows[n].chunk]->apart() != apart || (apart && of_one(n))) break;
    }
    return n;
  }

  void Take(std::span<const Row> rows) {
    std::vector<Result> results(rows.size());
    ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t r) {
      Result& result = results[static_cast<size_t>(r)];
      try {
        const ConstMat logits = s_->logits_.view();
        result.event = OfRow(rows[static_cast<size_t>(r)], {logits.Row<float>(r), static_cast<size_t>(logits.cols)});
      } catch (...) {
        result.error = CaughtError();
      }
    });
    for (size_t r = 0; r < rows.size(); ++r) {
      Slot* slot = slots_[rows[r].chunk];
      ++slot->heard;
      if (slot->over) continue;
      if (results[r].error) {  // the pass still has its cache
        slot->next = -1;
        s_->Tell(slot, {.kind = Event::Kind::kError, .error = results[r].error});
        slot->over = true;
      } else if (results[r].event) {
        s_->Tell(slot, *results[r].event);
      }
    }
  }

  static std::optional<Event> OfRow(const Row& row, Slot* slot, std::span<const float> logits);
  std::optional<Event> OfRow(const Row& row, std::span<const float> logits) const {
    return OfRow(row, slots_[row.chunk], logits);
  }

  Scheduler* s_;
  std::span<Slot* const> slots_;
};

std::optional<Event> Scheduler::Sink::OfRow(const Row& row, Slot* slot, std::span<const float> logits) {
  if (slot->over) return std::nullopt;
  const Request& request = slot->request;
  const size_t after = slot->fed.size() + static_cast<size_t>(row.token) + 1;  // tokens of the text up to this row
  if (after < request.prompt.size()) {
    return Event{.kind = Event::Kind::kPromptToken,
                 .token = LogprobOf(logits, request.prompt[after], std::max(0, request.top_logprobs))};
  }
  if (slot->text->end()) return std::nullopt;
  Event event{.kind = Event::Kind::kToken};
  event.text = std::exchange(slot->lead, {}) + slot->text->Push(logits);
  slot->next = slot->text->drawn();
  event.token.id = slot->next;
  if (request.top_logprobs >= 0) event.token = LogprobOf(logits, slot->next, request.top_logprobs);
  return event;
}

/// Tokens of its prompt that a slot reads in a step which has room for `rows`.
int64_t Scheduler::Piece(const Slot& slot, int64_t rows) const {
  const int64_t rest = std::ssize(slot.rest()), n = std::min(rest, slot.apart() ? options_.rows : rows);
  if (n > rows) return 0;  // its pieces do not depend on what else there is to read
  if (slot.cache->prefix() == nullptr || slot.apart() || n == rest) return n;
  // Nor do the tiles in which it chooses what to read of the prefix, where a step has room for one.
  const int64_t odd = (slot.cache->seen() - slot.cache->prefix_tokens() + n) % SqueezedReader::kTile;
  return odd < n ? n - odd : rows < options_.rows ? 0 : n;
}

/// One pass with all, or where that fails one with each that it has not reached, so that only those end whose own it
/// was.
void Scheduler::RunPass(std::span<Slot* const> slots) {
  std::vector<DecodeChunk> chunks;
  std::vector<int64_t> rows;  // that are wanted
  for (Slot* slot : slots) {
    const Wanted wanted = slot->wanted();
    slot->heard = 0;
    rows.push_back(wanted == Wanted::kAll ? std::ssize(slot->to_feed) : wanted == Wanted::kLast ? 1 : 0);
    chunks.push_back({.cache = slot->cache.get(), .tokens = slot->to_feed, .wanted = wanted, .apart = slot->apart()});
  }
  Sink sink(this, slots);
  std::optional<Error> failed;
  try {
    decoder_->Run(chunks, &sink);
    return;
  } catch (...) {
    failed = CaughtError();
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    Slot* slot = slots[i];
    if (slot->over) continue;
    const int64_t seen = slot->seen_of_pass();
    if (seen == std::ssize(slot->to_feed) && slot->heard == rows[i]) continue;  // it failed behind that
    if (seen == 0 && slots.size() > 1) {
      RunPass({&slot, 1});
      continue;
    }
    if (seen > 0) slot->cache.reset();  // nobody knows what it has seen
    Fault(slot, *failed);
  }
}

void Scheduler::AfterPass(Slot* slot) {
  const bool was_reading = slot->fed.size() < slot->request.prompt.size();
  slot->fed.insert(slot->fed.end(), slot->to_feed.begin(), slot->to_feed.end());
  {
    const std::lock_guard lock(mutex_);
    if (was_reading) stats_.prompt_tokens += static_cast<int64_t>(slot->to_feed.size());
  }
  if (was_reading) {
    const auto prompt = static_cast<int64_t>(slot->request.prompt.size());
    const auto read = static_cast<int64_t>(slot->fed.size());
    if (slot->request.progress) {
      Tell(slot, {.kind = Event::Kind::kProgress,
                  .prompt_tokens = prompt,
                  .cached_tokens = slot->cached,
                  .read_tokens = read});
    }
    if (read < prompt || slot->over) return;
    slot->answered = Slot::Clock::now();
    slot->EndPrefill();
    const bool snapshot = slot->shares() && !slot->cache->holds_all() && options_.prefix_bytes > 0;
    if (snapshot) prefixes_.Keep(slot->shares_as, slot->request.prompt, slot->cache->Fork());
  }
  if (slot->text->end()) End(slot);
}

}  // namespace hawser
