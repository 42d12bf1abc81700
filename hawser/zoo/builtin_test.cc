#include "hawser/zoo/builtin.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "hawser/base/file.h"
#include "hawser/testing/hostile.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

TEST(BuiltinModel, UnpacksOnceAndMendsWhatDiffers) {
  const auto folder = FreshFolder("builtin_unpack") / "model";
  UnpackBuiltinModel(folder);
  const auto written = std::filesystem::last_write_time(folder / "model.safetensors");
  const std::string text = ReadFile(folder / "config.json");
  WriteBytes(folder / "config.json", "{}");
  UnpackBuiltinModel(folder);
  EXPECT_EQ(ReadFile(folder / "config.json"), text);
  EXPECT_EQ(std::filesystem::last_write_time(folder / "model.safetensors"), written);
}

TEST(BuiltinModel, LoadsByName) {
  const auto cache = FreshFolder("builtin_cache");
  ASSERT_EQ(setenv("XDG_CACHE_HOME", cache.c_str(), 1), 0);
  const LoadedModel model = LoadModel("builtin");
  EXPECT_EQ(ResolveModel("builtin"), cache / "hawser" / "builtin");
  ASSERT_NE(model.tokenizer, nullptr);
  EXPECT_EQ(model.tokenizer->Decode(model.tokenizer->Encode("The old captain")), "The old captain");
  EXPECT_GT(NumParameters(model.spec), 1'000'000);
  EXPECT_EQ(LoadSpec("builtin").context, model.spec.context);
  ASSERT_EQ(unsetenv("XDG_CACHE_HOME"), 0);
}

TEST(BuiltinModel, LeavesOtherPathsAlone) {
  EXPECT_EQ(ResolveModel("models/builtin"), "models/builtin");
  EXPECT_EQ(ResolveModel("./builtin"), "./builtin");
}

TEST(BuiltinModel, AFolderOfTheNameDoesNotHideIt) {
  const auto folder = FreshFolder("builtin_hidden");
  std::filesystem::create_directory(folder / "builtin");
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder);
  const auto resolved = ResolveModel("builtin");
  std::filesystem::current_path(before);
  EXPECT_TRUE(std::filesystem::exists(resolved / "config.json")) << resolved;
}

}  // namespace
}  // namespace hawser
