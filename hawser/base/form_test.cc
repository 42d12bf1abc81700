#include "hawser/base/form.h"

#include <gtest/gtest.h>

#include <functional>

namespace hawser {

enum class FormColor : uint8_t { kRed, kGreen };
template <>
struct EnumNames<FormColor> {
  static constexpr std::array<std::string_view, 2> kNames = {"red", "green"};
};

namespace {

struct Square {
  static constexpr std::string_view kName = "square", kHelp = "four equal sides";
  int32_t side = 0;
  double angle = 90;
  bool filled = false;
  FormColor color = FormColor::kRed;
  std::vector<int64_t> marks = {};
  std::optional<double> glow = {};
  std::string label = {};

  template <class Visitor>
  void Fields(Visitor&& v) {
    v(side, {"side", "of all sides", 1, 100, true, true});
    v(angle, {"angle", "", 0, 180, true});
    v(filled, {"filled"});
    v(color, {"color", "of the line"});
    v(marks, {"marks", "", 0, 1e6});
    v(glow, {"glow"});
    v(label, {"label"});
  }
  bool operator==(const Square&) const = default;
};
struct Point {
  static constexpr std::string_view kName = "point", kHelp = "no extent";
  template <class Visitor>
  void Fields(Visitor&&) {}
  bool operator==(const Point&) const = default;
};
using Figure = std::variant<Point, Square>;

Figure Parse(std::string_view text) { return ParseForm<Figure>("figure", text); }

std::string Refusal(std::string_view text) {
  try {
    Parse(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "";
}

TEST(FormTest, ReadsByKeyAndByPlace) {
  EXPECT_EQ(Parse("point"), Figure(Point()));
  EXPECT_EQ(Parse("square:3"), Figure(Square{.side = 3}));
  EXPECT_EQ(Parse("square: 3, color=green filled=on"), Parse("square:3,color=green,filled=on"));
  EXPECT_EQ(Parse("square:angle=45,side=3"), Figure(Square{.side = 3, .angle = 45}));
  EXPECT_EQ(Parse("square:filled=on,3,45"), Figure(Square{.side = 3, .angle = 45, .filled = true}));
  EXPECT_EQ(Parse("square:3,color=green,marks=1+2k+3,glow=0.5,label=ab"),
            Figure(Square{.side = 3, .color = FormColor::kGreen, .marks = {1, 2048, 3}, .glow = 0.5, .label = "ab"}));
}

TEST(FormTest, PrintsWhatParsesBack) {
  for (const Square& value : {Square{.side = 3}, Square{.side = 7, .angle = 12.5}, Square{.side = 1, .filled = true},
                              Square{.side = 2, .angle = 0.1, .color = FormColor::kGreen, .marks = {5}, .glow = -2.25},
                              Square{.side = 100, .label = "x"}}) {
    EXPECT_EQ(ParseForm<Square>("figure", PrintForm(value)), value) << PrintForm(value);
    EXPECT_EQ(Parse(PrintForm(Figure(value))), Figure(value));
  }
  EXPECT_EQ(PrintForm(Figure(Point())), "point");
  EXPECT_EQ(PrintForm(Square{.side = 3}), "square:3");
  EXPECT_EQ(PrintForm(Square{.side = 3, .filled = true}), "square:3,filled=on");
}

TEST(FormTest, RefusalsNameTheFieldAndTheNearest) {
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"squar:3", {"figure 'squar:3'", "did you mean 'square'"}},
      {"", {"unknown ''", "known: point, square"}},
      {"point:1", {"point takes no options"}},
      {"point:", {"point takes no options"}},
      {"square", {"side is missing", "of all sides"}},
      {"square:0", {"side='0'", "a whole number from 1 to 100"}},
      {"square:1e40", {"side='1e40'"}},
      {"square:3,nan", {"angle='nan'", "a number from 0 to 180"}},
      {"square:3,45,6", {"square has no '6'"}},
      {"square:3,colour=red", {"no 'colour'", "did you mean 'color'"}},
      {"square:3,color=blue", {"color='blue'", "known: red, green"}},
      {"square:3,filled=yes", {"known: off, on"}},
      {"square:3,marks=1++2", {"marks=''"}},
      {"square:3,marks=", {"marks=''"}},
      {"square:3,label=", {"label=''"}},
      {"square:3,glow=1,glow=2", {"'glow' is given twice"}},
      {"square:3,45,side=4", {"square has no '45'"}},
      {"square:3,", {"angle=''"}},
  };
  for (const auto& [text, words] : cases) {
    const std::string message = Refusal(text);
    for (const char* word : words) EXPECT_NE(message.find(word), message.npos) << text << ": " << message;
  }
}

TEST(FormTest, HelpListsEveryFieldOnce) {
  const std::string help = FormHelp<Figure>();
  for (const char* word :
       {"point ", "no extent", "square ", "side  of all sides", "color=red|green", "filled=off|on"}) {
    const size_t at = help.find(word);
    ASSERT_NE(at, help.npos) << word << "\n" << help;
    EXPECT_EQ(help.find(word, at + 1), help.npos) << word;
  }
}

}  // namespace
}  // namespace hawser
