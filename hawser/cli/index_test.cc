// The index command, and what is read behind what it writes.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/file.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/byte_level.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

using nlohmann::json;
using testing::CommandResult;
using testing::RunHawser;

class IndexCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("cli_index");
    BpeTokenizer tokenizer(ByteLevelTokenizerJson({}));
    tokenizer.set_bos(tokenizer.IdOf("<|bos|>"));
    tokenizer.set_eos(tokenizer.IdOf("<|eos|>"));
    ModelSpec spec = TinySpec({.vocab = tokenizer.vocab_size(), .context = 2048});
    spec.bos = tokenizer.bos();
    spec.eos = {tokenizer.eos()};
    for (const int seed : {1, 2}) {
      SaveHuggingFace(LoudModel(spec, static_cast<uint64_t>(seed)), &tokenizer, DType::kF32,
                      folder_ / ("m" + std::to_string(seed)));
    }
    WriteBytes(folder_ / "m1" / "chat_template.jinja",
               "{% for m in messages %}<|bos|>{{ m.role }}: {{ m.content }}<|eos|>{% endfor %}"
               "{% if add_generation_prompt %}<|bos|>assistant: {% endif %}");
    std::string text;
    for (int i = 0; i < 60; ++i) text += "line " + std::to_string(i * i) + "\n";
    WriteBytes(folder_ / "prefix.txt", text);
    WriteBytes(folder_ / "rest.txt", "and so it went on, for a while at least.");
    WriteBytes(folder_ / "both.txt", text + "and so it went on, for a while at least.");
  }
  std::string At(const std::string& name) const { return " '" + (folder_ / name).string() + "'"; }
  CommandResult Index(const std::string& options = "", int window = 32) const {
    return RunHawser("index" + At("m1") + " --prefix" + At("prefix.txt") + " --out" + At("p.idx") + " --window " +
                     std::to_string(window) + " --threads 1 --quiet " + options + " 2>&1");
  }
  CommandResult Run(const std::string& command, const std::string& options, const std::string& model = "m1",
                    const std::string& before = "") const {
    return RunHawser(command + At(model) + " --threads 1 --quiet " + options + " 2>&1", before);
  }

  std::filesystem::path folder_;
};

TEST_F(IndexCommand, TellsWhatItWrote) {
  const CommandResult run = Index("--json --check");
  ASSERT_EQ(run.code, 0) << run.out;
  const json about = json::parse(run.out);
  EXPECT_EQ(about["tokens"].get<size_t>(), 1 + ReadFile(folder_ / "prefix.txt").size());
  EXPECT_EQ(about["window"], 32);
  ASSERT_EQ(about["check"].size(), 5u);
  EXPECT_GT(about["check"][4]["mass"], about["check"][1]["mass"]);
  EXPECT_GT(about["index_bytes"], 0);
  EXPECT_NE(Index().out.find("clusters in"), std::string::npos);
  EXPECT_EQ(Index("--levels 1").out.find("clusters in"), std::string::npos);
}

// What keeps the whole prefix says what the whole text says.
TEST_F(IndexCommand, GenerateGoesOnBehindAPrefix) {
  ASSERT_EQ(Index().code, 0);
  const std::string greedy = " --temperature 0 --max-new 20 --json";
  const CommandResult dense = Run("generate", "--prompt-file" + At("both.txt") + greedy);
  ASSERT_EQ(dense.code, 0) << dense.out;
  const std::string behind = "--prompt-file" + At("rest.txt") + " --index" + At("p.idx");
  const CommandResult all = Run("generate", behind + " --keep 1" + greedy);
  ASSERT_EQ(all.code, 0) << all.out;
  EXPECT_EQ(json::parse(all.out)["ids"], json::parse(dense.out)["ids"]);
  EXPECT_EQ(json::parse(all.out)["prompt_tokens"], 40);
  for (const char* keep : {"", " --keep 0.2", " --keep mass=0.9", " --keep quantile=0.9"}) {
    const CommandResult run = Run("generate", behind + keep + greedy);
    ASSERT_EQ(run.code, 0) << run.out;
    const json prefix = json::parse(run.out)["kv"]["prefix"];
    EXPECT_GT(prefix["prompt"]["queries"], 0);
    EXPECT_LT(prefix["decode"]["share"], 1);
    EXPECT_EQ(json::parse(run.out)["ids"], json::parse(Run("generate", behind + keep + greedy).out)["ids"]);
  }
  EXPECT_EQ(json::parse(Run("generate", behind + greedy).out)["kv"]["prefix"]["keep"], "0.1");
}

