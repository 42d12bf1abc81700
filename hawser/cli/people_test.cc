// What people type, and what the machine under them allows: suggestions, sizes, pipes, limits, full disks.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "hawser/base/file.h"
#include "hawser/base/size.h"
#include "hawser/data/synthetic.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/test_folder.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;
using testing::RunHawser;

class People : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("people");
    WriteFileAtomically(folder_ / "tokenizer.json", ByteLevelTokenizerJson(SyntheticWords()));
    WriteFileAtomically(folder_ / "r.toml",
                        "tokenizer = \".\"\ncontext = 64\nsteps = 6\nbatch_tokens = 128\ncheckpoint_every = 2\n"
                        "[model]\nwidth = 16\nlayers = 1\nheads = 2\n");
    for (uint64_t i = 0; i < 10; ++i) text_ += MakeSyntheticDocument(1, i, 120).text + " ";
    WriteFileAtomically(folder_ / "text.txt", text_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::string Expect(int code, const std::string& arguments, const std::string& text,
                            const std::string& before = "") {
    const CommandResult run = RunHawser(arguments + " 2>&1", before);
    EXPECT_EQ(run.code, code) << before << arguments << '\n' << run.out;
    EXPECT_NE(run.out.find(text), std::string::npos) << before << arguments << '\n' << run.out;
    return run.out;
  }
  static std::string Text(const std::string& arguments, const std::string& before = "") {
    const CommandResult run =
        RunHawser("generate builtin --quiet --temperature 0 --threads 1 -n 8 " + arguments, before);
    EXPECT_EQ(run.code, 0) << before << arguments;
    return run.out;
  }
  std::string Train(const fs::path& data, const std::string& more) const {
    return fmt::format("train '{}' --threads 1 --data '{}' --out '{}' {}", (folder_ / "r.toml").string(), data.string(),
                       (folder_ / "run").string(), more);
  }
  std::string ReadRun(const std::string& file) const { return ReadFile(folder_ / "run" / file); }

  fs::path folder_;
  std::string text_;
};

TEST_F(People, MisspeltNamesSuggestTheNearest) {
  Expect(2, "generat builtin", "did you mean 'generate'?");
  Expect(2, "--json generat", "unknown");
  Expect(2, "generate builtin --contxt 5", "did you mean '--context'?");
  Expect(2, "generate builtin --max-nwe=5", "did you mean '--max-new'?");
  Expect(2, "inspect patern full", "did you mean 'pattern'?");
  Expect(2, "inspect pattern full --dox 3", "did you mean '--docs'?");
  Expect(2, "bench", "which command?");
  Expect(2, "", "which command?");
  Expect(2, "help kw", "did you mean 'kv'?");
  Expect(2, "generate builtin --kv streamin", "did you mean 'streaming'?");
  const std::string keys = Expect(2, Train(folder_ / "text.txt", "--set warmpu=3"), "did you mean 'warmup'?");
  EXPECT_LT(keys.size(), 200u) << keys;  // three of sixty
  Expect(2, "generate builtin a b c", "a text with blanks stands in quotes");
  Expect(2, "generate builtin --temp 0", "did you mean '--temperature'?");  // the beginning of one
  Expect(2, "generate builtin --max-tokens 5", "did you mean '--max-new'?");
  Expect(2, "extend builtin --learning-rate 1", "did you mean '--lr'?");
  Expect(2, "generate builtin --learning-rate 1", "nearest");  // not an option of this command
  Expect(2, "eval ppl builtin", "eval builtin ppl");
  Expect(2, "version", "did you mean '--version'?");
  Expect(2, "--quiet info builtin", "options stand behind the command");
  EXPECT_EQ(Expect(2, "generate builtin --hel", "--help").find("--help, --help"), std::string::npos);
  Expect(2, "generate builtin -n", "generate: ");
}

TEST_F(People, WhatIsNoNumberOrTooLargeIsRefusedByName) {
  const std::string run = "generate builtin -p a ";
  Expect(2, run + "--temperature nan", "--temperature: wanted a number, found \"nan\"");
  Expect(2, run + "--temperature ''", "--temperature: wanted a number, found \"\"");
  Expect(2, run + "--min-p 0x1", "wanted a number");
  Expect(2, run + "--progress nan", "--progress: wanted a number");
  Expect(2, run + "--progress inf", "--progress: wanted a number");
  Expect(2, "inspect pattern full --docs 100000000000", "wanted a whole number from -2147483648 to 2147483647");
  Expect(2, run + "--rope ntk:factor=1e308", "rope 'ntk:factor=1e308': rope factor must be from 1 to 1000000000");
  Expect(2, run + "--rope theta=1e300", "rope 'theta=1e300': rope theta must be");
  Expect(2, run + "--rope yarn:factor=2,mscale=1e12", "rope mscale must be");
  Expect(2, "extend builtin --data x --context 8192 --out y --rope linear:factor=1e10", "rope 'linear:factor=1e10'");
}

