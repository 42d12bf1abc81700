#include "hawser/attn/pattern.h"

#include <gtest/gtest.h>

#include "hawser/attn/variant.h"
#include "hawser/base/rng.h"
#include "hawser/base/text.h"
#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

TEST(Pattern, NamedForms) {
  EXPECT_EQ(ParsePattern("full"), AttnPattern{});
  EXPECT_EQ(ParsePattern("window=256").window, 256);
  EXPECT_EQ(ParsePattern("intra"), (AttnPattern{.scope = Scope::kDocument}));
  EXPECT_EQ(ParsePattern("anchor"), (AttnPattern{.scope = Scope::kDocument, .anchors = 1}));
  EXPECT_EQ(ParsePattern("scope=doc anchors=1"), ParsePattern("anchor"));
  EXPECT_EQ(ParsePattern(" scope=doc  anchors=1 sinks=3 window=256 sep "),
            (AttnPattern{.scope = Scope::kDocument, .window = 256, .sinks = 3, .separators = true, .anchors = 1}));
  EXPECT_EQ(ParsePattern("anchor window=64"), ParsePattern("window=64 scope=doc anchors=1"));
  EXPECT_EQ(ParsePattern("scope=seq window=all"), AttnPattern{});
}

TEST(Pattern, PrintsWhatItParses) {
  for (std::string text : {"full", "window=1", "window=256", "intra", "anchor", "sep", "sinks=4 window=2044",
                           "scope=doc anchors=1 sinks=3 window=256 sep", "scope=doc anchors=2", "anchors=1",
                           "sinks=3 window=256 sep=neox-20 full-layers=0+31", "window=64+all+8 sep=13+11",
                           "sinks=1 window=9 every=5", "window=4 full-layers=-2+-1+0"}) {
    EXPECT_EQ(ToString(ParseLayeredPattern(text)), text);
  }
  Rng rng{.seed = 1};
  for (int i = 0; i < 500; ++i) {
    AttnPattern p;
    p.scope = rng.Below(2) ? Scope::kDocument : Scope::kSequence;
    if (rng.Below(2)) p.window = 1 + static_cast<int32_t>(rng.Below(AttnPattern::kAll));
    if (rng.Below(2)) p.sinks = static_cast<int32_t>(rng.Below(9));
    if (rng.Below(2)) p.anchors = static_cast<int32_t>(rng.Below(3));
    p.separators = rng.Below(2) != 0;
    EXPECT_EQ(ParsePattern(ToString(p)), p) << ToString(p);
  }
}

TEST(Pattern, LayersHaveWindowsOfTheirOwn) {
  const LayeredPattern p = ParseLayeredPattern("sinks=3 window=64 sep full-layers=0+-1");
  EXPECT_EQ(p.OfLayer(0, 4), AttnPattern{});
  EXPECT_EQ(p.OfLayer(1, 4), ParsePattern("sinks=3 window=64 sep"));
  EXPECT_EQ(p.OfLayer(3, 4), AttnPattern{});
  EXPECT_EQ(p.OfLayer(3, 5), ParsePattern("sinks=3 window=64 sep"));
  const LayeredPattern list = ParseLayeredPattern("scope=doc anchors=1 sinks=3 window=64+all+8 sep=neox-9");
  EXPECT_EQ(list.OfLayer(0, 3), ParsePattern("scope=doc anchors=1 sinks=3 window=64 sep=neox-9"));
  EXPECT_EQ(list.OfLayer(1, 3), ParsePattern("anchor"));
  EXPECT_EQ(list.OfLayer(2, 3).window, 8);
  EXPECT_NE(UsageMessage([&] { list.OfLayer(0, 4); }).find("3 windows for 4 layers"), std::string::npos);
  EXPECT_NE(UsageMessage([&] { p.OfLayer(0, 0); }).find("full-layers"), std::string::npos);
  EXPECT_NE(UsageMessage([] { ParseLayeredPattern("full-layers=7").OfLayer(0, 4); }).find("4 layers"),
            std::string::npos);
  EXPECT_EQ(ParseLayeredPattern("window=4 full-layers=-2+-1+0").full_layers, (std::vector<int32_t>{-2, -1, 0}));
  EXPECT_EQ(ParsePattern("sep=text"), ParsePattern("sep"));
}