TEST_F(IndexCommand, TextsThatBeginWithThePrefix) {
  ASSERT_EQ(Index("--bos on").code, 0);
  const std::string keys = " --judge" + At("m1") + " --data" + At("both.txt") + " --bos on --json ";
  const std::string fields = ":k=16,delta=8,alpha=-9,beta=-9";  // every token that far is key
  const CommandResult plain = Run("eval", "longppl" + fields + keys + "--kv full");
  ASSERT_EQ(plain.code, 0) << plain.out;
  const CommandResult behind = Run("eval", "longppl" + fields + keys + "--keep 0.3 --index" + At("p.idx"));
  ASSERT_EQ(behind.code, 0) << behind.out;
  const json whole = json::parse(plain.out), part = json::parse(behind.out);
  EXPECT_EQ(part["tokens"], 39) << "the first behind the prefix is read and not predicted";
  EXPECT_EQ(part["keep"], "0.3");
  EXPECT_EQ(part["judge_key_tokens"], whole["judge_key_tokens"]) << "the judge sees the whole text";
  EXPECT_NEAR(part["kept"].get<double>(), whole["kept"].get<double>(), 1e-9) << "nothing is dropped";
  EXPECT_LT(part["prefix_read"], 0.6);
  EXPECT_EQ(whole["prefix_read"], nullptr);

  const std::string texts = "compare --bos on --data" + At("both.txt") + " --json --methods ";
  const std::string index = "index:" + (folder_ / "p.idx").string();
  const std::string output = " --output" + At("run");
  const CommandResult compared = Run("eval", texts + "'full; " + index + ",keep=1; " + index + ",keep=0.3'" + output);
  ASSERT_EQ(compared.code, 0) << compared.out;
  const json methods = json::parse(compared.out)["methods"];
  for (const json& method : methods) EXPECT_EQ(method["tokens"], 39) << "all count the same ones";
  EXPECT_NEAR(methods[1]["ppl_times_first"]["ratio"].get<double>(), 1, 1e-5);
  EXPECT_NE(methods[2]["ppl"], methods[0]["ppl"]);
  EXPECT_NEAR(methods[2]["ppl"].get<double>() / part["ppl"].get<double>(), 1, 1e-9);
  EXPECT_NE(Run("eval", texts + "full --resume" + output).out.find("another run"), std::string::npos)
      << "without an index other tokens count";
  EXPECT_EQ(Run("eval", texts + "'full; " + index + ",keep=1' --resume" + output).code, 0);
  ASSERT_EQ(Index("--bos on --clusters 0.5").code, 0);
  const CommandResult replaced = Run("eval", texts + "'full; " + index + ",keep=0.3' --resume" + output);
  EXPECT_EQ(replaced.code, 2);
  EXPECT_NE(replaced.out.find("measured with another ("), std::string::npos) << replaced.out;
  ASSERT_EQ(Index("--bos on").code, 0);

  const auto refused = [&](const std::string& options, const std::string& part) {
    const CommandResult run = Run("eval", options);
    EXPECT_NE(run.code, 0);
    EXPECT_NE(run.out.find(part), std::string::npos) << options << ": " << run.out;
  };
  const std::string other = " --bos on --data" + At("rest.txt");
  refused("compare --methods '" + index + "'" + other, "does not begin with the indexed prefix");
  refused("compare --methods '" + index + " @ yarn:factor=2' --data" + At("both.txt"), "rope");
  refused("compare --methods '" + index + ",keep=?' --kept 20 --data" + At("both.txt"), "keep=");
  refused("compare --methods full --index" + At("p.idx") + other, "named in --methods as index:FILE");
  refused("longppl" + fields + keys + "--keep 0.3", "give one with --index");
  refused("longppl" + fields + keys + "--kv sink:4,60 --index" + At("p.idx"), "drops keys");
  refused("longppl" + fields + keys + "--attention window=8 --index" + At("p.idx"), "does not go with --index");
}

TEST_F(IndexCommand, PerplexityBehindAPrefix) {
  ASSERT_EQ(Index().code, 0);
  const std::string text = " --data" + At("rest.txt") + " --json";
  const CommandResult all = Run("eval", "ppl" + text + " --index" + At("p.idx") + " --keep 1");
  ASSERT_EQ(all.code, 0) << all.out;
  const json whole = json::parse(all.out);
  EXPECT_EQ(whole["tokens"], 39);  // the first is read and not predicted
  const CommandResult less = Run("eval", "ppl" + text + " --index" + At("p.idx") + " --keep 0.15");
  ASSERT_EQ(less.code, 0) << less.out;
  EXPECT_NE(json::parse(less.out)["ppl"], whole["ppl"]);
  EXPECT_EQ(Run("eval", "ppl" + text + " --index" + At("p.idx") + " --protocol windowed").code, 2);
  const CommandResult retrieval = Run("eval", "retrieval --index" + At("p.idx"));
  EXPECT_EQ(retrieval.code, 2);
  EXPECT_NE(retrieval.out.find("none begins as another text does"), std::string::npos) << retrieval.out;
}

