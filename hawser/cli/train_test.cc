// train and extend as people run them: mistyped, dry, with other data, positions, objectives and adapters.
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hawser/base/file.h"
#include "hawser/data/synthetic.h"
#include "hawser/testing/train_command.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/train/checkpoint.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;
using testing::RunHawser;

TEST_F(TrainCommand, ThreadsAndRecomputeGiveTheSameBits) {
  WriteRecipe("steps = 8\nholdout = 4\nvalidate_every = 4");
  const auto train = [&](const char* out, const std::string& more) {
    return RunHawser(fmt::format("train '{}' --out '{}' --quiet {} 2>&1", (folder_ / "r.toml").string(),
                                 (folder_ / out).string(), more));
  };
  ASSERT_EQ(train("one", "--threads 1").code, 0);
  ASSERT_EQ(train("two", "--threads 2").code, 0);
  ASSERT_EQ(train("again", "--threads 2 --set recompute=layer").code, 0);
  ExpectSameRun("one", "two");
  ExpectSameRun("one", "again");
  EXPECT_EQ(Metrics("one").back()["validation_loss"], Metrics("again").back()["validation_loss"]);
}

TEST_F(TrainCommand, PaddingIsNotCountedAsTokens) {
  WriteRecipe("steps = 3");
  const CommandResult run = Train("run", "--set overflow=fit --context 256 --json");
  ASSERT_EQ(run.code, 0) << run.out;
  const auto json = nlohmann::json::parse(run.out);
  const int64_t tokens = json["tokens"], padding = json["padding"], targets = json["targets"];
  EXPECT_EQ(tokens + padding, 3 * 256);
  EXPECT_GT(padding, 0);
  EXPECT_LT(targets, tokens);
  EXPECT_NEAR(json["tokens_per_second"].get<double>() * json["seconds"].get<double>(), tokens, 1e-6 * tokens);
  const auto last = Metrics("run").back();
  EXPECT_EQ(last["tokens"], tokens);
  EXPECT_EQ(last["padding"], padding);
  EXPECT_EQ(last["targets"], targets);
  EXPECT_NE(ReadFile(folder_ / "run/report.html").find("<th>padding</th>"), std::string::npos);
  // Of each step: tokens a second times seconds are the tokens of the step.
  int64_t before = 0;
  double seconds = 0;
  for (const auto& line : Metrics("run")) {
    const double step = line["seconds"].get<double>() - seconds;
    EXPECT_NEAR(line["tokens_per_second"].get<double>() * step, line["tokens"].get<int64_t>() - before, 1e-3);
    before = line["tokens"];
    seconds = line["seconds"];
  }
}

TEST_F(TrainCommand, TheBestValidatedCheckpointIsKept) {
  WriteRecipe("steps = 8\nholdout = 4\nvalidate_every = 1\ncheckpoint_every = 1\nkeep = 1");
  ASSERT_EQ(Train("run", "--set lr=3 --set clip=0 --set warmup=20").code,
            0);  // it diverges
  int64_t best = 0;
  double lowest = std::numeric_limits<double>::infinity();
  for (const auto& line : Metrics("run")) {
    if (line["validation_loss"] > lowest) continue;
    lowest = line["validation_loss"];
    best = line["step"];
  }
  ASSERT_LT(best, 8);
  EXPECT_EQ(CheckpointSteps(folder_ / "run/checkpoints"), (std::vector<int64_t>{best, 8}));
}

