// Multiple choice by likelihood as lm-evaluation-harness asks it: hellaswag, piqa, winogrande, arc.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/eval/context_lines.h"
#include "hawser/eval/data_files.h"
#include "hawser/eval/harness.h"
#include "hawser/eval/haystack.h"
#include "hawser/eval/python_text.h"
#include "hawser/eval/tasks.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

std::vector<HarnessDoc> PiqaDocs(const TaskInput& input, const std::string& part) {
  const std::string path = "piqa/" + part + ".jsonl";
  const std::string labels = ReadDataFile(input.data_dir, "piqa/" + part + "-labels.lst");
  const std::vector<std::string_view> gold = SplitWords(labels, "\n");
  std::vector<HarnessDoc> docs;
  for (const nlohmann::json& line : ReadDataLines(input.data_dir, path)) {
    const JsonObject doc(line, path);
    HarnessDoc out{.query = "Question: " + doc.String("goal") + "\nAnswer:"};
    out.choices = {doc.String("sol1"), doc.String("sol2")};
    out.gold = gold.at(docs.size()) == "1" ? 1 : 0;
    out.doc = std::make_shared<const Json>(
        Json{{"goal", doc.String("goal")}, {"sol1", out.choices[0]}, {"sol2", out.choices[1]}, {"label", out.gold}});
    docs.push_back(std::move(out));
  }
  return docs;
}

/// strip; " [title]" to ". "; every shortest [...] out; two blanks to one, in one pass.
std::string HellaswagText(std::string text) {
  text = PythonStrip(text);
  const auto replace = [&](std::string_view from, std::string_view to) {
    for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
  };
  replace(" [title]", ". ");
  for (size_t at = 0; (at = text.find('[', at)) != text.npos;) {
    const size_t close = text.find(']', at);
    const size_t line = text.find('\n', at);
    if (close == text.npos) break;
    if (line < close) {
      at = line;
    } else {
      text.erase(at, close - at + 1);
    }
  }
  replace("  ", " ");
  return text;
}

constexpr std::array<std::string_view, 3> kProtocols = {"harness", "llamacpp", "llmc"};

/// Python's str.capitalize().
std::string Capitalized(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = CodePointAt(text, at);
    if (c.length == 0) Fail(ErrorKind::kFormat, "'{}' is not UTF-8", text);
    const auto code = static_cast<utf8proc_int32_t>(c.value);
    AppendUtf8(out, static_cast<char32_t>(at == 0 ? utf8proc_totitle(code) : utf8proc_tolower(code)));
    at += c.length;
  }
  return out;
}

/// In the form of its authors. llm.c takes the text as it is, without the name of the activity in front.
std::vector<HarnessDoc> HellaswagLines(const TaskInput& input, const char* path, bool cleaned = true) {
  std::vector<HarnessDoc> docs;
  for (const nlohmann::json& line : ReadDataLines(input.data_dir, path)) {
    const JsonObject doc(line, path);
    HarnessDoc out{.query = doc.String("ctx_a") + " " + Capitalized(doc.String("ctx_b"))};
    out.query = cleaned ? HellaswagText(doc.String("activity_label") + ": " + out.query) : doc.String("ctx");
    out.gold = static_cast<int32_t>(doc.Int("label", 0, 3));
    for (const auto& ending : line.at("endings").get<std::vector<std::string>>()) {
      out.choices.push_back(cleaned ? HellaswagText(ending) : ending);
    }
    out.doc = std::make_shared<const Json>(line);
    docs.push_back(std::move(out));
  }
  return docs;
}

