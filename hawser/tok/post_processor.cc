#include "hawser/tok/post_processor.h"

#include <nlohmann/json.hpp>

#include "hawser/base/depth.h"
#include "hawser/base/error.h"
#include "hawser/tok/token_id.h"

namespace hawser {
namespace {

using nlohmann::json;
using IdOf = std::function<int32_t(const std::string&)>;

void AppendTemplate(const json& processor, const IdOf& id_of, std::vector<int32_t>* ids) {
  const json& tokens = processor.contains("special_tokens") ? processor["special_tokens"] : json::object();
  for (const json& part : processor.at("single")) {
    if (!part.contains("SpecialToken")) return;
    const auto name = part["SpecialToken"].at("id").get<std::string>();
    if (tokens.is_object() && tokens.contains(name)) {
      for (const json& id : tokens[name].at("ids")) ids->push_back(TokenId(id, "post_processor"));
    } else {
      ids->push_back(id_of(name));
    }
  }
}

void Append(const json& processor, const IdOf& id_of, int depth, std::vector<int32_t>* ids) {
  if (!processor.is_object()) return;
  CheckDepth(depth, "post_processor");
  const auto type = processor.at("type").get<std::string>();
  if (type == "Sequence") {
    const json& parts = processor.at("processors");
    if (!parts.is_array()) Fail(ErrorKind::kFormat, "post_processor: \"processors\" is not a list");
    // Each part is put around what those before it have made.
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) Append(*part, id_of, depth + 1, ids);
  } else if (type == "TemplateProcessing") {
    AppendTemplate(processor, id_of, ids);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    ids->push_back(id_of(processor.at("cls").at(0).get<std::string>()));
  }
}

}  // namespace

std::vector<int32_t> PrefixOfPostProcessor(const json& processor, const IdOf& id_of) {
  std::vector<int32_t> ids;
  Append(processor, id_of, 0, &ids);
  for (const int32_t id : ids) {
    if (id < 0) Fail(ErrorKind::kFormat, "post_processor: it puts a token before texts that the vocabulary has not");
  }
  return ids;
}

}  // namespace hawser
