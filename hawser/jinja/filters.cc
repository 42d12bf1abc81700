#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/jinja/arguments.h"
#include "hawser/jinja/functions.h"
#include "hawser/jinja/text_functions.h"

namespace hawser::jinja {
namespace {

using Filter = Value (*)(const Value&, const Arguments&, const Host&);

Value Default(const Value& value, const Arguments& a, const Host&) {
  const bool missing = FlagArgument(a, 1, "boolean", false) ? !value.Truth() : value.IsUndefined();
  if (!missing) return value;
  const Value* other = Argument(a, 0, "default_value");
  return other != nullptr ? *other : Value("");
}

Value JsonOf(const Value& value, const Arguments& a, const Host& host) {
  JsonStyle style;
  style.indent = static_cast<int>(std::clamp<int64_t>(IntArgument(a, 3, "indent", -1), -1, 64));
  for (const auto& [name, given] : a.named) {
    if (name == "ensure_ascii") style.ascii = given.Truth();
    if (name == "sort_keys") style.sort_keys = given.Truth();
    if (name == "separators" && given.IsList() && given.list().size() == 2) {
      style.item_separator = ToText(given.list()[0]).bytes();
      style.key_separator = ToText(given.list()[1]).bytes();
    }
  }
  Text text = ToJson(value, style);
  host.charge(text.size());
  return text;
}

Value JoinFilter(const Value& value, const Arguments& a, const Host& host) {
  List parts = Iterate(value);
  if (const Value* attribute = Argument(a, 1, "attribute")) {
    for (Value& part : parts) part = Member(part, ToText(*attribute).bytes());
  }
  return Join(parts, TextArgument(a, 0, "d").value_or(Text()), host);
}

Value IndentFilter(const Value& value, const Arguments& a, const Host& host) {
  std::string indent(4, ' ');
  if (const Value* width = Argument(a, 0, "width")) {
    indent = width->IsText()
                 ? width->text().bytes()
                 : std::string(static_cast<size_t>(std::clamp<int64_t>(IntArgument(a, 0, "width", 4), 0, 1024)), ' ');
  }
  const bool first = FlagArgument(a, 1, "first", false), blank = FlagArgument(a, 2, "blank", false);
  const List lines = Split(ToText(value), "\n", -1, false);
  Text out;
  for (size_t i = 0; i < lines.size(); ++i) {
    const Text& line = lines[i].text();
    host.charge(line.size() + indent.size() + 1);
    if (i > 0) out.Append("\n", '\0');
    if (i == 0 ? first : blank || !line.empty()) out.Append(indent, '\0');
    out.Append(line);
  }
  return out;
}

Value Numeric(const Value& value, const Arguments& a, const Host&) {
  const int64_t fallback = IntArgument(a, 0, "default", 0);
  if (value.IsWhole()) return value.Int();
  if (value.IsFloat()) {
    const double x = std::trunc(value.Number());
    return std::abs(x) < 9e18 ? static_cast<int64_t>(x) : fallback;
  }
  if (!value.IsText()) return fallback;
  const Text text = Strip(value.text(), std::nullopt, true, true);
  int64_t number = 0;
  const char* end = text.bytes().data() + text.size();
  const char* begin = text.bytes().data() + (text.bytes().starts_with('+') ? 1 : 0);
  if (const auto read = std::from_chars(begin, end, number); read.ec == std::errc() && read.ptr == end) return number;
  double real = 0;
  if (const auto read = std::from_chars(begin, end, real);
      read.ec == std::errc() && read.ptr == end && std::abs(real) < 9e18) {
    return static_cast<int64_t>(real);
  }
  return fallback;
}

Value Real(const Value& value, const Arguments& a, const Host&) {
  const Value* fallback = Argument(a, 0, "default");
  if (value.IsNumber()) return value.Number();
  if (value.IsText()) {
    const Text text = Strip(value.text(), std::nullopt, true, true);
    double real = 0;
    const char* end = text.bytes().data() + text.size();
    if (const auto read = std::from_chars(text.bytes().data(), end, real); read.ec == std::errc() && read.ptr == end)
      return real;
  }
  return fallback != nullptr ? *fallback : Value(0.0);
}

Value Round(const Value& value, const Arguments& a, const Host&) {
  if (!value.IsNumber()) Fail(ErrorKind::kFormat, "round takes a number, found {}", value.TypeName());
  const auto digits = static_cast<int>(std::clamp<int64_t>(IntArgument(a, 0, "precision", 0), -300, 300));
  const std::string method = BytesArgument(a, 1, "method").value_or("common");
  const double unit = std::pow(10.0, digits), x = value.Number() * unit;
  if (!std::isfinite(x)) return value.Number();
  const double rounded = method == "ceil" ? std::ceil(x) : method == "floor" ? std::floor(x) : std::nearbyint(x);
  return rounded / unit;
}

Value Sort(const Value& value, const Arguments& a, const Host&) {
  List list = Iterate(value);
  const bool reverse = FlagArgument(a, 0, "reverse", false), cased = FlagArgument(a, 1, "case_sensitive", false);
  const Value* attribute = Argument(a, 2, "attribute");
  const auto key = [&](const Value& element) {
    Value at = attribute != nullptr ? Member(element, ToText(*attribute).bytes()) : element;
    return at.IsText() && !cased ? Value(Lower(at.text())) : at;
  };
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& element : list) keyed.emplace_back(key(element), element);
  for (size_t i = 1; i < keyed.size(); ++i) Less(keyed[i - 1].first, keyed[i].first);  // types without an order: before
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& x, const auto& y) {
    return reverse ? Less(y.first, x.first) : Less(x.first, y.first);
  });
  for (size_t i = 0; i < list.size(); ++i) list[i] = std::move(keyed[i].second);
  return Value::MakeList(std::move(list));
}

