#include "hawser/eval/wikitext.h"

#include <utility>

#include "hawser/base/text.h"
#include "hawser/eval/python_text.h"

namespace hawser {
namespace {

void Replace(std::string* text, std::string_view from, std::string_view to) {
  std::string out;
  size_t at = 0;
  for (size_t next; (next = text->find(from, at)) != text->npos; at = next + from.size()) {
    out.append(*text, at, next - at).append(to);
  }
  *text = out.append(*text, at);
}

/// Blanks inside of a pair, at both its ends, go. What opens pairs with the next that closes, also across lines.
void TrimInside(std::string* text, char open, char close) {
  std::string out;
  size_t at = 0;
  for (size_t begin; (begin = text->find(open, at)) != text->npos;) {
    const size_t end = text->find(close, begin + 1);
    if (end == text->npos) break;
    out.append(*text, at, begin - at) += open;
    out.append(PythonStrip(std::string_view(*text).substr(begin + 1, end - begin - 1))) += close;
    at = end + 1;
  }
  *text = out.append(*text, at);
}

bool IsHeading(std::string_view row) {
  std::string text(row);
  Replace(&text, "= = =", "===");
  Replace(&text, "= =", "==");
  const std::string_view stripped = PythonStrip(text);
  return stripped.starts_with("= ") && stripped.ends_with(" =");
}

}  // namespace

std::vector<std::string> WikitextPages(std::string_view file) {
  std::vector<std::string> pages;
  std::string page;
  bool any = false;
  const auto close = [&] {
    if (!PythonStrip(page).empty()) pages.push_back(std::move(page));
    page.clear();
    any = false;
  };
  for (const std::string_view row : SplitAt(file, '\n')) {
    if (IsHeading(row)) close();
    page.append(any ? "\n" : "").append(row);
    any = true;
  }
  close();
  return pages;
}

std::string WikitextDetokenized(std::string page) {
  constexpr std::pair<std::string_view, std::string_view> kFirst[] = {
      {"s '", "s'"}, {" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."}, {" : ", ": "},
      {" ; ", "; "}, {" . ", ". "},  {" ! ", "! "},  {" ? ", "? "},  {" , ", ", "}};
  constexpr std::pair<std::string_view, std::string_view> kLast[] = {
      {"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="},  {" \u00b0 ", "\u00b0"},
      {" \n", "\n"},       {"\n ", "\n"},    {" N ", " 1 "}, {" 's", "'s"}};
  for (const auto& [from, to] : kFirst) Replace(&page, from, to);
  TrimInside(&page, '(', ')');
  TrimInside(&page, '[', ']');
  TrimInside(&page, '{', '}');
  TrimInside(&page, '"', '"');
  TrimInside(&page, '\'', '\'');
  for (const auto& [from, to] : kLast) Replace(&page, from, to);
  return page;
}

int64_t WikitextWords(std::string_view page) {
  int64_t pieces = 1;
  bool blank = false;
  for (size_t at = 0; at < page.size();) {
    const CodePoint point = CodePointAt(page, at);
    const bool now = point.length > 0 && IsPythonBlank(point.value);
    pieces += now && !blank;
    blank = now;
    at += point.length > 0 ? point.length : 1;
  }
  return pieces;
}

}  // namespace hawser
