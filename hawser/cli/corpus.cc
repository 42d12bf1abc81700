// hawser corpus: documents with facts and questions, to mix into training text or to try packing with.
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/rng.h"
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/data/synthetic.h"

namespace hawser {
namespace {

struct CorpusOptions {
  std::filesystem::path out;
  int64_t documents = 1000, first = 0;
  int32_t least = 40, most = 1000;
};

int RunCorpus(const CorpusOptions& options, const CommonOptions& common) {
  if (options.least > options.most) {
    Fail(ErrorKind::kUsage, "--least {} is above --most {}", options.least, options.most);
  }
  std::string text;
  int64_t words = 0, questions = 0;
  for (int64_t i = 0; i < options.documents; ++i) {
    const auto number = static_cast<uint64_t>(options.first + i);
    Rng rng{common.seed ^ 0x9e3779b97f4a7c15u, number};
    const double ratio = static_cast<double>(options.most) / options.least;
    const auto length = static_cast<int32_t>(options.least * std::pow(ratio, rng.Uniform()));
    const SyntheticDocument document = MakeSyntheticDocument(common.seed, number, length);
    words += document.words;
    questions += static_cast<int64_t>(document.queries.size());
    text += nlohmann::json{{"source", "harbour log"}, {"text", " " + document.text}}.dump();
    text += '\n';
  }
  WriteFileAtomically(options.out, text);
  if (common.json) {
    PrintJson({{"documents", options.documents}, {"words", words}, {"questions", questions}, {"bytes", text.size()}});
  } else {
    LogLine(fmt::format("{}: {}, {}, {}", options.out.string(), Counted(options.documents, "document"),
                        Counted(words, "word"), Counted(questions, "question")));
  }
  return 0;
}

}  // namespace

std::function<int()> SetupCorpus(Command command, CommonOptions& common) {
  auto options = std::make_shared<CorpusOptions>();
  command.Add("--out", options->out, "File to write, .jsonl").Required().Writes();
  command.Add("--documents", options->documents, "Documents").Range(1, int64_t{1} << 32).ShowDefault();
  command.Add("--first", options->first, "Number of the first one; every number is another document")
      .Range(0, int64_t{1} << 40)
      .ShowDefault();
  command.Add("--least", options->least, "Words of the shortest documents").Range(16, 1 << 24).ShowDefault();
  command.Add("--most", options->most, "Words of the longest; lengths are log-uniform")
      .Range(16, 1 << 24)
      .ShowDefault();
  return [options, &common] { return RunCorpus(*options, common); };
}

}  // namespace hawser