TEST_F(People, AFileThatIsNotThereIsNamedOnce) {
  for (const char* option : {"--grammar", "--json-schema", "--load-state", "--prompt-file"}) {
    const std::string out = Expect(3, std::string("generate builtin ") + option + " nosuch", "nosuch: cannot open");
    EXPECT_EQ(out.find("nosuch", out.find("nosuch") + 1), out.npos) << out;
  }
  Expect(3, "generate builtin -p a --grammar .", "not a regular file, but a folder");
}

// A variable of a script that is not set: never the current folder, never as if the option were not there.
TEST_F(People, AFileWithoutANameIsRefusedByTheOption) {
  const auto expect = [&](const std::string& command, const char* option) {
    Expect(2, command, option + std::string(": wanted the name of a file or folder, found \"\""));
  };
  for (const char* option :
       {"--grammar", "--load-state", "--prompt-file", "--save-state", "--adapter", "--tokenizer"}) {
    expect(std::string("generate builtin ") + option + " ''", option);
  }
  for (const char* option : {"--data", "--out", "--adapter"}) {
    expect(std::string("extend builtin --context 512 ") + option + " ''", option);
  }
  expect("extend builtin --recipe ''", "--recipe");
  expect("train x.toml --tokenizer ''", "--tokenizer");
  expect("train x.toml --data x.txt ''", "--data");
  expect("train ''", "RECIPE");
  expect("info ''", "MODEL");
  expect("average RUN --last 2 --out ''", "--out");
  expect("convert builtin ''", "DST");
  expect("convert builtin x --adapter ''", "--adapter");
  expect("eval builtin piqa --output ''", "--output");
  expect("eval ruler run builtin --out x --data ''", "--data");
  expect("inspect data builtin --data ''", "--data");
  expect("demo --out ''", "--out");
  Expect(3, "extend builtin --context 512 --steps 1 --out '" + (folder_ / "run").string() + "' --set data=",
         "'': no such file or folder");
}

// Lines of code on the pages that begin with "hawser COMMAND": the command is there and its help names every option.
TEST(Pages, CommandsTakeTheOptionsTheyAreShownWith) {
  const fs::path root = fs::path(__FILE__).parent_path().parent_path().parent_path();
  if (!fs::exists(root / "docs")) GTEST_SKIP() << "docs are not beside the sources";
  std::vector<fs::path> pages = {root / "README.md"};
  for (const auto& entry : fs::directory_iterator(root / "docs")) {
    if (entry.path().extension() == ".md") pages.push_back(entry.path());
  }
  std::map<std::string, std::string> helps;
  int lines = 0;
  for (const fs::path& page : pages) {
    const std::string text = std::regex_replace(ReadFile(page), std::regex(R"(\\\n)"), " ");
    const std::regex shown(R"((^|\n)hawser ((?:inspect |bench |eval ruler |eval (?=score))?[a-z-]+)([^\n#]*))"),
        option(R"(\s(--[a-z][a-z-]*))");
    for (std::sregex_iterator line(text.begin(), text.end(), shown), end; line != end; ++line, ++lines) {
      const std::string command = (*line)[2], rest = (*line)[3];
      if (!helps.contains(command)) helps[command] = RunHawser(command + " --help").out + " ";
      for (std::sregex_iterator at(rest.begin(), rest.end(), option); at != end; ++at) {
        EXPECT_TRUE(std::regex_search(helps[command], std::regex((*at)[1].str() + "[^a-z-]")))
            << page.filename() << ": hawser " << command << rest << ": " << (*at)[1];
      }
    }
  }
  EXPECT_GE(lines, 30);
}

