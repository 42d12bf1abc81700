// The tests of Jinja: value is name.
#include "hawser/base/error.h"
#include "hawser/jinja/arguments.h"
#include "hawser/jinja/functions.h"
#include "hawser/jinja/text_functions.h"

namespace hawser::jinja {
namespace {

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

}  // namespace

bool ApplyTest(const std::string& name, const Value& value, const Arguments& arguments) {
  for (const TestRow& row : kTests) {
    if (row.name == name) return row.apply(value, arguments);
  }
  Unknown("test", name, kTests);
}

}  // namespace hawser::jinja
