// infer/scheduler_slot.h - a text under way in a Scheduler: what its parts share.
//   scheduler.cc        a step, and what others are told of it
//   scheduler_admit.cc  which requests are taken, which begin, and where
//   scheduler_pass.cc   a pass over the weights, and what is drawn behind it
//   scheduler_end.cc    how texts end
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hawser/infer/scheduler.h"

namespace hawser {

/// What a text is told of the exception that is being caught. Others than those of ours and of memory go on.
Error CaughtError();

struct Scheduler::Slot {
  using Clock = std::chrono::steady_clock;

  uint64_t id = 0;
  Request request;
  EventSink sink;
  KvForm form;
  std::string form_text;
  std::string shares_as;  // caches of the same have prefixes in common
  bool indexed = false;   // it begins behind the indexed prefix
  int64_t reserved = 0;   // bytes of keys and values
  std::unique_ptr<Continuation> text;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<KvCache> spare;  // `cache` as it was before the dense prompt that is read behind a text
  std::vector<int32_t> fed;        // what the cache has seen
  std::vector<int32_t> to_feed;    // in this pass
  int64_t heard = 0;               // rows of this pass that were wanted and have come
  int64_t cached = 0;              // tokens of the prompt that did not have to be read
  int64_t before = 0;              // tokens that the cache had seen when the request began
  int64_t left_over = 0;           // of the prompt: tokens that were pending
  int32_t next = -1;               // drawn and not fed yet
  std::string lead;                // text that an earlier request held back
  bool over = false, cancelled = false, prefills = false;
  Clock::time_point submitted, begun, answered;

  bool reading() const { return next < 0; }
  /// What it wants of this pass: the last row where a token is to be drawn behind it.
  Wanted wanted() const {
    if (reading() && request.prompt_logprobs) return Wanted::kAll;
    return reading() && to_feed.size() < rest().size() ? Wanted::kNone : Wanted::kLast;
  }
  /// Tokens of this pass that its cache has seen.
  int64_t seen_of_pass() const { return cache->seen() - before - static_cast<int64_t>(fed.size()); }
  /// What of a dense prompt stays hangs on where it began and ended.
  bool shares() const { return request.share && request.behind == nullptr && form.prefill == KvPrefill::kSparse; }
  bool apart() const { return !shares(); }
  int64_t prompt_tokens() const { return static_cast<int64_t>(request.prompt.size()) - left_over; }
  /// What stays of a dense prompt is chosen at its end, which a part of one does not have: it counts whole or not at
  /// all.
  bool keeps_spare() const { return request.behind != nullptr && prefills && form.prefill == KvPrefill::kDense; }
  void EndPrefill() {
    if (std::exchange(prefills, false)) cache->EndPrefill();
    spare.reset();
  }
  std::span<const int32_t> rest() const {
    return std::span<const int32_t>(request.prompt).subspan(std::min(fed.size(), request.prompt.size()));
  }
};

template <class What>
void Scheduler::For(Slot* slot, const What& what) {
  try {
    what();
  } catch (...) {
    Fault(slot, CaughtError());
  }
}

}  // namespace hawser