Value Unique(const Value& value, const Arguments& a, const Host&) {
  const bool cased = FlagArgument(a, 0, "case_sensitive", false);
  List list, keys;
  for (Value& element : Iterate(value)) {
    Value key = element.IsText() && !cased ? Value(Lower(element.text())) : element;
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& seen) { return Equal(seen, key); })) continue;
    keys.push_back(std::move(key));
    list.push_back(std::move(element));
  }
  return Value::MakeList(std::move(list));
}

Value ReverseFilter(const Value& value, const Arguments&, const Host&) {
  if (value.IsText()) return Slice(value, std::nullopt, std::nullopt, -1);
  List list = Iterate(value);
  std::reverse(list.begin(), list.end());
  return Value::MakeList(std::move(list));
}

Value MapFilter(const Value& value, const Arguments& a, const Host& host) {
  List list = Iterate(value);
  if (a.positional.empty()) {
    const Value* attribute = Argument(a, 0, "attribute");
    if (attribute == nullptr) Fail(ErrorKind::kFormat, "map takes a filter or an attribute");
    const Value* fallback = Argument(a, SIZE_MAX, "default");
    for (Value& element : list) {
      element = Member(element, ToText(*attribute).bytes());
      if (element.IsUndefined() && fallback != nullptr) element = *fallback;
    }
    return Value::MakeList(std::move(list));
  }
  const std::string name = ToText(a.positional[0]).bytes();
  Arguments rest = a;
  rest.positional.erase(rest.positional.begin());
  for (Value& element : list) element = ApplyFilter(name, element, rest, host);
  return Value::MakeList(std::move(list));
}

/// select, reject, selectattr, rejectattr.
Value Choose(const Value& value, const Arguments& a, bool of_attribute, bool wanted) {
  Arguments rest = a;
  std::string path;
  if (of_attribute) {
    path = NeedText(a, 0, "attribute").bytes();
    rest.positional.erase(rest.positional.begin());
  }
  std::string test;
  if (!rest.positional.empty()) {
    test = ToText(rest.positional[0]).bytes();
    rest.positional.erase(rest.positional.begin());
  }
  List chosen;
  for (Value& element : Iterate(value)) {
    const Value at = of_attribute ? Member(element, path) : element;
    if ((test.empty() ? at.Truth() : ApplyTest(test, at, rest)) == wanted) chosen.push_back(std::move(element));
  }
  return Value::MakeList(std::move(chosen));
}

Value FirstOf(const Value& value, bool last) {
  const List list = Iterate(value);
  if (list.empty()) return Value::Undefined{last ? "the last element of nothing" : "the first element of nothing"};
  return last ? list.back() : list.front();
}

Value Extreme(const Value& value, const Arguments& a, bool most) {
  const List list = Iterate(value);
  const Value* attribute = Argument(a, 1, "attribute");
  const auto key = [&](const Value& v) { return attribute != nullptr ? Member(v, ToText(*attribute).bytes()) : v; };
  if (list.empty()) return Value::Undefined{most ? "the most of nothing" : "the least of nothing"};
  const auto less = [&](const Value& x, const Value& y) { return Less(key(x), key(y)); };
  return most ? *std::max_element(list.begin(), list.end(), less) : *std::min_element(list.begin(), list.end(), less);
}

Value Sum(const Value& value, const Arguments& a, const Host&) {
  const Value* attribute = Argument(a, 0, "attribute");
  double real = 0;
  int64_t whole = 0;
  bool all_whole = true;
  for (const Value& element : Iterate(value)) {
    const Value x = attribute != nullptr ? Member(element, ToText(*attribute).bytes()) : element;
    if (!x.IsNumber()) Fail(ErrorKind::kFormat, "sum takes numbers, found {}", x.TypeName());
    real += x.Number();
    all_whole = all_whole && x.IsWhole() && !__builtin_add_overflow(whole, x.IsWhole() ? x.Int() : 0, &whole);
  }
  return all_whole ? Value(whole) : Value(real);
}