/// In the form of llama.cpp, whose protocol takes it as it is: cleaned already, and without capitals behind a first
/// sentence.
std::vector<HarnessDoc> HellaswagDocs(const TaskInput& input, std::string_view protocol) {
  const bool cleaned = protocol == "harness";
  constexpr const char* kLines = "hellaswag/hellaswag_val.jsonl";
  constexpr const char* kText = "hellaswag/hellaswag_val_full.txt";
  if (protocol != "llamacpp" && (HasDataFile(input.data_dir, kLines) || !HasDataFile(input.data_dir, kText))) {
    return HellaswagLines(input, kLines, cleaned);
  }
  const auto of = [&](std::string_view line) { return cleaned ? HellaswagText(std::string(line)) : std::string(line); };
  const std::string text = ReadDataFile(input.data_dir, kText);
  std::vector<std::string_view> lines = SplitAt(text, '\n');
  std::vector<HarnessDoc> docs;
  for (size_t at = 0; at + 6 <= lines.size(); at += 6) {
    HarnessDoc out{.query = of(lines[at])};
    if (const size_t name = out.query.find(": "); protocol == "llmc" && name != std::string::npos) {
      out.query.erase(0, name + 2);
    }
    out.gold = lines[at + 1].at(0) - '0';
    for (size_t i = 2; i < 6; ++i) out.choices.push_back(of(lines[at + i]));
    out.doc = std::make_shared<const Json>(
        Json{{"ctx", lines[at]}, {"endings", out.choices}, {"label", std::to_string(out.gold)}});
    docs.push_back(std::move(out));
  }
  return docs;
}

std::vector<HarnessDoc> WinograndeDocs(const TaskInput& input) {
  std::vector<HarnessDoc> docs;
  for (const nlohmann::json& line : ReadDataLines(input.data_dir, "winogrande/winogrande_xl_validation.jsonl")) {
    const JsonObject doc(line, "winogrande");
    HarnessDoc out;
    out.contexts = {line.at("context_options").at(0), line.at("context_options").at(1)};
    out.choices = {doc.String("continuation")};
    out.gold = static_cast<int32_t>(doc.Int("gold", 0, 1));
    out.doc = std::make_shared<const Json>(
        Json{{"context_options", out.contexts}, {"continuation", out.choices[0]}, {"gold", out.gold}});
    docs.push_back(std::move(out));
  }
  return docs;
}

/// The training set (train_xl.jsonl), in the form of its authors. It comes without a hash that is known here.
std::vector<HarnessDoc> WinograndeExamples(const TaskInput& input) {
  std::vector<HarnessDoc> docs;
  const std::filesystem::path path = FindData(input.data_dir, "winogrande/train_xl.jsonl");
  std::error_code code;
  if (!std::filesystem::exists(path, code)) {
    Fail(ErrorKind::kIo,
         "{}: not found; examples are drawn from this file of the authors' winogrande_1.1.zip: put it there, or say "
         "by --data-dir where else it is",
         path.string());
  }
  ReadJsonItems(path, [&](const nlohmann::json& line) {
    const JsonObject doc(line, "item");
    const std::string sentence = doc.String("sentence");
    const size_t blank = sentence.find('_');
    const std::string answer = doc.String("answer");
    if (blank == sentence.npos || (answer != "1" && answer != "2")) {
      Fail(ErrorKind::kFormat, "wanted a sentence with a _ and the answer 1 or 2, found '{}' and '{}'", sentence,
           answer);
    }
    HarnessDoc out{.gold = answer == "2" ? 1 : 0};
    for (const char* option : {"option1", "option2"}) {
      out.contexts.push_back(sentence.substr(0, blank) + doc.String(option));
    }
    out.choices = {std::string(PythonStrip(std::string_view(sentence).substr(blank + 1)))};
    docs.push_back(std::move(out));
    return true;
  });
  return docs;
}

std::vector<HarnessDoc> ArcFile(const TaskInput& input, const std::string& path) {
  std::vector<HarnessDoc> docs;
  for (const nlohmann::json& line : ReadDataLines(input.data_dir, path)) {
    const JsonObject doc(line, path);
    HarnessDoc out{.query = "Question: " + doc.String("question") + "\nAnswer:", .id = doc.String("id")};
    out.choices = line.at("choices").get<std::vector<std::string>>();
    const auto labels = line.at("labels").get<std::vector<std::string>>();
    out.gold = static_cast<int32_t>(std::ranges::find(labels, doc.String("answerKey")) - labels.begin());
    if (static_cast<size_t>(out.gold) == labels.size()) {
      Fail(ErrorKind::kFormat, "{}: {} has the answer {}, which is none of its labels", path, out.id,
           doc.String("answerKey"));
    }
    out.doc = std::make_shared<const Json>(Json{{"id", out.id},
                                                {"question", doc.String("question")},
                                                {"choices", Json{{"text", out.choices}, {"label", labels}}},
                                                {"answerKey", doc.String("answerKey")}});
    docs.push_back(std::move(out));
  }
  return docs;
}

