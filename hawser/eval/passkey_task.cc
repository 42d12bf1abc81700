// Passkeys on a model: a grid of lengths and depths, in every published layout.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/python_random.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"
#include "hawser/eval/context_lines.h"
#include "hawser/eval/haystack.h"
#include "hawser/eval/lengths.h"
#include "hawser/eval/passkey.h"
#include "hawser/eval/tasks.h"

namespace hawser {
namespace {

/// A prompt with its key, and where the key stands.
struct Hidden {
  std::string prompt, key;
  double depth = 0;   // of the key, of all units
  int64_t units = 0;  // of the filler
};

class PasskeyMaker {
 public:
  explicit PasskeyMaker(const TaskInput& input)
      : input_(input), tokenizer_(*input.tokenizer), seed_(input.seed_given ? input.seed : 0), random_(seed_) {
    std::vector<std::string_view> names;
    for (const PasskeyVariant& variant : PasskeyVariants()) names.push_back(variant.name);
    const std::string name = input.options.OneOf("variant", "landmark", names);
    variant_ = &*std::ranges::find(PasskeyVariants(), name, &PasskeyVariant::name);
    switch (variant_->layout) {
      case PasskeyLayout::kInfiniteBench:
        file_ = input.options.Text("file", "");
        break;
      case PasskeyLayout::kYarnHard:
        keys_ = input.options.Int("keys", 5, 1, 1000);
        haystack_ = input.options.Text("haystack", "pg19");
        ReadGrid();
        break;
      default:
        ReadGrid();
    }
  }

  std::vector<Sample> Make() {
    if (variant_->layout == PasskeyLayout::kInfiniteBench) return FromFile();
    std::vector<Sample> samples;
    for (size_t l = 0; l < lengths_.size(); ++l) {
      const int64_t length = lengths_[l];
      const int64_t room = given_units_ ? 0 : TaskRoom(input_, length);
      const int64_t units = given_units_ ? length : hard() ? 0 : FindUnits(room);
      for (const double depth : depths_) {
        for (int64_t trial = 0; trial < trials_; ++trial) {
          const Hidden hidden = hard() ? HideInText(room, depth) : Hide(units, depth, trial, room);
          samples.push_back(ToSample(hidden, length, static_cast<int64_t>(samples.size())));
          samples.back().at = {{given_units_ ? "units" : "length", static_cast<double>(length)},
                               {"depth", random_depth_ ? 0 : depth}};
          if (random_depth_) samples.back().at.pop_back();
        }
      }
    }
    return samples;
  }

 private:
  bool hard() const { return variant_->layout == PasskeyLayout::kYarnHard; }

  void ReadGrid() {
    const std::string units = hard() ? "" : input_.options.Text("units", "");
    given_units_ = !units.empty();
    if (given_units_) {
      lengths_ = input_.options.Ints("units", units, 0, int64_t{1} << 30);
    } else {
      lengths_ = TaskLengths(input_, "lengths", fmt::format("{}", std::min<int64_t>(4096, input_.max_length)));
    }
    random_depth_ = input_.options.Text("depths", "10") == "random";
    depths_ = random_depth_ ? std::vector<double>{-1} : TaskDepths(input_, "10");
    trials_ = input_.options.Int("trials", 10, 1, 1 << 20);
  }

  int64_t Tokens(const std::string& text) const { return static_cast<int64_t>(tokenizer_.Encode(text).size()); }

  /// By which the filler grows and shrinks.
  int64_t Step() const { return variant_->layout == PasskeyLayout::kYarn ? 128 : 1; }

  /// The most units of filler whose prompt and answer take at most `room` tokens: as many with the longest key.
  int64_t FindUnits(int64_t room) const {
    const auto fits = [&](int64_t units) {
      const std::string prompt = PasskeyPrompt(variant_->layout, units / 2, units - units / 2, "50000");
      return Tokens(prompt) + variant_->max_new <= room;
    };
    if (!fits(0)) {
      Fail(ErrorKind::kUsage, "{} tokens are too few, the least are {}", room,
           Tokens(PasskeyPrompt(variant_->layout, 0, 0, "50000")) + variant_->max_new);
    }
    const int64_t step = Step();
    int64_t low = 0, high = 1;
    while (fits(high * step)) low = high, high *= 2;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (fits(middle * step) ? low : high) = middle;
    }
    return low * step;
  }

