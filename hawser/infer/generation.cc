#include "hawser/infer/generation.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/infer/stream.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

class Stopwatch {
 public:
  double Seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

double Rate(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }

}  // namespace

Generation::Generation(Decoder* decoder, KvCache* cache)
    : decoder_(decoder), cache_(cache), logits_(1, decoder->spec().vocab) {}

std::span<const float> Generation::Prefill(std::span<const int32_t> ids, const std::function<bool()>& cancelled) {
  constexpr size_t kPiece = 512;  // between questions
  if (ids.empty()) Fail(ErrorKind::kUsage, "a prompt needs at least one token");
  cache_->BeginPrefill(static_cast<int64_t>(ids.size()));
  const size_t piece = cancelled ? kPiece : ids.size();
  for (size_t begin = 0; begin < ids.size(); begin += piece) {
    if (cancelled && cancelled()) {
      cache_->EndPrefill();
      return {};
    }
    const bool last = begin + piece >= ids.size();
    decoder_->Extend(ids.subspan(begin, std::min(piece, ids.size() - begin)), cache_, last ? logits_.view() : Mat());
  }
  cache_->EndPrefill();
  return {logits_.Row<float>(0), static_cast<size_t>(logits_.cols())};
}

std::span<const float> Generation::Step(int32_t id) {
  decoder_->Extend({&id, 1}, cache_, logits_);
  return {logits_.Row<float>(0), static_cast<size_t>(logits_.cols())};
}

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

double GenerateResult::prefill_tokens_per_second() const { return Rate(prompt_tokens, prefill_seconds); }
double GenerateResult::decode_tokens_per_second() const { return Rate(steps, decode_seconds); }

nlohmann::json ToJson(const TextState& state) {
  nlohmann::json json = {{"pending", state.pending}, {"seen", state.seen.ids}, {"at_start", state.at_start}};
  json["held"] = std::vector<uint8_t>(state.held.begin(), state.held.end());
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
  if (json.contains("held")) {  // states from before it was kept held nothing
    const bool listed = json["held"].is_array();
    for (const nlohmann::json& byte : listed ? json["held"] : nlohmann::json::array({-1})) {
      if (!byte.is_number_integer() || byte < 0 || byte > 255) {
        Fail(ErrorKind::kFormat, "the saved text's \"held\" is no list of bytes");
      }
      state.held += static_cast<char>(byte.get<int>());
    }
  }
  if (json.contains("at_start")) {
    if (!json["at_start"].is_boolean()) Fail(ErrorKind::kFormat, "the saved text's \"at_start\" is no yes or no");
    state.at_start = json["at_start"].get<bool>();
  }
  if (!json.contains("rng")) return state;
  const nlohmann::json& rng = json["rng"];
  const bool is_rng = rng.is_array() && rng.size() == 3 &&
                      std::ranges::all_of(rng, [](const nlohmann::json& n) { return n.is_number_unsigned(); });
  if (!is_rng) Fail(ErrorKind::kFormat, "the saved text's \"rng\" is {}", ShownJson(rng));
  state.rng = Rng{.seed = rng[0].get<uint64_t>(), .stream = rng[1].get<uint64_t>(), .counter = rng[2].get<uint64_t>()};
  return state;
}

std::vector<int32_t> PromptIds(std::string_view text, const Tokenizer& tokenizer, bool parse_special, BosRule bos) {
  std::vector<int32_t> ids = TextPrefix(tokenizer, bos);
  const std::vector<int32_t> of_text = tokenizer.Encode(text, parse_special);
  ids.insert(ids.end(), of_text.begin(), of_text.end());
  if (ids.empty()) {
    Fail(ErrorKind::kUsage, "the prompt is empty and no token is put before it; pass --prompt{}",
         tokenizer.bos() >= 0 ? " or --bos on" : "");
  }
  return ids;
}

std::vector<int32_t> EndIds(const ModelSpec& spec, const Tokenizer& tokenizer) {
  if (!spec.eos.empty() || tokenizer.eos() < 0) return spec.eos;
  return {tokenizer.eos()};
}

GenerateResult Generate(Generation& generation, std::span<const int32_t> prompt, const Tokenizer& tokenizer,
                        const GenerateOptions& options, const std::function<void(std::string_view)>& on_text,
                        TextState* state) {
  GenerateResult result;
  std::vector<int32_t> fed = state != nullptr ? state->pending : std::vector<int32_t>();
  fed.insert(fed.end(), prompt.begin(), prompt.end());
  result.prompt_tokens = static_cast<int64_t>(prompt.size());
  TextStream stream(options.stops);
  const auto show = [&](const std::string& text) {
    result.text += text;
    if (on_text && !text.empty()) on_text(text);
  };
  if (state != nullptr && !state->held.empty()) {
    show(stream.Push(std::exchange(state->held, {})));
    if (!prompt.empty()) show(stream.Finish());
  }
  bool at_start = options.at_start;
  // Rows of the head beyond the tokenizer's ids are padding of the matrix, not tokens.
  const int32_t vocab = std::min(generation.vocab(), tokenizer.vocab_size());
  Sampler sampler(options.sampler, vocab);
  if (state != nullptr) {
    sampler.Accept(state->seen);
    if (state->rng) sampler.set_rng(*state->rng);
  }
  sampler.Accept(prompt);
  Stopwatch prefill;
  // A token left over from before is no prompt.
  std::span<const float> logits =
      prompt.empty() && fed.size() == 1 ? generation.Step(fed[0]) : generation.Prefill(fed, options.cancelled);
  result.prefill_seconds = prefill.Seconds();
  Stopwatch decode;
  if (stream.stopped()) result.stop = StopReason::kStop;
  if (logits.empty()) result.stop = StopReason::kCancelled;
  while (result.stop != StopReason::kCancelled && !stream.stopped() &&
         static_cast<int64_t>(result.ids.size()) < options.max_new) {
    if (options.cancelled && options.cancelled()) {
      result.stop = StopReason::kCancelled;
      break;
    }
    const int32_t id = sampler.Sample(logits.first(vocab));
    if (std::ranges::find(options.end_ids, id) != options.end_ids.end()) {
      result.stop = StopReason::kEos;
      break;
    }
    std::string piece = tokenizer.Piece(id);
    const bool first = at_start && !piece.empty();
    at_start = at_start && piece.empty();
    if (first && tokenizer.adds_dummy_prefix() && piece.starts_with(' ')) piece.erase(0, 1);
    result.ids.push_back(id);
    sampler.Accept({&id, 1});
    show(stream.Push(piece));
    if (stream.stopped()) {
      result.stop = StopReason::kStop;
      break;
    }
    if (static_cast<int64_t>(result.ids.size()) == options.max_new) break;
    logits = generation.Step(id);
    ++result.steps;
  }
  const bool goes_on = options.hold && state != nullptr && result.stop == StopReason::kLength;
  if (goes_on) state->held = stream.held();
  if (!goes_on) show(stream.Finish());
  result.decode_seconds = decode.Seconds();
  if (state != nullptr) {
    state->pending.clear();
    const bool fed_all = result.stop == StopReason::kEos || result.stop == StopReason::kCancelled;
    if (!fed_all && !result.ids.empty()) state->pending = {result.ids.back()};
    state->seen = sampler.seen();
    state->rng = sampler.rng();
    state->at_start = at_start;
  }
  return result;
}

}  // namespace hawser
