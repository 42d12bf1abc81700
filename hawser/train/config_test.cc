#include "hawser/train/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/testing/test_folder.h"
#include "hawser/train/toml.h"

namespace hawser {
namespace {

TrainConfig Parse(std::string_view text) {
  TrainConfig config;
  ApplyRecipe(config, text, "r.toml");
  return config;
}

Error Failure(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorKind::kInternal, "nothing was thrown");
}

TEST(TomlTest, DeepDocumentsAreRefusedBeforeTheyAreRead) {
  const auto many = [](std::string_view piece) {
    std::string text;
    for (int i = 0; i < 100'000; ++i) text += piece;
    return text;
  };
  const std::string four = R"(""""a"""")";  // a text that ends with a quotation mark
  for (const std::string& text : {"x = " + many("["), "x = " + many("{a="), "a" + many(".a") + " = 1",
                                  "[a" + many(".a") + "]", "x = " + many("{a.a="), "x = " + four + "\na" + many(".a"),
                                  "x = [" + four + ", {a" + many(".a"), "x = 'a.a' # '\ny" + many(" . \"b\"")}) {
    const Error error = Failure([&] { ParseToml(text, "recipe"); });
    EXPECT_EQ(error.kind(), ErrorKind::kFormat);
    EXPECT_NE(std::string_view(error.what()).find("deeper than 64"), std::string_view::npos) << error.what();
  }
  // Dots of texts, comments and numbers are no levels.
  const std::string dots(1000, '.');
  const std::string text = "a = '" + dots + "' # " + dots + "\nb = [" + many("0.5, ") + "]\nc = \"\"\"\n" + dots +
                           "\\\"\"\" " + dots + "\"\"\"\nd = '''" + dots + "\\'''\n\"" + dots + "\".e = 1.5\n";
  EXPECT_EQ(ParseToml(text, "recipe").size(), 5u);
}

TEST(TrainConfig, ReadsEveryKindOfValue) {
  const TrainConfig c = Parse(R"(
data = ["a.txt", "b"]
tokens = 2e6
lr = 1          # a whole number is a number
schedule = "wsd"
dtype = "bf16"
recompute = "layer"
overflow = "best-fit"
lookahead = 9
upsample = "per-source"
short_keep = 0.25
eos = true
anchor = [1, 7]
[model]
width = 64
tie_embeddings = false
)");
  EXPECT_EQ(c.data, (std::vector<std::string>{"a.txt", "b"}));
  EXPECT_EQ(c.tokens, 2000000);
  EXPECT_EQ(c.lr, 1.0);
  EXPECT_EQ(c.schedule, Schedule::kWsd);
  EXPECT_EQ(c.dtype, DType::kBF16);
  EXPECT_EQ(c.recompute, Recompute::kLayer);
  EXPECT_EQ(c.overflow, Overflow::kBestFit);
  EXPECT_EQ(c.lookahead, 9);
  EXPECT_EQ(c.upsample, Upsample::kPerSource);
  EXPECT_EQ(c.short_keep, 0.25);
  EXPECT_TRUE(c.eos);
  EXPECT_EQ(c.anchor, (std::vector<int64_t>{1, 7}));
  EXPECT_EQ(c.dims.width, 64);
  EXPECT_FALSE(c.dims.tie_embeddings);
}

TEST(TrainConfig, PrintsBackToTheSameValues) {
  TrainConfig c = Parse("lr = 3e-4\neps = 1e-8\nweight_decay = 0.033\nseed = 7\n");
  c.data = {"quote\" and \\ backslash", "new\nline", "ü"};
  c.anchor = {1, 2};
  c.dims.width = 96;
  EXPECT_EQ(Parse(ToToml(c)), c);
  c.dims = {};
  c.model = "models/small";
  c.attention = "scope=doc anchors=2 window=64";
  EXPECT_EQ(Parse(ToToml(c)), c);
  EXPECT_EQ(Parse(ToToml(TrainConfig())), TrainConfig());
}

TEST(TrainConfig, UnknownKeyNamesTheNearest) {
  for (const char* text : {"batch_token = 1", "lrr = 1", "[model]\nwdth = 64"}) {
    const Error error = Failure([&] { Parse(text); });
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << text;
  }
  EXPECT_NE(std::string(Failure([&] { Parse("batch_token = 1"); }).what()).find("did you mean 'batch_tokens'"),
            std::string::npos);
  EXPECT_NE(std::string(Failure([&] { Parse("[model]\nwdth = 64"); }).what()).find("'model.width'"), std::string::npos);
}

TEST(TrainConfig, WrongTypesNameTheKey) {
  for (const char* text : {"lr = \"fast\"", "steps = 1.5", "steps = 1e300", "steps = true", "bos = 1", "data = [1]",
                           "schedule = \"cosin\"", "dtype = \"f16\"", "lr = nan", "lr = inf", "attention = 3",
                           "anchor = [\"x\"]", "lr = [1]"}) {
    const Error error = Failure([&] { Parse(text); });
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << text;
    const std::string key = std::string(text).substr(0, std::string(text).find(' '));
    EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
  }
  const Error syntax = Failure([] { Parse("lr = 1\nsteps = = 2\n"); });
  EXPECT_EQ(syntax.kind(), ErrorKind::kFormat);
  EXPECT_NE(std::string(syntax.what()).find("r.toml:2:"), std::string::npos) << syntax.what();
}

TEST(TrainConfig, SettingsTakeBareText) {
  TrainConfig c;
  ApplySetting(c, "attention=anchor");
  ApplySetting(c, "rope=theta=5e6");
  ApplySetting(c, "tokenizer=123");
  ApplySetting(c, "lr=2e-3");
  ApplySetting(c, "data=book.txt");
  ApplySetting(c, "schedule=linear");
  ApplySetting(c, "model.width=64");
  EXPECT_EQ(c.attention, "anchor");
  EXPECT_EQ(c.rope, "theta=5e6");
  EXPECT_EQ(c.tokenizer, "123");
  EXPECT_EQ(c.lr, 2e-3);
  EXPECT_EQ(c.data, std::vector<std::string>{"book.txt"});
  EXPECT_EQ(c.schedule, Schedule::kLinear);
  EXPECT_EQ(c.dims.width, 64);
  for (const char* bad : {"lr", "=3", "lr=", "lr=fast", "leer=3", "steps=1\nlr=2"}) {
    EXPECT_EQ(Failure([&] { ApplySetting(c, bad); }).kind(), ErrorKind::kUsage) << bad;
  }
}

TEST(TrainConfig, SizesAndBytesGoThroughARecipe) {
  TrainConfig c;
  ApplySetting(c, "context=16k");
  ApplySetting(c, "batch_tokens=1M");
  EXPECT_EQ(c.context, 16384);
  EXPECT_EQ(c.batch_tokens, 1 << 20);
  EXPECT_EQ(Parse("context = \"4K\"").context, 4096);
  c.model = "/models/caf\xe9 %41/\xff";
  c.data = {"/text/na\xefve.txt", "rel\xe9", "/caf\xc3\xa9.txt", "file:///plain", "100%", "/a\nb"};
  const std::string text = ToToml(c);
  EXPECT_NE(text.find("file:///models/caf%E9%20%2541/%FF"), std::string::npos) << text;
  EXPECT_NE(text.find("/caf\xc3\xa9.txt"), std::string::npos) << text;
  EXPECT_EQ(Parse(text), c);
  EXPECT_EQ(Parse("model = \"file:///a%4\"").model, "/a%4");
  c.steps = 1;
  c.seed = -1;
  EXPECT_NE(std::string(Failure([&] { Validate(c); }).what()).find("seed"), std::string::npos);
}

TEST(TrainConfig, PathsOfARecipeAreFromItsFolder) {
  const std::filesystem::path folder = FreshFolder("recipe");
  std::ofstream(folder / "r.toml") << "data = [\"text\", \"/abs\"]\ntokenizer = \"../tok\"\nsteps = 3\n";
  TrainConfig c;
  ApplyRecipeFile(c, folder / "r.toml");
  EXPECT_EQ(c.data, (std::vector<std::string>{(folder / "text").string(), "/abs"}));
  EXPECT_EQ(c.tokenizer, (folder.parent_path() / "tok").lexically_normal().string());
  EXPECT_EQ(Failure([&] { ApplyRecipeFile(c, folder / "none.toml"); }).kind(), ErrorKind::kIo);
  // Names of models are no paths.
  std::ofstream(folder / "n.toml") << "model = \"hf:org/name\"\ntokenizer = \"builtin\"\n";
  ApplyRecipeFile(c, folder / "n.toml");
  EXPECT_EQ(c.model, "hf:org/name");
  EXPECT_EQ(c.tokenizer, "builtin");
  std::filesystem::create_directories(folder / "builtin");
  c.tokenizer.clear();
  ApplyRecipeFile(c, folder / "n.toml");
  EXPECT_EQ(c.tokenizer, "builtin");
  std::ofstream(folder / "p.toml") << "tokenizer = \"./builtin\"\n";
  ApplyRecipeFile(c, folder / "p.toml");
  EXPECT_EQ(c.tokenizer, (folder / "builtin").string());
}

TEST(TrainConfig, RangesAndContradictions) {
  const auto check = [](std::string_view setting) {
    TrainConfig c = Parse("data = [\"x\"]\nsteps = 1\n");
    ApplySetting(c, setting);
    return Failure([&] { Validate(c); });
  };
  TrainConfig good = Parse("data = [\"x\"]\nsteps = 1\n");
  EXPECT_NO_THROW(Validate(good));
  for (const char* bad :
       {"steps=0", "tokens=5", "lr=-1", "beta1=1", "beta2=-0.1", "keep=0", "log_every=0", "batch_tokens=0", "decay=1.5",
        "min_lr_ratio=2", "holdout=-1", "validate_every=5", "context=-4", "clip=-1", "data=[]", "micro_batch=-1"}) {
    EXPECT_EQ(check(bad).kind(), ErrorKind::kUsage) << bad;
  }
}

TEST(TrainConfig, RecipesOfTheRepositoryAreValid) {
  const auto folder = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path() / "recipes";
  if (!std::filesystem::is_directory(folder)) GTEST_SKIP() << folder << " is absent";
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".toml") continue;
    TrainConfig config;
    EXPECT_NO_THROW(ApplyRecipeFile(config, entry.path())) << entry.path();
    config.data = {"text"};
    EXPECT_NO_THROW(Validate(config)) << entry.path();
    EXPECT_NO_THROW(ParseVariant(config.attention)) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 5);
}

