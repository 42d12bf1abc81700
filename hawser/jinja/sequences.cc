#include <algorithm>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/jinja/functions.h"
#include "hawser/jinja/text_functions.h"

namespace hawser::jinja {

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

}  // namespace hawser::jinja
