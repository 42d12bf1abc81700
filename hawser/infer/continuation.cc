#include "hawser/infer/continuation.h"

#include <algorithm>
#include <cmath>

#include "hawser/base/error.h"
#include "hawser/io/json.h"

namespace hawser {
std::string_view Name(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kEos:
      return "eos";
    case StopReason::kStop:
      return "stop";
    case StopReason::kCancelled:
      return "cancelled";
  }
  return "";
}

nlohmann::json ToJson(const TextState& state) {
  nlohmann::json json = {{"pending", state.pending}, {"seen", state.seen.ids}, {"at_start", state.at_start}};
  json["held"] = std::vector<uint8_t>(state.held.begin(), state.held.end());
  if (state.unread) json["unread"] = true;
  if (state.formed) json["formed"] = std::vector<uint8_t>(state.formed->begin(), state.formed->end());
  if (!state.seen.counts.empty()) json["seen_counts"] = state.seen.counts;
  if (state.rng) json["rng"] = {state.rng->seed, state.rng->stream, state.rng->counter};
  return json;
}

TextState ParseTextState(const nlohmann::json& json, int32_t vocab) {
  TextState state;
  const auto ids = [&](const char* key) {
    std::vector<int32_t> list;
    const bool found = json.is_object() && json.contains(key) && json[key].is_array();
    for (const nlohmann::json& id : found ? json[key] : nlohmann::json::array()) {
      if (!id.is_number_integer() || id < 0 || id >= vocab) {
        Fail(ErrorKind::kFormat, "the saved text's \"{}\" holds {}, which is no token id", key, ShownJson(id));
      }
      list.push_back(id.get<int32_t>());
    }
    if (!found) Fail(ErrorKind::kFormat, "the saved text has no \"{}\"", key);
    return list;
  };
  state.pending = ids("pending");
  state.seen.ids = ids("seen");
  if (const auto counts = json.find("seen_counts"); counts != json.end()) {
    const bool is_counts =
        counts->is_array() && counts->size() == state.seen.ids.size() &&
        std::ranges::all_of(*counts, [](const nlohmann::json& n) {
          return n.is_number_integer() && n.get<int64_t>() > 0 && n.get<int64_t>() < int64_t{1} << 53;
        });
    if (!is_counts) Fail(ErrorKind::kFormat, "the saved text's \"seen_counts\" are no counts of its \"seen\"");
    state.seen.counts = counts->get<std::vector<int64_t>>();
  }
  const auto bytes = [&](const char* key) {
    std::string text;
    const bool listed = json[key].is_array();
    for (const nlohmann::json& byte : listed ? json[key] : nlohmann::json::array({-1})) {
      if (!byte.is_number_integer() || byte < 0 || byte > 255) {
        Fail(ErrorKind::kFormat, "the saved text's \"{}\" is no list of bytes", key);
      }
      text += static_cast<char>(byte.get<int>());
    }
    return text;
  };
  if (json.contains("held")) state.held = bytes("held");  // states from before it was kept held nothing
  if (json.contains("formed")) state.formed = bytes("formed");
  const auto flag = [&](const char* key) {
    if (!json.contains(key)) return false;
    if (!json[key].is_boolean()) Fail(ErrorKind::kFormat, "the saved text's \"{}\" is no yes or no", key);
    return json[key].get<bool>();
  };
  state.at_start = flag("at_start");
  state.unread = flag("unread") || state.pending.size() > 1;  // older states say it by their number
  if (!json.contains("rng")) return state;
  const nlohmann::json& rng = json["rng"];
  const bool is_rng = rng.is_array() && rng.size() == 3 &&
                      std::ranges::all_of(rng, [](const nlohmann::json& n) { return n.is_number_unsigned(); });
  if (!is_rng) Fail(ErrorKind::kFormat, "the saved text's \"rng\" is {}", ShownJson(rng));
  state.rng = Rng{.seed = rng[0].get<uint64_t>(), .stream = rng[1].get<uint64_t>(), .counter = rng[2].get<uint64_t>()};
  return state;
}

Continuation::Continuation(const GenerateOptions& options, const Tokenizer* tokenizer, int32_t vocab,
                           std::span<const int32_t> prompt, const TextState* state)
    : options_(options),
      tokenizer_(tokenizer),
      // Rows of the head beyond the tokenizer's ids are padding of the matrix, not tokens.
      sampler_(options.sampler, std::min(vocab, tokenizer->vocab_size())),
      stream_(options.stops),
      vocab_(static_cast<size_t>(std::min(vocab, tokenizer->vocab_size()))),
      at_start_(options.at_start) {
  if (state != nullptr) {
    sampler_.Accept(state->seen);
    if (state->rng && !options.reseed) sampler_.set_rng(*state->rng);
    earlier_ = state->held;
    formed_before_ = state->formed;
  }
  sampler_.Accept(prompt);
  if (options_.constraint != nullptr) walk_.emplace(options_.constraint);
}