TEST_F(IndexCommand, ChatBehindAPrefix) {
  ASSERT_EQ(Index().code, 0);
  const std::string options = "--max-new 5 --temperature 0 --json --index" + At("p.idx");
  const CommandResult run = Run("chat", options, "m1", "printf 'Hi\\nAnd you?\\n/reset\\nHi\\n' | ");
  ASSERT_EQ(run.code, 0) << run.out;
  std::vector<json> turns;
  for (size_t begin = 0, end; (end = run.out.find('\n', begin)) != run.out.npos; begin = end + 1) {
    if (run.out[begin] == '{') turns.push_back(json::parse(run.out.substr(begin, end - begin)));
  }
  ASSERT_EQ(turns.size(), 3u) << run.out;
  EXPECT_EQ(turns[0]["ids"], turns[2]["ids"]);
  EXPECT_EQ(turns[0]["seen_tokens"], turns[2]["seen_tokens"]);
  EXPECT_GT(turns[0]["seen_tokens"], 500);
  EXPECT_LT(turns[1]["prompt_tokens"], 60);  // of the talk alone
  EXPECT_EQ(turns[1]["kv"]["prefix"]["tokens"], 1 + ReadFile(folder_ / "prefix.txt").size());
}

TEST_F(IndexCommand, WrongUsesAreRefused) {
  ASSERT_EQ(Index().code, 0);
  const std::string behind = "-p x --max-new 2 --index" + At("p.idx");
  const auto refused = [&](const CommandResult& run, int code, std::string_view word) {
    EXPECT_EQ(run.code, code) << run.out;
    EXPECT_NE(run.out.find(word), std::string::npos) << run.out;
    EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 1) << run.out;
  };
  refused(Run("generate", behind, "m2"), 2, "another model");
  refused(Run("generate", behind + " --rope ntk:factor=2"), 2, "pass --rope default");
  refused(Run("generate", behind + " --dtype bf16"), 2, "pass --dtype f32");
  refused(Run("generate", behind + " --kv sink:4,60"), 4, "drops keys");
  refused(Run("generate", behind + " --keep 1.5"), 2, "share of its keys");
  refused(Run("generate", "-p x --keep 0.5"), 2, "--index");
  refused(Run("generate", "-p '' --index" + At("p.idx")), 2, "--prompt");
  refused(Run("generate", "-p x --index" + At("prefix.txt")), 3, "prefix.txt");
  refused(Run("generate", "-p x --max-new 2000 --index" + At("p.idx")), 2, "do not fit");
  refused(Index("", 5000), 2, "observation window");
  refused(Index("--rope dynamic:factor=4"), 4, "--context");
  refused(Index("--kv sink:4,60"), 4, "drops keys");
  refused(Index("--task passkey:lengths=512"), 2, "--prefix");
  refused(Run("index", "--out" + At("q.idx")), 2, "which prefix?");
  refused(Run("index", "--limit 3 --prefix" + At("prefix.txt") + " --out" + At("q.idx")), 2, "goes with --task");
  refused(Run("serve", "--port 0 --kv sink:4,60 --index" + At("p.idx")), 4, "drops keys");
  refused(Run("serve", "--port 0 --keep 0.2"), 2, "--index");
}

// A text behind a prefix is saved and goes on; the prefix is named in the state and found again.
TEST_F(IndexCommand, StatesGoOnBehindAPrefix) {
  ASSERT_EQ(Index().code, 0);
  const std::string options = "--temperature 0.8 --seed 3 --ignore-eos --json ";
  const std::string behind = options + "--keep 0.4 --index" + At("p.idx") + " -p 'and so' --max-new ";
  const CommandResult whole = Run("generate", behind + "24");
  ASSERT_EQ(whole.code, 0) << whole.out;
  const CommandResult first = Run("generate", behind + "10 --save-state" + At("s.kv"));
  ASSERT_EQ(first.code, 0) << first.out;
  const CommandResult second =
      Run("generate", "--ignore-eos --json --temperature 0.8 --max-new 14 --load-state" + At("s.kv"));
  ASSERT_EQ(second.code, 0) << second.out;
  std::vector<int32_t> ids = json::parse(first.out)["ids"];
  const auto rest = json::parse(second.out)["ids"].get<std::vector<int32_t>>();
  ids.insert(ids.end(), rest.begin(), rest.end());
  EXPECT_EQ(ids, json::parse(whole.out)["ids"].get<std::vector<int32_t>>());
  EXPECT_EQ(json::parse(second.out)["kv"]["prefix"]["keep"], "0.4");
  EXPECT_EQ(Run("generate", "--max-new 2 --keep 0.9 --load-state" + At("s.kv")).code, 0);
  // Where the file is another one, or gone.
  ASSERT_EQ(Index("", 40).code, 0);
  const CommandResult other = Run("generate", "--max-new 2 --load-state" + At("s.kv"));
  EXPECT_EQ(other.code, 2) << other.out;
  EXPECT_NE(other.out.find("another indexed prefix"), std::string::npos) << other.out;
  std::filesystem::remove(folder_ / "p.idx");
  EXPECT_NE(Run("generate", "--max-new 2 --load-state" + At("s.kv")).out.find("p.idx"), std::string::npos);
}

