// Every target of the fuzzer, shortly and always the same: its seeds pass, and some changes of them are no findings.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fuzz/mutate.h"
#include "fuzz/target.h"
#include "hawser/base/parallel.h"
#include "hawser/base/progress.h"

namespace hawser::fuzz {
namespace {

TEST(Fuzz, SeedsAreValidAndChangesOfThemAreNoFindings) {
  SetQuiet(true);
  for (const Target& target : Targets()) {
    const std::vector<std::string> seeds = target.seeds();
    ASSERT_FALSE(seeds.empty()) << target.name;
    for (size_t i = 0; i < seeds.size(); ++i) {
      SCOPED_TRACE(target.name + " " + std::to_string(i));
      EXPECT_NO_THROW(target.run(seeds[i]));
    }
    Rng rng{.seed = 1};
    std::string input;
    for (int i = 0; i < 300; ++i) {
      if (i % 5 == 0) input = Choose(seeds, rng);
      input = target.mutate(input, rng);
      RunOne(target, input);
    }
  }
  SetQuiet(false);
}

/// What libFuzzer gives a mutator: the beginnings of files, lengths that point nowhere, nesting without end.
TEST(Fuzz, MutatorsTakeAnyInput) {
  constexpr int kDeep = 30000;
  for (const Target& target : Targets()) {
    const std::string deep = "{\"a\":" + std::string(kDeep, '[') + std::string(kDeep, ']') + "}";
    const uint64_t length = deep.size();
    std::vector<std::string> inputs = {deep,
                                       std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + deep};
    const std::string seed = target.seeds().front();
    for (size_t size = 0; size <= 24; ++size) {
      inputs.push_back(seed.substr(0, size));
      inputs.emplace_back(size, '\0');
      inputs.emplace_back(size, '\xFF');
      inputs.push_back(std::string(1, static_cast<char>(size)) + std::string(11, '\0'));  // a header of about the rest
    }
    Rng rng{.seed = 1};
    for (const std::string& input : inputs) {
      for (int i = 0; i < 8; ++i) EXPECT_LE(target.mutate(input, rng).size(), size_t{1} << 20) << target.name;
    }
  }
}

}  // namespace
}  // namespace hawser::fuzz
