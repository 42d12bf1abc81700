#include "hawser/jinja/value.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "hawser/base/error.h"

namespace hawser::jinja {
namespace {

constexpr int kMaxDepth = 64;

void CheckDepth(int depth) {
  if (depth > kMaxDepth) Fail(ErrorKind::kFormat, "values nested deeper than {}", kMaxDepth);
}

Value FromJsonAt(const nlohmann::ordered_json& json, bool given, int depth) {
  CheckDepth(depth);
  switch (json.type()) {
    case nlohmann::json::value_t::boolean:
      return json.get<bool>();
    case nlohmann::json::value_t::number_integer:
    case nlohmann::json::value_t::number_unsigned:
      return json.get<int64_t>();
    case nlohmann::json::value_t::number_float:
      return json.get<double>();
    case nlohmann::json::value_t::string:
      return Text(json.get<std::string>(), given);
    case nlohmann::json::value_t::array: {
      List list;
      for (const auto& element : json) list.push_back(FromJsonAt(element, given, depth + 1));
      return Value::MakeList(std::move(list));
    }
    case nlohmann::json::value_t::object: {
      Value dict = Value::MakeDict();
      Value::Table& table = dict.table();
      for (const auto& [key, element] : json.items()) {  // names of JSON members are unique
        table.items.emplace_back(key, FromJsonAt(element, given, depth + 1));
        table.keys_as_given.push_back(Text(key, given));
      }
      return dict;
    }
    default:
      return Value::None{};
  }
}

std::string FloatText(double x) {
  if (std::isnan(x)) return "nan";
  if (std::isinf(x)) return x < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", x);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

/// Whether Python shows a character in a repr() as it is.
bool IsPrintable(std::string_view character) {
  utf8proc_int32_t point = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(character.data()),
                   static_cast<utf8proc_ssize_t>(character.size()), &point);
  if (point < 0x80) return point >= 0x20 && point != 0x7F;
  const auto category = utf8proc_category(point);
  return category != UTF8PROC_CATEGORY_CN && (category < UTF8PROC_CATEGORY_ZS || category > UTF8PROC_CATEGORY_CO);
}

/// \xa0, \u200d, \U000e0001
std::string EscapedPoint(std::string_view character) {
  utf8proc_int32_t point = 0;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(character.data()),
                   static_cast<utf8proc_ssize_t>(character.size()), &point);
  if (point < 0x100) return fmt::format("\\x{:02x}", point);
  return point < 0x10000 ? fmt::format("\\u{:04x}", point) : fmt::format("\\U{:08x}", point);
}

/// Python's repr() of a text.
Text Quoted(const Text& text) {
  const std::string& bytes = text.bytes();
  const bool doubles = bytes.find('\'') != std::string::npos && bytes.find('"') == std::string::npos;
  const char quote = doubles ? '"' : '\'';
  Text out(std::string(1, quote));
  const std::vector<size_t> starts = CharacterStarts(bytes);
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const std::string_view c = std::string_view(bytes).substr(starts[i], starts[i + 1] - starts[i]);
    const char mark = text.MarkAt(starts[i]);
    constexpr std::string_view kSpecial = "\n\r\t", kLetters = "nrt";
    if (c[0] == quote || c[0] == '\\') {
      out.Append("\\" + std::string(c), mark);
    } else if (const size_t at = kSpecial.find(c[0]); at != kSpecial.npos) {
      out.Append(std::string("\\") + kLetters[at], mark);
    } else if (!IsPrintable(c)) {
      out.Append(EscapedPoint(c), mark);
    } else {
      out.Append(c, mark);
    }
  }
  out.Append(std::string_view(&quote, 1), '\0');
  return out;
}

Text ReprAt(const Value& value, int depth);

Text PlainText(const Value& value, int depth) {
  CheckDepth(depth);
  if (value.IsUndefined()) return Text();
  if (value.IsNone()) return Text("None");
  if (value.IsBool()) return Text(value.Truth() ? "True" : "False");
  if (value.IsInt()) return Text(std::to_string(value.Int()));
  if (value.IsFloat()) return Text(FloatText(value.Number()));
  if (value.IsText()) return value.text();
  Text out;
  if (value.IsList()) {
    const bool tuple = value.IsTuple();
    out.Append(tuple ? "(" : "[", '\0');
    for (size_t i = 0; i < value.list().size(); ++i) {
      if (i > 0) out.Append(", ", '\0');
      out.Append(ReprAt(value.list()[i], depth + 1));
    }
    out.Append(!tuple ? "]" : value.list().size() == 1 ? ",)" : ")", '\0');
  } else if (value.IsDict()) {
    out.Append("{", '\0');
    const Value::Table& table = value.table();
    for (size_t i = 0; i < table.items.size(); ++i) {
      if (i > 0) out.Append(", ", '\0');
      out.Append(Quoted(table.keys_as_given[i]));
      out.Append(": ", '\0');
      out.Append(ReprAt(table.items[i].second, depth + 1));
    }
    out.Append("}", '\0');
  } else {
    out.Append("<callable>", '\0');
  }
  return out;
}