TEST_F(TrainCommand, MistypedKeysAreNamed) {
  const CommandResult key = Train("run", "--set batch_token=3");
  EXPECT_EQ(key.code, 2);
  EXPECT_NE(key.out.find("'batch_tokens'"), std::string::npos) << key.out;
  EXPECT_EQ(Train("run", "--attention ancor").code, 2);
  EXPECT_EQ(Train("run", "--rope ntk:facto=2").code, 2);
  EXPECT_EQ(Train("run", "--steps 5 --tokens 7").code, 2);
  EXPECT_EQ(RunHawser("train '" + (folder_ / "none.toml").string() + "' --out x 2>&1").code, 3);
  EXPECT_EQ(RunHawser("train 2>&1").code, 2);
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(TrainCommand, VariantsThatContradictThemselvesAreNamed) {
  struct Case {
    const char* options;
    const char* named;
  };
  for (const Case c : {Case{"--attention full-reset", "reset restarts positions"},
                       Case{"--attention full-interleaved", "interleaved lays"},
                       Case{"--attention multi-bos-reset", "multi-bos keeps text at its place"},
                       Case{"--attention 'multi-bos anchors=1'", "use one of the two"},
                       Case{"--attention anchor --set anchor=[256,257]", "1 anchor tokens, 2 anchor ids"},
                       Case{"--attention intra --set first_token_from_anchor=true", "has no anchor"},
                       Case{"--set anchor=99999", "anchor id 99999"},
                       Case{"--rope linear:factor=2 --set rope_numerics=bf61", "rope_numerics"}}) {
    const CommandResult run = Train("run", c.options);
    EXPECT_EQ(run.code, 2) << c.options << ": " << run.out;
    EXPECT_NE(run.out.find(c.named), std::string::npos) << c.options << ": " << run.out;
    EXPECT_FALSE(fs::exists(folder_ / "run/recipe.toml")) << c.options;
  }
  WriteRecipe("steps = 1");
  EXPECT_EQ(Train("run").code, 0) << "nothing is in the way";
}

TEST_F(TrainCommand, DocumentsThatAreOnlyBosAreCountedAndLeftOut) {
  const int32_t bos = LoadTokenizer(folder_ / "tokenizer.json")->bos();
  ASSERT_GE(bos, 0);
  const auto line = [](const std::vector<int32_t>& ids) {
    return nlohmann::json({{"input_ids", ids}, {"source", "x"}}).dump() + "\n";
  };
  std::vector<int32_t> text = {bos};
  for (int32_t i = 0; i < 100; ++i) text.push_back('a' + i % 26);
  fs::remove_all(folder_ / "text");
  MakeDirectories(folder_ / "text");
  WriteFileAtomically(folder_ / "text/0.jsonl", line({bos}) + line(text) + line({bos}));
  WriteRecipe("steps = 1");
  for (const char* variant : {"full", "intra", "anchor", "multi-bos"}) {
    const CommandResult run = Train(variant, fmt::format("--json --attention {}", variant));
    ASSERT_EQ(run.code, 0) << run.out;
    const nlohmann::json packing = nlohmann::json::parse(run.out)["packing"];
    EXPECT_GE(packing["short_documents"], 2) << variant;
    EXPECT_EQ(packing["dropped_short"], 0) << variant;
    EXPECT_EQ(packing["tokens_in"], packing["tokens_out"]) << variant;
  }
  WriteFileAtomically(folder_ / "text/0.jsonl", line({bos}) + line({bos}));
  const CommandResult run = Train("none", "--set min_document=1");
  EXPECT_EQ(run.code, 3) << run.out;
  EXPECT_NE(run.out.find("no documents with text in"), std::string::npos) << run.out;
}

TEST_F(TrainCommand, TextShorterThanOneContextIsAnError) {
  fs::remove_all(folder_ / "text");
  MakeDirectories(folder_ / "text");
  WriteFileAtomically(folder_ / "text/0.txt", MakeSyntheticDocument(1, 0, 20).text);
  WriteRecipe("steps = 2");
  const CommandResult run = Train("run");
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.out.find("context of 64"), std::string::npos) << run.out;
  EXPECT_EQ(Train("run", "--dry-run").code, 2);
  EXPECT_FALSE(fs::exists(folder_ / "run/recipe.toml"));
  WriteFileAtomically(folder_ / "text/1.txt", MakeSyntheticDocument(1, 1, 200).text);
  EXPECT_EQ(Train("run").code, 0);
  // Nothing to validate on is no perplexity of 1.
  WriteFileAtomically(folder_ / "text/2.txt", "a");
  const CommandResult held = Train("held", "--holdout 1 --set validate_every=1 --set min_document=9");
  EXPECT_EQ(held.code, 2);
  EXPECT_NE(held.out.find("2.txt"), std::string::npos) << held.out;
}

