// hawser tokenize: text to ids and back.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/lock.h"
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/cli/stdin.h"
#include "hawser/data/corpus.h"
#include "hawser/data/shards.h"
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
  std::vector<std::filesystem::path> data;
  std::filesystem::path out;
  int64_t shard_tokens = int64_t{1} << 26;
};

/// Documents into .tokens files, which training maps instead of reading.
int WriteShards(const TokenizeOptions& options, const CommonOptions& common) {
  if (options.out.empty()) Fail(ErrorKind::kUsage, "tokenize --data needs a folder for its files: --out FOLDER");
  if (!IsUnused(options.out) && !IsUnfinishedShards(options.out)) {
    Fail(ErrorKind::kUsage, "{}: exists and is not empty; give --out a new folder", options.out.string());
  }
  const FolderLock lock(options.out);
  const auto tokenizer = OpenTokenizer(options.model);
  const std::vector<std::filesystem::path> files = ListDataFiles(options.data);
  ShardWriter writer(options.out, *tokenizer, options.shard_tokens);
  TokenizeFiles(files, *tokenizer, [&](const TokenisedDocument& d) { writer.Add(d.source, d.ids, d.weights); });
  writer.Finish();
  if (common.json) {
    nlohmann::json written = nlohmann::json::array();
    for (const auto& file : writer.files()) written.push_back(file.string());
    PrintJson({{"documents", writer.documents()}, {"tokens", writer.tokens()}, {"files", written}});
  } else {
    PrintText(fmt::format("{} with {} in {}: {}\n", Counted(writer.documents(), "document"),
                          Counted(writer.tokens(), "token"),
                          Counted(static_cast<int64_t>(writer.files().size()), "file"), options.out.string()));
  }
  return 0;
}

int RunTokenize(const TokenizeOptions& options, Command command, const CommonOptions& common) {
  const auto given = [&](const char* name) { return command.Has(name); };
  const int ways = given("--text") + given("--file") + given("--ids") + given("--data");
  const bool piped = ways == 0 && StdinHoldsText();
  if (ways != 1 && !piped) {
    Fail(ErrorKind::kUsage, "tokenize needs one of --text, --file, --ids and --data, or a text on standard input");
  }
  if (given("--data")) return WriteShards(options, common);
  for (const char* name : {"--out", "--shard-tokens"}) {
    if (given(name)) Fail(ErrorKind::kUsage, "tokenize takes {} with --data alone", name);
  }
  const auto tokenizer = OpenTokenizer(options.model);

  std::vector<int32_t> ids = options.ids;
  if (!given("--ids")) {
    const std::string text = piped                 ? ReadStdinLine("the text")
                             : options.file == "-" ? ReadStdin("the text")
                             : given("--file")     ? ReadFile(options.file)
                                                   : options.text;
    if (!IsUtf8(text)) {
      Fail(given("--text") ? ErrorKind::kUsage : ErrorKind::kFormat, "{} is not UTF-8 text; convert it first",
           given("--text")                ? "--text"
           : piped || options.file == "-" ? "standard input"
                                          : options.file.string());
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
    PrintRaw((given("--ids") ? decoded : fmt::format("{}", fmt::join(ids, " "))) + "\n");
  }
  return 0;
}

}  // namespace

std::function<int()> SetupTokenize(Command command, CommonOptions& common) {
  auto options = std::make_shared<TokenizeOptions>();
  AddModelOptions(command, options->model);
  command.Add("--text", options->text, "Text to turn into ids");
  command.Add("--file", options->file, "UTF-8 file to turn into ids; -: standard input as it is");
  command.Add("--ids", options->ids, "Ids to turn into text: 1,2,3").Delimiter(',');
  command.Add("--add-bos", options->add_bos, "Put the BOS id first");
  command.Add("--parse-special", options->parse_special, "Names of special tokens in the text are those tokens");
  command.Add("--data", options->data, "Documents to write as .tokens files: .txt, .jsonl, or folders of them");
  command.Add("--out", options->out, "New folder for the .tokens files").WritesFolder();
  command.Add("--shard-tokens", options->shard_tokens, "Begin a new file after this many tokens")
      .Range(1, int64_t{1} << 40)
      .ShowDefault();
  return [options, command, &common] { return RunTokenize(*options, command, common); };
}

}  // namespace hawser
