// The chat command through a pipe.
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/file.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/smollm2.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/byte_level.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

using nlohmann::json;
using testing::CommandResult;
using testing::RunHawser;

class ChatCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("cli_chat");
    BpeTokenizer tokenizer(ByteLevelTokenizerJson({}));
    tokenizer.set_bos(tokenizer.IdOf("<|bos|>"));
    tokenizer.set_eos(tokenizer.IdOf("<|eos|>"));
    ModelSpec spec = TinySpec({.vocab = tokenizer.vocab_size(), .context = 400});
    spec.bos = tokenizer.bos();
    spec.eos = {tokenizer.eos()};
    SaveHuggingFace(TinyModel(spec, 1), &tokenizer, DType::kF32, folder_ / "m");
    WriteBytes(folder_ / "m" / "chat_template.jinja",
               "{% for m in messages %}<|bos|>{{ m.role }}: {{ m.content }}<|eos|>{% endfor %}"
               "{% if add_generation_prompt %}<|bos|>assistant: {% endif %}");
  }
  CommandResult Chat(const std::string& lines, const std::string& options = "") const {
    return RunHawser("chat '" + (folder_ / "m").string() + "' --max-new 8 --threads 1 " + options + " 2>&1",
                     "printf '" + lines + "' | ");
  }
  static std::vector<json> Turns(const std::string& out) {
    std::vector<json> turns;
    for (size_t begin = 0, end; (end = out.find('\n', begin)) != out.npos; begin = end + 1) {
      if (out[begin] == '{') turns.push_back(json::parse(out.substr(begin, end - begin)));
    }
    return turns;
  }

  std::filesystem::path folder_;
};

TEST_F(ChatCommand, AnswersLineByLine) {
  const CommandResult run = Chat("Hi\\nAnd you?\\n\\nlong \\\\\\nlines", "--json --system 'be brief' --seed 3");
  ASSERT_EQ(run.code, 0) << run.out;
  const std::vector<json> turns = Turns(run.out);
  ASSERT_EQ(turns.size(), 3u) << run.out;
  EXPECT_EQ(turns[0]["new_tokens"], 8);
  EXPECT_EQ(turns[0]["stop"], "length");
  EXPECT_LT(turns[1]["prompt_tokens"], turns[0]["prompt_tokens"]);
  EXPECT_EQ(turns[2]["kv"]["policy"], "full");
  EXPECT_EQ(Turns(Chat("Hi\\nAnd you?\\n\\nlong \\\\\\nlines", "--json --system 'be brief' --seed 3").out)[2]["ids"],
            turns[2]["ids"]);
}

TEST_F(ChatCommand, AnswersFollowAGrammarOrASchema) {
  WriteBytes(folder_ / "g.gbnf", "root ::= \"yes\" | \"no\"");
  WriteBytes(folder_ / "s.json", R"({"enum": ["left", "right"]})");
  WriteBytes(folder_ / "bad.gbnf", "root ::= \"yes");
  const auto at = [&](const char* name) { return "'" + (folder_ / name).string() + "'"; };
  const CommandResult words = Chat("Is it?\\nAnd now?\\n/reset\\nIs it?", "--json --seed 3 --grammar " + at("g.gbnf"));
  ASSERT_EQ(words.code, 0) << words.out;
  const std::vector<json> turns = Turns(words.out);
  ASSERT_EQ(turns.size(), 3u) << words.out;
  for (const json& turn : turns) {
    EXPECT_TRUE(turn["text"] == "yes" || turn["text"] == "no") << turn;
    EXPECT_EQ(turn["stop"], "stop");
  }
  const CommandResult values = Chat("Where?\\nWhere?", "--json --json-schema " + at("s.json"));
  ASSERT_EQ(values.code, 0) << values.out;
  for (const json& turn : Turns(values.out)) {
    EXPECT_TRUE(turn["text"] == "\"left\"" || turn["text"] == "\"right\"" || turn["stop"] == "length") << turn;
  }
  const CommandResult bad = Chat("Is it?", "--grammar " + at("bad.gbnf"));
  EXPECT_EQ(bad.code, 3) << bad.out;
  EXPECT_NE(bad.out.find("bad.gbnf"), bad.out.npos) << bad.out;
  EXPECT_EQ(Chat("a", "--grammar " + at("g.gbnf") + " --json-schema " + at("s.json")).code, 2);
}

