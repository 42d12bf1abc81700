#include "hawser/eval/engine_lm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <optional>

#include "hawser/base/file.h"
#include "hawser/device/registry.h"
#include "hawser/eval/harness.h"
#include "hawser/eval/score_plan.h"
#include "hawser/eval/tasks.h"
#include "hawser/infer/generation.h"
#include "hawser/io/json.h"
#include "hawser/model/kv_shape.h"
#include "hawser/model/places.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/test_data.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

/// Bytes as ids, BOS 1, EOS 2.
class Bytes : public testing::ByteTokenizer {
 public:
  Bytes() {
    set_bos(1);
    set_eos(2);
    set_prefix({1});
  }
};

struct Engine {
  std::unique_ptr<Backend> backend = MakeBackend("cpu");
  ModelSpec spec;
  ParamStore params;
  Bytes tokenizer;

  explicit Engine(ModelSpec of) : spec(of), params(LoudModel(of, 3)) {}
  static ModelSpec Spec() { return TinySpec({.vocab = 256, .context = 256}); }

  std::vector<LmAnswer> Ask(const std::vector<LmRequest>& requests, const EngineLmOptions& options,
                            const std::vector<bool>& known = {}) {
    EngineLm lm(backend.get(), params, tokenizer, options);
    std::vector<LmAnswer> answers(requests.size());
    std::vector<int> times(requests.size(), 0);
    lm.Answer(requests, known, [&](std::span<const NumberedAnswer> some) {
      for (const NumberedAnswer& numbered : some) {
        answers[numbered.request] = numbered.answer;
        ++times[numbered.request];
      }
    });
    for (size_t r = 0; r < times.size(); ++r) EXPECT_EQ(times[r], known.empty() || !known[r] ? 1 : 0) << r;
    return answers;
  }
};

/// Questions behind a long common beginning, with choices of several lengths; a letter each; one alone.
std::vector<LmRequest> Questions() {
  const std::string common = "These are questions about ropes and anchors, and about ships that need both of them.\n\n";
  std::vector<LmRequest> requests;
  for (const char* question : {"What holds a ship?", "What is thick? ", "Who sails", "How many?"}) {
    requests.push_back({.context = common + question, .continuations = {" a hawser", " an anchor chain", " x"}});
    requests.push_back({.context = common + question, .continuations = {"A", "B", "C", "D"}});
  }
  requests.push_back({.context = "", .continuations = {"nothing before", "nothing"}});
  requests.push_back({.context = "alone", .continuations = {" it stands"}});
  return requests;
}

void ExpectNear(const std::vector<LmAnswer>& a, const std::vector<LmAnswer>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t r = 0; r < a.size(); ++r) {
    ASSERT_EQ(a[r].likelihoods.size(), b[r].likelihoods.size()) << r;
    EXPECT_EQ(a[r].text, b[r].text) << r;
    for (size_t c = 0; c < a[r].likelihoods.size(); ++c) {
      const Likelihood &x = a[r].likelihoods[c], &y = b[r].likelihoods[c];
      EXPECT_NEAR(x.ll, y.ll, tolerance * std::abs(y.ll)) << r << " " << c;
      EXPECT_EQ(x.greedy, y.greedy) << r << " " << c;
      EXPECT_EQ(x.tokens, y.tokens) << r << " " << c;
    }
  }
}

TEST(EngineLm, SharedContextsGiveTheSame) {
  Engine engine(Engine::Spec());
  const std::vector<LmRequest> requests = Questions();
  const std::vector<LmAnswer> alone = engine.Ask(requests, {.batch_tokens = 1, .share = false});
  ExpectNear(engine.Ask(requests, {}), alone, 1e-6);
  ExpectNear(engine.Ask(requests, {.batch_tokens = 300}), alone, 1e-6);
  // Through a cache that keeps everything, one that goes back to where a choice begins, and one that cannot.
  ExpectNear(engine.Ask(requests, {.kv = ParseKvForm("full:dtype=f32")}), alone, 1e-6);
  const std::vector<LmAnswer> window = engine.Ask(requests, {.kv = ParseKvForm("window:24")});
  ExpectNear(engine.Ask(requests, {.attention = ParseLayeredPattern("window=24")}), window, 1e-6);
  // Stems that are forked are what is read from the beginning, also where keys are dropped and moved.
  for (const char* form : {"sink:3,20", "sep-stream:2,4,8,24", "sep-stream:2,4,8,24,prefill=dense"}) {
    const std::vector<LmAnswer> together = engine.Ask(requests, {.kv = ParseKvForm(form)});
    for (size_t r = 0; r < requests.size(); ++r) {
      for (size_t c = 0; c < requests[r].continuations.size(); ++c) {
        LmRequest one = requests[r];
        one.continuations = {requests[r].continuations[c]};
        const LmAnswer answer = engine.Ask({one}, {.kv = ParseKvForm(form)})[0];
        EXPECT_NEAR(together[r].likelihoods[c].ll, answer.likelihoods[0].ll, 2e-6 * std::abs(answer.likelihoods[0].ll))
            << form << " " << r << " " << c;
      }
    }
  }
  EXPECT_GT(std::abs(window[0].likelihoods[0].ll - alone[0].likelihoods[0].ll), 1e-3);
  ExpectNear(engine.Ask(requests, {.attention = ParseLayeredPattern("sinks=3 window=24 sep")}),
             engine.Ask(requests, {.kv = ParseKvForm("sep:3,24,positions=absolute")}), 1e-6);
}