TEST(TrainConfig, OnlyWhatIsComputedMatters) {
  const TrainConfig a = Parse("lr = 1e-3\nsteps = 10");
  TrainConfig b = a;
  b.keep = 9;
  b.log_every = 3;
  b.checkpoint_every = 1;
  b.validate_every = 2;
  EXPECT_TRUE(KeysThatMatter(a, b).empty());
  b.lr = 1.0000000000000002e-3;
  b.dims.layers = 3;
  EXPECT_EQ(KeysThatMatter(a, b), (std::vector<std::string>{"lr", "model.layers"}));
}

TEST(TrainConfig, DefaultLearningRateFallsWithWidth) {
  EXPECT_DOUBLE_EQ(DefaultLearningRate(64), 3e-3);
  EXPECT_NEAR(DefaultLearningRate(4096), 2e-5, 1e-6);
  EXPECT_EQ(DefaultLearningRate(8), 5e-3);
}

TEST(TrainConfig, ScratchSpec) {
  TrainConfig c = Parse("context = 128\n[model]\nwidth = 64\nlayers = 2\nheads = 4\n");
  const ModelSpec spec = ScratchSpec(c, 300);
  EXPECT_EQ(spec.vocab, 300);
  EXPECT_EQ(spec.head_dim, 16);
  EXPECT_EQ(spec.kv_heads, 4);
  EXPECT_EQ(spec.mlp_width, 176);
  EXPECT_EQ(spec.rope.rotary_dim, 16);
  EXPECT_TRUE(spec.tie_embeddings);
  for (const char* bad : {"model.width=0", "model.heads=5", "model.kv_heads=5", "model.vocab=299", "model.layers=0",
                          "context=0", "model.heads=0"}) {
    TrainConfig d = c;
    ApplySetting(d, bad);
    EXPECT_EQ(Failure([&] { ScratchSpec(d, 300); }).kind(), ErrorKind::kUsage) << bad;
  }
}