TEST_F(TrainCommand, DryRunWritesNothing) {
  const auto plan = nlohmann::json::parse(Train("run", "--dry-run --json --tokens 1000").out);
  EXPECT_EQ(plan["steps"], 4);  // of 256 tokens, rounded up
  EXPECT_EQ(plan["tokens"], 1024);
  EXPECT_GT(plan["parameters"], 1000);
  EXPECT_GT(plan["state_bytes"], 16 * plan["parameters"].get<int64_t>() - 1);
  EXPECT_GT(plan["activation_bytes"], 0);
  EXPECT_EQ(plan["train_files"], 40);
  EXPECT_EQ(plan["memory"]["weights"], plan["memory"]["gradients"]);
  EXPECT_EQ(plan["memory"]["moments"], 2 * plan["memory"]["weights"].get<int64_t>());
  EXPECT_EQ(plan["memory"]["activations"], plan["activation_bytes"]);
  int64_t total = 0;
  for (const char* part : {"weights", "weights_in_use", "gradients", "moments", "adapters", "activations", "kernels",
                           "text", "waiting_sequences", "finish", "program"}) {
    total += plan["memory"][part].get<int64_t>();
  }
  EXPECT_EQ(plan["memory"]["total"], total);
  EXPECT_GT(plan["memory"]["kernels"], 0);
  EXPECT_GT(plan["memory"]["program"], 1 << 20);
  EXPECT_LT(plan["memory"]["activations_with_recompute"], plan["memory"]["activations_without_recompute"]);
  EXPECT_GT(plan["seconds"], 0);
  EXPECT_GT(plan["flops_per_second"], 0);
  // It is the first step that is packed, so the run says the same of it.
  ASSERT_EQ(Train("real", "--tokens 1000").code, 0);
  EXPECT_EQ(Metrics("real")[0]["density"], plan["density"]);
  const CommandResult text = Train("run", "--dry-run --set lora_rank=4 --dtype bf16");
  EXPECT_EQ(text.code, 0);
  for (const char* word : {"moments", "adapters", "bf16", "epochs", "time: about", "recompute = \"layer\""}) {
    EXPECT_NE(text.out.find(word), std::string::npos) << word << ": " << text.out;
  }
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(TrainCommand, ValidatesOnFilesHeldOut) {
  WriteRecipe("steps = 6\nholdout = 4\nvalidate_every = 3\nlog_every = 2");
  ASSERT_EQ(Train("run").code, 0);
  std::vector<int64_t> steps, validated;
  for (const auto& line : Metrics("run")) {
    steps.push_back(line["step"]);
    if (line.contains("validation_loss")) validated.push_back(line["step"]);
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{2, 3, 4, 6}));
  EXPECT_EQ(validated, (std::vector<int64_t>{3, 6}));
  const std::string report = ReadFile(folder_ / "run/report.html");
  for (const char* text : {"validation", "Learning rate", "validate_every = 3", "</html>"}) {
    EXPECT_NE(report.find(text), std::string::npos) << text;
  }
}

TEST_F(TrainCommand, AveragesCheckpoints) {
  WriteRecipe("steps = 10\nholdout = 4\nvalidate_every = 2\ncheckpoint_every = 2\nkeep = 4\naverage_last = 3");
  ASSERT_EQ(Train("run").code, 0);
  EXPECT_EQ(nlohmann::json::parse(ReadFile(folder_ / "run/hawser.json"))["averaged_steps"], nlohmann::json({6, 8, 10}));
  const auto average = [&](const std::string& out, const std::string& more) {
    return RunHawser(
        fmt::format("average '{}' --out '{}' {} 2>&1", (folder_ / "run").string(), (folder_ / out).string(), more));
  };
  const CommandResult last = average("last", "--last 3 --json");
  ASSERT_EQ(last.code, 0) << last.out;
  EXPECT_EQ(nlohmann::json::parse(last.out)["steps"], nlohmann::json({6, 8, 10}));
  EXPECT_EQ(Model("last"), Model("run"));
  EXPECT_EQ(average("steps", "--steps 10,6,8 --threads 1").code, 0);
  EXPECT_EQ(Model("steps"), Model("run"));
  EXPECT_EQ(average("best", "--best 1").code, 0);
  EXPECT_NE(Model("best"), Model("run"));
  // The same from a run that was not finished: its model is that of the recipe.
  for (const char* file : {"config.json", "hawser.json", "model.safetensors", "tokenizer.json"}) {
    fs::remove(folder_ / "run" / file);
  }
  EXPECT_EQ(average("again", "--last 3").code, 0);
  EXPECT_EQ(Model("again"), Model("last"));
  EXPECT_EQ(ReadFile(folder_ / "again/config.json"), ReadFile(folder_ / "last/config.json"));
  EXPECT_EQ(average("again", "--last 3").code, 2);  // holds a model
  EXPECT_EQ(average("none", "").code, 2);
  EXPECT_EQ(average("none", "--last 5").code, 2);
  EXPECT_EQ(average("none", "--steps 7").code, 2);
  EXPECT_EQ(average("none", "--last 1 --best 1").code, 2);
  EXPECT_EQ(RunHawser("average '" + (folder_ / "text").string() + "' --last 1 --out x 2>&1").code, 3);
  for (const char* bad : {"--set keep=2", "--set checkpoint_every=5", "--set checkpoint_every=0"}) {
    const CommandResult run = Train("bad", bad);
    EXPECT_EQ(run.code, 2) << bad;
    EXPECT_NE(run.out.find("average_last = 3"), std::string::npos) << run.out;
  }
}