// The first column of the page on messages: what stands between the values of a message is in the sources.
TEST(Pages, MessagesAreThoseOfTheProgram) {
  const fs::path root = fs::path(__FILE__).parent_path().parent_path().parent_path();
  if (!fs::exists(root / "docs")) GTEST_SKIP() << "docs are not beside the sources";
  std::string sources;
  for (const auto& entry : fs::recursive_directory_iterator(root / "hawser")) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && name.find("_test.") == name.npos) sources += ReadFile(entry.path());
  }
  // Long messages are broken over lines.
  std::string joined;
  for (size_t at = 0; at < sources.size(); ++at) {
    const size_t next = sources[at] == '"' ? sources.find_first_not_of(" \n", at + 1) : std::string::npos;
    if (next != std::string::npos && next > at + 1 && sources[next] == '"') {
      at = next;
    } else {
      joined += sources[at];
    }
  }
  const std::string page = ReadFile(root / "docs/TROUBLESHOOTING.md");
  const std::regex row(R"(\n\| `([^`]+)`)"), value(R"('?\.\.\.'?|\b[NM]\b)");
  int rows = 0;
  for (std::sregex_iterator at(page.begin(), page.end(), row), end; at != end; ++at, ++rows) {
    const std::string message = (*at)[1];
    for (std::sregex_token_iterator part(message.begin(), message.end(), value, -1), last; part != last; ++part) {
      std::string text = *part;
      text.erase(0, text.find_first_not_of(' '));
      text.erase(text.find_last_not_of(' ') + 1);
      EXPECT_NE(joined.find(text), std::string::npos) << message << ": \"" << text << '"';
    }
  }
  EXPECT_GE(rows, 10);
}

TEST_F(People, EveryCommandRefusesAnUnknownDevice) {
  for (const char* command : {"info builtin", "tokenize builtin --text a", "help", "generate builtin",
                              "corpus --out /nowhere.jsonl", "inspect pattern full"}) {
    Expect(4, std::string(command) + " --device cuda", "device 'cuda' is not known");
  }
}

TEST_F(People, HelpHasAPageForEveryForm) {
  for (const auto& [topic, text] :
       {std::pair("kv", "sep-stream:a,s,w,c"), std::pair("kv", "bounded:N"), std::pair("rope", "yarn"),
        std::pair("attention", "multi-bos"), std::pair("numerics", "bf16-qk"), std::pair("recipe", "batch_tokens ="),
        std::pair("separators", "sep="), std::pair("softmax", "self-adjust"), std::pair("sizes", "16384"),
        std::pair("inspect data", "--max-sequences"), std::pair("", "help generate")}) {
    Expect(0, std::string("help ") + topic, text);
  }
  EXPECT_EQ(RunHawser("help generate").out, RunHawser("generate --help").out);
}

TEST_F(People, SizesMayHaveUnits) {
  EXPECT_EQ(Text("--prompt The --context 1k"), Text("--prompt The --context 1024"));
  Expect(2, "generate builtin -n 1.5", "wanted a whole number");
  Expect(2, "generate builtin -n 4x", "wanted a whole number");
  const auto plan = nlohmann::json::parse(
      RunHawser(Train(folder_ / "text.txt", "--context 0.125k --batch-tokens 1k --dry-run --json --quiet")).out);
  EXPECT_EQ(plan["context"], 128);
  EXPECT_EQ(plan["tokens_per_step"], 1024);
}

TEST_F(People, SeedsAreWholeNumbersOf64Bits) {
  for (const char* seed : {"-1", "18446744073709551616", "x", "1.5", "''"}) {
    Expect(2, fmt::format("generate builtin -n 1 --seed {}", seed), "--seed");
    Expect(2, Train(folder_ / "text.txt", fmt::format("--seed {}", seed)), "--seed");
  }
  Expect(0, "generate builtin -n 1 --seed 18446744073709551615", "");
  Expect(2, Train(folder_ / "text.txt", "--seed 18446744073709551615"), "seed");
  Expect(2, Train(folder_ / "text.txt", "--set seed=-1"), "seed");
}

TEST_F(People, APromptComesInManyWays) {
  const std::string want = Text("--prompt 'Once upon'");
  EXPECT_EQ(Text("'Once upon'"), want);
  EXPECT_EQ(Text("-p 'Once upon'"), want);
  EXPECT_EQ(Text("", "echo 'Once upon' | "), want);
  EXPECT_EQ(Text("", "printf 'Once upon' | "), want);
  EXPECT_EQ(Text("--prompt-file -", "printf 'Once upon' | "), want);
  WriteFileAtomically(folder_ / "prompt", "Once upon");
  EXPECT_EQ(Text(fmt::format("< '{}'", (folder_ / "prompt").string())), want);
  EXPECT_EQ(Text(fmt::format("--prompt-file '{}'", (folder_ / "prompt").string()), "echo no | "), want);
  EXPECT_EQ(Text("--prompt 'Once upon'", "echo no | "), want);
  EXPECT_EQ(Text("--prompt ''", "echo no | "), Text(""));
  Expect(2, "generate builtin -p a b", "twice");
  Expect(3, "generate builtin --prompt-file /nowhere", "/nowhere");
}