/// Examples are drawn from the training set, as if the document might be there: these tasks say nowhere which part
/// asks and which part shows.
std::vector<Sample> WithTraining(const TaskInput& input, HarnessSet set,
                                 std::vector<HarnessDoc> (*training)(const TaskInput& input)) {
  const int64_t shots = Shots(input, 0);
  if (shots > 0) set.pool = training(input);
  set.spare_example = true;
  return ChoiceSamples(input, set, shots);
}

std::vector<Sample> PiqaSamples(const TaskInput& input) {
  return WithTraining(input, {.docs = PiqaDocs(input, "valid")},
                      [](const TaskInput& in) { return PiqaDocs(in, "train"); });
}
std::vector<Sample> HellaswagSamples(const TaskInput& input) {
  const std::string protocol = input.options.OneOf("protocol", "harness", kProtocols);
  if (protocol != "harness" && input.options.Int("shots", 0, 0, 1000) > 0) {
    Fail(ErrorKind::kUsage, "shots is for protocol=harness: {} shows no examples", protocol);
  }
  std::vector<Sample> samples = WithTraining(input, {.docs = HellaswagDocs(input, protocol)}, [](const TaskInput& in) {
    return HellaswagLines(in, "hellaswag/hellaswag_train.jsonl");
  });
  for (Sample& sample : samples) {
    if (protocol != "harness") sample.choices.clear();  // lengths are those of tokens
    if (protocol == "llamacpp") sample.requests[0].split = LmRequest::Split::kCommon;
  }
  return samples;
}
std::vector<Sample> WinograndeSamples(const TaskInput& input) {
  return WithTraining(input, {.docs = WinograndeDocs(input)}, WinograndeExamples);
}
template <bool kHard>
std::vector<Sample> ArcSamples(const TaskInput& input) {
  const std::string stem = kHard ? "arc/arc_challenge_" : "arc/arc_easy_";
  const int64_t shots = Shots(input, 0);
  HarnessSet set{.docs = ArcFile(input, stem + "test.jsonl")};
  if (shots > 0) set.pool = ArcFile(input, stem + "train.jsonl");
  return ChoiceSamples(input, set, shots);
}

}  // namespace

const Task kPiqa = {.name = "piqa",
                    .summary = "physical common sense, 2 choices",
                    .samples = PiqaSamples,
                    .score = ScoreChoice,
                    .metrics = ChoiceMetrics(),
                    .options = "shots=K (data:piqa_train)",
                    .data = "piqa"};
const Task kHellaswag = {.name = "hellaswag",
                         .summary = "how a description goes on, 4 choices",
                         .samples = HellaswagSamples,
                         .score = ScoreChoice,
                         .metrics = ChoiceMetrics(),
                         .options = "shots=K (data:hellaswag_train), protocol=harness|llamacpp|llmc",
                         .data = "hellaswag"};
const Task kWinogrande = {.name = "winogrande",
                          .summary = "whom a pronoun means, 2 choices",
                          .samples = WinograndeSamples,
                          .score = ScoreChoice,
                          .metrics = {{.name = "acc"}},
                          .options = "shots=K (winogrande/train_xl.jsonl)",
                          .data = "winogrande"};
const Task kArcEasy = {.name = "arc_easy",
                       .summary = "science questions of schools, the easy ones",
                       .samples = ArcSamples<false>,
                       .score = ScoreChoice,
                       .metrics = ChoiceMetrics(),
                       .options = "shots=K",
                       .data = "arc"};
const Task kArcChallenge = {.name = "arc_challenge",
                            .summary = "science questions of schools, the hard ones",
                            .samples = ArcSamples<true>,
                            .score = ScoreChoice,
                            .metrics = ChoiceMetrics(),
                            .options = "shots=K",
                            .data = "arc"};

}  // namespace hawser