Text ReprAt(const Value& value, int depth) {
  if (value.IsText()) return Quoted(value.text());
  if (value.IsUndefined()) return Text("Undefined");
  return PlainText(value, depth);
}

/// The characters of a JSON string, quotes included.
Text JsonQuoted(const Text& text, bool ascii) {
  Text out("\"");
  const std::vector<size_t> starts = CharacterStarts(text.bytes());
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const std::string_view c = std::string_view(text.bytes()).substr(starts[i], starts[i + 1] - starts[i]);
    const char mark = text.MarkAt(starts[i]);
    constexpr std::string_view kSpecial = "\"\\\n\r\t\b\f", kLetters = "\"\\nrtbf";
    if (const size_t at = c.size() == 1 ? kSpecial.find(c[0]) : kSpecial.npos; at != kSpecial.npos) {
      out.Append(std::string("\\") + kLetters[at], mark);
    } else if (c.size() == 1 && static_cast<unsigned char>(c[0]) < 0x20) {
      out.Append(fmt::format("\\u{:04x}", static_cast<unsigned char>(c[0])), mark);
    } else if (ascii && c.size() > 1) {
      const std::string escaped =
          nlohmann::json(std::string(c)).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
      out.Append(std::string_view(escaped).substr(1, escaped.size() - 2), mark);
    } else {
      out.Append(c, mark);
    }
  }
  out.Append("\"", '\0');
  return out;
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void Write(const Value& value, int depth) {
    CheckDepth(depth);
    if (value.IsNone()) {
      out.Append("null", '\0');
    } else if (value.IsBool()) {
      out.Append(value.Truth() ? "true" : "false", '\0');
    } else if (value.IsFloat() && !std::isfinite(value.Number())) {
      out.Append(std::isnan(value.Number()) ? "NaN" : value.Number() < 0 ? "-Infinity" : "Infinity", '\0');
    } else if (value.IsNumber()) {
      out.Append(ToText(value));
    } else if (value.IsText()) {
      out.Append(JsonQuoted(value.text(), style_.ascii));
    } else if (value.IsList()) {
      WriteAll('[', ']', value.list().size(), depth, [&](size_t i) { Write(value.list()[i], depth + 1); });
    } else if (value.IsDict()) {
      const Value::Table& table = value.table();
      std::vector<size_t> order(table.items.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      if (style_.sort_keys) {
        std::sort(order.begin(), order.end(),
                  [&](size_t a, size_t b) { return table.items[a].first < table.items[b].first; });
      }
      WriteAll('{', '}', order.size(), depth, [&](size_t i) {
        out.Append(JsonQuoted(table.keys_as_given[order[i]], style_.ascii));
        out.Append(style_.key_separator, '\0');
        Write(table.items[order[i]].second, depth + 1);
      });
    } else {
      Fail(ErrorKind::kFormat, "JSON cannot say a value that is {}", value.TypeName());
    }
  }

  Text out;

 private:
  template <class One>
  void WriteAll(char open, char close, size_t count, int depth, One one) {
    out.Append(std::string_view(&open, 1), '\0');
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) out.Append(style_.indent >= 0 ? Stripped(style_.item_separator) : style_.item_separator, '\0');
      Break(depth + 1);
      one(i);
    }
    if (count > 0) Break(depth);
    out.Append(std::string_view(&close, 1), '\0');
  }
  void Break(int depth) {
    if (style_.indent < 0) return;
    out.Append("\n" + std::string(static_cast<size_t>(style_.indent * depth), ' '), '\0');
  }
  static std::string Stripped(std::string text) {
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text;
  }

  const JsonStyle& style_;
};