Value Escape(const Value& value, const Arguments&, const Host& host) {
  const Text text = ToText(value);
  Text out;
  for (size_t i = 0; i < text.size(); ++i) {
    constexpr std::string_view kFrom = "&<>'\"";
    constexpr std::array<std::string_view, 5> kTo = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    const size_t at = kFrom.find(text.bytes()[i]);
    out.Append(at == kFrom.npos ? std::string_view(text.bytes()).substr(i, 1) : kTo[at], text.MarkAt(i));
  }
  host.charge(out.size());
  return out;
}

Value Batch(const Value& value, const Arguments& a, const Host&) {
  const int64_t size = IntArgument(a, 0, "linecount", 0);
  if (size < 1) Fail(ErrorKind::kFormat, "batch takes a count of 1 or more");
  List rows;
  for (Value& element : Iterate(value)) {
    if (rows.empty() || static_cast<int64_t>(rows.back().list().size()) == size) rows.push_back(Value::MakeList({}));
    rows.back().list().push_back(std::move(element));
  }
  return Value::MakeList(std::move(rows));
}

struct FilterRow {
  std::string_view name;
  Filter apply;
};

#define HAWSER_TEXT_FILTER(expression)                                                               \
  [](const Value& v, [[maybe_unused]] const Arguments& a, [[maybe_unused]] const Host& h) -> Value { \
    return expression;                                                                               \
  }

const FilterRow kFilters[] = {
    {"trim", HAWSER_TEXT_FILTER(Strip(ToText(v), BytesArgument(a, 0, "chars"), true, true))},
    {"tojson", JsonOf},
    {"length", HAWSER_TEXT_FILTER(Length(v))},
    {"count", HAWSER_TEXT_FILTER(Length(v))},
    {"join", JoinFilter},
    {"default", Default},
    {"d", Default},
    {"upper", HAWSER_TEXT_FILTER(Upper(ToText(v)))},
    {"lower", HAWSER_TEXT_FILTER(Lower(ToText(v)))},
    {"capitalize", HAWSER_TEXT_FILTER(Capitalize(ToText(v)))},
    {"title", HAWSER_TEXT_FILTER(TitleFilter(ToText(v)))},
    {"replace", HAWSER_TEXT_FILTER(Replace(ToText(v), NeedText(a, 0, "old"), NeedText(a, 1, "new"),
                                           IntArgument(a, 2, "count", -1), h))},
    {"items", HAWSER_TEXT_FILTER(Items(v, false))},
    {"dictsort", HAWSER_TEXT_FILTER(Items(v, true))},
    {"first", HAWSER_TEXT_FILTER(FirstOf(v, false))},
    {"last", HAWSER_TEXT_FILTER(FirstOf(v, true))},
    {"list", HAWSER_TEXT_FILTER(Value::MakeList(Iterate(v)))},
    {"string", HAWSER_TEXT_FILTER(ToText(v))},
    {"safe", HAWSER_TEXT_FILTER(v)},
    {"int", Numeric},
    {"float", Real},
    {"round", Round},
    {"abs",
     [](const Value& v, const Arguments&, const Host&) -> Value {
       if (!v.IsNumber()) Fail(ErrorKind::kFormat, "abs takes a number, found {}", v.TypeName());
       if (v.IsFloat()) return std::fabs(v.Number());
       return v.Int() < 0 && v.Int() != INT64_MIN ? -v.Int() : v.Int();
     }},
    {"map", MapFilter},
    {"select", HAWSER_TEXT_FILTER(Choose(v, a, false, true))},
    {"reject", HAWSER_TEXT_FILTER(Choose(v, a, false, false))},
    {"selectattr", HAWSER_TEXT_FILTER(Choose(v, a, true, true))},
    {"rejectattr", HAWSER_TEXT_FILTER(Choose(v, a, true, false))},
    {"indent", IndentFilter},
    {"sort", Sort},
    {"unique", Unique},
    {"reverse", ReverseFilter},
    {"min", HAWSER_TEXT_FILTER(Extreme(v, a, false))},
    {"max", HAWSER_TEXT_FILTER(Extreme(v, a, true))},
    {"sum", Sum},
    {"batch", Batch},
    {"escape", Escape},
    {"e", Escape},
    {"attr", HAWSER_TEXT_FILTER(Member(v, NeedText(a, 0, "name").bytes()))},
};

}  // namespace

Value ApplyFilter(const std::string& name, const Value& value, const Arguments& arguments, const Host& host) {
  for (const FilterRow& row : kFilters) {
    if (row.name == name) return row.apply(value, arguments, host);
  }
  Unknown("filter", name, kFilters);
}

}  // namespace hawser::jinja
