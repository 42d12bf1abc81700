#include "hawser/eval/predictions.h"

#include <initializer_list>

#include "hawser/base/error.h"
#include "hawser/eval/context_lines.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using nlohmann::json;

const json* FirstOf(const json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const auto member = object.find(key);
    if (member != object.end() && !member->is_null()) return &*member;
  }
  return nullptr;
}

std::string Plain(const json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

std::vector<std::string> Texts(const json* value) {
  std::vector<std::string> texts;
  if (value == nullptr) return texts;
  if (!value->is_array()) return {Plain(*value)};
  for (const json& item : *value) texts.push_back(Plain(item));
  return texts;
}

/// Whether the first request of a sample log has settings of a generation: {"gen_args_0": {"arg_0": PROMPT, "arg_1":
/// SETTINGS}}, or [[PROMPT, SETTINGS]]. A likelihood has a text there, or nothing.
bool AsksForText(const json& arguments) {
  if (arguments.is_array()) {
    return !arguments.empty() && arguments[0].is_array() && arguments[0].size() == 2 && arguments[0][1].is_object();
  }
  const json* first = FirstOf(arguments, {"gen_args_0"});
  const json* second = first != nullptr && first->is_object() ? FirstOf(*first, {"arg_1"}) : nullptr;
  return second != nullptr && second->is_object();
}

Prediction ReadLine(const json& line, int64_t number) {
  if (!line.is_object()) Fail(ErrorKind::kFormat, "wanted an object, found {}", ShownJson(line));
  Prediction out;
  const auto others = line.find("others");
  const json* id = others != line.end() && others->is_object() ? FirstOf(*others, {"id"}) : nullptr;
  if (id == nullptr) id = FirstOf(line, {"_id", "index", "doc_id", "id"});
  out.id = id != nullptr ? Plain(*id) : std::to_string(number);
  const json* text = FirstOf(line, {"pred", "prediction", "response"});
  if (const auto resps = line.find("resps"); text == nullptr && resps != line.end()) {
    const json* first = &*resps;
    for (int lists = 0; lists < 2 && first->is_array() && !first->empty(); ++lists) first = &first->front();
    const bool made = !line.contains("arguments") || AsksForText(line["arguments"]);
    if (!first->is_string() || !made) {
      Fail(ErrorKind::kFormat, "\"resps\" holds likelihoods, wanted a text, found {}", ShownJson(*resps));
    }
    text = first;
  }
  if (text == nullptr || !text->is_string()) {
    Fail(ErrorKind::kFormat, "no prediction: wanted a text \"pred\", found {}", ShownJson(line));
  }
  out.text = text->get<std::string>();
  const auto doc = line.find("doc");
  const json& about = doc != line.end() && doc->is_object() ? *doc : line;
  const json* references = FirstOf(about, {"outputs", "answers", "needle", "answer", "label", "ground_truth"});
  if (references == nullptr) {
    Fail(ErrorKind::kFormat, "no reference: wanted \"outputs\" or \"answers\", found {}", ShownJson(line));
  }
  out.references = Texts(references);
  if (out.references.empty()) Fail(ErrorKind::kFormat, "no reference: the list of them is empty");
  out.classes = Texts(FirstOf(about, {"all_classes"}));
  const json* length = FirstOf(about, {"length", "ctx_len"});
  if (length != nullptr && length->is_number_integer()) out.length = length->get<int64_t>();
  if (length != nullptr && length->is_string()) out.size = length->get<std::string>();
  if (const json* layout = FirstOf(about, {"variant", "form"})) out.layout = Plain(*layout);
  if (const json* difficulty = FirstOf(about, {"difficulty"})) out.difficulty = Plain(*difficulty);
  if (const json* filter = FirstOf(line, {"filter"})) out.filter = Plain(*filter);
  const json* told = line.contains("resps") ? FirstOf(line, {"exact_match", "score", "acc"}) : nullptr;
  if (told != nullptr && told->is_number()) out.told = told->get<double>();
  return out;
}

}  // namespace

bool IsOtherFilter(const json& line, json* first) {
  if (!line.is_object() || !line.contains("resps") || !line.contains("filter")) return false;
  if (first->is_null()) *first = line["filter"];
  return line["filter"] != *first;
}

std::vector<Prediction> ReadPredictions(const std::filesystem::path& path, AnswerCheck* check) {
  std::vector<Prediction> predictions;
  json filter;
  ReadJsonItems(path, [&](const json& line) {
    if (IsOtherFilter(line, &filter)) return true;
    check->See(line);
    predictions.push_back(ReadLine(line, std::ssize(predictions)));
    return true;
  });
  if (predictions.empty()) Fail(ErrorKind::kFormat, "{}: no predictions", path.string());
  return predictions;
}

}  // namespace hawser
