#include "hawser/base/printable.h"

#include <gtest/gtest.h>

#include "hawser/base/error.h"

namespace hawser {
namespace {

using namespace std::string_view_literals;

TEST(PrintableTest, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(PrintableLine("plain text, Grüße, 日本語, 🙂"), "plain text, Grüße, 日本語, 🙂");
  EXPECT_EQ(PrintableLine("a\nb\r\tc"), "a\\nb\\r\\tc");
  EXPECT_EQ(PrintableLine("\x1b[31mred\x1b]0;title\x07"), "\\x1b[31mred\\x1b]0;title\\x07");
  EXPECT_EQ(PrintableLine("nul\0del\x7f"sv), "nul\\x00del\\x7f");
  EXPECT_EQ(PrintableLine("\xc2\x9b"
                          "31m"),
            "\\u{9b}31m");  // an escape sequence's start in one character
  EXPECT_EQ(PrintableLine("\u202egpj.exe\u2066"), "\\u{202e}gpj.exe\\u{2066}");  // reversed writing
  EXPECT_EQ(PrintableLine("a\u2028b\u200bc\ufeff"), "a\\u{2028}b\\u{200b}c\\u{feff}");
  EXPECT_EQ(PrintableLine("\xff\xc3 \xed\xa0\x80 \xf5"), "\\xff\\xc3 \\xed\\xa0\\x80 \\xf5");
  EXPECT_EQ(PrintableLine("cut \xe2\x82"), "cut \\xe2\\x82");
  EXPECT_EQ(PrintableText("a\n\tb\x1b\r\n"), "a\n\tb\\x1b\\r\n");
}

TEST(PrintableTest, ShortensInTheMiddleAndTwiceIsOnce) {
  for (const size_t most : {kMostPrinted, size_t{60}, size_t{5}}) {
    const std::string line = PrintableLine("begin " + std::string(5'000'000, 'x') + " end", most);
    EXPECT_LE(line.size(), most);
    EXPECT_TRUE(line.starts_with("be"));
    EXPECT_EQ(PrintableLine(line, most), line);
  }
  const std::string line = PrintableLine("begin " + std::string(5'000'000, '\n') + " end");
  EXPECT_TRUE(line.starts_with("begin \\n\\n") && line.ends_with("\\n end")) << line;
  EXPECT_NE(line.find("characters left out"), line.npos);
  std::string wide;
  for (int i = 0; i < 2000; ++i) wide += "日";
  const std::string cut = PrintableLine(wide);
  EXPECT_EQ(PrintableLine(cut), cut);  // no character is cut in two
  EXPECT_EQ(cut.find("\\x"), cut.npos);
}

TEST(PrintableTest, AnErrorIsOneLineWhateverItQuotes) {
  try {
    WithFrame("file\x1b[2J\nname",
              [] { Fail(ErrorKind::kFormat, "found {}{}; do this", "a\0b"sv, std::string(100'000, '\n')); });
  } catch (const Error& error) {
    const std::string_view what = error.what();
    EXPECT_LE(what.size(), kMostPrinted);
    EXPECT_EQ(what.find_first_of("\n\x1b"), what.npos);
    EXPECT_TRUE(what.starts_with("file\\x1b[2J\\nname: found a\\x00b\\n") && what.ends_with("; do this")) << what;
  }
}

}  // namespace
}  // namespace hawser
