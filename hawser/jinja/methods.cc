#include <utf8proc.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/jinja/arguments.h"
#include "hawser/jinja/functions.h"
#include "hawser/jinja/text_functions.h"

namespace hawser::jinja {
namespace {

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

std::optional<Value> ListMethod(const Value& list, const std::string& name, const Host& host) {
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
    return method([&host](const Value& l, const Arguments& a) -> Value {
      if (a.positional.size() != 1) Fail(ErrorKind::kFormat, "append() takes one value");
      host.changed(l);
      l.list().push_back(a.positional[0]);
      return Value::None{};
    });
  }
  return std::nullopt;
}

}  // namespace

std::optional<Value> FindMethod(const Value& value, const std::string& name, const Host& host) {
  if (value.IsText()) return TextMethod(value.text(), name, host);
  if (value.IsDict() && !value.table().is_namespace) return DictMethod(value, name);
  if (value.IsList()) return ListMethod(value, name, host);
  return std::nullopt;
}

}  // namespace hawser::jinja
