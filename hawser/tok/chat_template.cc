#include "hawser/tok/chat_template.h"

#include "hawser/base/error.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

jinja::Template Parsed(const Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) {
    Fail(ErrorKind::kUsage, "this model brings no chat template; give the prompt as its own text");
  }
  return WithFrame("chat template", [&] { return jinja::Template(tokenizer.chat_template()); });
}

std::string NameOf(const Tokenizer& tokenizer, int32_t id) {
  return id >= 0 && id < tokenizer.vocab_size() ? tokenizer.Display(id) : std::string();
}

}  // namespace

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer) : tokenizer_(tokenizer), template_(Parsed(tokenizer)) {}

jinja::Text ChatTemplate::Render(const Json& messages, bool answer, const Json& more) const {
  jinja::Value names = jinja::Value::MakeDict();
  names.Put("messages", jinja::Value::FromJson(messages, true));
  names.Put("add_generation_prompt", answer);
  names.Put("bos_token", jinja::Text(NameOf(tokenizer_, tokenizer_.bos())));
  names.Put("eos_token", jinja::Text(NameOf(tokenizer_, tokenizer_.eos())));
  for (const auto& [name, value] : more.items()) names.Put(name, jinja::Value::FromJson(value, true));
  return WithFrame("chat template", [&] { return template_.Render(names); });
}

std::vector<int32_t> ChatTemplate::Ids(const Json& messages, bool answer, const Json& more) const {
  return Encode(Render(messages, answer, more));
}

}  // namespace hawser
