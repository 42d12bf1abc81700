// base/form.h - the text form of a value, from one list of its fields: what is read, printed, listed and refused.
//
//   text    NAME | NAME:item,item,...    item  key=value | value (of the first positional field without one)    list
//   a+b+c
//           items are separated by a comma, blanks, or both
//
// A value lists its fields once, for every use:
//
//   struct Yarn {
//     static constexpr std::string_view kName = "yarn", kHelp = "NTK by parts";
//     double factor = 1;
//     template <class Visitor> void Fields(Visitor&& v) { v(factor, {"factor", "new context over the old", 1, 1e9}); }
//   };
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"

namespace hawser {

struct FieldDoc {
  std::string_view key, help = {};
  double least = -std::numeric_limits<double>::max(), most = std::numeric_limits<double>::max();
  bool positional = false;  // may stand without its key, in the order of the list
  bool required = false;
  std::string_view no = "off", yes = "on";  // what a bool is called
};

/// The names of an enum's values, in their order: `template <> struct EnumNames<E> { static constexpr std::array
/// kNames = {...}; };` of std::string_view.
template <class E>
struct EnumNames;

namespace form {

/// One item as a value of a field. Errors: kUsage "WHAT 'TEXT': key='item' ...".
class Item {
 public:
  Item(std::string_view what, std::string_view text, const FieldDoc& doc, std::string_view item)
      : what_(what), text_(text), doc_(doc), item_(item) {}

  void Read(double* value) const;
  void Read(int64_t* value) const;  // a size (size.h)
  void Read(int32_t* value) const;
  void Read(bool* value) const;
  void Read(std::string* value) const;
  void Read(float* value) const {
    double wide = 0;
    Read(&wide);
    *value = static_cast<float>(wide);
  }
  template <class T>
  void Read(std::optional<T>* value) const {
    value->emplace();
    Read(&**value);
  }
  template <class T>
  void Read(std::vector<T>* values) const {
    values->clear();
    for (const std::string_view part : SplitAt(item_, '+')) {
      Item(what_, text_, doc_, part).Read(&values->emplace_back());
    }
  }
  template <class E>
  requires std::is_enum_v<E>
  void Read(E* value) const { *value = static_cast<E>(Choose(EnumNames<E>::kNames)); }

 private:
  [[noreturn]] void Refuse(std::string_view wanted) const;
  /// The place of the item among the names.
  size_t Choose(std::span<const std::string_view> names) const;
  int64_t Whole(int64_t least, int64_t most) const;

  std::string_view what_, text_;
  const FieldDoc& doc_;
  std::string_view item_;
};

std::string Print(double value, const FieldDoc& doc);
std::string Print(float value, const FieldDoc& doc);
std::string Print(bool value, const FieldDoc& doc);
inline std::string Print(int64_t value, const FieldDoc&) { return fmt::format("{}", value); }
inline std::string Print(int32_t value, const FieldDoc&) { return fmt::format("{}", value); }
inline std::string Print(const std::string& value, const FieldDoc&) { return value; }
template <class E>
requires std::is_enum_v<E> std::string Print(E value, const FieldDoc&) {
  return std::string(EnumNames<E>::kNames[static_cast<size_t>(value)]);
}
template <class T>
std::string Print(const std::optional<T>& value, const FieldDoc& doc) {
  return value ? Print(*value, doc) : "";
}
template <class T>
std::string Print(const std::vector<T>& values, const FieldDoc& doc) {
  std::string text;
  for (const auto& value : values) text.append(text.empty() ? "" : "+").append(Print(value, doc));
  return text;
}

/// The values that an item may have, for help: "on|off", "A+B+...", a number's is empty.
template <class T>
std::string Values(const FieldDoc& doc) {
  if constexpr (std::is_enum_v<T>) {
    return fmt::format("{}", fmt::join(EnumNames<T>::kNames, "|"));
  } else if constexpr (std::is_same_v<T, bool>) {
    return fmt::format("{}|{}", doc.no, doc.yes);
  } else {
    return "";
  }
}

}  // namespace form

/// The parts of one text, taken field by field. `what` names the kind of value in errors ("rope"). Both outlive it.
class FormReader {
 public:
  FormReader(std::string_view what, std::string_view text);
  /// The parts of a text that has no name.
  FormReader(std::string_view what, std::string_view text, std::vector<std::string_view> parts)
      : what_(what), text_(text), parts_(std::move(parts)) {}

