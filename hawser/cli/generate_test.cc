// The generate command on the 260K-parameter TinyStories model.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/file.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/test_data.h"

namespace hawser {
namespace {

using testing::CommandResult;
using testing::RunHawser;

class GenerateCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    HAWSER_NEEDS_DATA("models/stories260k/checkpoint_v1.bin", "models/stories260k/tokenizer.bin",
                      "oracles/stories260k_reference.json");
    const auto folder = TestData() / "models/stories260k";
    model_ = (folder / "checkpoint_v1.bin").string();
    tokenizer_ = (folder / "tokenizer.bin").string();
    const std::string oracle = ReadFile(TestData() / "oracles/stories260k_reference.json");
    greedy_ = nlohmann::json::parse(oracle)["greedy"]["text_after_256_steps"];
  }

  CommandResult Generate(const std::string& arguments) const {
    return RunHawser("generate '" + model_ + "' --tokenizer '" + tokenizer_ + "' --threads 1 " + arguments);
  }
  nlohmann::json Json(const std::string& arguments) const {
    const CommandResult run = Generate(arguments + " --quiet --json");
    EXPECT_EQ(run.code, 0) << arguments;
    return nlohmann::json::parse(run.out);
  }

  std::string model_, tokenizer_, greedy_;
};

TEST_F(GenerateCommand, StreamsTheKnownGreedyText) {
  // The prompt is four of the 256 tokens.
  EXPECT_EQ(Generate("--temperature 0 --prompt 'Once upon a time' --max-new 252 --echo --quiet").out, greedy_ + "\n");
  EXPECT_EQ(Generate("--temperature 0 --prompt 'Once upon a time' --max-new 252 --quiet").out,
            greedy_.substr(std::string("Once upon a time").size()) + "\n");
  EXPECT_EQ(Generate("--temperature 0 --max-new 256 --quiet").out, greedy_ + "\n");
  // A cache that drops nothing yet changes nothing, and the default length is 256.
  EXPECT_EQ(Generate("--temperature 0 --kv sep-stream:4,64,128,300 --quiet").out, greedy_ + "\n");
}

TEST_F(GenerateCommand, JsonHasTheFigures) {
  const nlohmann::json run = Json("--temperature 0 --prompt 'Once upon a time' --max-new 20");
  EXPECT_EQ(run["text"], greedy_.substr(16, run["text"].get<std::string>().size()));
  EXPECT_EQ(run["ids"].size(), 20u);
  EXPECT_EQ(run["prompt_tokens"], 5);
  EXPECT_EQ(run["new_tokens"], 20);
  EXPECT_EQ(run["stop"], "length");
  EXPECT_EQ(run["kv"]["policy"], "full");
  EXPECT_EQ(run["kv"]["peak"], 24);
  EXPECT_DOUBLE_EQ(run["kv"]["mean"], 12.5);
  EXPECT_DOUBLE_EQ(run["kv"]["ratio"], 1.0);
  EXPECT_GE(run["kv"]["bytes"], 24 * 5 * 2 * 4 * 8 * 4);  // slots, layers, keys and values, heads, dims, f32
  for (const char* figure : {"seconds", "prefill_tokens_per_second", "decode_tokens_per_second"}) {
    EXPECT_GT(run[figure], 0.0) << figure;
  }
}

TEST_F(GenerateCommand, BoundedCachesGoOnBeyondTheContext) {
  const nlohmann::json run = Json("--kv sep-stream:4,16,64,128 --max-new 900 --seed 4");
  EXPECT_EQ(run["kv"]["policy"], "sep-stream:4,16,64,128");
  EXPECT_LE(run["kv"]["peak"], 128);
  EXPECT_LT(run["kv"]["ratio"], 0.5);
  EXPECT_EQ(Json("--kv window:32 --max-new 600")["kv"]["peak"], 31);
  EXPECT_EQ(Json("--kv sink:4,28 --max-new 600")["kv"]["peak"], 32);
}

