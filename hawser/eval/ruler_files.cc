#include "hawser/eval/ruler_files.h"

#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/eval/context_lines.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string Line(const Json& json) { return json.dump(-1, ' ', /*ensure_ascii=*/true) + "\n"; }

RulerSample ReadSample(const nlohmann::json& value, int64_t number) {
  constexpr int64_t kMost = int64_t{1} << 53;
  const JsonObject line(value, "sample");
  RulerSample sample{.index = line.IntOr("index", number, 0, kMost),
                     .input = line.String("input"),
                     .answer_prefix = line.StringOr("answer_prefix", ""),
                     .outputs = {},
                     .length = line.IntOr("length", 0, 0, kMost),
                     .answer_char = {},
                     .answer_token = {}};
  const nlohmann::json* outputs = line.Find("outputs");
  if (outputs == nullptr || !outputs->is_array() || outputs->empty()) {
    Fail(ErrorKind::kFormat, "wanted a list \"outputs\" of the right answers, found {}",
         outputs == nullptr ? "none" : ShownJson(*outputs));
  }
  for (const nlohmann::json& output : *outputs) {
    if (!output.is_string()) Fail(ErrorKind::kFormat, "\"outputs\": wanted texts, found {}", ShownJson(output));
    sample.outputs.push_back(output.get<std::string>());
  }
  if (line.Find("token_position_answer") != nullptr) {
    sample.answer_token = line.Int("token_position_answer", -1, kMost);
  }
  return sample;
}

}  // namespace

std::string RulerDataLines(const std::vector<RulerSample>& samples) {
  std::string lines;
  for (const RulerSample& sample : samples) {
    Json line = {{"index", sample.index},
                 {"input", sample.input},
                 {"outputs", sample.outputs},
                 {"length", sample.length},
                 {"length_w_model_temp", sample.length},
                 {"answer_prefix", sample.answer_prefix}};
    if (sample.answer_char) line["answer_char"] = *sample.answer_char;
    if (sample.answer_token) line["token_position_answer"] = *sample.answer_token;
    lines += Line(line);
  }
  return lines;
}

std::optional<fs::path> FindRulerData(const fs::path& folder, const RulerTask& task) {
  const std::string name(task.name);
  for (const fs::path& file : {folder / (name + ".jsonl"), folder / name / "validation.jsonl"}) {
    std::error_code code;
    if (fs::exists(file, code)) return file;
  }
  return std::nullopt;
}

std::vector<RulerSample> ReadRulerData(const fs::path& file, int64_t limit) {
  std::vector<RulerSample> samples;
  ReadJsonItems(file, [&](const nlohmann::json& line) {
    samples.push_back(ReadSample(line, std::ssize(samples)));
    return std::ssize(samples) != limit;
  });
  if (samples.empty()) Fail(ErrorKind::kFormat, "{}: no samples", file.string());
  return samples;
}

std::string RulerPredictionLine(const RulerSample& sample, const std::string& answer) {
  return Line({{"index", sample.index},
               {"pred", answer},
               {"input", sample.input + sample.answer_prefix},
               {"outputs", sample.outputs},
               {"others", Json::object()},
               {"truncation", -1},
               {"length", sample.length}});
}

}  // namespace hawser