TEST_F(TrainCommand, ExtendGrowsTheContext) {
  WriteRecipe("steps = 2");
  ASSERT_EQ(Train("base").code, 0);
  const auto extend = [&](const std::string& out, const std::string& more) {
    return RunHawser(fmt::format(
        "extend '{}' --data '{}' --out '{}' --steps 2 --batch-tokens 512 --threads 1 --json {}",
        (folder_ / "base").string(), (folder_ / "text").string(), (folder_ / out).string(), more + " 2>/dev/null"));
  };
  const auto result = nlohmann::json::parse(extend("long", "--context 256").out);
  EXPECT_EQ(result["steps"], 2);
  EXPECT_EQ(result["tokens"].get<int64_t>() + result["padding"].get<int64_t>(), 1024);
  EXPECT_LT(result["density"], 0.9);  // documents of 120 words share sequences of 256
  const ModelSpec base = LoadSpec(folder_ / "base"), grown = LoadSpec(folder_ / "long");
  EXPECT_EQ(grown.context, 256);
  EXPECT_EQ(grown.rope, ApplyRopeText(base.rope, "ntk:factor=4", 64));
  EXPECT_EQ(LoadModel(folder_ / "long").tokenizer->vocab_size(), base.vocab);
  EXPECT_EQ(extend("again", "").code, 2);  // no context given
  for (const char* rope : {"linear:factor=2", "yarn:factor=2", "ntk:factor=2"}) {
    EXPECT_EQ(extend("short", fmt::format("--context 256 --rope {}", rope)).code, 2) << rope;  // it reaches 128
  }
  // Extended again: a scheme of one's own starts from the model as it was before any scaling, and so does the default.
  const auto again = [&](const char* out, const std::string& more) {
    return RunHawser(fmt::format(
        "extend '{}' --data '{}' --out '{}' --steps 1 --batch-tokens 512 --json --quiet --context 512 {} 2>/dev/null",
        (folder_ / "long").string(), (folder_ / "text").string(), (folder_ / out).string(), more));
  };
  for (const char* rope : {"yarn", "linear", "ntk"}) {
    ASSERT_EQ(again(rope, fmt::format("--rope {}:factor=8", rope)).code, 0) << rope;
    EXPECT_EQ(LoadSpec(folder_ / rope).rope, ApplyRopeText(base.rope, fmt::format("{}:factor=8", rope), 64)) << rope;
    EXPECT_EQ(again("none", fmt::format("--rope {}:factor=2", rope)).code, 2) << rope;  // it reaches 128, not 512
  }
  ASSERT_EQ(again("own", "").code, 0);
  EXPECT_EQ(LoadSpec(folder_ / "own").rope, ApplyRopeText(base.rope, "ntk:factor=8", 64));
  EXPECT_EQ(extend("plain", "--context 128 --rope default --attention full --dtype bf16").code, 0);
  EXPECT_EQ(LoadSpec(folder_ / "plain").rope, base.rope);
}