TEST(TrainingPage, HasEveryKeyAsItIs) {
  const std::filesystem::path root = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path();
  std::ifstream page(root / "docs" / "TRAINING.md");
  if (!page) GTEST_SKIP() << "docs/TRAINING.md is not beside the sources";
  std::vector<std::string> listed, keys;
  for (std::string line; std::getline(page, line) && line != "## A run folder";) {
    if (line.starts_with("| `")) listed.push_back(line);
  }
  for (const RecipeKey& key : RecipeKeys()) {
    std::string standard = key.standard;
    std::ranges::replace(standard, '\'', '"');  // two ways to write text
    keys.push_back(fmt::format("| `{}` | `{}` | {} |", key.key, standard, key.help));
  }
  EXPECT_EQ(listed, keys);
}

TEST(TrainConfig, EveryNumberHasARangeOrIsASize) {
  for (const RecipeKey& key : RecipeKeys()) {
    const bool number = key.standard.find_first_not_of("0123456789.e-") == std::string::npos;
    if (!number || key.key.starts_with("model.")) continue;
    TrainConfig config = Parse("data = [\"x\"]\nsteps = 1\n");
    ApplySetting(config, fmt::format("{}=-7", key.key));
    const Error error = Failure([&] { Validate(config); });
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << key.key;
    EXPECT_NE(std::string(error.what()).find(key.key), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace hawser
