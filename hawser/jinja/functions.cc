#include "hawser/jinja/functions.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "hawser/base/error.h"

namespace hawser::jinja {
namespace {

// Characters.

int32_t CodeAt(std::string_view text, size_t at) {
  utf8proc_int32_t code = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                   static_cast<utf8proc_ssize_t>(text.size() - at), &code);
  return code;
}

/// What Python's str.strip() takes off.
bool IsSpace(int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// Each character of `text` through `change`, which gets its number, and its mark kept.
template <class Change>
Text MapCharacters(const Text& text, Change change) {
  Text out;
  const std::vector<size_t> starts = CharacterStarts(text.bytes());
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int32_t code = CodeAt(text.bytes(), starts[i]);
    const std::string_view as_is = std::string_view(text.bytes()).substr(starts[i], starts[i + 1] - starts[i]);
    const int32_t changed = code < 0 ? code : change(code, i);
    if (changed == code) {
      out.Append(as_is, text.MarkAt(starts[i]));
      continue;
    }
    utf8proc_uint8_t bytes[4];
    const auto size = static_cast<size_t>(utf8proc_encode_char(changed, bytes));
    out.Append(std::string_view(reinterpret_cast<char*>(bytes), size), text.MarkAt(starts[i]));
  }
  return out;
}

Text Upper(const Text& text) {
  return MapCharacters(text, [](int32_t c, size_t) { return utf8proc_toupper(c); });
}
Text Lower(const Text& text) {
  return MapCharacters(text, [](int32_t c, size_t) { return utf8proc_tolower(c); });
}
Text Capitalize(const Text& text) {
  return MapCharacters(text, [](int32_t c, size_t i) { return i == 0 ? utf8proc_totitle(c) : utf8proc_tolower(c); });
}
bool IsCased(int32_t c) { return utf8proc_toupper(c) != c || utf8proc_tolower(c) != c; }
Text Title(const Text& text) {
  bool inside = false;
  return MapCharacters(text, [&](int32_t c, size_t) {
    const int32_t changed = inside ? utf8proc_tolower(c) : utf8proc_totitle(c);
    inside = IsCased(c);
    return changed;
  });
}
/// The filter of that name: words begin behind blanks and brackets alone.
Text TitleFilter(const Text& text) {
  bool inside = false;
  return MapCharacters(text, [&](int32_t c, size_t) {
    const bool between = IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    const int32_t changed = inside ? utf8proc_tolower(c) : utf8proc_toupper(c);
    inside = !between;
    return changed;
  });
}

Text Strip(const Text& text, const std::optional<std::string>& characters, bool left, bool right) {
  const std::vector<size_t> starts = CharacterStarts(text.bytes());
  size_t begin = 0, end = starts.size() - 1;
  const auto goes = [&](size_t i) {
    if (!characters) return IsSpace(CodeAt(text.bytes(), starts[i]));
    return characters->find(text.bytes().substr(starts[i], starts[i + 1] - starts[i])) != std::string::npos;
  };
  while (left && begin < end && goes(begin)) ++begin;
  while (right && end > begin && goes(end - 1)) --end;
  return text.Part(starts[begin], starts[end] - starts[begin]);
}

List Split(const Text& text, const std::optional<std::string>& separator, int64_t most, bool from_right) {
  List parts;
  if (separator && separator->empty()) Fail(ErrorKind::kFormat, "split() at an empty text");
  const std::string& bytes = text.bytes();
  if (!separator) {  // at runs of blanks
    const std::vector<size_t> starts = CharacterStarts(bytes);
    size_t i = 0;
    const size_t n = starts.size() - 1;
    const auto space = [&](size_t at) { return IsSpace(CodeAt(bytes, starts[at])); };
    for (;;) {
      while (i < n && space(i)) ++i;
      if (i == n) break;
      if (most >= 0 && static_cast<int64_t>(parts.size()) == most) {
        parts.emplace_back(Strip(text.Part(starts[i]), std::nullopt, false, true));
        break;
      }
      const size_t begin = i;
      while (i < n && !space(i)) ++i;
      parts.emplace_back(text.Part(starts[begin], starts[i] - starts[begin]));
    }
    return parts;
  }
  if (from_right) {
    size_t end = bytes.size();
    while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
      const size_t found =
          end >= separator->size() ? bytes.rfind(*separator, end - separator->size()) : std::string::npos;
      if (found == std::string::npos) break;
      parts.emplace_back(text.Part(found + separator->size(), end - found - separator->size()));
      end = found;
    }
    parts.emplace_back(text.Part(0, end));
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  size_t begin = 0;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t found = bytes.find(*separator, begin);
    if (found == std::string::npos) break;
    parts.emplace_back(text.Part(begin, found - begin));
    begin = found + separator->size();
  }
  parts.emplace_back(text.Part(begin));
  return parts;
}