TEST_F(GenerateCommand, LayersAndSeparatorsOfTheirOwn) {
  const nlohmann::json run = Json("--kv sep:3,n=32,full-layers=0+-1,sep=text --temperature 0 --max-new 200");
  EXPECT_EQ(run["kv"]["policy"], "sep:3,32,full-layers=-1+0");
  EXPECT_GT(run["kv"]["peak"], 150);
  EXPECT_LT(run["kv"]["ratio"], 0.8);
  EXPECT_LE(Json("--kv fix:3,32,8 --temperature 0 --max-new 200")["kv"]["peak"], 3 + 32 + 200 / 8);
  EXPECT_LE(Json("--kv sepcache:cache_size=96,sep_cache_size=16,local_size=32,USE_MAX_SEP_CACHE=true --temperature 0 "
                 "--max-new 200")["kv"]["peak"],
            96);
}

// The first signal ends the text, which is saved and goes on as if nothing had been.
TEST_F(GenerateCommand, AnInterruptedTextIsSaved) {
  const std::filesystem::path folder = FreshFolder("generate_interrupted");
  const std::string state = (folder / "text.kv").string(), pipe = (folder / "pipe").string();
  const std::string options = "--temperature 0.7 --seed 5 --ignore-eos --kv sink:4,60 ";
  const std::string command = "'" + std::string(HAWSER_BINARY) + "' generate '" + model_ + "' --tokenizer '" +
                              tokenizer_ + "' --threads 1 --quiet --prompt 'Once upon a time' -n 100000000 " + options +
                              "--save-state " + state;
  // It is ended once some text has come.
  const std::string script =
      "mkfifo " + pipe + "; " + command + " > " + pipe + " & exec 3< " + pipe +
      "; dd bs=1 count=200 <&3 2> /dev/null; kill -TERM $!; cat <&3 > /dev/null; wait $!; echo \" code $?\"";
  FILE* shell = popen(script.c_str(), "r");
  ASSERT_NE(shell, nullptr);
  std::string out(1000, '\0');
  out.resize(fread(out.data(), 1, out.size(), shell));
  pclose(shell);
  EXPECT_TRUE(out.ends_with(" code 130\n")) << out;
  const nlohmann::json rest = Json("--temperature 0.7 --ignore-eos -n 30 --load-state " + state);
  const int64_t made = rest["continues_after"].get<int64_t>() - 5 + 1;  // the last of them waits
  EXPECT_GT(made, 40);
  const auto whole = Json(options + "--prompt 'Once upon a time' -n " + std::to_string(made + 30))["ids"];
  EXPECT_EQ(std::vector<int32_t>(whole.end() - 30, whole.end()), rest["ids"].get<std::vector<int32_t>>());
}