TEST(EngineLm, OtherPlacesAndWindowsShareOnlyWhereThatIsTheSame) {
  ModelSpec window = Engine::Spec();
  window.sliding_window = 40;
  ModelSpec alibi = Engine::Spec();
  alibi.places = Places::kAlibi;
  ModelSpec dynamic = Engine::Spec();
  ApplyPlaces("dynamic:factor=4,original=32", dynamic.context, 0, &dynamic);
  for (const ModelSpec& spec : {window, alibi, dynamic}) {
    Engine engine(spec);
    const std::vector<LmAnswer> alone = engine.Ask(Questions(), {.batch_tokens = 1, .share = false});
    ExpectNear(engine.Ask(Questions(), {}), alone, 2e-6);
  }
}

TEST(EngineLm, WhatIsKnownDoesNotChangeTheRest) {
  Engine engine(Engine::Spec());
  std::vector<LmRequest> requests = Questions();
  requests.push_back({.kind = LmRequest::Kind::kRolling, .context = std::string(600, 'a') + "bcd"});
  requests.push_back({.kind = LmRequest::Kind::kRolling, .context = ""});
  for (int i = 0; i < 5; ++i) {
    requests.push_back(
        {.kind = LmRequest::Kind::kGenerate, .context = std::string(10 + i, 'q'), .stops = {"zz"}, .max_new = 12});
  }
  const EngineLmOptions options{.batch_tokens = 300, .streams = 3};
  const std::vector<LmAnswer> all = engine.Ask(requests, options);
  EXPECT_EQ(all[10].likelihoods[0].tokens, 603);
  EXPECT_EQ(all[11].likelihoods[0].tokens, 0);
  std::vector<bool> known(requests.size(), false);
  for (size_t r = 0; r < known.size(); r += 2) known[r] = true;
  const std::vector<LmAnswer> rest = engine.Ask(requests, options, known);
  for (size_t r = 1; r < requests.size(); r += 2) {
    EXPECT_EQ(rest[r].text, all[r].text);
    for (size_t c = 0; c < rest[r].likelihoods.size(); ++c) {
      EXPECT_EQ(rest[r].likelihoods[c].ll, all[r].likelihoods[c].ll) << r;
    }
  }
}

TEST(EngineLm, ManyTextsAreThoseOfEach) {
  Engine engine(Engine::Spec());
  std::vector<LmRequest> requests;
  for (int i = 0; i < 7; ++i) {
    requests.push_back({.kind = LmRequest::Kind::kGenerate,
                        .context = "A prompt of its own, number " + std::string(1 + i * 5, '0' + i),
                        .stops = {"\xff\xfe\xfd"},
                        .max_new = 20});
  }
  for (const std::optional<KvForm>& kv : {std::optional<KvForm>(), std::optional(ParseKvForm("sink:2,12"))}) {
    const std::vector<LmAnswer> many = engine.Ask(requests, {.kv = kv, .streams = 4});
    ExpectNear(many, engine.Ask(requests, {.kv = kv, .streams = 1}), 0);
    // As generate does it.
    Decoder decoder(engine.backend.get(), &engine.params);
    for (size_t r = 0; r < requests.size(); ++r) {
      KvCache cache = NewKvCache(engine.backend.get(), engine.spec, kv.value_or(KvForm()), {}, DType::kF32, 0);
      Generation generation(&decoder, &cache);
      const GenerateResult one =
          Generate(generation, PromptIds(requests[r].context, engine.tokenizer), engine.tokenizer,
                   {.max_new = 20, .sampler = {.temperature = 0}, .end_ids = {2}});
      EXPECT_EQ(static_cast<int64_t>(one.ids.size()), many[r].new_tokens) << r;
      EXPECT_EQ(one.text, many[r].text) << r;
    }
  }
}