TEST_F(ChatCommand, CommandsInTheTalk) {
  const std::string file = (folder_ / "talk.json").string();
  const CommandResult run = Chat("/help\\n/system\\n/system be kind\\nHi\\n/stats\\n/save " + file +
                                 "\\n/reset\\n//x\\n/system\\n/quit\\nnever");
  ASSERT_EQ(run.code, 0) << run.out;
  for (const char* part : {"/save FILE", "(none)", "read ", "of 400 tokens are left", "be kind\n"}) {
    EXPECT_NE(run.out.find(part), run.out.npos) << part << "\n" << run.out;
  }
  const json talk = json::parse(ReadFile(file))["messages"];
  ASSERT_EQ(talk.size(), 3u);
  EXPECT_EQ(talk[0], (json{{"role", "system"}, {"content", "be kind"}}));
  EXPECT_EQ(talk[1], (json{{"role", "user"}, {"content", "Hi"}}));
  const std::vector<json> turns = Turns(Chat("go on", "--json --load " + file).out);
  ASSERT_EQ(turns.size(), 1u);
  EXPECT_GT(turns[0]["prompt_tokens"], 40);
}

TEST_F(ChatCommand, EndlessUnderABoundedCache) {
  std::string lines;
  for (int i = 0; i < 30; ++i) lines += "more of it\\n";
  const std::vector<json> turns = Turns(Chat(lines, "--json --kv sink:4,60").out);
  ASSERT_EQ(turns.size(), 30u);
  EXPECT_GT(turns.back()["seen_tokens"], 900);
  EXPECT_LE(turns.back()["kv"]["peak"], 64);
  EXPECT_EQ(turns.back()["reread_tokens"], 0);
  EXPECT_EQ(turns.back()["prompt_tokens"], turns[1]["prompt_tokens"]);
}

TEST_F(ChatCommand, MistakesEndAScript) {
  const std::pair<std::string, const char*> mistakes[] = {{"/none", "/help"},
                                                          {"/save", "name of a file"},
                                                          {"a\\377b", "UTF-8"},
                                                          {std::string(500, 'a'), "the context of 400"}};
  for (const auto& [lines, part] : mistakes) {
    const CommandResult run = Chat(lines);
    EXPECT_EQ(run.code, 2) << run.out;
    EXPECT_NE(run.out.find(part), run.out.npos) << run.out;
  }
  EXPECT_EQ(Chat("/load /no/such").code, 3);
  EXPECT_EQ(Chat("x", "--load /no/such").code, 3);
  const CommandResult plain = RunHawser("chat builtin 2>&1");
  EXPECT_EQ(plain.code, 2);
  EXPECT_NE(plain.out.find("no chat template"), plain.out.npos) << plain.out;
}

TEST(ChatOnSmolLm2, SaysWhatGenerateSaysAndGoesOn) {
  HAWSER_NEEDS_SMOLLM2();
  const std::string model = " '" + testing::SmolLm2File().string() + "' --json --quiet --temperature 0 --max-new 24";
  const CommandResult run = RunHawser("chat" + model, "printf 'Say hello to me.\\nWhat can you do?\\n' | ");
  ASSERT_EQ(run.code, 0);
  const size_t second = run.out.find('\n') + 1;
  const json first = json::parse(run.out.substr(0, second)), next = json::parse(run.out.substr(second));
  EXPECT_EQ(first["ids"], json::parse(RunHawser("generate" + model + " --chat -p 'Say hello to me.'").out)["ids"]);
  EXPECT_LT(next["prompt_tokens"], first["prompt_tokens"]);
  EXPECT_EQ(next["reread_tokens"], 0);
}

// The API speaks JSON: what that cannot hold is refused before anything is asked.
TEST_F(ChatCommand, BytesThatNoServerTakes) {
  WriteBytes(folder_ / "bytes.gbnf", "root ::= \"\xff\"");
  const auto talk = [&](const std::string& options) {
    return RunHawser("chat --url http://127.0.0.1:1 --quiet " + options + " 2>&1", "echo hi | ");
  };
  const CommandResult stop = talk("--stop '\xff'");
  EXPECT_EQ(stop.code, 2) << stop.out;
  EXPECT_NE(stop.out.find("--stop is not UTF-8"), stop.out.npos) << stop.out;
  const CommandResult grammar = talk("--grammar '" + (folder_ / "bytes.gbnf").string() + "'");
  EXPECT_EQ(grammar.code, 3) << grammar.out;
  EXPECT_NE(grammar.out.find("bytes.gbnf: it is not UTF-8"), grammar.out.npos) << grammar.out;
}

}  // namespace
}  // namespace hawser
