#include "hawser/jinja/template.h"

#include <cmath>
#include <ctime>
#include <map>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/jinja/functions.h"
#include "hawser/jinja/syntax.h"

namespace hawser::jinja {
namespace {

constexpr int kMaxCalls = 100;  // of macros in macros
constexpr int64_t kMaxRange = 1'000'000;

enum class Flow : uint8_t { kOn, kBreak, kContinue };

int64_t FloorDivide(int64_t a, int64_t b) {
  const int64_t q = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

class Renderer {
 public:
  Renderer(const Value& globals, const RenderLimits& limits) : limits_(limits) {
    host_.charge = [this](size_t bytes) { Charge(bytes); };
    host_.changed = [this](const Value& container) {
      if (container.Mark()) changed_.push_back(container);
    };
    scopes_.emplace_back();
    AddFunctions();
    for (const auto& [name, value] : globals.table().items) scopes_.front()[name] = value;
    scopes_.emplace_back();  // what the template sets at its top
  }

  Renderer(const Renderer&) = delete;
  ~Renderer() {
    for (const Value& container : changed_) container.Clear();  // those that hold themselves would stay for ever
  }

  Text Run(const Block& block) {
    RunBlock(block);
    return std::move(out_);
  }

 private:
  using Scope = std::map<std::string, Value, std::less<>>;

  void AddFunctions() {
    Scope& names = scopes_.front();
    names["range"] = Callable([this](const Arguments& a) { return Range(a); });
    names["dict"] = Callable([](const Arguments& a) { return Named(a, false); });
    names["namespace"] = Callable([](const Arguments& a) { return Named(a, true); });
    names["raise_exception"] = Callable([](const Arguments& a) -> Value {
      const std::string text = a.positional.empty() ? "" : ToText(a.positional[0]).bytes();
      Fail(ErrorKind::kUsage, "the chat template refuses these messages: {}", text);
    });
    names["strftime_now"] = Callable([this](const Arguments& a) -> Value {
      if (a.positional.size() != 1 || !a.positional[0].IsText())
        Fail(ErrorKind::kFormat, "strftime_now takes a format");
      const std::time_t now = limits_.now ? static_cast<std::time_t>(*limits_.now) : std::time(nullptr);
      std::tm local{};
      localtime_r(&now, &local);
      char text[256];
      return Text(std::string(text, std::strftime(text, sizeof(text), a.positional[0].text().bytes().c_str(), &local)));
    });
  }

  static Value Named(const Arguments& arguments, bool is_namespace) {
    Value dict = Value::MakeDict(is_namespace);
    for (const Value& from : arguments.positional) {
      if (!from.IsDict()) Fail(ErrorKind::kFormat, "dict() takes a dict, found {}", from.TypeName());
      for (size_t i = 0; i < from.table().items.size(); ++i) {
        dict.Put(from.table().keys_as_given[i], from.table().items[i].second);
      }
    }
    for (const auto& [name, value] : arguments.named) dict.Put(Text(name), value);
    return dict;
  }

  Value Range(const Arguments& a) {
    std::vector<int64_t> n;
    for (const Value& value : a.positional) {
      if (!value.IsWhole()) Fail(ErrorKind::kFormat, "range() takes integers, found {}", value.TypeName());
      n.push_back(value.Int());
    }
    if (n.empty() || n.size() > 3) Fail(ErrorKind::kFormat, "range() takes one to three integers, found {}", n.size());
    const int64_t begin = n.size() > 1 ? n[0] : 0, end = n.size() > 1 ? n[1] : n[0], step = n.size() > 2 ? n[2] : 1;
    if (step == 0) Fail(ErrorKind::kFormat, "range() takes a step other than 0");
    List list;
    for (int64_t i = begin; step > 0 ? i < end : i > end;) {
      if (static_cast<int64_t>(list.size()) >= kMaxRange)
        Fail(ErrorKind::kFormat, "a range of more than {}", kMaxRange);
      list.emplace_back(i);
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    Charge(list.size() * sizeof(Value));
    return Value::MakeList(std::move(list));
  }

  void Charge(size_t bytes) {
    if (bytes > limits_.bytes - std::min(made_, limits_.bytes)) {
      Fail(ErrorKind::kFormat, "the template makes more than {} bytes of text", limits_.bytes);
    }
    made_ += bytes;
  }

  void Step() {
    if (++steps_ > limits_.steps) Fail(ErrorKind::kFormat, "the template takes more than {} steps", limits_.steps);
  }

  // Names.

  const Value* Lookup(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const auto found = scope->find(name); found != scope->end()) return &found->second;
    }
    return nullptr;
  }

  void Assign(const std::vector<std::string>& names, const Value& value) {
    if (names.size() == 1) {
      scopes_.back()[names[0]] = value;
      return;
    }
    const List parts = Iterate(value);
    if (parts.size() != names.size()) {
      Fail(ErrorKind::kFormat, "{} values for {} names", parts.size(), names.size());
    }
    for (size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = parts[i];
  }

  // Statements.

  Flow RunBlock(const Block& block) {
    for (const Statement& statement : block) {
      const Flow flow = RunStatement(statement);
      if (flow != Flow::kOn) return flow;
    }
    return Flow::kOn;
  }

  Flow RunStatement(const Statement& s) {
    Step();
    switch (s.kind) {
      case Kind::kText:
        Charge(s.text.size());
        out_.Append(s.text, '\0');
        return Flow::kOn;
      case Kind::kOutput: {
        const Text text = ToText(Evaluate(*s.expression));
        Charge(text.size());
        out_.Append(text);
        return Flow::kOn;
      }
      case Kind::kIf:
        for (const Branch& branch : s.branches) {
          if (branch.condition == nullptr || Evaluate(*branch.condition).Truth()) return RunBlock(branch.body);
        }
        return Flow::kOn;
      case Kind::kFor:
        return RunFor(s);
      case Kind::kSet:
        AtLine(s.line, [&] { Set(s, Evaluate(*s.expression)); });
        return Flow::kOn;
      case Kind::kSetBlock: {
        Text outer = std::exchange(out_, {});
        RunBlock(s.body);
        Text made = std::exchange(out_, std::move(outer));
        AtLine(s.line, [&] { Set(s, std::move(made)); });
        return Flow::kOn;
      }
      case Kind::kMacro:
        scopes_.back()[s.name] = MakeMacro(s);
        return Flow::kOn;
      case Kind::kBreak:
        return Flow::kBreak;
      case Kind::kContinue:
        return Flow::kContinue;
      case Kind::kBlock:
        return RunBlock(s.body);
    }
    return Flow::kOn;
  }

  void Set(const Statement& s, Value value) {
    if (s.name.empty()) return Assign(s.names, value);
    const Value* target = Lookup(s.names[0]);
    if (target == nullptr || !target->IsDict() || !target->table().is_namespace) {
      Fail(ErrorKind::kFormat, "'{}' is no namespace, so '{}.{}' cannot be set", s.names[0], s.names[0], s.name);
    }
    host_.changed(*target);
    target->Put(Text(s.name), std::move(value));
  }

  Flow RunFor(const Statement& s) {
    List all = AtLine(s.line, [&] { return Iterate(Evaluate(*s.expression)); });
    if (s.condition != nullptr) {
      List chosen;
      for (Value& element : all) {
        scopes_.emplace_back();
        AtLine(s.line, [&] { Assign(s.names, element); });
        if (Evaluate(*s.condition).Truth()) chosen.push_back(std::move(element));
        scopes_.pop_back();
      }
      all = std::move(chosen);
    }
    if (all.empty()) return RunBlock(s.otherwise);
    const auto count = static_cast<int64_t>(all.size());
    Value loop = Value::MakeDict();
    for (int64_t i = 0; i < count; ++i) {
      Step();
      const auto at = static_cast<size_t>(i);
      loop.Put("index", i + 1);
      loop.Put("index0", i);
      loop.Put("revindex", count - i);
      loop.Put("revindex0", count - i - 1);
      loop.Put("first", i == 0);
      loop.Put("last", i + 1 == count);
      loop.Put("length", count);
      loop.Put("previtem", i > 0 ? all[at - 1] : Value(Value::Undefined{"loop.previtem"}));
      loop.Put("nextitem", i + 1 < count ? all[at + 1] : Value(Value::Undefined{"loop.nextitem"}));
      loop.Put("cycle", Callable([i](const Arguments& a) -> Value {
                 if (a.positional.empty()) Fail(ErrorKind::kFormat, "loop.cycle() takes values");
                 return a.positional[static_cast<size_t>(i) % a.positional.size()];
               }));
      scopes_.emplace_back();
      AtLine(s.line, [&] { Assign(s.names, all[at]); });
      scopes_.back()["loop"] = loop;
      const Flow flow = RunBlock(s.body);
      scopes_.pop_back();
      if (flow == Flow::kBreak) break;
    }
    return Flow::kOn;
  }

  Value MakeMacro(const Statement& s) {
    return Callable([this, &s](const Arguments& given) -> Value {
      if (++calls_ > kMaxCalls) Fail(ErrorKind::kFormat, "macros call each other deeper than {}", kMaxCalls);
      if (given.positional.size() > s.names.size()) {
        Fail(ErrorKind::kFormat, "the macro '{}' takes {} arguments, found {}", s.name, s.names.size(),
             given.positional.size());
      }
      // A macro sees what the template set at its top, and not the scopes of its caller.
      std::vector<Scope> outer(std::make_move_iterator(scopes_.begin() + 2), std::make_move_iterator(scopes_.end()));
      scopes_.resize(2);
      Scope arguments;
      const size_t without = s.names.size() - s.defaults.size();
      for (size_t i = 0; i < s.names.size(); ++i) {
        const auto named = std::find_if(given.named.begin(), given.named.end(),
                                        [&](const auto& item) { return item.first == s.names[i]; });
        if (i < given.positional.size()) {
          arguments[s.names[i]] = given.positional[i];
        } else if (named != given.named.end()) {
          arguments[s.names[i]] = named->second;
        } else if (i >= without) {
          arguments[s.names[i]] = Evaluate(*s.defaults[i - without]);
        } else {
          arguments[s.names[i]] = Value::Undefined{s.names[i]};
        }
      }
      for (const auto& [name, value] : given.named) {
        if (std::find(s.names.begin(), s.names.end(), name) == s.names.end()) {
          Fail(ErrorKind::kFormat, "the macro '{}' has no parameter '{}'", s.name, name);
        }
      }
      scopes_.push_back(std::move(arguments));
      Text caller_out = std::exchange(out_, {});
      RunBlock(s.body);
      Text made = std::exchange(out_, std::move(caller_out));
      scopes_.resize(2);
      scopes_.insert(scopes_.end(), std::make_move_iterator(outer.begin()), std::make_move_iterator(outer.end()));
      --calls_;
      return made;
    });
  }

  // Expressions.

  /// Errors that leave `body` name the line, once.
  template <class Body>
  auto AtLine(int line, Body&& body) -> decltype(body()) {
    try {
      return body();
    } catch (Error& error) {
      if (error.kind() != ErrorKind::kUsage && !named_line_) {
        named_line_ = true;
        error.AddFrame(fmt::format("line {}", line));
      }
      throw;
    }
  }

  Value Evaluate(const Expression& e) {
    Step();
    return AtLine(e.line, [&] { return EvaluateAt(e); });
  }
  Value Part(const Expression& e, size_t i) { return Evaluate(*e.parts[i]); }

  Value EvaluateAt(const Expression& e) {
    switch (e.op) {
      case Op::kLiteral:
        return e.value;
      case Op::kName: {
        const Value* value = Lookup(e.name);
        return value != nullptr ? *value : Value(Value::Undefined{e.name});
      }
      case Op::kList:
      case Op::kTuple: {
        List list;
        for (size_t i = 0; i < e.parts.size(); ++i) list.push_back(Part(e, i));
        return Value::MakeList(std::move(list), e.op == Op::kTuple);
      }
      case Op::kDict: {
        Value dict = Value::MakeDict();
        for (size_t i = 0; i < e.parts.size(); i += 2) dict.Put(ToText(Part(e, i)), Part(e, i + 1));
        return dict;
      }
      case Op::kNot:
        return !Part(e, 0).Truth();
      case Op::kAnd: {
        Value left = Part(e, 0);
        return left.Truth() ? Part(e, 1) : left;
      }
      case Op::kOr: {
        Value left = Part(e, 0);
        return left.Truth() ? left : Part(e, 1);
      }
      case Op::kCompare:
        return Compare(e);
      case Op::kConcat: {
        Text all;
        for (size_t i = 0; i < e.parts.size(); ++i) {
          const Text part = ToText(Part(e, i));
          Charge(part.size());
          all.Append(part);
        }
        return all;
      }
      case Op::kChoose:
        if (Part(e, 1).Truth()) return Part(e, 0);
        return e.parts[2] != nullptr ? Part(e, 2) : Value(Value::Undefined{"the other branch of an inline if"});
      case Op::kAttribute:
        return Attribute(Part(e, 0), e.name);
      case Op::kIndex:
        return Index(Part(e, 0), Part(e, 1));
      case Op::kSlice:
        return EvaluateSlice(e);
      case Op::kCall:
        return Call(Part(e, 0), e);
      case Op::kFilter: {
        const Value value = Part(e, 0);
        return ApplyFilter(e.name, value, EvaluateArguments(e.arguments), host_);
      }
      case Op::kTest: {
        const Value value = Part(e, 0);
        return ApplyTest(e.name, value, EvaluateArguments(e.arguments));
      }
      case Op::kNegative:
      case Op::kPositive:
        return Signed(Part(e, 0), e.op == Op::kNegative);
      default: {
        const Value left = Part(e, 0);
        return Arithmetic(e.op, left, Part(e, 1));
      }
    }
  }

  Value Compare(const Expression& e) {
    Value left = Part(e, 0);
    for (size_t i = 0; i < e.names.size(); ++i) {
      Value right = Part(e, i + 1);
      const std::string& op = e.names[i];
      const bool holds = op == "=="   ? Equal(left, right)
                         : op == "!=" ? !Equal(left, right)
                         : op == "<"  ? Less(left, right)
                         : op == ">"  ? Less(right, left)
                         : op == "<=" ? !Less(right, left)
                         : op == ">=" ? !Less(left, right)
                         : op == "in" ? Contains(right, left)
                                      : !Contains(right, left);
      if (!holds) return false;
      left = std::move(right);
    }
    return true;
  }

  Value Signed(const Value& value, bool negative) {
    if (!value.IsNumber()) Fail(ErrorKind::kFormat, "{} has no sign", value.TypeName());
    if (value.IsFloat()) return negative ? -value.Number() : value.Number();
    int64_t result = value.Int();
    if (negative && __builtin_sub_overflow(int64_t{0}, result, &result)) Overflow();
    return result;
  }

  [[noreturn]] static void Overflow() { Fail(ErrorKind::kFormat, "an integer leaves 64 bits"); }

  static void RefuseUndefined(const Value& value) {
    if (value.IsUndefined()) Fail(ErrorKind::kFormat, "'{}' is undefined", value.undefined_name());
  }

  Value Arithmetic(Op op, const Value& a, const Value& b) {
    RefuseUndefined(a);
    RefuseUndefined(b);
    if (op == Op::kAdd && a.IsText() && b.IsText()) {
      Charge(a.text().size() + b.text().size());
      Text sum = a.text();
      sum.Append(b.text());
      return sum;
    }
    if (op == Op::kAdd && a.IsList() && b.IsList()) {
      Charge((a.list().size() + b.list().size()) * sizeof(Value));
      List sum = a.list();
      sum.insert(sum.end(), b.list().begin(), b.list().end());
      return Value::MakeList(std::move(sum), a.IsTuple());
    }
    if (op == Op::kMultiply && ((a.IsText() && b.IsWhole()) || (a.IsWhole() && b.IsText()))) {
      const Text& unit = a.IsText() ? a.text() : b.text();
      const int64_t times = std::max<int64_t>(0, a.IsText() ? b.Int() : a.Int());
      if (times > static_cast<int64_t>(limits_.bytes)) Charge(limits_.bytes + 1);
      Charge(unit.size() * static_cast<size_t>(times));
      Text all;
      for (int64_t i = 0; i < times && !unit.empty(); ++i) all.Append(unit);
      return all;
    }
    if (!a.IsNumber() || !b.IsNumber()) {
      Fail(ErrorKind::kFormat, "{} and {} cannot be reckoned with", a.TypeName(), b.TypeName());
    }
    const bool whole = a.IsWhole() && b.IsWhole();
    if (op == Op::kPower) return Power(a, b, whole);
    if (op == Op::kDivide || op == Op::kFloor || op == Op::kModulo) {
      if (b.Number() == 0) Fail(ErrorKind::kFormat, "a division by zero");
      if (op == Op::kDivide) return a.Number() / b.Number();
      if (!whole) {
        const double q = std::floor(a.Number() / b.Number());
        return op == Op::kFloor ? q : a.Number() - q * b.Number();
      }
      if (b.Int() == -1) return op == Op::kFloor ? Signed(a, true) : Value(int64_t{0});
      const int64_t q = FloorDivide(a.Int(), b.Int());
      return op == Op::kFloor ? q : a.Int() - q * b.Int();
    }
    if (!whole) {
      return op == Op::kAdd        ? a.Number() + b.Number()
             : op == Op::kSubtract ? a.Number() - b.Number()
                                   : a.Number() * b.Number();
    }
    int64_t result = 0;
    const bool over = op == Op::kAdd        ? __builtin_add_overflow(a.Int(), b.Int(), &result)
                      : op == Op::kSubtract ? __builtin_sub_overflow(a.Int(), b.Int(), &result)
                                            : __builtin_mul_overflow(a.Int(), b.Int(), &result);
    if (over) Overflow();
    return result;
  }

  Value Power(const Value& a, const Value& b, bool whole) {
    if (!whole || b.Int() < 0) return std::pow(a.Number(), b.Number());
    int64_t result = 1;
    if (b.Int() > 64 && (a.Int() > 1 || a.Int() < -1)) Overflow();
    const int64_t times = b.Int() > 64 ? b.Int() % 2 + 2 : b.Int();  // 0, 1 and -1
    for (int64_t i = 0; i < times; ++i) {
      if (__builtin_mul_overflow(result, a.Int(), &result)) Overflow();
    }
    return result;
  }

  Value Attribute(const Value& value, const std::string& name) {
    RefuseUndefined(value);
    if (value.IsDict() && value.table().is_namespace) {
      const Value* found = value.Find(name);
      return found != nullptr ? *found : Value(Value::Undefined{name});
    }
    if (auto method = FindMethod(value, name, host_)) return *method;
    if (value.IsDict()) {
      if (const Value* found = value.Find(name)) return *found;
    }
    return Value::Undefined{name};
  }

  Value Index(const Value& value, const Value& index) {
    RefuseUndefined(value);
    if (value.IsDict()) {
      if (!index.IsText() && !index.IsNumber()) return Value::Undefined{ToText(index).bytes()};
      const std::string key = ToText(index).bytes();
      if (const Value* found = value.Find(key)) return *found;
      if (auto method = FindMethod(value, key, host_)) return *method;
      return Value::Undefined{key};
    }
    if ((value.IsList() || value.IsText()) && index.IsWhole()) {
      const int64_t length = Length(value), at = index.Int() < 0 ? index.Int() + length : index.Int();
      if (at < 0 || at >= length) return Value::Undefined{fmt::format("element {}", index.Int())};
      if (value.IsList()) return value.list()[static_cast<size_t>(at)];
      return Slice(value, at, at + 1, 1);
    }
    if (index.IsText()) return Attribute(value, index.text().bytes());
    return Value::Undefined{"an element of " + std::string(value.TypeName())};
  }

  Value EvaluateSlice(const Expression& e) {
    const Value value = Part(e, 0);
    RefuseUndefined(value);
    std::optional<int64_t> bounds[3];
    for (size_t i = 0; i < 3; ++i) {
      if (e.parts[i + 1] == nullptr) continue;
      const Value bound = Part(e, i + 1);
      if (bound.IsNone()) continue;
      if (!bound.IsWhole())
        Fail(ErrorKind::kFormat, "a bound of a slice must be an integer, found {}", bound.TypeName());
      bounds[i] = bound.Int();
    }
    Charge(value.IsText() ? value.text().size() : 0);
    return Slice(value, bounds[0], bounds[1], bounds[2].value_or(1));
  }

  Arguments EvaluateArguments(const CallArguments& from) {
    Arguments arguments;
    for (const ExpressionPtr& e : from.positional) arguments.positional.push_back(Evaluate(*e));
    for (const auto& [name, e] : from.named) arguments.named.emplace_back(name, Evaluate(*e));
    return arguments;
  }

  Value Call(const Value& callee, const Expression& e) {
    if (callee.IsUndefined())
      Fail(ErrorKind::kFormat, "'{}' is undefined and cannot be called", callee.undefined_name());
    if (!callee.IsCallable()) Fail(ErrorKind::kFormat, "{} cannot be called", callee.TypeName());
    const Callable call = callee.call();
    return call(EvaluateArguments(e.arguments));
  }

  RenderLimits limits_;
  Host host_;
  std::vector<Scope> scopes_;
  List changed_;  // by the template
  Text out_;
  int64_t steps_ = 0;
  size_t made_ = 0;
  int calls_ = 0;
  bool named_line_ = false;
};

}  // namespace

struct Template::Tree {
  Block block;
};

Template::Template(std::string_view source) : tree_(std::make_unique<Tree>(Tree{Parse(source)})) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

Text Template::Render(const Value& globals, const RenderLimits& limits) const {
  HAWSER_CHECK(globals.IsDict());
  return Renderer(globals, limits).Run(tree_->block);
}

}  // namespace hawser::jinja