Text Replace(const Text& text, const Text& from, const Text& to, int64_t most, const Host& host) {
  Text out;
  const std::string& bytes = text.bytes();
  size_t begin = 0;
  int64_t done = 0;
  if (from.empty()) {  // between all characters
    const std::vector<size_t> starts = CharacterStarts(bytes);
    host.charge(bytes.size() + starts.size() * to.size());
    for (size_t i = 0; i < starts.size(); ++i) {
      if (most < 0 || done++ < most) out.Append(to);
      if (i + 1 < starts.size()) out.Append(text.Part(starts[i], starts[i + 1] - starts[i]));
    }
    return out;
  }
  for (; most < 0 || done < most; ++done) {
    const size_t found = bytes.find(from.bytes(), begin);
    if (found == std::string::npos) break;
    host.charge(found - begin + to.size());
    out.Append(text.Part(begin, found - begin));
    out.Append(to);
    begin = found + from.size();
  }
  host.charge(bytes.size() - begin);
  out.Append(text.Part(begin));
  return out;
}

Text Join(const List& parts, const Text& between, const Host& host) {
  Text out;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Text part = ToText(parts[i]);
    host.charge(part.size() + between.size());
    if (i > 0) out.Append(between);
    out.Append(part);
  }
  return out;
}

// Arguments.

/// The argument at `place` or of that name; null where it is not given.
const Value* Argument(const Arguments& arguments, size_t place, std::string_view name) {
  if (place < arguments.positional.size()) return &arguments.positional[place];
  for (const auto& [given, value] : arguments.named) {
    if (given == name) return &value;
  }
  return nullptr;
}

int64_t IntArgument(const Arguments& arguments, size_t place, std::string_view name, int64_t fallback) {
  const Value* value = Argument(arguments, place, name);
  if (value == nullptr || value->IsNone()) return fallback;
  if (!value->IsWhole()) Fail(ErrorKind::kFormat, "'{}' must be an integer, found {}", name, value->TypeName());
  return value->Int();
}

bool FlagArgument(const Arguments& arguments, size_t place, std::string_view name, bool fallback) {
  const Value* value = Argument(arguments, place, name);
  return value == nullptr ? fallback : value->Truth();
}

std::optional<Text> TextArgument(const Arguments& arguments, size_t place, std::string_view name) {
  const Value* value = Argument(arguments, place, name);
  if (value == nullptr || value->IsNone()) return std::nullopt;
  if (!value->IsText()) Fail(ErrorKind::kFormat, "'{}' must be text, found {}", name, value->TypeName());
  return value->text();
}

std::optional<std::string> BytesArgument(const Arguments& arguments, size_t place, std::string_view name) {
  const auto text = TextArgument(arguments, place, name);
  return text ? std::optional(text->bytes()) : std::nullopt;
}

Text NeedText(const Arguments& arguments, size_t place, std::string_view name) {
  auto text = TextArgument(arguments, place, name);
  if (!text) Fail(ErrorKind::kFormat, "an argument '{}' is wanted", name);
  return *text;
}

/// value.a.b for "a.b"; undefined where it is not there.
Value Member(const Value& value, std::string_view path) {
  Value at = value;
  while (!path.empty()) {
    const size_t dot = path.find('.');
    const std::string_view name = path.substr(0, dot);
    const Value* found = at.IsDict() ? at.Find(name) : nullptr;
    at = found != nullptr ? *found : Value(Value::Undefined{std::string(name)});
    path = dot == path.npos ? "" : path.substr(dot + 1);
  }
  return at;
}