  std::string_view name() const { return name_; }

  /// Takes the field's item where it is given, else leaves `value`. Errors: kUsage: given twice, missing, no such
  /// value.
  template <class T>
  void operator()(T& value, const FieldDoc& doc) {
    keys_.push_back(doc.key);
    const std::optional<std::string_view> item = Take(doc);
    if (item) form::Item(what_, text_, doc, *item).Read(&value);
  }

  /// Whether a field that was visited was given.
  bool Given(std::string_view key) const;
  /// Errors: kUsage for items that no field took, with the nearest key.
  void Finish() const;

 private:
  std::optional<std::string_view> Take(const FieldDoc& doc);

  std::string_view what_, text_, name_;
  std::vector<std::string_view> parts_;  // not yet taken
  std::vector<std::string_view> keys_, given_;
};

/// Field by field what is printed, key and text.
class FormPrinter {
 public:
  template <class T>
  void operator()(const T& value, const FieldDoc& doc) {
    items_.emplace_back(doc, form::Print(value, doc));
  }
  const std::vector<std::pair<FieldDoc, std::string>>& items() const { return items_; }

 private:
  std::vector<std::pair<FieldDoc, std::string>> items_;
};

/// Field by field a line of help.
class FormLister {
 public:
  template <class T>
  void operator()(const T& value, const FieldDoc& doc) {
    Add(doc, form::Values<T>(doc), form::Print(value, doc));
  }
  const std::string& text() const { return text_; }
  const std::vector<std::string_view>& keys() const { return keys_; }

 private:
  void Add(const FieldDoc& doc, const std::string& values, const std::string& standard);

  std::string text_;
  std::vector<std::string_view> keys_;
};

namespace form {
template <class T>
struct IsVariant : std::false_type {};
template <class... T>
struct IsVariant<std::variant<T...>> : std::true_type {};

template <class Value, class Body>
void ForEachAlternative(Body&& body) {
  if constexpr (IsVariant<Value>::value) {
    [&]<size_t... I>(std::index_sequence<I...>) { (body(std::variant_alternative_t<I, Value>()), ...); }
    (std::make_index_sequence<std::variant_size_v<Value>>());
  } else {
    body(Value());
  }
}

/// "NAME:item,item": fields as they are in a default value are left out, but not required ones.
std::string Join(std::string_view name, const FormPrinter& value, const FormPrinter& standard);
/// The items key=value of such fields, for a text without a name.
std::vector<std::string> Items(const FormPrinter& value, const FormPrinter& standard);
[[noreturn]] void RefuseName(std::string_view what, std::string_view text, std::string_view name,
                             std::span<const std::string_view> known);
}  // namespace form

/// Value: a struct with kName, kHelp and Fields, or a std::variant of them. What the fields together must be is checked
/// by the caller. Errors: kUsage "WHAT 'TEXT': ...", with the nearest known name.
template <class Value>
Value ParseForm(std::string_view what, std::string_view text) {
  FormReader reader(what, text);
  std::optional<Value> found;
  std::vector<std::string_view> names;
  form::ForEachAlternative<Value>([&](auto value) {
    names.push_back(value.kName);
    if (value.kName != reader.name()) return;
    value.Fields(reader);
    reader.Finish();
    found = std::move(value);
  });
  if (!found) form::RefuseName(what, text, reader.name(), names);
  return *std::move(found);
}

/// ParseForm gives the same value back.
template <class Value>
std::string PrintForm(const Value& value) {
  if constexpr (form::IsVariant<Value>::value) {
    return std::visit([](const auto& alternative) { return PrintForm(alternative); }, value);
  } else {
    FormPrinter given, standard;
    Value copy = value, other;
    copy.Fields(given);
    other.Fields(standard);
    return form::Join(Value::kName, given, standard);
  }
}

/// For --help: a line for each name, and one for each of its fields.
template <class Value>
std::string FormHelp() {
  std::string text;
  form::ForEachAlternative<Value>([&](auto value) {
    FormLister lister;
    value.Fields(lister);
    text += fmt::format("  {:<12} {}\n{}", value.kName, value.kHelp, lister.text());
  });
  return text;
}

}  // namespace hawser