// Names of files need not be UTF-8: what is kept of them is found again, and what is shown of them shows a sign
// instead.
TEST_F(IndexCommand, NamesOfFilesAreBytes) {
  std::filesystem::rename(folder_ / "m1", folder_ / "m\xff");
  ASSERT_EQ(Run("index", "--prefix" + At("prefix.txt") + " --out" + At("p\xff.idx") + " --window 32", "m\xff").code, 0);
  const CommandResult first =
      Run("generate", "-p x --max-new 3 --index" + At("p\xff.idx") + " --save-state" + At("s\xff.kv"), "m\xff");
  ASSERT_EQ(first.code, 0) << first.out;
  const CommandResult second = Run("generate", "--max-new 3 --json --load-state" + At("s\xff.kv"), "m\xff");
  ASSERT_EQ(second.code, 0) << second.out;
  EXPECT_GT(json::parse(second.out)["kv"]["prefix"]["tokens"], 100);
  const std::string task = "passkey:lengths=300,trials=1 --context 400 --output" + At("run\xff");
  const CommandResult asked = Run("eval", task, "m\xff");
  ASSERT_EQ(asked.code, 0) << asked.out;
  const CommandResult again = Run("eval", task + " --resume", "m\xff");  // the run that is there
  EXPECT_EQ(again.code, 0) << again.out;
}

// What the prompts of a task begin with is read once, and what keeps all of it answers as ever.
TEST_F(IndexCommand, TasksBehindWhatTheirPromptsShare) {
  const std::string task = "passkey:lengths=700,depths=0.8,trials=3 ";
  const CommandResult index = Run("index", "--json --window 32 --task " + task + "--context 800 --out" + At("t.idx"));
  ASSERT_EQ(index.code, 0) << index.out;
  EXPECT_GT(json::parse(index.out)["tokens"], 200);
  const CommandResult plain = Run("eval", task + "--context 800 --json");
  ASSERT_EQ(plain.code, 0) << plain.out;
  const auto row = [](const CommandResult& run) { return json::parse(run.out)["results"]["passkey"]; };
  const std::string indexed = task + "--context 800 --json --index" + At("t.idx") + " --keep ";
  const CommandResult all = Run("eval", indexed + "1");
  ASSERT_EQ(all.code, 0) << all.out;
  EXPECT_EQ(row(all), row(plain));
  const std::string told = json::parse(all.out)["engine"]["index"];
  EXPECT_NE(told.find("keep 1"), std::string::npos) << told;
  EXPECT_EQ(json::parse(all.out)["config"]["model_args"]["keep"], "1");
  EXPECT_EQ(Run("eval", indexed + "0.2").code, 0);
  // A run goes on under the same prefix and rule alone.
  const std::string folder = " --output" + At("run");
  ASSERT_EQ(Run("eval", indexed + "0.2" + folder).code, 0);
  EXPECT_EQ(Run("eval", indexed + "0.2 --resume" + folder).code, 0);
  EXPECT_NE(Run("eval", indexed + "0.3 --resume" + folder).out.find("another run"), std::string::npos);
  // Other prompts, and what has none in common.
  const CommandResult others =
      Run("eval", "passkey:variant=llamacpp,lengths=700,trials=1 --context 800 --index" + At("t.idx"));
  EXPECT_EQ(others.code, 2) << others.out;
  EXPECT_NE(others.out.find("does not begin with the indexed prefix"), std::string::npos) << others.out;
  const CommandResult none =
      Run("index", "--task " + task + "--task passkey:variant=llamacpp,lengths=700 --out" + At("n.idx"));
  EXPECT_EQ(none.code, 2) << none.out;
  const CommandResult focus = Run("eval", task + "--focus x --index" + At("t.idx"));
  EXPECT_EQ(focus.code, 2) << focus.out;
  EXPECT_NE(focus.out.find("--focus does not go with"), std::string::npos) << focus.out;
}

}  // namespace
}  // namespace hawser