TEST_F(TrainCommand, ShortSequencesReachALongContextByTheirPositions) {
  WriteRecipe("steps = 2");
  ASSERT_EQ(Train("base").code, 0);
  const auto extend = [&](const std::string& out, const std::string& more) {
    return RunHawser(
        fmt::format("extend '{}' --data '{}' --out '{}' --steps 4 --batch-tokens 512 --context 512 "
                    "--quiet {} 2>&1",
                    (folder_ / "base").string(), (folder_ / "text").string(), (folder_ / out).string(), more));
  };
  ASSERT_EQ(extend("straight", "--positions pose --threads 1").code, 0);
  EXPECT_EQ(LoadSpec(folder_ / "straight").context, 512);
  EXPECT_EQ(LoadSpec(folder_ / "straight").rope.scaling.factor, 8);
  const auto mark = nlohmann::json::parse(ReadFile(folder_ / "straight" / "hawser.json"));
  EXPECT_EQ(mark["positions"], "pose:window=64");
  EXPECT_EQ(mark["tokens"].get<int64_t>() + mark["padding"].get<int64_t>(), 4 * 512);
  EXPECT_GT(Metrics("straight").back()["mapped_texts"], 0);
  // The same bits by two threads, and after it went on from the middle.
  ASSERT_EQ(extend("threads", "--positions pose --threads 2 --set recompute=layer").code, 0);
  EXPECT_TRUE(Model("straight") == Model("threads"));
  ASSERT_EQ(extend("resumed", "--positions pose --set checkpoint_every=2").code, 0);
  fs::remove_all(folder_ / "resumed" / "checkpoints" / "step_000004");
  fs::remove(folder_ / "resumed" / "model.safetensors");
  ASSERT_EQ(extend("resumed", "--positions pose --set checkpoint_every=2 --resume").code, 0);
  EXPECT_TRUE(Model("straight") == Model("resumed"));
  // Another map is another recipe.
  const CommandResult other = extend("straight", "--resume --positions randpos");
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.out.find("\"positions\" is not as in"), std::string::npos) << other.out;
  for (const char* wrong :
       {"--positions pose:text=jump", "--positions pose:window=1024", "--positions pose --rope dynamic:factor=8",
        "--positions pose --attention anchor-interleaved", "--positions pose:text=skip --attention full",
        "--positions skipalign"}) {
    const CommandResult refused = extend("wrong", wrong);
    EXPECT_EQ(refused.code, 2) << refused.out;
    EXPECT_FALSE(fs::exists(folder_ / "wrong" / "model.safetensors"));
  }
  const CommandResult inspected =
      RunHawser(fmt::format("inspect data '{}' --data '{}' --context 512 --positions skipalign --json",
                            (folder_ / "base").string(), (folder_ / "text").string()));
  const auto report = nlohmann::json::parse(inspected.out)["positions"];
  EXPECT_EQ(report["map"], "skipalign:window=64");
  EXPECT_EQ(report["unmoved_texts"], report["mapped_texts"]) << "text without prompts has no point to skip at";
  EXPECT_EQ(report["last"], 63);
}

TEST_F(TrainCommand, LongCeWantsDocumentsThatAreLongEnough) {
  WriteRecipe("steps = 4\nobjective = \"longce:k=16,delta=8\"");
  ASSERT_EQ(Train("long").code, 0);
  const auto last = Metrics("long").back();
  EXPECT_GT(last["gain_rows"], 0);
  EXPECT_GT(last["gain_mean"], 0.0);
  EXPECT_LE(last["gain_mean"], 5.0);
  EXPECT_NE(last["loss"], last["cross_entropy"]);
  const auto step_flops = [&](const char* options) -> double {
    return nlohmann::json::parse(Train("plan", fmt::format("--dry-run --json {}", options)).out)["step_flops"];
  };
  EXPECT_GT(step_flops(""), 1.05 * step_flops("--set objective=ce")) << "short passes take time too";
  MakeDirectories(folder_ / "short");
  for (int i = 0; i < 20; ++i) WriteFileAtomically(folder_ / "short" / fmt::format("{}.txt", i), "a rope of strands");
  const CommandResult refused =
      Train("none", fmt::format("--data '{}' --set objective=longce:k=40,delta=8", (folder_ / "short").string()));
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.out.find("no token has a far context"), std::string::npos) << refused.out;
}

TEST_F(TrainCommand, NoStepsAtAllAreNotTheDefault) {
  for (const char* option : {"--steps 0", "--tokens 0"}) {
    const CommandResult run = RunHawser(fmt::format("extend builtin --context 1024 --data '{}' --out '{}' {} 2>&1",
                                                    (folder_ / "text").string(), (folder_ / "none").string(), option));
    EXPECT_EQ(run.code, 2) << option;
    EXPECT_NE(run.out.find("wanted 1 or more"), std::string::npos) << run.out;
  }
}

