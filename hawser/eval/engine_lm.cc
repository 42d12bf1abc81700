#include "hawser/eval/engine_lm.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/progress.h"
#include "hawser/eval/generate_many.h"
#include "hawser/eval/prompt_ids.h"
#include "hawser/eval/score_cached.h"
#include "hawser/eval/score_plan.h"
#include "hawser/eval/with_prefix.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/model/places.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

constexpr int64_t kLongRows = 16384;  // of a sequence: longer ones are read in chunks, through a cache
constexpr int64_t kGroup = 48;        // prompts whose texts are made together

LayeredPattern ModelPattern(const EngineLmOptions& options) { return options.attention.value_or(AttnPattern()); }

}  // namespace

struct EngineLm::Impl {
  Backend* backend;
  Weights weights;
  const Tokenizer& tokenizer;
  EngineLmOptions options;
  int64_t longest;
  Decoder decoder;
  PromptEncoder encoder;
  KvForm form;                      // of caches
  bool packed;                      // likelihoods need no cache
  bool branches;                    // a branch behind a stem is what it would be alone
  int64_t branch_rows = INT64_MAX;  // of a stem and a branch, so that no window of the model's closes
  std::vector<uint8_t> cache_separators, pattern_separators;

  Impl(Backend* b, const Weights& w, const Tokenizer& t, const EngineLmOptions& o)
      : backend(b),
        weights(w),
        tokenizer(t),
        options(o),
        longest(o.max_length > 0 ? o.max_length : w.spec().context),
        decoder(b, w),
        encoder(t, o.bos, o.chat, longest) {
    if (options.kv && options.attention) {
      Fail(ErrorKind::kUsage, "--kv and --attention both say what is seen; give one of them");
    }
    const ModelSpec& spec = weights.spec();
    if (longest < 2) Fail(ErrorKind::kUsage, "inputs of {} tokens predict nothing: at least 2 are needed", longest);
    form = options.kv ? *options.kv : options.attention ? FormOfPattern(*options.attention) : OwnForm(spec);
    packed = options.prefix == nullptr && (!options.kv || *options.kv == KvForm());
    cache_separators = ModelSeparators(&tokenizer, form.separator_set, spec.vocab);
    const LayeredPattern pattern = ModelPattern(options);
    if (pattern.separators) pattern_separators = ModelSeparators(&tokenizer, pattern.separator_set, spec.vocab);
    const LayerPatterns layers = PatternsOfLayers(pattern, spec.layers, OwnPattern(spec));
    branches = options.share && spec.segments.places == 0 && !DependsOnLength(spec.rope) &&
               !(spec.local_rope && DependsOnLength(*spec.local_rope));
    for (const AttnPattern& of : layers.distinct) {
      AttnPattern plain = of;
      plain.window = AttnPattern::kAll;
      branches = branches && plain == AttnPattern();
      branch_rows = std::min<int64_t>(branch_rows, of.window);
    }
    if (options.prefix != nullptr) NewCache();  // its errors belong here
  }

  static KvForm OwnForm(const ModelSpec& spec) {
    if (spec.sliding_window == 0) return {};
    KvForm form = ParseKvForm(fmt::format("window:{}", spec.sliding_window));
    form.full_layers = spec.full_layers;
    return form;
  }

  std::unique_ptr<KvCache> NewCache() const {
    auto cache =
        std::make_unique<KvCache>(NewKvCache(backend, weights.spec(), form, cache_separators, weights.dtype(), 0));
    if (options.prefix != nullptr) cache->Follow(std::make_shared<SqueezedReader>(*options.prefix));
    return cache;
  }

  /// What is read and scored of the texts of a request, behind the prefix where there is one.
  void GoBehindPrefix(const LmRequest& request, std::vector<ScoredText>* texts) const {
    if (options.prefix == nullptr) return;
    const std::span<const int32_t> prefix = options.prefix->index().ids;
    for (ScoredText& text : *texts) {
      const std::span<const int32_t> context =
          std::span(text.ids).first(text.ids.size() - static_cast<size_t>(text.scored));
      CheckBehindPrefix(prefix, request, context);
      text.ids.erase(text.ids.begin(), text.ids.begin() + std::ssize(prefix));
    }
  }