TEST_F(People, ACacheMeansAStream) {
  WriteFileAtomically(folder_ / "book.txt", "Once upon a time there was a harbour, and in it lay a boat.");
  const auto protocol = [&](const std::string& options) {
    const std::string data = (folder_ / "book.txt").string();
    const auto run = RunHawser(fmt::format("eval builtin ppl --data '{}' {} --json --quiet", data, options));
    return nlohmann::json::parse(run.out)["protocol"].get<std::string>();
  };
  EXPECT_EQ(protocol(""), "windowed");
  EXPECT_EQ(protocol("--kv full"), "streaming");
  EXPECT_EQ(protocol("--kv sink:2,20"), "streaming");
  EXPECT_EQ(protocol("--protocol windowed --kv full"), "windowed");
}

TEST_F(People, YarnWithoutAFactorReachesTheContext) {
  Expect(2, "generate builtin -p a -n 1 --rope yarn", "--context");
  const int64_t own = nlohmann::json::parse(RunHawser("info builtin --json").out)["context"];
  EXPECT_EQ(Text(fmt::format("-p The --rope yarn --context {}", 4 * own)),
            Text(fmt::format("-p The --rope yarn:factor=4 --context {}", 4 * own)));
}

TEST_F(People, WordsAfterGenerate) {
  const std::string text =
      Expect(0, "generate builtin -p The -n 1 --temperature 0", "wrote 1 token, ended by --max-new");
  EXPECT_NE(text.find("cache "), std::string::npos) << text;
  EXPECT_NE(text.find(" tokens kept"), std::string::npos) << text;
}

TEST_F(People, LinesOfProgressWhereThereIsNoTerminal) {
  const std::string text = Expect(0, Train(folder_ / "text.txt", "--progress 0.000001"), "train: 3 of 6 (50 %), loss ");
  EXPECT_EQ(text.find('\r'), std::string::npos);
  fs::remove_all(folder_ / "run");
  EXPECT_EQ(Expect(0, Train(folder_ / "text.txt", "--progress 0"), "").find("train: "), std::string::npos);
}

TEST_F(People, ThreadsFollowTheEnvironment) {
  const auto threads = [&](const std::string& before) {
    fs::remove_all(folder_ / "run");
    const std::string arguments = fmt::format("train '{}' --data '{}' --out '{}'", (folder_ / "r.toml").string(),
                                              (folder_ / "text.txt").string(), (folder_ / "run").string());
    const std::string text = RunHawser(arguments + " 2>&1", before).out;
    const size_t end = text.find(" threads");
    return end == std::string::npos ? text
                                    : text.substr(text.rfind(' ', end - 1) + 1, end - text.rfind(' ', end - 1) - 1);
  };
  EXPECT_EQ(threads("OMP_NUM_THREADS=1 "), "1");
  EXPECT_EQ(threads("taskset -c $(taskset -cp $$ | grep -o '[0-9]*$') "), "1");
}

TEST_F(People, WhatDoesNotFitIsRefusedBeforeItIsTried) {
  const std::string large = "--set model.width=16k --set model.heads=64 --set model.layers=64 ";
  const std::string text = Expect(2, Train(folder_ / "text.txt", large), "does not fit");
  EXPECT_NE(text.find("TiB of memory wanted"), std::string::npos) << text;
  EXPECT_FALSE(fs::exists(folder_ / "run"));
  Expect(2, Train(folder_ / "text.txt", large + "--dry-run"), "does not fit");
  Expect(2, "generate builtin -p a --context 1T -n 1G", "does not fit");
  Expect(2, Train(folder_ / "text.txt", "--set model.width=1M"), "width");
}

TEST_F(People, WhatIsBeyondTheLimitOfTheProcessIsRefused) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers reserve more addresses than any limit leaves";
#endif
  Expect(2, Train(folder_ / "text.txt", "--set model.width=2k --set model.heads=32"), "does not fit",
         "ulimit -v 400000; ");
}

