// Regex, Normalizer and PreTokenizer: the parts of a tokenizer.json that act on text.
#include "hawser/tok/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/testing/hostile.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/normalizer.h"
#include "hawser/tok/regex.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

using nlohmann::json;
using Pieces = std::vector<std::string>;

Pieces Matches(std::string_view pattern, std::string_view text) {
  Pieces out;
  Regex(pattern).ForEachMatch(text,
                              [&](size_t begin, size_t end) { out.emplace_back(text.substr(begin, end - begin)); });
  return out;
}

Pieces Cut(const json& pre_tokenizer, std::string_view text, bool at_start = true) {
  Pieces out;
  const TextPlace place = at_start ? TextPlace::kStart : TextPlace::kInside;
  const PreTokenizer cutter(pre_tokenizer);
  cutter.Apply(text, place, [&](std::string_view piece, TextPlace) {
    out.emplace_back(cutter.leaves_bytes() ? "" : piece);
    if (cutter.leaves_bytes()) AppendByteLevel(piece, out.back());
  });
  return out;
}

std::string Normal(const json& normalizer, std::string_view text, TextPlace place = TextPlace::kStart) {
  return Normalizer(normalizer).Apply(text, place);
}

json Split(std::string_view regex, std::string_view behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", behavior}, {"invert", invert}};
}

TEST(Regex, ClassesMeanWhatTheyMeanInOniguruma) {
  EXPECT_EQ(Matches(R"(\s)", "a\u180e\u3000\u0085\tb"), (Pieces{"\u3000", "\u0085", "\t"}));
  EXPECT_EQ(Matches(R"([^\s]+)", "a\u180e b"), (Pieces{"a\u180e", "b"}));
  EXPECT_EQ(Matches(R"(\S+)", "a\u180e b"), (Pieces{"a\u180e", "b"}));
  EXPECT_EQ(Matches(R"(\w+)", "e\u0301_9-x"), (Pieces{"e\u0301_9", "x"}));
  EXPECT_EQ(Matches(R"(\h+)", "0aFg "), (Pieces{"0aF"}));
  EXPECT_EQ(Matches(R"([^(a|[bc,])]+)", "xyaz|w(b)q"), (Pieces{"xy", "z", "w", "q"}));
  EXPECT_EQ(Matches(R"([]x]+|\[)", "]x[["), (Pieces{"]x", "[", "["}));
  EXPECT_EQ(Matches(R"([[:digit:]]+)", "a12"), (Pieces{"12"}));
  EXPECT_EQ(Matches(R"(\w+)", "x\u00b2 5\u00bd \u2163 \u24d0-\u09f4"),
            (Pieces{"x\u00b2", "5\u00bd", "\u2163", "\u24d0"}));
  EXPECT_EQ(Matches(R"([\w]+)", "x\u00b2 \u2163"), (Pieces{"x", "\u2163"}));
  EXPECT_EQ(Matches("[[:alpha:]]+", "\u0915\u0940\u0967"), Pieces{"\u0915\u0940"});
  EXPECT_EQ(Matches("[[:punct:]]+", "5\u20acx\u2192!"), (Pieces{"\u20ac", "\u2192!"}));
  EXPECT_EQ(Matches(R"(\p{Han}+)", "\u65e5\u672c\u3001\u3002\u8a9e"), (Pieces{"\u65e5\u672c", "\u8a9e"}));
  EXPECT_EQ(Matches(R"([\p{Han}x]+|\P{Han})", "x\u65e5\u3001"), (Pieces{"x\u65e5", "\u3001"}));
  EXPECT_EQ(Matches(R"([\p{^Han}]+)", "a\u65e5\u3001"), (Pieces{"a", "\u3001"}));
  EXPECT_EQ(Matches(R"((?i:'s))", "'S'\u017f"), (Pieces{"'S", "'\u017f"}));
}

TEST(Regex, EmptyMatchesMoveOnAndFollowNoOther) {
  EXPECT_EQ(Matches("a*", "baac"), (Pieces{"", "aa", ""}));
  EXPECT_EQ(Matches("", "ab"), (Pieces{"", "", ""}));
  EXPECT_EQ(Matches("a", ""), Pieces{});
}

TEST(Regex, RefusesBadAndRunawayPatterns) {
  ExpectError(ErrorKind::kUnsupported, {"(a"}, [] { Regex("(a"); });
  ExpectError(ErrorKind::kUnsupported, {"negated class"}, [] { Regex("[a[^b]]"); });
  std::string text(61, 'a');
  text.back() = 'b';
  ExpectError(ErrorKind::kUnsupported, {"gave up"}, [&] { Matches("(a+)+$", text); });
}

TEST(Regex, QuotedTextMatchesItself) {
  const std::string text = "a.b*[c]\\d{e}(f)|g^h$i+j?k-l/\u2581";
  EXPECT_EQ(Matches(QuoteRegex(text), "x" + text + "y"), Pieces{text});
}