  void CheckIds(std::span<const int32_t> ids) const {
    const auto outside = std::ranges::find_if(ids, [&](int32_t id) { return id < 0 || id >= weights.spec().vocab; });
    if (outside == ids.end()) return;
    Fail(ErrorKind::kUsage, "token id {} is outside the model's vocabulary of {}; is it the model's tokenizer?",
         *outside, weights.spec().vocab);
  }

  // --- likelihoods in packed passes

  void AddSequence(const ScoreSequence& from, Batch* batch, std::vector<RowTarget>* targets) const {
    const auto begin = static_cast<int32_t>(batch->rows());
    Batch::Sequence sequence{.begin = begin, .layout = {.size = static_cast<int32_t>(from.rows())}, .stem = from.stem};
    if (from.stem > 0) sequence.layout = MakeLayout(from.stem, from.branches);
    for (int64_t row = 0; row < from.rows(); ++row) {
      const int64_t document =
          from.stem > 0 && row >= from.stem ? sequence.layout.DocBegin(static_cast<int32_t>(row)) : 0;
      batch->positions.push_back(document > 0 ? from.stem + row - document : row);
      if (!pattern_separators.empty()) {
        sequence.layout.is_separator.push_back(pattern_separators[static_cast<size_t>(from.ids[row])]);
      }
    }
    batch->ids.insert(batch->ids.end(), from.ids.begin(), from.ids.end());
    batch->targets.resize(batch->ids.size(), -1);
    batch->weights.resize(batch->ids.size(), 0.0f);
    for (const ScoreSequence::Target& target : from.targets) targets->push_back({begin + target.row, target.token});
    batch->sequences.push_back(std::move(sequence));
  }

  /// Of all sequences of `units`, in one pass.
  void ScorePacked(std::span<const ScoreUnit> units, std::vector<TextScore>* scores) {
    Batch batch{.pattern = ModelPattern(options)};
    std::vector<RowTarget> targets;
    for (const ScoreUnit& unit : units) {
      for (const ScoreSequence& sequence : unit.sequences) AddSequence(sequence, &batch, &targets);
    }
    std::vector<float> nll(targets.size());
    std::vector<uint8_t> greatest(targets.size());
    decoder.ScoreRows(batch, targets, nll.data(), greatest.data());
    size_t at = 0;
    for (const ScoreUnit& unit : units) {
      for (const ScoreSequence& sequence : unit.sequences) {
        for (const ScoreSequence::Target& target : sequence.targets) {
          (*scores)[target.text].Add(nll[at], greatest[at] != 0);
          ++at;
        }
      }
    }
  }
};

KvForm FormOfPattern(const LayeredPattern& pattern) {
  if (!pattern.layer_windows.empty()) {
    Fail(ErrorKind::kUsage, "--attention {}: windows a layer are no cache yet; give them as --kv sep:A,W+W+...",
         ToString(pattern));
  }
  KvForm form;
  if (pattern.window == AttnPattern::kAll) return form;  // whatever is pinned, all is seen
  const KvNumbers window = {pattern.window}, sinks = {pattern.sinks};
  if (pattern.every > 0 && pattern.separators) {
    Fail(ErrorKind::kUsage, "--attention {}: no cache pins both separators and each {}-th token", ToString(pattern),
         pattern.every);
  }
  form.positions = KvPositions::kAbsolute;
  form.full_layers = pattern.full_layers;
  form.separator_set = pattern.separator_set;
  if (pattern.every > 0) {
    form.kind = KvFix{sinks, window, {pattern.every}};
  } else if (pattern.separators) {
    form.kind = KvSep{sinks, window};
  } else if (pattern.sinks > 0) {
    form.kind = KvSink{sinks, window};
  } else {
    form.kind = KvWindow{window};
  }
  return ParseKvForm(ToString(form));
}

EngineLm::EngineLm(Backend* backend, const Weights& weights, const Tokenizer& tokenizer, const EngineLmOptions& options)
    : impl_(std::make_unique<Impl>(backend, weights, tokenizer, options)) {}
EngineLm::~EngineLm() = default;

int64_t EngineLm::max_length() const { return impl_->longest; }
std::string EngineLm::Shown(const LmRequest& request) const { return impl_->encoder.Shown(request); }