// Filters.

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

Value Items(const Value& value, bool sorted) {
  if (value.IsUndefined()) return Value::MakeList({});
  if (!value.IsDict()) Fail(ErrorKind::kFormat, "items takes a dict, found {}", value.TypeName());
  List list;
  const Value::Table& table = value.table();
  for (size_t i = 0; i < table.items.size(); ++i) {
    list.push_back(Value::MakeList({table.keys_as_given[i], table.items[i].second}, true));
  }
  if (sorted) {
    std::stable_sort(list.begin(), list.end(), [](const Value& x, const Value& y) {
      return Lower(x.list()[0].text()).bytes() < Lower(y.list()[0].text()).bytes();
    });
  }
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

// Tests.

bool IsMember(const Value& value, const Arguments& a, bool (*test)(const Value&, const Value&)) {
  const Value* other = Argument(a, 0, "other");
  if (other == nullptr) Fail(ErrorKind::kFormat, "the test wants a value to compare with");
  return test(value, *other);
}

struct TestRow {
  std::string_view name;
  bool (*apply)(const Value&, const Arguments&);
};

const TestRow kTests[] = {
    {"defined", [](const Value& v, const Arguments&) { return !v.IsUndefined(); }},
    {"undefined", [](const Value& v, const Arguments&) { return v.IsUndefined(); }},
    {"none", [](const Value& v, const Arguments&) { return v.IsNone(); }},
    {"string", [](const Value& v, const Arguments&) { return v.IsText(); }},
    {"number", [](const Value& v, const Arguments&) { return v.IsNumber(); }},
    {"integer", [](const Value& v, const Arguments&) { return v.IsInt(); }},
    {"float", [](const Value& v, const Arguments&) { return v.IsFloat(); }},
    {"boolean", [](const Value& v, const Arguments&) { return v.IsBool(); }},
    {"mapping", [](const Value& v, const Arguments&) { return v.IsDict() && !v.table().is_namespace; }},
    {"sequence",
     [](const Value& v, const Arguments&) { return v.IsList() || v.IsText() || v.IsDict() || v.IsUndefined(); }},
    {"iterable",
     [](const Value& v, const Arguments&) { return v.IsList() || v.IsText() || v.IsDict() || v.IsUndefined(); }},
    {"callable", [](const Value& v, const Arguments&) { return v.IsCallable(); }},
    {"true", [](const Value& v, const Arguments&) { return v.IsBool() && v.Truth(); }},
    {"false", [](const Value& v, const Arguments&) { return v.IsBool() && !v.Truth(); }},
    {"odd", [](const Value& v, const Arguments&) { return v.IsWhole() && v.Int() % 2 != 0; }},
    {"even", [](const Value& v, const Arguments&) { return v.IsWhole() && v.Int() % 2 == 0; }},
    {"divisibleby",
     [](const Value& v, const Arguments& a) {
       const int64_t by = IntArgument(a, 0, "num", 0);
       if (!v.IsWhole() || by == 0) Fail(ErrorKind::kFormat, "divisibleby takes integers, and not by 0");
       return by == -1 || v.Int() % by == 0;
     }},
    {"lower", [](const Value& v, const Arguments&) { return v.IsText() && Equal(v, Value(Lower(v.text()))); }},
    {"upper", [](const Value& v, const Arguments&) { return v.IsText() && Equal(v, Value(Upper(v.text()))); }},
    {"equalto", [](const Value& v, const Arguments& a) { return IsMember(v, a, Equal); }},
    {"eq", [](const Value& v, const Arguments& a) { return IsMember(v, a, Equal); }},
    {"==", [](const Value& v, const Arguments& a) { return IsMember(v, a, Equal); }},
    {"ne", [](const Value& v, const Arguments& a) { return !IsMember(v, a, Equal); }},
    {"!=", [](const Value& v, const Arguments& a) { return !IsMember(v, a, Equal); }},
    {"lt", [](const Value& v, const Arguments& a) { return IsMember(v, a, Less); }},
    {"lessthan", [](const Value& v, const Arguments& a) { return IsMember(v, a, Less); }},
    {"gt",
     [](const Value& v, const Arguments& a) {
       return IsMember(v, a, [](const Value& x, const Value& y) { return Less(y, x); });
     }},
    {"greaterthan",
     [](const Value& v, const Arguments& a) {
       return IsMember(v, a, [](const Value& x, const Value& y) { return Less(y, x); });
     }},
    {"le",
     [](const Value& v, const Arguments& a) {
       return IsMember(v, a, [](const Value& x, const Value& y) { return !Less(y, x); });
     }},
    {"ge",
     [](const Value& v, const Arguments& a) {
       return IsMember(v, a, [](const Value& x, const Value& y) { return !Less(x, y); });
     }},
    {"in",
     [](const Value& v, const Arguments& a) {
       return IsMember(v, a, [](const Value& x, const Value& y) { return Contains(y, x); });
     }},
};

template <class Rows>
[[noreturn]] void Unknown(std::string_view kind, const std::string& name, const Rows& rows) {
  std::string known;
  for (const auto& row : rows) known += (known.empty() ? "" : ", ") + std::string(row.name);
  Fail(ErrorKind::kUnsupported, "the {} '{}' is not supported; known are {}", kind, name, known);
}

// Methods.

Value Starts(const Text& text, const Arguments& a, bool ends) {
  const Value* what = Argument(a, 0, "prefix");
  if (what == nullptr) Fail(ErrorKind::kFormat, "a text to look for is wanted");
  const List options = what->IsList() ? what->list() : List{*what};
  for (const Value& option : options) {
    if (!option.IsText()) Fail(ErrorKind::kFormat, "a text to look for is wanted, found {}", option.TypeName());
    const std::string& part = option.text().bytes();
    if (ends ? text.bytes().ends_with(part) : text.bytes().starts_with(part)) return true;
  }
  return false;
}

Value Find(const Text& text, const Arguments& a, bool from_right) {
  const std::string part = NeedText(a, 0, "sub").bytes();
  const size_t found = from_right ? text.bytes().rfind(part) : text.bytes().find(part);
  if (found == std::string::npos) return int64_t{-1};
  return static_cast<int64_t>(CharacterStarts(std::string_view(text.bytes()).substr(0, found)).size()) - 1;
}

Value CountOf(const Text& text, const Arguments& a) {
  const std::string part = NeedText(a, 0, "sub").bytes();
  if (part.empty()) return static_cast<int64_t>(CharacterStarts(text.bytes()).size());
  int64_t count = 0;
  for (size_t at = text.bytes().find(part); at != std::string::npos; at = text.bytes().find(part, at + part.size()))
    ++count;
  return count;
}

template <class Test>
Value AllCharacters(const Text& text, Test test) {
  const std::vector<size_t> starts = CharacterStarts(text.bytes());
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    if (!test(CodeAt(text.bytes(), starts[i]))) return false;
  }
  return !text.empty();
}

