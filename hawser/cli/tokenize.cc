// hawser tokenize: text to ids and back.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/cli/command.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

struct TokenizeOptions {
  ModelOptions model;
  std::string text;
  std::filesystem::path file;
  std::vector<int32_t> ids;
  bool add_bos = false;
  bool parse_special = false;
};

int RunTokenize(const TokenizeOptions& options, Command command, const CommonOptions& common) {
  const auto given = [&](const char* name) { return command.Has(name); };
  if (given("--text") + given("--file") + given("--ids") != 1) {
    Fail(ErrorKind::kUsage, "tokenize needs one of --text, --file and --ids");
  }
  const auto tokenizer = OpenTokenizer(options.model);

  std::vector<int32_t> ids = options.ids;
  if (!given("--ids")) {
    const std::string text = given("--file") ? ReadFile(options.file) : options.text;
    if (!IsUtf8(text)) {
      Fail(given("--file") ? ErrorKind::kFormat : ErrorKind::kUsage, "{} is not UTF-8 text; convert it first",
           given("--file") ? options.file.string() : "--text");
    }
    ids = tokenizer->Encode(text, options.parse_special);
  }
  if (options.add_bos) {
    if (tokenizer->bos() < 0) Fail(ErrorKind::kUsage, "--add-bos: this vocabulary has no BOS token");
    ids.insert(ids.begin(), tokenizer->bos());
  }
  const std::string decoded = given("--ids") ? tokenizer->Decode(ids) : std::string();

  if (common.json) {
    nlohmann::json tokens = nlohmann::json::array();
    for (const int32_t id : ids) tokens.push_back(tokenizer->Display(id));
    nlohmann::json object = {{"ids", ids}, {"tokens", std::move(tokens)}};
    if (given("--ids")) object["text"] = decoded;
    PrintJson(object);
  } else {
    const std::string line = given("--ids") ? decoded : fmt::format("{}", fmt::join(ids, " "));
    std::fwrite(line.data(), 1, line.size(), stdout);
    std::fputc('\n', stdout);
  }
  return 0;
}

}  // namespace

std::function<int()> SetupTokenize(Command command, CommonOptions& common) {
  auto options = std::make_shared<TokenizeOptions>();
  AddModelOptions(command, options->model);
  command.Add("--text", options->text, "Text to turn into ids");
  command.Add("--file", options->file, "UTF-8 file to turn into ids");
  command.Add("--ids", options->ids, "Ids to turn into text: 1,2,3").Delimiter(',');
  command.Add("--add-bos", options->add_bos, "Put the BOS id first");
  command.Add("--parse-special", options->parse_special, "Names of special tokens in the text are those tokens");
  return [options, command, &common] { return RunTokenize(*options, command, common); };
}

}  // namespace hawser