  /// `room`: tokens of prompt and answer, of whose filler so much is left out that they fit; 0: whatever they take.
  Hidden Hide(int64_t units, double depth, int64_t trial, int64_t room) {
    Hidden out;
    int64_t before;
    if (variant_->layout == PasskeyLayout::kFocusLlm) {  // a generator of its own for each trial
      NumpyRandom random(static_cast<uint32_t>(seed_ + static_cast<uint64_t>(trial)));
      before = random_depth_ ? random.RandInt(0, units + 1) : 0;
      out.key = fmt::format("{}", random.RandInt(1, 50000));
    } else {
      before = random_depth_ ? random_.RandInt(0, units) : 0;
      out.key = variant_->layout == PasskeyLayout::kPi ? fmt::format("{:05}", random_.RandInt(0, 99999))
                                                       : fmt::format("{}", random_.RandInt(1, 50000));
    }
    for (;; units = std::max<int64_t>(0, units - Step())) {
      if (!random_depth_) before = static_cast<int64_t>(std::nearbyint(depth * static_cast<double>(units)));
      before = std::min(before, units);
      out.units = units;
      out.depth = units > 0 ? static_cast<double>(before) / static_cast<double>(units) : 0;
      out.prompt = PasskeyPrompt(variant_->layout, before, units - before, out.key);
      if (room == 0 || units == 0 || Tokens(out.prompt) + variant_->max_new <= room) return out;
    }
  }

  /// yarn-hard: keys at random places of a real text, in order; the one asked for is the one nearest to `depth`.
  Hidden HideInText(int64_t room, double depth) {
    if (ids_.empty()) {
      const int64_t most = *std::ranges::max_element(lengths_);
      ids_ = tokenizer_.Encode(ReadHaystack(haystack_, input_.data_dir, most));
    }
    const auto info = [](size_t i, const std::string& key) {
      const std::string which = Ordinal(static_cast<int64_t>(i) + 1);
      return fmt::format("\nThe {0} pass key is {1}. Remember it. {1} is the {0} pass key.\n", which, key);
    };
    const std::string head =
        "There are several pass keys hidden inside a lot of irrelevant text. Find them and memorize them. I will quiz "
        "you about one of them.\n";
    std::vector<std::string> keys;
    const auto question = [](size_t i) {
      const std::string which = Ordinal(static_cast<int64_t>(i) + 1);
      return fmt::format("\nWhat is the {0} pass key? The {0} pass key is", which);
    };
    int64_t taken = Tokens(head) + variant_->max_new + Tokens(question(static_cast<size_t>(keys_ - 1))) + 2;
    for (size_t i = 0; i < static_cast<size_t>(keys_); ++i) {
      keys.push_back(fmt::format("{}", random_.RandInt(1, 50000)));
      taken += Tokens(info(i, keys.back())) + 2;
    }
    if (room <= taken) Fail(ErrorKind::kUsage, "{} tokens are too few, {} are taken by keys", room, taken);
    const auto text = static_cast<size_t>(room - taken);
    if (text > ids_.size()) {
      Fail(ErrorKind::kUsage, "the haystack has {}, {} are wanted; give a longer text",
           Counted(std::ssize(ids_), "token"), text);
    }
    std::vector<size_t> places;
    for (size_t i = 0; i < keys.size(); ++i) places.push_back(static_cast<size_t>(random_.RandBelow(text + 1)));
    std::ranges::sort(places);
    const auto asked = static_cast<size_t>(
        random_depth_ ? random_.RandBelow(keys.size())
                      : static_cast<uint64_t>(std::nearbyint(depth * static_cast<double>(keys.size() - 1))));
    Hidden out{.prompt = head, .key = keys[asked], .units = static_cast<int64_t>(text)};
    size_t begin = 0;
    for (size_t i = 0; i <= places.size(); ++i) {
      const size_t end = i < places.size() ? places[i] : text;
      out.prompt += tokenizer_.Decode(
          {ids_.begin() + static_cast<std::ptrdiff_t>(begin), ids_.begin() + static_cast<std::ptrdiff_t>(end)},
          begin == 0);
      if (i < places.size()) out.prompt += info(i, keys[i]);
      begin = end;
    }
    out.depth = static_cast<double>(places[asked]) / static_cast<double>(text);
    out.prompt += question(asked);
    return out;
  }