TEST_F(TrainCommand, NotANumberStopsWithStepAndTensor) {
  WriteRecipe("steps = 2");
  ASSERT_EQ(Train("base").code, 0);
  LoadedModel model = LoadModel(folder_ / "base");
  model.params.Get(Role::kDown, 1).Row<float>(0)[0] = std::numeric_limits<float>::quiet_NaN();
  MakeDirectories(folder_ / "bad");
  SaveHuggingFace(model.params, model.tokenizer.get(), DType::kF32, folder_ / "bad");
  const CommandResult run =
      RunHawser(fmt::format("extend '{}' --data '{}' --out '{}' --context 128 --batch-tokens 512 --quiet 2>&1",
                            (folder_ / "bad").string(), (folder_ / "text").string(), (folder_ / "out").string()));
  EXPECT_EQ(run.code, 5);
  EXPECT_NE(run.out.find("step 1:"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("model.layers.1.mlp.down_proj.weight"), std::string::npos) << run.out;
  EXPECT_FALSE(fs::exists(folder_ / "out/config.json"));
}

TEST_F(TrainCommand, MixturesAreSaidInTheRecipeOrByData) {
  MakeDirectories(folder_ / "few");
  for (uint64_t i = 0; i < 3; ++i) {
    WriteFileAtomically(folder_ / "few" / fmt::format("{}.txt", i), MakeSyntheticDocument(2, i, 100).text);
  }
  const std::string text = (folder_ / "text").string(), few = (folder_ / "few").string();
  WriteRecipe("steps = 30\ncheckpoint_every = 7");
  ASSERT_EQ(Train("options", fmt::format("--data '{}=1' '{}=3'", text, few)).code, 0);
  const auto mark = nlohmann::json::parse(ReadFile(folder_ / "options/hawser.json"));
  ASSERT_EQ(mark["sources"].size(), 2u) << mark.dump();
  const double tokens[] = {mark["sources"][0]["tokens"], mark["sources"][1]["tokens"]};
  EXPECT_EQ(mark["sources"][1]["name"], "few");
  EXPECT_NEAR(tokens[1] / (tokens[0] + tokens[1]), 0.75, 0.05);
  EXPECT_GT(mark["sources"][1]["epochs"], 2);
  EXPECT_LT(mark["sources"][0]["epochs"], 1);

  // The same as tables, with paths from the recipe's folder; killed and gone on with.
  std::string recipe = ReadFile(folder_ / "r.toml");
  recipe.replace(recipe.find("data = \"text\"\n"), 14, "");
  WriteFileAtomically(folder_ / "r.toml",
                      recipe + "[[source]]\ndata = \"text\"\n[[source]]\ndata = [\"few\"]\nweight = 3\n");
  ASSERT_EQ(Train("straight").code, 0);
  EXPECT_TRUE(Model("straight") == Model("options"));
  fs::remove(folder_ / "options/hawser.json");
  for (const int step : {30, 28}) fs::remove_all(folder_ / fmt::format("options/checkpoints/step_{:06}", step));
  ASSERT_EQ(RunHawser(fmt::format("train --threads 1 --quiet --resume '{}' 2>&1", (folder_ / "options").string())).code,
            0);
  ExpectSameRun("straight", "options");
  const auto again = nlohmann::json::parse(ReadFile(folder_ / "options/hawser.json"));
  EXPECT_EQ(again["sources"], mark["sources"]);

  const auto inspected = RunHawser(fmt::format("inspect data --tokenizer '{}' --context 64 --data '{}=1' '{}=3' --json",
                                               folder_.string(), text, few));
  ASSERT_EQ(inspected.code, 0);
  EXPECT_EQ(nlohmann::json::parse(inspected.out)["mixture"].size(), 2u);

  const auto refused = [&](const std::string& more, const std::string& word) {
    const CommandResult run = Train("bad", more);
    EXPECT_EQ(run.code, 2) << more << ": " << run.out;
    EXPECT_NE(run.out.find(word), std::string::npos) << more << ": " << run.out;
  };
  refused(fmt::format("--data '{}=1' '{}'", text, few), "weight");
  refused(fmt::format("--data '{}=0' '{}=1'", text, few), "weight");
  refused(fmt::format("--data '{0}=1' '{0}=1'", text), "text");
  refused("--set upsample=global", "upsample");
  refused("--set data=text", "source");
  refused("--set 'source=[{data=\"x\", weigth=2}]'", "weight");
  refused("--set source=3", "source");
}

TEST_F(TrainCommand, CompletionsAlone) {
  std::string lines;
  for (uint64_t i = 0; i < 40; ++i) {
    const std::string text = MakeSyntheticDocument(1, i, 60).text;
    lines += nlohmann::json{{"prompt", text.substr(0, 100)}, {"completion", text.substr(100)}}.dump() + "\n";
  }
  WriteFileAtomically(folder_ / "pairs.jsonl", lines);
  WriteRecipe("steps = 4\neos = true");
  const std::string pairs = (folder_ / "pairs.jsonl").string();
  ASSERT_EQ(Train("pairs", fmt::format("--data '{}'", pairs)).code, 0);
  // Tokenised beforehand, the weights come along.
  ASSERT_EQ(RunHawser(fmt::format("tokenize '{}' --data '{}' --out '{}'", folder_.string(), pairs,
                                  (folder_ / "shards").string()))
                .code,
            0);
  ASSERT_EQ(Train("shards_run", fmt::format("--data '{}'", (folder_ / "shards").string())).code, 0);
  EXPECT_TRUE(Model("pairs") == Model("shards_run"));
  const auto inspect = [&](const std::string& more) {
    const auto run = RunHawser(
        fmt::format("inspect data --tokenizer '{}' --context 64 --data '{}' --json {}", folder_.string(), pairs, more));
    return nlohmann::json::parse(run.out)["targets"].get<int64_t>();
  };
  const int64_t some = inspect(""), rows = inspect("--set loss_rows=all");
  EXPECT_GT(some, 0);
  EXPECT_GE(rows, some);
  EXPECT_EQ(Train("both", "--set loss_rows=all --set first_token_from_anchor=true").code, 2);
  EXPECT_EQ(Train("all", "--set loss_rows=all").code, 0);
}

TEST_F(TrainCommand, AdaptersGoOn) {
  WriteRecipe("steps = 6\nschedule = \"constant\"");
  ASSERT_EQ(Train("base").code, 0);
  const auto extend = [&](const std::string& out, const std::string& more) {
    return RunHawser(
        fmt::format("extend '{}' --context 64 --data '{}' --batch-tokens 256 --steps 4 --dtype f32 "
                    "--threads 1 --quiet --out '{}' {} 2>&1",
                    (folder_ / "base").string(), (folder_ / "text").string(), (folder_ / out).string(), more));
  };
  ASSERT_EQ(extend("one", "--lora 3 --set 'lora_targets=[\"q_proj\",\"up_proj\"]'").code, 0);
  const std::string adapter = fmt::format("--adapter '{}'", (folder_ / "one").string());
  // What is saved merged is the base with the adapters.
  const auto ppl = [&](const std::string& model) {
    const auto run = RunHawser(
        fmt::format("eval {} ppl --data '{}' --context 64 --json --quiet", model, (folder_ / "text/00.txt").string()));
    return nlohmann::json::parse(run.out)["nll"].get<double>();
  };
  const std::string base = fmt::format("'{}'", (folder_ / "base").string());
  const double merged = ppl(fmt::format("'{}'", (folder_ / "one").string()));
  EXPECT_NEAR(ppl(base + " " + adapter), merged, 1e-6 * merged);
  EXPECT_GT(std::abs(ppl(base) - merged), 1e-4 * merged);
  EXPECT_EQ(RunHawser(fmt::format("generate {} {} --prompt a --max-new 2 --quiet", base, adapter)).code, 0);
  ASSERT_EQ(RunHawser(fmt::format("convert {} '{}' {}", base, (folder_ / "converted").string(), adapter)).code, 0);
  EXPECT_NEAR(ppl(fmt::format("'{}'", (folder_ / "converted").string())), merged, 1e-6 * merged);

  // Never twice: the run's weights hold its adapters, wherever a copy of these lies.
  const std::string one = fmt::format("'{}'", (folder_ / "one").string());
  std::filesystem::copy(folder_ / "one/adapter", folder_ / "copy");
  for (const std::string& again :
       {fmt::format("generate {} {} --prompt a", one, adapter), fmt::format("convert {0} {0}x {1}", one, adapter),
        fmt::format("extend {} --context 64 --data '{}' --steps 1 --out '{}' {}", one, (folder_ / "text").string(),
                    (folder_ / "twice").string(), adapter),
        fmt::format("generate {} --adapter '{}' --prompt a", one, (folder_ / "copy").string())}) {
    const auto run = RunHawser(again + " 2>&1");
    EXPECT_EQ(run.code, 2) << again;
    EXPECT_NE(run.out.find("hold these adapters already"), std::string::npos) << run.out;
  }

  // Trained on: with a rate of nothing they stay as they are.
  ASSERT_EQ(extend("still", adapter + " --set lr=1e-30 --set weight_decay=0").code, 0);
  EXPECT_TRUE(ReadFile(folder_ / "one/adapter/adapter_model.safetensors") ==
              ReadFile(folder_ / "still/adapter/adapter_model.safetensors"));
  ASSERT_EQ(extend("two", adapter).code, 0);
  EXPECT_FALSE(Model("two") == Model("one"));
  const auto config = nlohmann::json::parse(ReadFile(folder_ / "two/adapter/adapter_config.json"));
  EXPECT_EQ(config["r"], 3);
  EXPECT_EQ(config["target_modules"].size(), 4u);
  EXPECT_EQ(extend("three", adapter + " --lora 5").code, 2);
  EXPECT_EQ(extend("three", "--adapter '" + folder_.string() + "'").code, 3);
  EXPECT_EQ(Train("scratch", adapter).code, 2);
}

// Adapters alone say nothing of the positions that they were trained under; their run does.
TEST_F(TrainCommand, AdaptersBringTheirPositions) {
  WriteRecipe("steps = 4\nschedule = \"constant\"");
  ASSERT_EQ(Train("base").code, 0);
  const std::string base = fmt::format("'{}'", (folder_ / "base").string());
  const auto extend = [&](const std::string& out, const std::string& more) {
    return RunHawser(
        fmt::format("extend {} --data '{}' --batch-tokens 512 --steps 3 --dtype f32 --threads 1 --quiet "
                    "--out '{}' {} 2>&1",
                    base, (folder_ / "text").string(), (folder_ / out).string(), more));
  };
  ASSERT_EQ(extend("long", "--lora 3 --context 256 --rope ntk:factor=4 --set lr=1e-6").code, 0);
  const auto about = [&](const std::string& model) {
    const auto run =
        RunHawser(fmt::format("eval {} ppl --data '{}' --json --quiet", model, (folder_ / "text").string()));
    return nlohmann::json::parse(run.out);
  };
  const nlohmann::json own = about(fmt::format("'{}'", (folder_ / "long").string()));
  EXPECT_EQ(own["model_context"], 256);
  for (const char* adapter : {"long", "long/adapter", "long/adapter/"}) {
    const std::string with = fmt::format("{} --adapter '{}'", base, (folder_ / adapter).string());
    const nlohmann::json added = about(with);
    EXPECT_EQ(added["rope"], own["rope"]) << adapter;
    EXPECT_EQ(added["model_context"], 256) << adapter;
    EXPECT_NEAR(added["nll"].get<double>(), own["nll"].get<double>(), 1e-6 * own["nll"].get<double>()) << adapter;
    EXPECT_EQ(about(with + " --rope linear:factor=4")["rope"], "linear:factor=4,original=64") << adapter;
  }
  const std::string adapter = fmt::format("--adapter '{}'", (folder_ / "long").string());
  ASSERT_EQ(RunHawser(fmt::format("convert {} '{}' {}", base, (folder_ / "merged").string(), adapter)).code, 0);
  EXPECT_EQ(about(fmt::format("'{}'", (folder_ / "merged").string()))["rope"], own["rope"]);
  ASSERT_EQ(extend("on", adapter + " --context 256").code, 0);
  EXPECT_EQ(about(fmt::format("'{}'", (folder_ / "on").string()))["rope"], own["rope"]);
}

TEST_F(TrainCommand, WhatPackingAddsFillsAContextToo) {
  fs::remove_all(folder_ / "text");
  MakeDirectories(folder_ / "text");
  const auto tokens = [&](int n, int files) {
    for (int f = 0; f < files; ++f) {
      std::string ids;
      for (int i = 0; i < n; ++i) ids += fmt::format("{}{}", i == 0 ? "" : ", ", 10 + i % 50);
      WriteFileAtomically(folder_ / fmt::format("text/{}.jsonl", f), fmt::format("{{\"input_ids\": [{}]}}", ids));
    }
  };
  WriteRecipe("steps = 1");
  tokens(63, 1);
  EXPECT_EQ(Train("anchor").code, 0) << "the anchor and 63 tokens";
  EXPECT_EQ(Train("bos", "--attention intra").code, 0);
  EXPECT_EQ(Train("no_bos", "--attention intra --set bos=false").code, 2);
  EXPECT_EQ(Train("eos", "--attention intra --set bos=false --set eos=true").code, 0);
  tokens(31, 2);
  EXPECT_EQ(Train("two", "--attention intra").code, 0) << "each with its BOS";
  const CommandResult less = Train("less");
  EXPECT_EQ(less.code, 2);
  EXPECT_NE(less.out.find("63 with"), std::string::npos) << less.out;
}

}  // namespace
}  // namespace hawser
