#include "hawser/eval/focus_lm.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/eval/prompt_ids.h"
#include "hawser/eval/score_cached.h"
#include "hawser/model/decoder.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/places.h"

namespace hawser {
namespace {

/// Tokens of an answer that the longest input leaves room for where nobody says how long it may be.
int64_t RoomOf(const ModelSpec& spec) { return std::min<int64_t>(64, spec.context / 8); }

}  // namespace

struct FocusLm::Impl {
  Backend* backend;
  Weights weights;
  const Tokenizer& tokenizer;
  FocusLmOptions options;
  int64_t longest;
  uint64_t candidates;  // fingerprint
  Decoder base, condenser;
  PromptEncoder encoder;
  FocusStream stream;
  std::vector<int32_t> ends;

  Impl(Backend* b, const Weights& w, const Weights& c, const Tokenizer& t, const FocusLmOptions& o)
      : backend(b),
        weights(w),
        tokenizer(t),
        options(o),
        longest(o.max_length > 0 ? o.max_length : FocusReach(w.spec(), o.focus.shape, RoomOf(w.spec()))),
        candidates(ModelFingerprint(c)),
        base(b, w),
        condenser(b, c),
        encoder(t, o.bos, o.chat, longest),
        stream(b, &base, &condenser, w.dtype(), FocusBos(t, o.bos), o.focus),
        ends(EndIds(w.spec(), t)) {
    if (t.eos() >= 0) ends.push_back(t.eos());
  }

  /// The nats of a token, and whether none is more probable.
  TextScore Score(const ScoredText& text) {
    const std::span<const int32_t> ids(text.ids);
    const size_t context = ids.size() - static_cast<size_t>(text.scored);
    TextScore score;
    stream.Reset();
    std::span<const float> logits = stream.Prefill(ids.first(context));
    for (size_t i = context; i < ids.size(); ++i) {
      const TokenLogprob token = LogprobOf(logits, ids[i], /*top=*/0);
      if (!std::isfinite(token.logprob)) {
        Fail(ErrorKind::kNumeric,
             "the model gives a token the logarithm {} of a probability; its weights may be damaged", token.logprob);
      }
      score.Add(-token.logprob, logits[static_cast<size_t>(ids[i])] >= *std::ranges::max_element(logits));
      if (i + 1 < ids.size()) logits = stream.Step(ids[i]);
    }
    return score;
  }

  LmAnswer Ask(const LmRequest& request, size_t number) {
    LmAnswer answer;
    if (request.kind == LmRequest::Kind::kGenerate) {
      const std::vector<int32_t> prompt = encoder.Prompt(request, &answer.prompt_tokens);
      GenerateOptions generate{.max_new = request.max_new, .end_ids = ends};
      generate.sampler.temperature = 0;
      for (const std::string& stop : request.stops) {
        if (!stop.empty()) generate.stops.push_back(stop);
      }
      stream.Reset();
      GenerateResult result = Generate(stream, prompt, tokenizer, generate);
      answer.text = std::move(result.text);
      answer.new_tokens = std::ssize(result.ids);
      return answer;
    }
    for (const ScoredText& text : encoder.Scored(request, number, &answer.prompt_tokens)) {
      const TextScore score = Score(text);
      answer.likelihoods.push_back({.ll = -score.nll, .greedy = score.greedy, .tokens = score.tokens});
    }
    return answer;
  }
};

FocusLm::FocusLm(Backend* backend, const Weights& weights, const Weights& candidates, const Tokenizer& tokenizer,
                 const FocusLmOptions& options)
    : impl_(std::make_unique<Impl>(backend, weights, candidates, tokenizer, options)) {}
FocusLm::~FocusLm() = default;

int64_t FocusLm::max_length() const { return impl_->longest; }
std::string FocusLm::Shown(const LmRequest& request) const { return impl_->encoder.Shown(request); }

nlohmann::json FocusLm::Describe() const {
  const Impl& m = *impl_;
  const FocusShape& shape = m.options.focus.shape;
  return {{"focus",
           {{"chunk", shape.chunk}, {"prompt", shape.prompt}, {"local", shape.local}, {"sync", m.options.focus.sync}}},
          {"cache", "focus"},
          {"rope", PlacesText(m.weights.spec())},
          {"weights_dtype", Name(m.weights.dtype())},
          {"kv_dtype", Name(m.weights.dtype())},
          {"max_length", m.longest},
          {"candidates", fmt::format("{:016x}", m.candidates)},
          {"bos", Name(m.options.bos)},
          {"chat", m.options.chat},
          {"model_bytes", m.weights.bytes()},
          {"parameters", NumParameters(m.weights.spec())}};
}

void FocusLm::Answer(std::span<const LmRequest> requests, const std::vector<bool>& known, const AnswerSink& sink) {
  const auto wanted = [&](size_t r) { return known.empty() || !known[r]; };
  for (const LmRequest& request : requests) {
    if (request.kind != LmRequest::Kind::kRolling) continue;
    Fail(ErrorKind::kUnsupported,
         "--focus reads a prompt as a whole; texts whose every token is predicted have none: measure them without it");
  }
  int64_t total = 0, done = 0;
  for (size_t r = 0; r < requests.size(); ++r) total += wanted(r) ? 1 : 0;
  ProgressBar bar("eval", total);
  for (size_t r = 0; r < requests.size(); ++r) {
    if (!wanted(r)) continue;
    const NumberedAnswer answer{r, impl_->Ask(requests[r], r)};
    sink({&answer, 1});
    bar.Update(++done);
  }
}

}  // namespace hawser
