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

}  // namespace
}  // namespace hawser::fuzz