  Sample ToSample(const Hidden& hidden, int64_t length, int64_t id) const {
    Sample sample{.row = fmt::format("passkey_{}_{}", variant_->name, length), .groups = {"passkey"}, .id = id};
    int64_t max_new = variant_->max_new;
    if (variant_->layout == PasskeyLayout::kFocusLlm) max_new = Tokens(" " + hidden.key);
    sample.requests = {{.kind = LmRequest::Kind::kGenerate, .context = hidden.prompt, .max_new = max_new}};
    sample.references = {hidden.key};
    sample.target = hidden.key;
    const int64_t tokens = Tokens(hidden.prompt);
    if (tokens + max_new > TaskRoom(input_, input_.max_length)) {
      Fail(ErrorKind::kUsage,
           "passkey {} takes {} tokens and {} of an answer, beyond the longest input of {}; --context N declares more",
           id, tokens, max_new, input_.max_length);
    }
    const std::string_view before = std::string_view(hidden.prompt).substr(0, hidden.prompt.find(hidden.key));
    sample.facts = {{"prompt_tokens", static_cast<double>(tokens)},
                    {"key_token", static_cast<double>(Tokens(std::string(before)))},
                    {"depth", hidden.depth}};
    sample.doc = std::make_shared<const nlohmann::ordered_json>(nlohmann::ordered_json{
        {"variant", variant_->name}, {"answer", hidden.key}, {"units", hidden.units}, {"length", length}});
    return sample;
  }

  /// Lines {"context", "input", "answer"} as InfiniteBench has them.
  std::vector<Sample> FromFile() {
    const std::filesystem::path path = file_.empty()
                                           ? NeedData(input_.data_dir, "infinitebench/passkey.jsonl", "file=PATH")
                                           : std::filesystem::path(file_);
    std::vector<Sample> samples;
    for (const ContextLine& line : ReadContextLines(path, input_.limit)) {
      Hidden hidden{.prompt = fmt::format("{}\n\n{}\n\nThe pass key is", line.context, line.input),
                    .key = line.answers[0]};
      Sample sample = ToSample(hidden, 0, static_cast<int64_t>(samples.size()));
      sample.row = "passkey_infinitebench";
      samples.push_back(std::move(sample));
    }
    return samples;
  }

  const TaskInput& input_;
  const Tokenizer& tokenizer_;
  uint64_t seed_;
  PythonRandom random_;
  const PasskeyVariant* variant_ = nullptr;
  std::vector<int64_t> lengths_;
  std::vector<double> depths_;
  bool given_units_ = false, random_depth_ = false;
  int64_t trials_ = 1, keys_ = 1;
  std::string haystack_, file_;
  std::vector<int32_t> ids_;  // of the haystack
};

std::vector<Sample> PasskeySamples(const TaskInput& input) {
  std::vector<Sample> samples = PasskeyMaker(input).Make();
  LimitRows(input.limit, &samples);
  return samples;
}

SampleScore ScorePasskey(const Sample& sample, std::span<const LmAnswer> answers) {
  const std::string variant = (*sample.doc)["variant"].get<std::string>();
  return {.values = {{PasskeyFound(variant, answers[0].text, sample.references[0]) ? 1.0 : 0.0}}};
}

double FactOf(const Sample& sample, std::string_view name) {
  const auto fact = std::ranges::find(sample.facts, name, &std::pair<std::string, double>::first);
  return fact == sample.facts.end() ? NAN : fact->second;
}

/// k_max of each variant over the cells of its grid.
TaskFigures PasskeyDistances(std::span<const Sample> samples, std::span<const SampleScore> scores) {
  struct Cell {
    double distance = 0, found = 0, samples = 0;
  };
  std::map<std::string, std::map<std::vector<std::pair<std::string, double>>, Cell>> variants;
  for (size_t s = 0; s < samples.size(); ++s) {
    const Sample& sample = samples[s];
    const double distance = FactOf(sample, "prompt_tokens") - FactOf(sample, "key_token");
    if (sample.at.size() < 2 || std::isnan(distance)) continue;  // at no depth of a grid
    Cell& cell = variants[fmt::format("passkey_{}", (*sample.doc)["variant"].get<std::string>())][sample.at];
    cell.distance += distance;
    cell.found += scores[s].values[0].value;
    ++cell.samples;
  }
  TaskFigures figures;
  for (const auto& [variant, cells] : variants) {
    std::vector<std::pair<double, double>> found;
    for (const auto& [at, cell] : cells)
      found.emplace_back(std::round(cell.distance / cell.samples), cell.found / cell.samples);
    figures[variant]["k_max"] = LargestDistance(std::move(found));
  }
  return figures;
}

}  // namespace

const Task kPasskey = {.name = "passkey",
                       .summary = "a number hidden in a dull text, over lengths and depths",
                       .samples = PasskeySamples,
                       .score = ScorePasskey,
                       .metrics = {{.name = "acc"}},
                       .options =
                           "variant=landmark|yarn|pose|pi|focusllm|llamacpp|infinitebench|yarn-hard, "
                           "lengths=L+L or units=N+N, depths=COUNT|D+D|random, trials=K, keys=K, haystack=PATH, "
                           "file=PATH",
                       .figures = PasskeyDistances};

}  // namespace hawser