TEST(EngineLm, CutsTextsAtStops) {
  Engine engine(Engine::Spec());
  const LmRequest free{.kind = LmRequest::Kind::kGenerate, .context = "go", .max_new = 30};
  const std::string text = engine.Ask({free}, {})[0].text;
  ASSERT_GT(text.size(), 6);
  LmRequest stopped = free;
  const auto plain = [&](size_t at) { return text[at] >= 0 && text[at + 1] >= 0; };  // no bytes of characters
  size_t at = 2;
  while (at + 2 < text.size() && !plain(at)) ++at;
  stopped.stops = {text.substr(at, 2)};
  const LmAnswer answer = engine.Ask({stopped}, {})[0];
  EXPECT_EQ(answer.text, text.substr(0, text.find(stopped.stops[0])));
  EXPECT_LT(answer.new_tokens, 30);
}

TEST(EngineLm, AChatIsItsTemplatesText) {
  Engine engine(Engine::Spec());
  engine.tokenizer.set_chat_template(
      "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]\n"
      "{% endif %}");
  const LmRequest asked{.context = "how?",
                        .before = {{"system", "be brief"}, {"user", "who?"}, {"assistant", "you"}},
                        .answer_prefix = "",
                        .continuations = {"so", "like this"}};
  const std::string text = "[system] be brief\n[user] who?\n[assistant] you\n[user] how?\n[assistant]\n";
  const LmRequest plain{.context = text, .continuations = asked.continuations};
  const LmAnswer chat = engine.Ask({asked}, {.chat = true})[0];
  const LmAnswer wanted = engine.Ask({plain}, {.bos = BosRule::kOff})[0];
  ExpectNear({chat}, {wanted}, 0);
  EXPECT_EQ(chat.likelihoods[0].tokens, 3);  // the line's end before the answer is counted with it
  LmRequest begun = asked, plain_begun = plain;
  for (LmRequest* request : {&begun, &plain_begun}) {
    request->kind = LmRequest::Kind::kGenerate;
    request->answer_prefix = "It is";
    request->max_new = 8;
  }
  EXPECT_EQ(engine.Ask({begun}, {.chat = true})[0].text, engine.Ask({plain_begun}, {.bos = BosRule::kOff})[0].text);
  const EngineLm lm(engine.backend.get(), engine.params, engine.tokenizer, {.chat = true});
  EXPECT_EQ(lm.Shown(begun), text + "It is");
}

TEST(EngineLm, ATemplateThatRefusesTheSystemGetsNone) {
  Engine engine(Engine::Spec());
  engine.tokenizer.set_chat_template(
      "{% for m in messages %}{% if m.role == 'system' or m.content == 'no' %}{{ raise_exception('not so') }}{% endif "
      "%}[{{ m.role }}] {{ m.content }}\n{% endfor %}");
  const LmRequest asked{.context = "how?",
                        .before = {{"system", "be brief"}, {"user", "who?"}, {"assistant", "you"}},
                        .answer_prefix = "",
                        .continuations = {"so"}};
  const EngineLm lm(engine.backend.get(), engine.params, engine.tokenizer, {.chat = true});
  EXPECT_EQ(lm.Shown(asked), "[user] who?\n[assistant] you\n[user] how?\n");
  LmRequest refused = asked;
  refused.context = "no";
  EXPECT_THROW(lm.Shown(refused), Error);
}

TEST(EngineLm, RefusesWhatDoesNotFit) {
  Engine engine(Engine::Spec());
  const LmRequest long_continuation{.context = "a", .continuations = {std::string(300, 'b')}};
  EXPECT_THROW(engine.Ask({long_continuation}, {}), Error);
  EXPECT_THROW(engine.Ask({{.context = "a", .continuations = {""}}}, {}), Error);
  EXPECT_THROW(engine.Ask({{.kind = LmRequest::Kind::kGenerate, .context = "a", .max_new = 256}}, {}), Error);
  EXPECT_THROW(engine.Ask({}, {.kv = KvForm(), .attention = AttnPattern()}), Error);
  EXPECT_THROW(engine.Ask({}, {.chat = true}), Error);  // no template
  // A long context is cut at its beginning.
  const std::string text = std::string(250, 'x') + "the end of it";
  const LmRequest cut{.context = text, .continuations = {" is this"}};
  const LmAnswer answer = engine.Ask({cut}, {.max_length = 60})[0];
  EXPECT_EQ(answer.prompt_tokens, 264);
  const LmRequest rest{.context = text.substr(text.size() - (60 - 7)), .continuations = {" is this"}};
  EXPECT_NEAR(answer.likelihoods[0].ll, engine.Ask({rest}, {.bos = BosRule::kOff})[0].likelihoods[0].ll, 1e-4);
}