TEST(Pattern, ListsOfLayersAreNoPatternOfOne) {
  for (const char* text : {"window=64+all+8", "sep full-layers=0"}) {
    EXPECT_NE(UsageMessage([&] { ParsePattern(text); }).find("without lists"), std::string::npos) << text;
  }
  EXPECT_EQ(ParseLayeredPattern("sinks=3 window=9"), ParsePattern("sinks=3 window=9"));
  static_assert(!std::is_convertible_v<LayeredPattern, AttnPattern>);
}

TEST(Pattern, TheFirstLayersAlone) {
  for (const char* text : {"anchor", "window=64+all+8+64 sep", "sinks=3 window=9 sep full-layers=0+-1",
                           "scope=doc anchors=1 window=all+8+all+4 every=3 full-layers=1", "sep full-layers=3"}) {
    const LayeredPattern pattern = ParseLayeredPattern(text);
    for (int32_t count = 1; count <= 4; ++count) {
      const LayeredPattern first = pattern.OfFirstLayers(count, 4);
      for (int32_t layer = 0; layer < count; ++layer) {
        const AttnPattern want = pattern.OfLayer(layer, 4), got = first.OfLayer(layer, count);
        // With a window of everything the other fields show nothing more.
        EXPECT_EQ(got.window, want.window) << text;
        EXPECT_EQ(got.window == AttnPattern::kAll || got == want, true) << text << " layer " << layer;
        EXPECT_EQ(got.scope, want.scope);
        EXPECT_EQ(got.anchors, want.anchors);
      }
    }
  }
  UsageMessage([] { ParseLayeredPattern("window=4+5+6").OfFirstLayers(2, 4); });
}

TEST(Pattern, LayersOfOnePatternAreGrouped) {
  const LayerPatterns same = PatternsOfLayers(ParsePattern("anchor"), 4);
  EXPECT_EQ(same.distinct, std::vector<AttnPattern>{ParsePattern("anchor")});
  EXPECT_EQ(same.of_layer, std::vector<size_t>(4, 0));
  const LayeredPattern pattern = ParseLayeredPattern("sinks=3 window=64+all+8+64 sep");
  const LayerPatterns mixed = PatternsOfLayers(pattern, 4);
  EXPECT_EQ(mixed.distinct.size(), 3u);
  EXPECT_EQ(mixed.of_layer, (std::vector<size_t>{0, 1, 2, 0}));
  const LayerPatterns narrowed = PatternsOfLayers(pattern, 4, ParseLayeredPattern("window=32 full-layers=1"));
  for (int32_t layer = 0; layer < 4; ++layer) {
    const auto at = static_cast<size_t>(layer);
    EXPECT_EQ(mixed.distinct[mixed.of_layer[at]], pattern.OfLayer(layer, 4)) << layer;
    EXPECT_EQ(narrowed.distinct[narrowed.of_layer[at]].window, layer == 1   ? AttnPattern::kAll
                                                               : layer == 2 ? 8
                                                                            : 32)
        << layer;
  }
  UsageMessage([&] { PatternsOfLayers(pattern, 3); });
}

