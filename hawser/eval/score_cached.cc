#include "hawser/eval/score_cached.h"

#include <algorithm>

#include "hawser/base/error.h"

namespace hawser {
namespace {

/// One input, and the texts that read it: they differ in the last token alone, or in where they begin to be scored.
struct Input {
  size_t owner = 0;
  std::vector<size_t> texts = {};
  std::unique_ptr<KvCache> cache = {};
  size_t stem = 0;      // tokens that the cache has seen as part of another input
  size_t unscored = 0;  // rows before the first that predicts something for one of the texts
};

/// Gets the hidden rows of inputs: chunk c is of inputs[which[c]], from its row begin[c] on.
struct NllSink : RowSink {
  Decoder* decoder;
  std::span<const ScoredText> texts;
  std::span<const Input> inputs;
  std::vector<size_t> which = {}, begin = {};
  std::vector<TextScore>* scores;
  std::vector<int32_t> targets = {};
  std::vector<float> nll = {};
  std::vector<uint8_t> greatest = {};

  const Input& InputOf(const Row& row) const { return inputs[which[row.chunk]]; }
  size_t RowOf(const Row& row) const { return begin[row.chunk] + static_cast<size_t>(row.token); }

  void Rows(std::span<const Row> rows, ConstMat hidden) override {
    // Texts of one input ask for the same token, but behind its last row.
    size_t most = 0;
    for (const Row& row : rows) most = std::max(most, InputOf(row).texts.size());
    for (size_t t = 0; t < most; ++t) {
      targets.assign(rows.size(), -1);
      for (size_t i = 0; i < rows.size(); ++i) {
        const Input& input = InputOf(rows[i]);
        if (t >= input.texts.size()) continue;
        const ScoredText& text = texts[input.texts[t]];
        const size_t row = RowOf(rows[i]), last = text.input().size() - 1;
        if (row >= input.unscored && (t == 0 || row == last)) targets[i] = text.ids[row + 1];
      }
      nll.resize(rows.size());
      greatest.resize(rows.size());
      decoder->Nll(hidden, targets.data(), nll.data(), greatest.data());
      for (size_t i = 0; i < rows.size(); ++i) {
        if (targets[i] < 0) continue;
        const Input& input = InputOf(rows[i]);
        const size_t row = RowOf(rows[i]), last = texts[input.texts[t]].input().size() - 1;
        for (size_t other = t; other < (t == 0 ? input.texts.size() : t + 1); ++other) {
          const ScoredText& text = texts[input.texts[other]];
          const bool asks = row + static_cast<size_t>(text.scored) >= text.input().size();
          if (asks && (other == t || row < last)) (*scores)[input.texts[other]].Add(nll[i], greatest[i] != 0);
        }
      }
    }
  }
};

std::vector<Input> InputsOf(std::span<const ScoredText> texts) {
  std::vector<Input> inputs;
  for (size_t t = 0; t < texts.size(); ++t) {
    const size_t unscored = texts[t].input().size() - static_cast<size_t>(texts[t].scored);
    const auto same = std::ranges::find_if(inputs, [&](const Input& input) {
      return input.owner == texts[t].owner && std::ranges::equal(texts[input.texts[0]].input(), texts[t].input());
    });
    if (same == inputs.end()) {
      inputs.push_back({.owner = texts[t].owner, .texts = {t}, .unscored = unscored});
    } else {
      same->texts.push_back(t);
      same->unscored = std::min(same->unscored, unscored);
    }
  }
  return inputs;
}

/// Rows that the inputs [begin, end) of an owner begin with, and nothing is predicted in.
size_t CommonStem(std::span<const ScoredText> texts, std::span<const Input> inputs) {
  const std::span<const int32_t> first = texts[inputs[0].texts[0]].input();
  size_t stem = inputs.size() > 1 ? first.size() : 0;
  for (const Input& input : inputs) {
    const auto same = std::ranges::mismatch(first, texts[input.texts[0]].input()).in1 - first.begin();
    stem = std::min({stem, static_cast<size_t>(same), input.unscored});
  }
  return stem;
}

}  // namespace

std::vector<TextScore> ScoreCached(Decoder* decoder, std::span<const ScoredText> texts,
                                   const std::function<std::unique_ptr<KvCache>()>& new_cache) {
  std::vector<TextScore> scores(texts.size());
  std::vector<Input> inputs = InputsOf(texts);
  NllSink sink;
  sink.decoder = decoder;
  sink.texts = texts;
  sink.inputs = inputs;
  sink.scores = &scores;
  const auto input_of = [&](const Input& input) { return texts[input.texts[0]].input(); };

  std::vector<DecodeChunk> chunks;
  std::vector<std::span<Input>> families;  // inputs of an owner
  for (size_t begin = 0; begin < inputs.size();) {
    size_t end = begin;
    while (end < inputs.size() && inputs[end].owner == inputs[begin].owner) ++end;
    families.push_back(std::span(inputs).subspan(begin, end - begin));
    begin = end;
  }
  bool prompts = false;  // what they decide hangs on where they end
  for (const std::span<Input> family : families) {
    Input& first = family[0];
    first.cache = new_cache();
    prompts = first.cache->form().prefill == KvPrefill::kDense || first.cache->prefix() != nullptr;
    const size_t stem = prompts ? 0 : CommonStem(texts, family);
    for (Input& input : family) input.stem = stem;
    if (stem > 0) {
      chunks.push_back({.cache = first.cache.get(), .tokens = input_of(first).first(stem), .wanted = Wanted::kNone});
    }
  }
  if (!chunks.empty()) decoder->Run(chunks, &sink);
  for (const std::span<Input> family : families) {
    for (Input& input : family.subspan(1)) input.cache = input.stem > 0 ? family[0].cache->Fork() : new_cache();
  }
  const auto run = [&](auto&& from, auto&& to) {
    chunks.clear();
    sink.which.clear();
    sink.begin.clear();
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto tokens = input_of(inputs[i]).subspan(from(inputs[i]), to(inputs[i]) - from(inputs[i]));
      if (tokens.empty()) continue;
      sink.which.push_back(i);
      sink.begin.push_back(from(inputs[i]));
      chunks.push_back({.cache = inputs[i].cache.get(), .tokens = tokens, .wanted = Wanted::kAll});
    }
    if (!chunks.empty()) decoder->Run(chunks, &sink);
  };
  const auto whole = [&](const Input& input) { return input_of(input).size(); };
  const auto prompt = [&](const Input& input) { return std::min(input.unscored + 1, whole(input)); };
  if (!prompts) {
    run([](const Input& input) { return input.stem; }, whole);
    return scores;
  }
  for (const Input& input : inputs) input.cache->BeginPrefill(static_cast<int64_t>(prompt(input)));
  run([](const Input&) { return size_t{0}; }, prompt);
  for (const Input& input : inputs) input.cache->EndPrefill();
  run(prompt, whole);
  return scores;
}

}  // namespace hawser