bool EqualAt(const Value& a, const Value& b, int depth) {
  CheckDepth(depth);
  if (a.IsNumber() && b.IsNumber()) {
    return a.IsWhole() && b.IsWhole() ? a.Int() == b.Int() : a.Number() == b.Number();
  }
  if (a.IsText() && b.IsText()) return a.text().bytes() == b.text().bytes();
  if (a.IsList() && b.IsList() && a.IsTuple() == b.IsTuple()) {
    return std::equal(a.list().begin(), a.list().end(), b.list().begin(), b.list().end(),
                      [&](const Value& x, const Value& y) { return EqualAt(x, y, depth + 1); });
  }
  if (a.IsDict() && b.IsDict()) {
    if (a.table().items.size() != b.table().items.size()) return false;
    return std::all_of(a.table().items.begin(), a.table().items.end(), [&](const auto& item) {
      const Value* other = b.Find(item.first);
      return other != nullptr && EqualAt(item.second, *other, depth + 1);
    });
  }
  return (a.IsNone() && b.IsNone()) || (a.IsUndefined() && b.IsUndefined());
}

}  // namespace

Value Value::FromJson(const nlohmann::ordered_json& json, bool given) { return FromJsonAt(json, given, 0); }

const Value* Value::Find(std::string_view key) const {
  for (const auto& [name, value] : table().items) {
    if (name == key) return &value;
  }
  return nullptr;
}

namespace {

/// Destroys values one after another, whatever holds what: destructors in destructors would go as deep as a template
/// nests lists.
void Bury(List values) {
  thread_local List* open = nullptr;
  if (open != nullptr) {
    std::ranges::move(values, std::back_inserter(*open));
    return;
  }
  open = &values;
  while (!values.empty()) {
    const Value last = std::move(values.back());  // its destructor adds to `values`
    values.pop_back();
  }
  open = nullptr;
}

List ValuesOf(Dict* items) {
  List values;
  for (auto& [key, value] : *items) values.push_back(std::move(value));
  items->clear();
  return values;
}

}  // namespace

Value::Table::~Table() { Bury(ValuesOf(&items)); }
Value::Sequence::~Sequence() { Bury(std::move(items)); }

bool Value::Mark() const {
  bool& marked = IsList() ? std::get<std::shared_ptr<Sequence>>(data_)->marked : table().marked;
  return !std::exchange(marked, true);
}

void Value::Clear() const {
  if (IsList()) Bury(std::exchange(list(), {}));
  if (IsDict()) {
    table().keys_as_given.clear();
    Bury(ValuesOf(&table().items));
  }
}

void Value::Put(const Text& key, Value value) const {
  Table& to = table();
  for (auto& [name, old] : to.items) {
    if (name == key.bytes()) {
      old = std::move(value);
      return;
    }
  }
  to.items.emplace_back(key.bytes(), std::move(value));
  to.keys_as_given.push_back(key);
}

bool Value::Truth() const {
  if (IsUndefined() || IsNone()) return false;
  if (IsBool()) return std::get<bool>(data_);
  if (IsInt()) return Int() != 0;
  if (IsFloat()) return Number() != 0;
  if (IsText()) return !text().empty();
  if (IsList()) return !list().empty();
  if (IsDict()) return table().is_namespace || !table().items.empty();
  return true;
}

const char* Value::TypeName() const {
  if (IsUndefined()) return "undefined";
  if (IsNone()) return "None";
  if (IsBool()) return "a bool";
  if (IsInt()) return "an integer";
  if (IsFloat()) return "a float";
  if (IsText()) return "text";
  if (IsList()) return IsTuple() ? "a tuple" : "a list";
  if (IsDict()) return "a dict";
  return "callable";
}

bool Equal(const Value& a, const Value& b) { return EqualAt(a, b, 0); }

bool Less(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) return a.IsWhole() && b.IsWhole() ? a.Int() < b.Int() : a.Number() < b.Number();
  if (a.IsText() && b.IsText()) return a.text().bytes() < b.text().bytes();
  if (a.IsList() && b.IsList()) {
    const List &x = a.list(), &y = b.list();
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!Equal(x[i], y[i])) return Less(x[i], y[i]);
    }
    return x.size() < y.size();
  }
  Fail(ErrorKind::kFormat, "{} and {} have no order", a.TypeName(), b.TypeName());
}

Text ToText(const Value& value) { return PlainText(value, 0); }
Text ToRepr(const Value& value) { return ReprAt(value, 0); }

Text ToJson(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.Write(value, 0);
  return std::move(writer.out);
}

std::vector<size_t> CharacterStarts(std::string_view text) {
  std::vector<size_t> starts;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80 || i == 0) starts.push_back(i);
  }
  starts.push_back(text.size());
  return starts;
}

}  // namespace hawser::jinja