TEST_F(People, OutputThatCannotBeWrittenIsReported) {
  for (const char* arguments : {"--help", "generate --help", "help kv", "--version", "info builtin"}) {
    Expect(3, std::string(arguments) + " > /dev/full", "", "");
    const CommandResult run = RunHawser(std::string(arguments) + " 2>&1 >/dev/full");
    EXPECT_EQ(run.code, 3) << arguments;
    EXPECT_NE(run.out.find("stdout: cannot write"), std::string::npos) << arguments << run.out;
  }
}

TEST_F(People, ATrainingOutlivesItsReaders) {
  const CommandResult full = RunHawser(Train(folder_ / "text.txt", "2>&1 >/dev/full"));
  EXPECT_EQ(full.code, 3) << full.out;
  EXPECT_NE(full.out.find("stdout: cannot write"), std::string::npos) << full.out;
  const std::string weights = ReadRun("model.safetensors");
  for (const char* closed : {"2>&1 | true", ">&- 2>&-", "2>/dev/full"}) {
    fs::remove_all(folder_ / "run");
    RunHawser(Train(folder_ / "text.txt", closed));
    ASSERT_TRUE(fs::exists(folder_ / "run/model.safetensors")) << closed;
    EXPECT_EQ(ReadRun("model.safetensors"), weights) << closed;
  }
}

TEST_F(People, ALimitOnFileSizesEndsInALine) {
  const std::string limit = "ulimit -f 1; ";  // of 512 or 1024 bytes
  const auto files = [&] { return std::distance(fs::directory_iterator(folder_), {}); };
  const auto before = files();
  const std::string out = (folder_ / "new.svg").string(), model = (folder_ / "new").string();
  for (const std::string& arguments : {"convert builtin '" + model + "'", "corpus --documents 50 --out '" + out + "'",
                                       "generate builtin -p a -n 4 --quiet --save-state '" + out + "'",
                                       "inspect pattern full --length 500 --svg '" + out + "'"}) {
    const std::string text = Expect(3, arguments, "File too large", limit);
    EXPECT_EQ(text.find(".tmp"), std::string::npos) << text;
    fs::remove(model);  // an empty folder may be left
    fs::remove(out);
    EXPECT_EQ(files(), before) << arguments;
  }
}

TEST_F(People, PathsThatAreNotUtf8SurviveAResume) {
  const fs::path data = folder_ / "caf\xe9";
  fs::create_directories(data);
  WriteFileAtomically(data / "na\xefve.txt", text_);
  const CommandResult whole = RunHawser(Train(data, "--json --quiet"));
  ASSERT_EQ(whole.code, 0);
  const std::string weights = ReadRun("model.safetensors");
  fs::remove(folder_ / "run/hawser.json");
  fs::remove(folder_ / "run/model.safetensors");
  fs::remove_all(folder_ / "run/checkpoints/6");
  for (const auto& entry : fs::directory_iterator(folder_ / "run/checkpoints")) {
    if (entry.path().filename().string().find('6') != std::string::npos) fs::remove_all(entry.path());
  }
  Expect(0, Train(data, "--resume"), "resumed after step 4");
  EXPECT_EQ(ReadRun("model.safetensors"), weights);
  const fs::path again = folder_ / "again";
  const CommandResult second = RunHawser(
      fmt::format("train '{}' --out '{}' --json --quiet", (folder_ / "run/recipe.toml").string(), again.string()));
  ASSERT_EQ(second.code, 0);
  EXPECT_EQ(ReadFile(again / "model.safetensors"), weights);
  const CommandResult eval =
      RunHawser(fmt::format("eval '{}' ppl --data '{}' --json --quiet", again.string(), data.string()));
  EXPECT_EQ(eval.code, 0);
  EXPECT_TRUE(nlohmann::json::accept(eval.out)) << eval.out;
}

TEST_F(People, TextsThatDoNotEnd) {
  const auto ids = [](const std::string& more) {
    return nlohmann::json::parse(
        RunHawser("generate builtin --quiet --json --temperature 0 --threads 1 -p The -n 40 " + more).out)["ids"];
  };
  const auto plain = ids("");
  EXPECT_EQ(ids("--repeat-last-n 0 --repeat-penalty 9"), plain);
  EXPECT_NE(ids("--frequency-penalty 3"), plain);
  EXPECT_NE(ids("--presence-penalty 3"), plain);
  EXPECT_EQ(ids("--ignore-eos").size(), 40u);
}

}  // namespace
}  // namespace hawser