std::optional<Value> TextMethod(const Text& text, const std::string& name, const Host& host) {
  const auto method = [&](auto call) {
    return std::optional<Value>(Callable([text, call](const Arguments& a) -> Value { return call(text, a); }));
  };
  if (name == "strip")
    return method([](const Text& t, const Arguments& a) { return Strip(t, BytesArgument(a, 0, "chars"), true, true); });
  if (name == "lstrip")
    return method(
        [](const Text& t, const Arguments& a) { return Strip(t, BytesArgument(a, 0, "chars"), true, false); });
  if (name == "rstrip")
    return method(
        [](const Text& t, const Arguments& a) { return Strip(t, BytesArgument(a, 0, "chars"), false, true); });
  if (name == "split" || name == "rsplit") {
    const bool right = name == "rsplit";
    return method([right](const Text& t, const Arguments& a) {
      return Value::MakeList(Split(t, BytesArgument(a, 0, "sep"), IntArgument(a, 1, "maxsplit", -1), right));
    });
  }
  if (name == "splitlines") {
    return method([](const Text& t, const Arguments&) {
      List lines = Split(t, "\n", -1, false);
      if (!lines.empty() && lines.back().text().empty()) lines.pop_back();
      return Value::MakeList(std::move(lines));
    });
  }
  if (name == "startswith") return method([](const Text& t, const Arguments& a) { return Starts(t, a, false); });
  if (name == "endswith") return method([](const Text& t, const Arguments& a) { return Starts(t, a, true); });
  if (name == "replace") {
    return method([host](const Text& t, const Arguments& a) {
      return Replace(t, NeedText(a, 0, "old"), NeedText(a, 1, "new"), IntArgument(a, 2, "count", -1), host);
    });
  }
  if (name == "upper") return method([](const Text& t, const Arguments&) { return Upper(t); });
  if (name == "lower") return method([](const Text& t, const Arguments&) { return Lower(t); });
  if (name == "title") return method([](const Text& t, const Arguments&) { return Title(t); });
  if (name == "capitalize") return method([](const Text& t, const Arguments&) { return Capitalize(t); });
  if (name == "find") return method([](const Text& t, const Arguments& a) { return Find(t, a, false); });
  if (name == "rfind") return method([](const Text& t, const Arguments& a) { return Find(t, a, true); });
  if (name == "count") return method([](const Text& t, const Arguments& a) { return CountOf(t, a); });
  if (name == "join")
    return method([host](const Text& t, const Arguments& a) {
      if (a.positional.size() != 1) Fail(ErrorKind::kFormat, "join() takes one list");
      return Join(Iterate(a.positional[0]), t, host);
    });
  if (name == "isdigit")
    return method([](const Text& t, const Arguments&) {
      return AllCharacters(t, [](int32_t c) { return utf8proc_category(c) == UTF8PROC_CATEGORY_ND; });
    });
  if (name == "isspace") return method([](const Text& t, const Arguments&) { return AllCharacters(t, IsSpace); });
  if (name == "isalpha") {
    return method([](const Text& t, const Arguments&) {
      return AllCharacters(t, [](int32_t c) {
        const auto category = utf8proc_category(c);
        return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
      });
    });
  }
  return std::nullopt;
}