TEST_F(GenerateCommand, GoesOnFromASavedState) {
  const std::string state = (FreshFolder("generate_state") / "text.kv").string();
  for (const char* kv :
       {"full", "sep-stream:4,16,64,128", "sep-stream:4,16,64,128,dtype=q8_0", "sep:3,32,full-layers=0", "sink:4,60"}) {
    for (const char* sampler : {"--temperature 0", "--temperature 0.7 --repeat-penalty 1.1 --seed 5"}) {
      const std::string options = std::string(sampler) + " --kv " + kv;
      const nlohmann::json whole = Json(options + " --prompt 'Once upon a time' --max-new 60");
      const nlohmann::json first = Json(options + " --prompt 'Once upon a time' --max-new 25 --save-state " + state);
      EXPECT_EQ(first["saved_state"], state);
      // Neither policy nor seed need be said again.
      const std::string again = std::string(sampler).substr(0, std::string(sampler).find(" --seed"));
      const nlohmann::json second = Json(again + " --max-new 35 --load-state " + state);
      std::vector<int32_t> ids = first["ids"];
      for (const int32_t id : second["ids"]) ids.push_back(id);
      EXPECT_EQ(ids, whole["ids"].get<std::vector<int32_t>>()) << options;
      EXPECT_EQ(second["continues_after"], 5 + 24);
      EXPECT_EQ(second["kv"]["policy"], kv);
      EXPECT_EQ(second["kv"]["mean"], whole["kv"]["mean"]);
    }
  }
  // What was said of the model when the text was saved need not be said again.
  const std::string other = state + ".other";
  std::string prompt = " --prompt '";
  for (int i = 0; i < 40; ++i) prompt += "One day, a girl went to the big park. ";  // more than the model's 512 tokens
  for (const char* settings : {"--context 2000", "--context 2000 --rope dynamic:factor=4",
                               "--context 2000 --rope ntk:factor=4 --dtype bf16"}) {
    const std::string options = std::string("--temperature 0 ") + settings + prompt + "' --max-new ";
    const auto whole = Json(options + "16")["ids"].get<std::vector<int32_t>>();
    std::vector<int32_t> ids = Json(options + "8 --save-state " + other)["ids"];
    const nlohmann::json later = Json("--temperature 0 --max-new 8 --load-state " + other);
    for (const int32_t id : later["ids"]) ids.push_back(id);
    EXPECT_EQ(ids, whole) << settings;
  }
  // A further turn.
  const nlohmann::json turn =
      Json("--temperature 0 --prompt 'One day, Tom' --max-new 10 --load-state " + state + " --save-state " + state);
  EXPECT_GT(turn["prompt_tokens"], 3);
  EXPECT_GT(Json("--max-new 5 --load-state " + state)["continues_after"], turn["continues_after"]);
  const std::pair<std::string, const char*> mistakes[] = {
      {"--kv full --load-state " + state,
       "saved with another cache policy: sink:4,60, and this run has full; pass --kv sink:4,60"},
      {"--dtype bf16 --load-state " + state, "saved with another dtype: f32, and this run has bf16; pass --dtype f32"},
      {"--rope ntk:factor=4 --load-state " + state, "saved with another rope scheme or --context: "},
      {"--rope ntk:factor=4 --load-state " + state, "and this run has ntk:factor=4,original=512"},
      {"--rope ntk:factor=4 --load-state " + state, ": default and 0, and"},
      {"--load-state " + tokenizer_, "tokenizer.bin"},
      {"--load-state /no/such/state", "/no/such/state"},
      {"--prompt a --max-new 3 --save-state /no/such/folder/state", "/no/such/folder"},
  };
  for (const auto& [arguments, part] : mistakes) {
    const CommandResult run = Generate(arguments + " 2>&1");
    EXPECT_GE(run.code, 2) << arguments << ": " << run.out;
    EXPECT_NE(run.out.find(part), std::string::npos) << arguments << ": " << run.out;
  }
}

// Weights that stay as they lie in the file are those that a state was saved with, though nothing is said of a dtype.
TEST_F(GenerateCommand, GoesOnWithAModelOfStoredWeights) {
  const std::filesystem::path folder = FreshFolder("generate_stored");
  const std::string file = (folder / "m.gguf").string(), state = (folder / "text.kv").string();
  ASSERT_EQ(RunHawser("convert '" + model_ + "' " + file + " --tokenizer '" + tokenizer_ + "' --type q8_0").code, 0);
  for (const std::string dtype : {"", " --dtype f32", " --dtype bf16"}) {
    const std::string run = "generate " + file + " --threads 1 --quiet --temperature 0 --max-new ";
    const std::string whole = RunHawser(run + "20 -p 'Once upon a time'" + dtype).out;
    const CommandResult first = RunHawser(run + "9 -p 'Once upon a time' --save-state " + state + dtype);
    const CommandResult second = RunHawser(run + "11 --load-state " + state + " 2>&1");
    EXPECT_EQ(second.code, 0) << dtype << second.out;
    EXPECT_EQ(first.out.substr(0, first.out.size() - 1) + second.out, whole) << dtype;
  }
}