TEST(ScorePlan, SharesWhatTextsBeginWith) {
  const std::vector<ScoredText> texts = {{{1, 2, 3, 4, 5}, 1, 0},
                                         {{1, 2, 3, 4, 6}, 1, 0},
                                         {{1, 2, 3, 7, 8, 9}, 2, 0},
                                         {{1, 2, 3, 5, 5, 5}, 1, 1},
                                         {{9, 9}, 1, 2}};
  const std::vector<ScoreUnit> units = PlanScoring(texts, {.most_rows = 100});
  ASSERT_EQ(units.size(), 2);
  ASSERT_EQ(units[0].sequences.size(), 1);
  const ScoreSequence& shared = units[0].sequences[0];
  EXPECT_EQ(shared.stem, 3);
  EXPECT_EQ(shared.ids, (std::vector<int32_t>{1, 2, 3, 4, 7, 8, 5, 5}));
  EXPECT_EQ(shared.branches, (std::vector<int32_t>{1, 2, 2}));
  std::vector<std::vector<int32_t>> targets;
  for (const auto& t : shared.targets) targets.push_back({t.row, t.token, static_cast<int32_t>(t.text)});
  EXPECT_EQ(targets, (std::vector<std::vector<int32_t>>{{3, 5, 0}, {3, 6, 1}, {4, 8, 2}, {5, 9, 2}, {7, 5, 3}}));
  EXPECT_EQ(units[1].sequences[0].stem, 0);
  EXPECT_EQ(units[0].rows() + units[1].rows(), 9);
  EXPECT_EQ(PlanScoring(texts, {.share = false}).size(), 3);
}

TEST(EngineLm, StoriesOracle) {
  const std::filesystem::path root = TestData(), oracle = root / "oracles/loglikelihood_stories260k.jsonl";
  HAWSER_NEEDS_DATA("oracles/loglikelihood_stories260k.jsonl");
  const auto backend = MakeBackend("cpu");
  const ModelToRun run = LoadModelToRun(root / "models/stories260k/checkpoint_v1.bin",
                                        root / "models/stories260k/tokenizer.bin", DType::kF32);
  std::map<std::string, std::vector<nlohmann::json>> lines;
  const std::string text = ReadFile(oracle);
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const nlohmann::json line = ParseJson(std::string_view(text).substr(at, end - at));
    lines[line["task"]].push_back(line);
    at = end + 1;
  }
  EXPECT_EQ(lines.size(), 7);
  for (const auto& [name, wanted] : lines) {
    const std::string task = name == "hellaswag_textfile"     ? "hellaswag"
                             : name == "mmlu_astronomy_0shot" ? "mmlu:subjects=astronomy"
                                                              : name;
    const TaskInput input{.options = TaskOptions(task), .limit = 20};
    const Task& of = FindTask(input.options.task());
    const std::vector<Sample> samples = of.samples(input);
    ASSERT_EQ(samples.size(), wanted.size()) << name;
    std::vector<LmRequest> requests;
    for (const Sample& sample : samples) {
      requests.insert(requests.end(), sample.requests.begin(), sample.requests.end());
    }
    std::vector<LmAnswer> answers(requests.size());
    EngineLm lm(backend.get(), run.weights, *run.model.tokenizer, {.max_length = 512});
    lm.Answer(requests, {}, [&](std::span<const NumberedAnswer> some) {
      for (const NumberedAnswer& numbered : some) answers[numbered.request] = numbered.answer;
    });
    size_t next = 0;
    for (size_t s = 0; s < samples.size(); ++s) {
      const auto of_sample = std::span(answers).subspan(next, samples[s].requests.size());
      next += samples[s].requests.size();
      size_t choice = 0;
      for (const LmAnswer& answer : of_sample) {
        for (const Likelihood& l : answer.likelihoods) {
          const nlohmann::json& line = wanted[s];
          const double ll = line["loglikelihood"].at(choice);
          EXPECT_NEAR(l.ll, ll, 2e-3 + 1e-4 * std::abs(ll)) << line;
          EXPECT_EQ(l.greedy, line["is_greedy"].at(choice)) << line;
          EXPECT_EQ(l.tokens, line["cont_tokens"].at(choice)) << line;
          EXPECT_EQ(answer.prompt_tokens, line["ctx_tokens"].at(choice)) << line;
          ++choice;
        }
      }
      const SampleScore score = of.score(samples[s], of_sample);
      for (size_t m = 0; m < of.metrics.size(); ++m) {
        const std::string metric(of.metrics[m].name);
        if (!wanted[s].contains(metric) || std::isnan(score.values[m].value)) continue;
        EXPECT_EQ(score.values[m].value, wanted[s][metric]) << wanted[s];
      }
    }
  }
}

}  // namespace
}  // namespace hawser