nlohmann::json EngineLm::Describe() const {
  const Impl& m = *impl_;
  const ModelSpec& spec = m.weights.spec();
  nlohmann::json json = {{"cache", m.options.kv ? ToString(*m.options.kv) : "full"},
                         {"attention", ToString(ModelPattern(m.options))},
                         {"rope", PlacesText(spec)},
                         {"weights_dtype", Name(m.weights.dtype())},
                         {"kv_dtype", Name(m.form.dtype.value_or(m.weights.dtype()))},
                         {"max_length", m.longest},
                         {"bos", Name(m.options.bos)},
                         {"chat", m.options.chat},
                         {"batch_tokens", m.options.batch_tokens},
                         {"model_bytes", m.weights.bytes()},
                         {"parameters", NumParameters(spec)}};
  if (m.options.prefix == nullptr) return json;
  json["index"] = fmt::format("{}, keep {}", PrefixName(m.options.prefix->index()), ToString(m.options.prefix->rule()));
  return json;
}

void EngineLm::Answer(std::span<const LmRequest> requests, const std::vector<bool>& known, const AnswerSink& sink) {
  Impl& m = *impl_;
  const auto wanted = [&](size_t request) { return known.empty() || !known[request]; };

  // Everything is planned over all requests, so that a run that goes on makes the same passes.
  std::vector<int64_t> prompt_tokens(requests.size(), 0);
  std::vector<std::vector<ScoredText>> encoded(requests.size());
  std::vector<std::vector<int32_t>> prompts(requests.size());
  ParallelFor(static_cast<int64_t>(requests.size()), [&](int64_t i) {
    const auto r = static_cast<size_t>(i);
    if (requests[r].kind == LmRequest::Kind::kGenerate) {
      prompts[r] = m.encoder.Prompt(requests[r], &prompt_tokens[r]);
      if (m.options.prefix != nullptr) CheckBehindPrefix(m.options.prefix->index().ids, requests[r], prompts[r]);
    } else {
      encoded[r] = m.encoder.Scored(requests[r], r, &prompt_tokens[r]);
      m.GoBehindPrefix(requests[r], &encoded[r]);
    }
  });
  std::vector<size_t> asked(requests.size(), 0);  // texts
  std::vector<ScoredText> texts, apart;           // in passes, and through a cache
  std::vector<size_t> writers;                    // requests that generate
  for (size_t r = 0; r < requests.size(); ++r) {
    size_t longest = 0;
    asked[r] = encoded[r].size();
    for (const ScoredText& text : encoded[r]) {
      m.CheckIds(text.ids);
      longest = std::max(longest, text.ids.size());
    }
    m.CheckIds(prompts[r]);
    const bool in_pass = m.packed && static_cast<int64_t>(longest) <= kLongRows;
    std::vector<ScoredText>& to = in_pass ? texts : apart;
    for (ScoredText& text : encoded[r]) to.push_back(std::move(text));
    if (requests[r].kind == LmRequest::Kind::kGenerate) writers.push_back(r);
  }
  encoded.clear();
  const bool fits = std::ranges::all_of(
      texts, [&](const ScoredText& t) { return static_cast<int64_t>(t.ids.size()) <= m.branch_rows; });
  const std::vector<ScoreUnit> units =
      PlanScoring(texts, {.share = m.branches && fits, .most_rows = m.options.batch_tokens});
  // The longest first: later ones take less memory than what was found to fit.
  std::ranges::stable_sort(writers, [&](size_t a, size_t b) { return prompts[a].size() > prompts[b].size(); });

  struct Pass {
    size_t begin = 0, end = 0;  // units
    int64_t rows = 0;
    bool wanted = false;
  };
  std::vector<Pass> passes;
  int64_t total = 0;
  for (size_t u = 0; u < units.size(); ++u) {
    const int64_t rows = units[u].rows();
    if (passes.empty() || passes.back().rows + rows > m.options.batch_tokens) passes.push_back({u, u, 0, false});
    Pass& pass = passes.back();
    pass.end = u + 1;
    pass.rows += rows;
    for (size_t r = units[u].first_owner; r <= units[u].last_owner; ++r) {
      pass.wanted = pass.wanted || (requests[r].kind != LmRequest::Kind::kGenerate && wanted(r));
    }
  }
  for (const Pass& pass : passes) total += pass.wanted ? pass.rows : 0;
  for (size_t t = 0; t < apart.size(); ++t) {  // roughly: a stem once, and what is scored behind it
    const bool first = t == 0 || apart[t].owner != apart[t - 1].owner;
    if (wanted(apart[t].owner)) total += apart[t].scored + (first ? static_cast<int64_t>(apart[t].ids.size()) : 0);
  }
  std::vector<std::span<const size_t>> groups;
  for (size_t begin = 0; begin < writers.size(); begin += kGroup) {
    const auto group = std::span(writers).subspan(begin, std::min<size_t>(kGroup, writers.size() - begin));
    if (!std::ranges::any_of(group, wanted)) continue;
    groups.push_back(group);
    for (const size_t r : group) total += GenerationCost(prompts[r].size(), requests[r].max_new);
  }

  ProgressBar bar("eval", total);
  int64_t done = 0;
  const auto tell = [&](std::span<const ScoredText> of, std::span<const TextScore> scores) {
    std::vector<NumberedAnswer> answers;
    for (size_t t = 0; t < of.size(); ++t) {
      const size_t r = of[t].owner;
      const TextScore& score = scores[t];
      if (!std::isfinite(score.nll)) {
        Fail(ErrorKind::kNumeric, "the model gives {} nats for {} tokens; its weights may be damaged", score.nll,
             score.tokens);
      }
      if (answers.empty() || answers.back().request != r) {
        answers.push_back({.request = r, .answer = {.prompt_tokens = prompt_tokens[r]}});
      }
      std::vector<Likelihood>& list = answers.back().answer.likelihoods;
      if (requests[r].kind != LmRequest::Kind::kRolling || list.empty()) list.emplace_back(Likelihood{.greedy = true});
      list.back().ll -= score.nll;
      list.back().greedy = list.back().greedy && score.greedy;
      list.back().tokens += score.tokens;
    }
    std::erase_if(answers, [&](const NumberedAnswer& answer) { return !wanted(answer.request); });
    sink(answers);
  };

  for (size_t r = 0; r < requests.size(); ++r) {  // empty documents
    const bool empty = requests[r].kind != LmRequest::Kind::kGenerate && asked[r] == 0;
    if (!empty || !wanted(r)) continue;
    const NumberedAnswer answer{r, {.likelihoods = std::vector<Likelihood>(1, {.greedy = true})}};
    sink({&answer, 1});
  }
  size_t text = 0;
  std::vector<TextScore> scores(texts.size());
  for (const Pass& pass : passes) {
    size_t end = text;
    while (end < texts.size() && texts[end].owner <= units[pass.end - 1].last_owner) ++end;
    if (pass.wanted) {
      m.ScorePacked(std::span(units).subspan(pass.begin, pass.end - pass.begin), &scores);
      tell(std::span(texts).subspan(text, end - text), std::span(scores).subspan(text, end - text));
      bar.Update(done += pass.rows);
    }
    text = end;
  }
  for (size_t begin = 0; begin < apart.size();) {
    // Owners that fit in a pass, or one.
    size_t end = begin;
    int64_t rows = 0;
    bool any = false;
    while (end < apart.size()) {
      const size_t owner = apart[end].owner;
      size_t next = end;
      int64_t more = 0;
      for (; next < apart.size() && apart[next].owner == owner; ++next) more += apart[next].scored;
      more += static_cast<int64_t>(apart[end].ids.size());
      // What stands behind a prefix may be short, and its cache takes whole pages.
      if (m.options.prefix != nullptr) more = std::max(more, static_cast<int64_t>(next - end) * KvRows::kPage);
      const bool fits =
          rows + more <= m.options.batch_tokens && next - begin <= static_cast<size_t>(4 * m.options.streams);
      if (end > begin && !fits) break;
      any = any || wanted(owner);
      rows += more;
      end = next;
    }
    if (any) {
      const auto of = std::span(apart).subspan(begin, end - begin);
      tell(of, ScoreCached(&m.decoder, of, [&m] { return m.NewCache(); }));
      bar.Update(done += rows);
    }
    begin = end;
  }
  for (const std::span<const size_t> group : groups) {
    std::vector<NumberedAnswer> answers;
    GenerateMany(m.backend, &m.decoder, m.weights, m.tokenizer,
                 {.kv = m.form, .prefix = m.options.prefix, .streams = m.options.streams}, group, requests, prompts,
                 [&](size_t r, LmAnswer answer) {
                   answer.prompt_tokens = prompt_tokens[r];
                   done += GenerationCost(prompts[r].size(), requests[r].max_new);
                   bar.Update(done);
                   if (wanted(r)) answers.push_back({r, std::move(answer)});
                 });
    sink(answers);
  }
}

}  // namespace hawser