std::optional<Value> DictMethod(const Value& dict, const std::string& name) {
  const auto method = [&](auto call) {
    return std::optional<Value>(Callable([dict, call](const Arguments& a) -> Value { return call(dict, a); }));
  };
  if (name == "get") {
    return method([](const Value& d, const Arguments& a) -> Value {
      if (a.positional.empty()) Fail(ErrorKind::kFormat, "get() takes a key");
      if (const Value* found = d.Find(ToText(a.positional[0]).bytes())) return *found;
      const Value* fallback = Argument(a, 1, "default");
      return fallback != nullptr ? *fallback : Value(Value::None{});
    });
  }
  if (name == "items") return method([](const Value& d, const Arguments&) { return Items(d, false); });
  if (name == "keys") return method([](const Value& d, const Arguments&) { return Value::MakeList(Iterate(d)); });
  if (name == "values") {
    return method([](const Value& d, const Arguments&) {
      List list;
      for (const auto& [key, value] : d.table().items) list.push_back(value);
      return Value::MakeList(std::move(list));
    });
  }
  return std::nullopt;
}

std::optional<Value> ListMethod(const Value& list, const std::string& name) {
  const auto method = [&](auto call) {
    return std::optional<Value>(Callable([list, call](const Arguments& a) -> Value { return call(list, a); }));
  };
  if (list.IsTuple()) return std::nullopt;
  if (name == "index" || name == "count") {
    const bool index = name == "index";
    return method([index](const Value& l, const Arguments& a) -> Value {
      if (a.positional.empty()) Fail(ErrorKind::kFormat, "a value to look for is wanted");
      int64_t count = 0;
      for (size_t i = 0; i < l.list().size(); ++i) {
        if (!Equal(l.list()[i], a.positional[0])) continue;
        if (index) return static_cast<int64_t>(i);
        ++count;
      }
      if (index) Fail(ErrorKind::kFormat, "the value is not in the list");
      return count;
    });
  }
  if (name == "append") {
    return method([](const Value& l, const Arguments& a) -> Value {
      if (a.positional.size() != 1) Fail(ErrorKind::kFormat, "append() takes one value");
      l.list().push_back(a.positional[0]);
      return Value::None{};
    });
  }
  return std::nullopt;
}

}  // namespace