std::string Continuation::Begin(bool prompt_follows) {
  std::string text;
  if (!earlier_.empty()) {
    text = stream_.Push(std::exchange(earlier_, {}));
    if (prompt_follows) text += stream_.Finish();
  }
  if (walk_ && formed_before_ && !prompt_follows) {
    if (!walk_->Take(*formed_before_)) {
      Fail(ErrorKind::kUsage,
           "the text so far was made under another grammar: this one has none that begins so; give the one that it was "
           "begun under, or a prompt behind which another one begins");
    }
    formed_ = *std::move(formed_before_);
  }
  if (options_.max_new <= 0) end_ = StopReason::kLength;
  if (stream_.stopped() || (walk_ && walk_->must_end())) end_ = StopReason::kStop;
  return text;
}

/// The tokens that may be drawn; empty: all.
std::span<const uint64_t> Continuation::Allowed() {
  if (!walk_) return {};
  walk_->Allowed(at_start_ && tokenizer_->adds_dummy_prefix(), &allowed_);
  for (const int32_t id : options_.end_ids) {
    if (id < 0 || static_cast<size_t>(id) >= vocab_) continue;
    const uint64_t bit = uint64_t{1} << (id % 64);
    uint64_t& word = allowed_[static_cast<size_t>(id) / 64];
    word = walk_->may_end() ? word | bit : word & ~bit;
  }
  if (std::ranges::none_of(allowed_, [](uint64_t word) { return word != 0; })) {
    Fail(ErrorKind::kUnsupported, "the vocabulary has no token that goes on as the grammar wants");
  }
  return allowed_;
}

std::string Continuation::Push(std::span<const float> logits) {
  HAWSER_CHECK(!end_);
  drawn_ = sampler_.Sample(logits.first(vocab_), Allowed());
  if (std::ranges::find(options_.end_ids, drawn_) != options_.end_ids.end()) {
    end_ = StopReason::kEos;
    return "";
  }
  std::string piece = tokenizer_->Piece(drawn_);
  const bool first = at_start_ && !piece.empty();
  at_start_ = at_start_ && piece.empty();
  if (first && tokenizer_->adds_dummy_prefix() && piece.starts_with(' ')) piece.erase(0, 1);
  if (walk_) {
    HAWSER_CHECK(walk_->Take(piece));
    formed_ += piece;
  }
  ids_.push_back(drawn_);
  sampler_.Accept({&drawn_, 1});
  std::string text = stream_.Push(piece);
  if (stream_.stopped() || (walk_ && walk_->must_end())) {
    end_ = StopReason::kStop;
  } else if (static_cast<int64_t>(ids_.size()) >= options_.max_new) {
    end_ = StopReason::kLength;
  }
  return text;
}

std::string Continuation::Finish() { return holds() ? "" : stream_.Finish(); }

void Continuation::Save(TextState* state) const {
  state->held = holds() ? stream_.held() : "";
  state->pending.clear();
  state->unread = false;
  const bool fed_all = end_ == StopReason::kEos || (end_ == StopReason::kCancelled && !options_.hold);
  if (!fed_all && !ids_.empty()) state->pending = {ids_.back()};
  const bool form_under_way = walk_ && end_ != StopReason::kEos && !walk_->must_end();
  state->formed = form_under_way ? std::optional(formed_) : std::nullopt;
  state->seen = sampler_.seen();
  state->rng = sampler_.rng();
  state->at_start = at_start_;
}

TokenLogprob LogprobOf(std::span<const float> logits, int32_t id, int32_t top) {
  const float greatest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - greatest);
  const double log_sum = greatest + std::log(sum);
  const auto logprob = [&](int32_t i) { return static_cast<float>(logits[static_cast<size_t>(i)] - log_sum); };
  TokenLogprob result{.id = id, .logprob = logprob(id)};
  if (top <= 0) return result;
  // A heap of the best so far, the worst of them in front.
  const auto better = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::vector<int32_t> best;
  const auto most = std::min(static_cast<size_t>(top), logits.size());
  for (int32_t i = 0; i < static_cast<int32_t>(logits.size()); ++i) {
    if (best.size() == most && !better(i, best.front())) continue;
    if (best.size() == most) {
      std::ranges::pop_heap(best, better);
      best.pop_back();
    }
    best.push_back(i);
    std::ranges::push_heap(best, better);
  }
  std::ranges::sort_heap(best, better);
  for (const int32_t i : best) result.top.emplace_back(i, logprob(i));
  return result;
}

}  // namespace hawser