TEST(Pattern, ErrorsNameTheFieldAndTheNearest) {
  const auto message = [](const char* text) { return UsageMessage([&] { ParseLayeredPattern(text); }); };
  EXPECT_NE(message("windw=4").find("did you mean 'window'"), std::string::npos) << message("windw=4");
  EXPECT_NE(message("ancor").find("did you mean 'anchor'"), std::string::npos);
  EXPECT_NE(message("zzzzzzzzzz").find("nearest: full"), std::string::npos);
  EXPECT_NE(message("foo").find("nearest: full, sep, scope"), std::string::npos) << message("foo");  // each once
  for (const char* training :
       {"reset", "anchor-reset", "intra-interleaved", "anchor-tag", "multi-bos", "multi-bos-tag"}) {
    EXPECT_NE(message(training).find("laid out for training"), std::string::npos) << message(training);
  }
  for (const char* other : {"reseta", "foo-reset", "stage"}) {
    EXPECT_NE(message(other).find("unknown"), std::string::npos) << message(other);
  }
  EXPECT_EQ(message("zzzzzzzzzz").find("did you mean"), std::string::npos);
  EXPECT_NE(message("anchor anchors=2").find("anchors=2"), std::string::npos);
  for (const char* text : {"",
                           "  ",
                           "window",
                           "window=",
                           "window=0",
                           "window=-1",
                           "window=4x",
                           "window=99999999999",
                           "window=4 window=4",
                           "full window=4",
                           "full intra",
                           "sep=",
                           "sep=A b",
                           "sep=neox sep",
                           "window=4+0",
                           "window=4+",
                           "window=4+5x",
                           "every=0",
                           "full-layers",
                           "full-layers=",
                           "full-layers=0+0",
                           "full-layers=0++1",
                           "full-layers=+1",
                           "full-layers=4096",
                           "full-layers=-2147483648",
                           "window=4++5",
                           "full-layers=a",
                           "full-layers=0 full-layers=1",
                           "sep sep",
                           "scope=document",
                           "sinks=-1",
                           "anchors=1.5",
                           "full=1",
                           "=",
                           "anchor-reset",
                           "window= 4"}) {
    EXPECT_FALSE(message(text).empty()) << text;
  }
  EXPECT_NE(message("sep window").find("window needs a value"), std::string::npos) << message("sep window");
  EXPECT_FALSE(UsageMessage([] { ParsePattern(std::string(100000, 'w')); }).empty());
}

TEST(Variant, NamedForms) {
  EXPECT_EQ(ParseVariant("full"), AttnVariant{});
  EXPECT_EQ(ParseVariant("intra-reset"), (AttnVariant{.pattern = ParsePattern("intra"), .reset_positions = true}));
  EXPECT_EQ(ParseVariant("anchor-tag"), (AttnVariant{.pattern = ParsePattern("anchor"), .tags = true}));
  EXPECT_EQ(ParseVariant("anchor-interleaved"), (AttnVariant{.pattern = ParsePattern("anchor"), .interleaved = true}));
  EXPECT_EQ(ParseVariant("scope=doc anchors=1 reset"), ParseVariant("anchor-reset"));
  EXPECT_EQ(ParseVariant("anchor-reset window=8").pattern, ParsePattern("anchor window=8"));
}

TEST(Variant, FieldsWithADashAreNoFlags) {
  EXPECT_EQ(ParseVariant("sinks=3 window=9 sep full-layers=0+31").pattern,
            ParseLayeredPattern("sinks=3 window=9 sep full-layers=0+31"));
  EXPECT_EQ(ToString(ParseVariant("anchor-reset")), "anchor-reset");
}

TEST(Variant, PrintsWhatItParses) {
  for (std::string text :
       {"full", "window=8", "intra", "intra-reset", "intra-tag", "intra-interleaved", "anchor", "anchor-reset",
        "anchor-tag", "anchor-interleaved", "anchor-reset-tag-interleaved", "scope=doc sinks=3 window=256 sep",
        "scope=doc sinks=3 window=256 sep reset tag", "multi-bos", "multi-bos-tag", "multi-bos-tag-interleaved",
        "multi-bos window=256", "multi-bos sinks=3 window=256 tag"}) {
    EXPECT_EQ(ToString(ParseVariant(text)), text);
  }
  for (const char* text :
       {"anchor-rest", "anchor-reset-reset", "intra-tag tag", "reset", "anchr-reset", "anchor-x", "anchor-",
        "anchor--tag", "anchor-tag-", "multi-bos multi-bos", "multi", "multi-bosx", "multi-bos intra"}) {
    EXPECT_FALSE(UsageMessage([&] { ParseVariant(text); }).empty()) << text;
  }
  EXPECT_NE(UsageMessage([] { ParseVariant("anchor-rest"); }).find("did you mean 'reset'"), std::string::npos);
}