// A form that was cut goes on where it stood, and need not be named again.
TEST_F(GenerateCommand, AFormGoesOnFromASavedState) {
  const std::filesystem::path folder = FreshFolder("generate_form");
  WriteBytes(folder / "s.json", R"({"properties": {"name": {"enum": ["Tim", "Lily"]}, "toys": {"enum": [12, 34]}},
                                    "required": ["name", "toys"]})");
  WriteBytes(folder / "g.gbnf", "root ::= \"yes\" | \"no\"");
  const std::string state = (folder / "text.kv").string(), schema = (folder / "s.json").string();
  const std::string whole = Generate("--quiet --temperature 0 -p 'Here:' --json-schema " + schema).out;
  ASSERT_TRUE(nlohmann::json::accept(whole)) << whole;
  const std::string first =
      Generate("--quiet --temperature 0 -p 'Here:' -n 4 --json-schema " + schema + " --save-state " + state).out;
  for (const std::string& again : {std::string(), " --json-schema " + schema}) {
    const CommandResult second = Generate("--quiet --temperature 0 --load-state " + state + again);
    EXPECT_EQ(first.substr(0, first.size() - 1) + second.out, whole) << again;
  }
  const std::string grammar = " --grammar " + (folder / "g.gbnf").string();
  const CommandResult other = Generate("--load-state " + state + grammar + " 2>&1");
  EXPECT_EQ(other.code, 2) << other.out;
  EXPECT_NE(other.out.find("under another grammar"), std::string::npos) << other.out;
  const std::string behind = Generate("--quiet --load-state " + state + grammar + " -p ' So?'").out;
  EXPECT_TRUE(behind == "yes\n" || behind == "no\n") << behind;
  EXPECT_EQ(Generate("--quiet --load-state " + state + " -n 3 -p ' So?'").code, 0);
}

TEST_F(GenerateCommand, SeedsDecide) {
  EXPECT_EQ(Json("--seed 1 --max-new 60")["ids"], Json("--seed 1 --max-new 60")["ids"]);
  EXPECT_NE(Json("--seed 1 --max-new 60")["ids"], Json("--seed 2 --max-new 60")["ids"]);
}

TEST_F(GenerateCommand, StopsInFrontOfTheFirstStopString) {
  const nlohmann::json run = Json("--temperature 0 --stop 'red ball' --stop 'day, she'");
  EXPECT_EQ(run["stop"], "stop");
  EXPECT_EQ(run["text"], greedy_.substr(0, greedy_.find("day, she")));
}

TEST_F(GenerateCommand, MistakesAreNamed) {
  const std::pair<const char*, const char*> mistakes[] = {
      {"--prompt a --max-new 600", "the context of 512 tokens"},
      {"--prompt a --context 100 --max-new 200", "the context of 100 tokens"},
      {"--prompt a --kv sep-stream:4,64,256,300", "a + s + w must be less than c"},
      {"--prompt a --kv lru", "the forms are full"},
      {"--prompt a --kv sep:3,0", "n must be a whole number from 1"},
      {"--prompt a --kv sep:3,64,full-layers=5", "the model has 5 layers, 0 to 4; found 5"},
      {"--prompt a --kv sep:3,64+32", "2 numbers for 5 layers"},
      {"--prompt a --kv sep:3,64,sep=13+512", "id 512 is outside the vocabulary of 512"},
      {"--prompt a --kv sep:3,64,sep=neox-9", "neox-9 is made for another vocabulary"},
      {"--prompt a --rope yarn:factr=4", "factor"},
      {"--prompt a --top-p 0", "top-p must be"},
      {"--prompt a --temperature -1", "temperature must be"},
      {"--prompt a --stop ''", "stop string"},
      {"--prompt a --dtype f16", "f32 or bf16"},
      {"--prompt a --prompt-file /dev/null", "given twice"},
  };
  for (const auto& [arguments, part] : mistakes) {
    const CommandResult run = Generate(std::string(arguments) + " 2>&1");
    EXPECT_EQ(run.code, 2) << arguments << ": " << run.out;
    EXPECT_NE(run.out.find(part), std::string::npos) << arguments << ": " << run.out;
  }
  const CommandResult bare = RunHawser("generate '" + model_ + "' --prompt a 2>&1");
  EXPECT_EQ(bare.code, 2);
  EXPECT_NE(bare.out.find("give one with --tokenizer FILE"), std::string::npos) << bare.out;
  // Longer contexts and bounded caches take what the context alone does not.
  EXPECT_EQ(Generate("--rope yarn:factor=2 --max-new 600 --quiet").code, 0);
}

}  // namespace
}  // namespace hawser