Value ApplyFilter(const std::string& name, const Value& value, const Arguments& arguments, const Host& host) {
  for (const FilterRow& row : kFilters) {
    if (row.name == name) return row.apply(value, arguments, host);
  }
  Unknown("filter", name, kFilters);
}

bool ApplyTest(const std::string& name, const Value& value, const Arguments& arguments) {
  for (const TestRow& row : kTests) {
    if (row.name == name) return row.apply(value, arguments);
  }
  Unknown("test", name, kTests);
}

std::optional<Value> FindMethod(const Value& value, const std::string& name, const Host& host) {
  if (value.IsText()) return TextMethod(value.text(), name, host);
  if (value.IsDict() && !value.table().is_namespace) return DictMethod(value, name);
  if (value.IsList()) return ListMethod(value, name);
  return std::nullopt;
}

List Iterate(const Value& value) {
  if (value.IsList()) return value.list();
  if (value.IsUndefined()) return {};
  List list;
  if (value.IsDict()) {
    for (const Text& key : value.table().keys_as_given) list.emplace_back(key);
    return list;
  }
  if (value.IsText()) {
    const std::vector<size_t> starts = CharacterStarts(value.text().bytes());
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      list.emplace_back(value.text().Part(starts[i], starts[i + 1] - starts[i]));
    }
    return list;
  }
  Fail(ErrorKind::kFormat, "{} has no elements", value.TypeName());
}

bool Contains(const Value& b, const Value& a) {
  if (b.IsText()) {
    if (!a.IsText()) Fail(ErrorKind::kFormat, "{} cannot be in text", a.TypeName());
    return b.text().bytes().find(a.text().bytes()) != std::string::npos;
  }
  if (b.IsDict()) return a.IsText() && b.Find(a.text().bytes()) != nullptr;
  const List list = Iterate(b);
  return std::any_of(list.begin(), list.end(), [&](const Value& element) { return Equal(element, a); });
}

int64_t Length(const Value& value) {
  if (value.IsText()) return static_cast<int64_t>(CharacterStarts(value.text().bytes()).size()) - 1;
  if (value.IsList()) return static_cast<int64_t>(value.list().size());
  if (value.IsDict()) return static_cast<int64_t>(value.table().items.size());
  if (value.IsUndefined()) return 0;
  Fail(ErrorKind::kFormat, "{} has no length", value.TypeName());
}

Value Slice(const Value& value, std::optional<int64_t> begin, std::optional<int64_t> end, int64_t step) {
  if (step == 0) Fail(ErrorKind::kFormat, "a slice with step 0");
  if (!value.IsText() && !value.IsList()) Fail(ErrorKind::kFormat, "{} cannot be sliced", value.TypeName());
  const int64_t n = Length(value);
  const auto place = [&](std::optional<int64_t> bound, int64_t fallback) {
    if (!bound) return fallback;
    const int64_t at = *bound < 0 ? std::max<int64_t>(*bound, -n - 1) + n : std::min(*bound, n);
    return std::clamp<int64_t>(at, step > 0 ? 0 : -1, step > 0 ? n : n - 1);
  };
  const int64_t from = place(begin, step > 0 ? 0 : n - 1), to = place(end, step > 0 ? n : -1);
  const std::vector<size_t> starts = value.IsText() ? CharacterStarts(value.text().bytes()) : std::vector<size_t>();
  Text text;
  List list;
  for (int64_t i = from; step > 0 ? i < to : i > to;) {
    const auto at = static_cast<size_t>(i);
    if (value.IsText()) {
      text.Append(value.text().Part(starts[at], starts[at + 1] - starts[at]));
    } else {
      list.push_back(value.list()[at]);
    }
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return value.IsText() ? Value(std::move(text)) : Value::MakeList(std::move(list), value.IsTuple());
}

}  // namespace hawser::jinja
