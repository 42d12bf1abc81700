// Needles in a real text on a model.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/python_random.h"
#include "hawser/eval/haystack.h"
#include "hawser/eval/lengths.h"
#include "hawser/eval/niah.h"
#include "hawser/eval/tasks.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kBuffer = 200;  // tokens of a length that the text leaves free, as published

std::vector<int32_t> HaystackIds(const TaskInput& input, const std::string& source, int64_t tokens) {
  std::vector<int32_t> ids = input.tokenizer->Encode(ReadHaystack(source, input.data_dir, tokens));
  if (static_cast<int64_t>(ids.size()) >= tokens) return ids;
  Fail(ErrorKind::kUsage, "the haystack {} has {} tokens, wanted {}", source, ids.size(), tokens);
}

std::vector<Sample> GridSamples(const TaskInput& input, const std::vector<int64_t>& lengths,
                                const std::string& source) {
  const std::vector<double> depths = TaskDepths(input, "11");
  const auto needle = static_cast<int64_t>(input.tokenizer->Encode(kNeedle).size());
  const std::vector<int32_t> ids = HaystackIds(input, source, std::ranges::max(lengths));
  std::vector<Sample> samples;
  for (const int64_t length : lengths) {
    const int64_t room = TaskRoom(input, length) - kBuffer - needle;
    if (room < 1) Fail(ErrorKind::kUsage, "{} tokens are too few, wanted more than {}", length, kBuffer + needle);
    for (const double depth : depths) {
      const HiddenText hidden = HideNeedle(ids, room, kNeedle, depth, *input.tokenizer);
      Sample sample{.row = fmt::format("niah_{}", length), .groups = {"niah"}};
      sample.id = static_cast<int64_t>(samples.size());
      sample.requests = {{.kind = LmRequest::Kind::kGenerate,
                          .context = fmt::format("{}\n\n{}\n", hidden.text, kNeedleQuestion),
                          .answer_prefix = "The best thing to do in San Francisco is",
                          .stops = {"\n"},
                          .max_new = 64}};
      sample.target = "eat a sandwich and sit in Dolores Park on a sunny day";
      sample.references = {sample.target};
      sample.at = {{"length", static_cast<double>(length)}, {"depth", depth}};
      sample.facts = {{"needle_token", static_cast<double>(hidden.places[0])}};
      sample.doc = std::make_shared<const Json>(
          Json{{"form", "grid"}, {"haystack", HaystackLabel(source)}, {"judge", "rule"}, {"answer", sample.target}});
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

std::vector<Sample> FourSamples(const TaskInput& input, const std::vector<int64_t>& lengths,
                                const std::string& source) {
  constexpr int64_t kMaxNew = 128;
  constexpr size_t kNeedles = 4;
  const int64_t count = input.options.Int("samples", 100, 1, 1 << 20);
  const std::string question = "\n\nWhat are the magic numbers mentioned in the provided text?\nThe numbers are";
  const std::vector<int32_t> ids = HaystackIds(input, source, std::ranges::max(lengths));
  const auto text_of = [](int64_t number) { return fmt::format(" One of the magic number is: {}. ", number); };
  const auto tokens = [&](const std::string& text) {
    return static_cast<int64_t>(input.tokenizer->Encode(text).size());
  };
  const int64_t around = tokens(question) + static_cast<int64_t>(kNeedles) * (tokens(text_of(888888)) + 2);
  std::vector<Sample> samples;
  for (const int64_t length : lengths) {
    PythonRandom random(input.seed_given ? input.seed : 42);
    const int64_t room = TaskRoom(input, length) - kMaxNew - around;
    if (room < 1) Fail(ErrorKind::kUsage, "{} tokens are too few, wanted more than {}", length, kMaxNew + around);
    for (int64_t i = 0; i < count; ++i) {
      std::vector<std::string> numbers, needles;
      std::vector<double> depths;
      for (size_t j = 0; j < kNeedles; ++j) {
        numbers.push_back(fmt::format("{}", random.RandInt(100000, 999999)));
        needles.push_back(fmt::format(" One of the magic number is: {}. ", numbers.back()));
        depths.push_back(static_cast<double>(j) * (0.99 / 4) + random.Uniform(0, 0.99 / 4));
      }
      Sample sample{.row = fmt::format("niah_four_{}", length), .groups = {"niah_four"}, .id = i};
      sample.requests = {{.kind = LmRequest::Kind::kGenerate,
                          .context = HideNeedles(ids, room, needles, depths, *input.tokenizer).text + question,
                          .max_new = kMaxNew}};
      sample.references = numbers;
      sample.target = fmt::format("{}", fmt::join(numbers, ", "));
      sample.at = {{"length", static_cast<double>(length)}};
      sample.doc = std::make_shared<const Json>(
          Json{{"form", "four"}, {"haystack", HaystackLabel(source)}, {"outputs", numbers}, {"depths", depths}});
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

std::vector<Sample> NiahSamples(const TaskInput& input) {
  const std::string form = input.options.OneOf("form", "grid", std::array<std::string_view, 2>{"grid", "four"});
  const std::string source = input.options.Text("haystack", "pg19");
  const std::vector<int64_t> lengths =
      TaskLengths(input, "lengths", fmt::format("{}", std::min<int64_t>(4096, input.max_length)));
  std::vector<Sample> samples =
      form == "grid" ? GridSamples(input, lengths, source) : FourSamples(input, lengths, source);
  LimitRows(input.limit, &samples);
  return samples;
}

/// "score": grid 1, 5, 10 as a share of ten; four: the share found. "found": all of the needle; four: two or more.
SampleScore ScoreNiah(const Sample& sample, std::span<const LmAnswer> answers) {
  const std::string& text = answers[0].text;
  if ((*sample.doc)["form"] == "grid") {
    const int grade = JudgeNeedle(text);
    return {.values = {{grade / 10.0}, {grade == 10 ? 1.0 : 0.0}}};
  }
  const double found = NumbersFound(text, sample.references);
  return {.values = {{found}, {found >= 0.5 ? 1.0 : 0.0}}};
}

}  // namespace

const Task kNiah = {.name = "niah",
                    .summary = "a needle in books, over lengths and depths; or four numbers",
                    .samples = NiahSamples,
                    .score = ScoreNiah,
                    .metrics = {{.name = "score"}, {.name = "found"}},
                    .options = "form=grid|four, lengths=L+L, depths=COUNT|D+D, samples=K, haystack=pg19|PATH"};

}  // namespace hawser