TEST(PreTokenizer, SplitBehaviors) {
  const std::string text = "the-final--countdown";
  EXPECT_EQ(Cut(Split("-", "Removed"), text), (Pieces{"the", "final", "countdown"}));
  EXPECT_EQ(Cut(Split("-", "Isolated"), text), (Pieces{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(Cut(Split("-", "MergedWithPrevious"), text), (Pieces{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(Cut(Split("-", "MergedWithNext"), text), (Pieces{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(Cut(Split("-", "Contiguous"), text), (Pieces{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(Cut(Split("[a-z]+", "Removed", true), text), (Pieces{"the", "final", "countdown"}));
  EXPECT_EQ(Cut(Split("-", "MergedWithNext"), "--"), (Pieces{"-", "-"}));
  EXPECT_EQ(Cut(Split("-", "Isolated"), ""), Pieces{});
}

TEST(PreTokenizer, PiecesOfTheGpt2Pattern) {
  EXPECT_EQ(Matches(kGpt2Pattern, "I'll  see, it's 2024!\n\n x"),
            (Pieces{"I", "'ll", " ", " see", ",", " it", "'s", " 2024", "!", "\n\n", " x"}));
  EXPECT_EQ(Matches(kGpt2Pattern, "don'T   "), (Pieces{"don", "'", "T", "   "}));
}

TEST(PreTokenizer, ByteLevelWritesPrintableCharacters) {
  EXPECT_EQ(Cut({{"type", "ByteLevel"}, {"add_prefix_space", true}}, "a \u00e9\n"),
            (Pieces{"\u0120a", "\u0120\u00c3\u00a9", "\u010a"}));
  EXPECT_EQ(Cut({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}, "a b"), Pieces{"a\u0120b"});
  EXPECT_TRUE(PreTokenizer(json{{"type", "ByteLevel"}}).byte_level());
  EXPECT_TRUE(PreTokenizer(json{{"type", "ByteLevel"}}).leaves_bytes());
  const json last = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}};
  EXPECT_FALSE(PreTokenizer(last).leaves_bytes());
  EXPECT_EQ(Cut(last, "a 1"), (Pieces{"\u0120a", "\u0120", "1"}));
}

TEST(PreTokenizer, MetaspacePrefixes) {
  const auto metaspace = [](const char* scheme, bool split) {
    return json{{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", scheme}, {"split", split}};
  };
  EXPECT_EQ(Cut(metaspace("always", true), "a b", false), (Pieces{"\u2581a", "\u2581b"}));
  EXPECT_EQ(Cut(metaspace("first", false), "a b", true), Pieces{"\u2581a\u2581b"});
  EXPECT_EQ(Cut(metaspace("first", false), "a b", false), Pieces{"a\u2581b"});
  EXPECT_EQ(Cut(metaspace("always", false), " a"), Pieces{"\u2581a"});
  EXPECT_EQ(Cut({{"type", "Metaspace"}, {"replacement", "_"}, {"add_prefix_space", false}}, "a"), Pieces{"a"});
}

TEST(PreTokenizer, NamedOnes) {
  EXPECT_EQ(Cut({{"type", "Digits"}, {"individual_digits", true}}, "a12"), (Pieces{"a", "1", "2"}));
  EXPECT_EQ(Cut({{"type", "Digits"}, {"individual_digits", false}}, "a12b"), (Pieces{"a", "12", "b"}));
  EXPECT_EQ(Cut({{"type", "Punctuation"}, {"behavior", "Contiguous"}}, "hi!?$ x"), (Pieces{"hi", "!?$", " x"}));
  EXPECT_EQ(Cut({{"type", "Whitespace"}}, "Hello, you!  x"), (Pieces{"Hello", ",", "you", "!", "x"}));
  EXPECT_EQ(Cut({{"type", "Whitespace"}}, "\u2163x \u24b6b a\u200db x\u00b2"),
            (Pieces{"\u2163x", "\u24b6b", "a\u200db", "x", "\u00b2"}));
  EXPECT_EQ(Cut({{"type", "WhitespaceSplit"}}, "Hello, \tyou"), (Pieces{"Hello,", "you"}));
  EXPECT_EQ(Cut({{"type", "Sequence"}, {"pretokenizers", {{{"type", "WhitespaceSplit"}}, Split("l+", "Isolated")}}},
                "hello all"),
            (Pieces{"he", "ll", "o", "a", "ll"}));
  EXPECT_EQ(Cut(nullptr, "a b"), Pieces{"a b"});
}

TEST(PreTokenizer, RefusesWhatItDoesNotKnow) {
  ExpectError(ErrorKind::kUnsupported, {"UnicodeScripts"}, [] { PreTokenizer(json{{"type", "UnicodeScripts"}}); });
  ExpectError(ErrorKind::kFormat, {"Sideways"}, [] { PreTokenizer(Split("a", "Sideways")); });
  json deep = {{"type", "WhitespaceSplit"}};
  for (int i = 0; i < 1000; ++i) deep = {{"type", "Sequence"}, {"pretokenizers", json::array({deep})}};
  ExpectError(ErrorKind::kFormat, {"deeper"}, [&] { PreTokenizer{deep}; });
  json chain = {{"type", "Sequence"}, {"pretokenizers", json::array()}};
  for (int i = 0; i < 30'000; ++i) chain["pretokenizers"].push_back({{"type", "WhitespaceSplit"}});
  ExpectError(ErrorKind::kFormat, {"deeper"}, [&] { PreTokenizer{chain}; });
}

TEST(Normalizer, CanonicalCompositionIsThatOfTheWholeText) {
  // Letters, what may follow them, and what is another character alone, beside all others.
  constexpr char32_t kParts[] = {'a',    'e',    ' ',     0xE9,   0x300,  0x301,  0x323,  0x334,  0x340,  0x345,
                                 0x391,  0x439,  0x306,   0x627,  0x653,  0x5D0,  0x5B8,  0x958,  0x9C7,  0x9BE,
                                 0x1100, 0x1161, 0x11A8,  0xAC00, 0x3042, 0x304B, 0x3099, 0x212B, 0x2126, 0x4E00,
                                 0xF900, 0xFB2A, 0x1F600, 0x2ADC, 0x2014, 0x1E0B, 0x1100, 0x1161};
  for (uint64_t round = 0; round < 3000; ++round) {
    std::string text;
    for (uint64_t i = 0; i < 2 + round % 9; ++i) {
      Rng one{round, i};
      const auto any = static_cast<char32_t>(one.Below(0x20000));
      const bool plain = one.Below(4) == 0 && (any < 0xD800 || any > 0xDFFF);
      AppendUtf8(text, plain ? any : kParts[one.Below(std::size(kParts))]);
    }
    std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> wanted(
        utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str())), std::free);
    if (text.find('\0') != text.npos) continue;
    EXPECT_EQ(Normal({{"type", "NFC"}}, text), reinterpret_cast<const char*>(wanted.get())) << text;
  }
}

TEST(Normalizer, Forms) {
  EXPECT_EQ(Normal({{"type", "NFC"}}, "e\u0301 \uac00"), "\u00e9 \uac00");
  EXPECT_EQ(Normal({{"type", "NFD"}}, "\u00e9"), "e\u0301");
  EXPECT_EQ(Normal({{"type", "NFC"}}, "\ufb01\u00bd"), "\ufb01\u00bd");
  EXPECT_EQ(Normal({{"type", "NFKC"}}, "\ufb01\u00bd"), "fi1\u20442");
  EXPECT_EQ(Normal({{"type", "NFKD"}}, "\u00e9\ufb01"), "e\u0301fi");
  EXPECT_EQ(Normal({{"type", "Lowercase"}}, "\u00c9A\u0130"), "\u00e9ai\u0307");
  EXPECT_EQ(Normal({{"type", "StripAccents"}}, "e\u0301x\u20dd"), "ex");
  EXPECT_EQ(Normal({{"type", "Strip"}}, " \n a b \u3000"), "a b");
  EXPECT_EQ(Normal({{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}}, " a "), " a");
  EXPECT_EQ(Normal({{"type", "ByteLevel"}}, " \u00e9"), "\u0120\u00c3\u00a9");
  EXPECT_EQ(Normal({{"type", "Replace"}, {"pattern", {{"String", "aa"}}}, {"content", "b"}}, "aaaaa"), "bba");
  EXPECT_EQ(Normal({{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", "_"}}, "a  b c   "), "a_b c_");
  EXPECT_EQ(Normal({{"type", "Prepend"}, {"prepend", "_"}}, "a"), "_a");
  EXPECT_EQ(Normal({{"type", "Prepend"}, {"prepend", "_"}}, "a", TextPlace::kGoesOn), "a");
  EXPECT_EQ(Normal({{"type", "Prepend"}, {"prepend", "_"}}, ""), "");
  EXPECT_EQ(Normalizer(json{{"type", "Prepend"}, {"prepend", "_"}}).Apply("a", TextPlace::kInside), "_a");
  ExpectError(ErrorKind::kUnsupported, {"Precompiled"}, [] { Normalizer(json({{"type", "Precompiled"}})); });
}

TEST(Utf8, EscapedBytesAreUnambiguous) {
  EXPECT_EQ(EscapeInvalidUtf8("a\u00e9"), "a\u00e9");
  EXPECT_EQ(EscapeInvalidUtf8("\x80z"), "\U0010ff80z");
  // A character from the range of the escapes is taken apart into its four bytes.
  EXPECT_EQ(EscapeInvalidUtf8("\U0010ff80"), "\U0010fff4\U0010ff8f\U0010ffbe\U0010ff80");
  EXPECT_FALSE(IsUtf8("\xed\xa0\x80"));  // a surrogate
  EXPECT_FALSE(IsUtf8("\xc0\x80"));      // over-long
  EXPECT_TRUE(IsUtf8("\U0010ffff"));
}

}  // namespace
}  // namespace hawser
