// jinja/value.h - the values of a template: those of Python that templates can make, with text that knows where it came
// from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace hawser::jinja {

/// UTF-8 text in which every byte is marked as given from outside (a message) or written in the template. Marks go
/// wherever their bytes go, so that the rendered text tells which parts of it a user wrote.
class Text {
 public:
  Text() = default;
  Text(std::string bytes, bool given = false)  // NOLINT: text is text
      : marks_(bytes.size(), given ? '\1' : '\0'), bytes_(std::move(bytes)) {}
  Text(const char* bytes) : Text(std::string(bytes)) {}  // NOLINT

  const std::string& bytes() const { return bytes_; }
  /// As long as bytes(): '\1' where a byte was given from outside, else '\0'.
  const std::string& marks() const { return marks_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

  void Append(const Text& other) {
    bytes_ += other.bytes_;
    marks_ += other.marks_;
  }
  void Append(std::string_view bytes, char mark) {
    bytes_ += bytes;
    marks_.append(bytes.size(), mark);
  }
  Text Part(size_t begin, size_t count = std::string::npos) const {
    Text part;
    part.bytes_ = bytes_.substr(begin, count);
    part.marks_ = marks_.substr(begin, count);
    return part;
  }
  char MarkAt(size_t at) const { return marks_[at]; }

 private:
  std::string marks_;
  std::string bytes_;
};

class Value;
using List = std::vector<Value>;
/// Keys in the order in which they were put.
using Dict = std::vector<std::pair<std::string, Value>>;

/// Arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  Dict named;
};
using Callable = std::function<Value(const Arguments&)>;

/// A value. Lists, dicts and callables are shared, as Python shares them; text and numbers are copied.
class Value {
 public:
  struct None {};
  struct Undefined {
    std::string name;
  };
  struct Table {
    explicit Table(bool is_namespace) : is_namespace(is_namespace) {}
    Table(const Table&) = delete;
    ~Table();

    Dict items;
    std::vector<Text> keys_as_given;  // as long as items: the keys with their marks
    bool is_namespace;
    bool marked = false;
  };
  struct Sequence {
    Sequence(List items, bool tuple) : items(std::move(items)), tuple(tuple) {}
    Sequence(const Sequence&) = delete;
    ~Sequence();

    List items;
    bool tuple;
    bool marked = false;
  };

  Value() : data_(Undefined{}) {}
  Value(None) : data_(None{}) {}                                                // NOLINT
  Value(Undefined value) : data_(std::move(value)) {}                           // NOLINT
  Value(bool value) : data_(value) {}                                           // NOLINT
  Value(int64_t value) : data_(value) {}                                        // NOLINT
  Value(double value) : data_(value) {}                                         // NOLINT
  Value(Text value) : data_(std::move(value)) {}                                // NOLINT
  Value(const char* value) : data_(Text(value)) {}                              // NOLINT
  Value(Callable call) : data_(std::make_shared<Callable>(std::move(call))) {}  // NOLINT
  static Value MakeList(List items, bool tuple = false) {
    return Value(std::make_shared<Sequence>(std::move(items), tuple));
  }
  static Value MakeDict(bool is_namespace = false) { return Value(std::make_shared<Table>(is_namespace)); }
  /// JSON from outside: all of its texts, keys too, are marked as given.
  static Value FromJson(const nlohmann::ordered_json& json, bool given);

  bool IsUndefined() const { return std::holds_alternative<Undefined>(data_); }
  bool IsNone() const { return std::holds_alternative<None>(data_); }
  bool IsBool() const { return std::holds_alternative<bool>(data_); }
  bool IsInt() const { return std::holds_alternative<int64_t>(data_); }
  bool IsFloat() const { return std::holds_alternative<double>(data_); }
  bool IsNumber() const { return IsInt() || IsFloat() || IsBool(); }
  bool IsText() const { return std::holds_alternative<Text>(data_); }
  bool IsList() const { return std::holds_alternative<std::shared_ptr<Sequence>>(data_); }
  bool IsDict() const { return std::holds_alternative<std::shared_ptr<Table>>(data_); }
  bool IsCallable() const { return std::holds_alternative<std::shared_ptr<Callable>>(data_); }

  const Text& text() const { return std::get<Text>(data_); }
  const std::string& undefined_name() const { return std::get<Undefined>(data_).name; }
  List& list() const { return std::get<std::shared_ptr<Sequence>>(data_)->items; }
  bool IsTuple() const { return IsList() && std::get<std::shared_ptr<Sequence>>(data_)->tuple; }
  Table& table() const { return *std::get<std::shared_ptr<Table>>(data_); }
  const Callable& call() const { return *std::get<std::shared_ptr<Callable>>(data_); }
  int64_t Int() const { return IsBool() ? std::get<bool>(data_) : std::get<int64_t>(data_); }
  double Number() const { return IsFloat() ? std::get<double>(data_) : static_cast<double>(Int()); }
  bool IsWhole() const { return IsInt() || IsBool(); }

  /// Of a dict; null where there is no such key.
  const Value* Find(std::string_view key) const;
  void Put(const Text& key, Value value) const;
  /// Drops what a list or dict holds.
  void Clear() const;
  /// Marks a list or dict; whether it was unmarked.
  bool Mark() const;

  bool Truth() const;
  const char* TypeName() const;

 private:
  explicit Value(std::shared_ptr<Sequence> list) : data_(std::move(list)) {}
  explicit Value(std::shared_ptr<Table> table) : data_(std::move(table)) {}

  std::variant<Undefined, None, bool, int64_t, double, Text, std::shared_ptr<Sequence>, std::shared_ptr<Table>,
               std::shared_ptr<Callable>>
      data_;
};

/// Python's ==. Lists and dicts by their elements.
bool Equal(const Value& a, const Value& b);
/// Python's <. Errors: kFormat for types that have no order.
bool Less(const Value& a, const Value& b);

/// Python's str() and repr().
Text ToText(const Value& value);
Text ToRepr(const Value& value);

struct JsonStyle {
  int indent = -1;  // -1: on one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
  bool ascii = false;
};
/// Python's json.dumps(). Errors: kFormat for what JSON cannot say.
Text ToJson(const Value& value, const JsonStyle& style = {});

/// Begins of the characters of a text, and its size: n + 1 numbers.
std::vector<size_t> CharacterStarts(std::string_view text);

}  // namespace hawser::jinja