TEST(Variant, MultiBosIsIntraWithCopies) {
  EXPECT_EQ(ParseVariant("multi-bos-tag"),
            (AttnVariant{.pattern = ParsePattern("intra"), .multi_bos = true, .tags = true}));
  EXPECT_EQ(ParseVariant("multi-bos window=8").pattern, ParsePattern("intra window=8"));
}

TEST(Variant, ContradictionsAreRefusedWithTheReason) {
  for (const auto& [text, reason] :
       std::vector<std::pair<std::string, std::string>>{{"full-reset", "use intra-reset or anchor-reset"},
                                                        {"window=8 reset", "use intra-reset or anchor-reset"},
                                                        {"full-interleaved", "use intra-interleaved"},
                                                        {"multi-bos-reset", "multi-bos keeps text at its place"},
                                                        {"multi-bos anchors=1", "use one of the two"}}) {
    EXPECT_NE(UsageMessage([&] { ParseVariant(text); }).find(reason), std::string::npos) << text;
  }
  EXPECT_FALSE(UsageMessage([] { Validate(AttnVariant{.multi_bos = true}); }).empty());
}

// Any bytes give a usage error or a value that prints back to itself.
TEST(Variant, DamagedTextIsRefusedOrRead) {
  const std::string seed = "scope=doc anchors=1 sinks=3 window=256 sep reset tag";
  const std::string alphabet = " -=,0123456789abcdefghinoprstwx\t\xff";
  int read = 0;
  for (uint64_t i = 0; i < 20000; ++i) {
    Rng rng{.seed = 5, .stream = i};
    std::string text = seed.substr(0, rng.Below(seed.size() + 1));
    for (uint64_t n = rng.Below(4); n > 0 && !text.empty(); --n) {
      text[rng.Below(text.size())] = alphabet[rng.Below(alphabet.size())];
    }
    try {
      const AttnVariant variant = ParseVariant(text);
      ++read;
      ASSERT_EQ(ParseVariant(ToString(variant)), variant) << text;
      ASSERT_GE(variant.pattern.window, 1);
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::kUsage) << text;
    }
  }
  EXPECT_GT(read, 1000);
}

TEST(Layout, DocumentsFillWhatFollowsThePrefix) {
  const TokenLayout layout = MakeLayout(2, {3, 1});
  EXPECT_EQ(layout.size, 6);
  EXPECT_EQ(layout.doc_begin, (std::vector<int32_t>{0, 0, 2, 2, 2, 5}));
  EXPECT_EQ(MakeLayout(0, {2, 2}).doc_begin, (std::vector<int32_t>{0, 0, 2, 2}));
  EXPECT_EQ(MakeLayout(0, {}).size, 0);
  EXPECT_FALSE(UsageMessage([] { MakeLayout(1, {3, 0}); }).empty());
  EXPECT_FALSE(UsageMessage([] { MakeLayout(-1, {3}); }).empty());
  EXPECT_FALSE(UsageMessage([] { MakeLayout(1, {AttnPattern::kAll}); }).empty());
}

TEST(Text, EditDistance) {
  EXPECT_EQ(EditDistance("", "abc"), 3u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
  EXPECT_EQ(EditDistance("window", "window"), 0u);
  EXPECT_EQ(EditDistance("ab", "ba"), 2u);
}

}  // namespace
}  // namespace hawser
