// jinja/arguments.h - arguments of filters, tests and methods. For this room alone.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/jinja/value.h"

namespace hawser::jinja {

/// The argument at `place` or of that name; null where it is not given.
inline const Value* Argument(const Arguments& arguments, size_t place, std::string_view name) {
  if (place < arguments.positional.size()) return &arguments.positional[place];
  for (const auto& [given, value] : arguments.named) {
    if (given == name) return &value;
  }
  return nullptr;
}

inline int64_t IntArgument(const Arguments& arguments, size_t place, std::string_view name, int64_t fallback) {
  const Value* value = Argument(arguments, place, name);
  if (value == nullptr || value->IsNone()) return fallback;
  if (!value->IsWhole()) Fail(ErrorKind::kFormat, "'{}' must be an integer, found {}", name, value->TypeName());
  return value->Int();
}

inline bool FlagArgument(const Arguments& arguments, size_t place, std::string_view name, bool fallback) {
  const Value* value = Argument(arguments, place, name);
  return value == nullptr ? fallback : value->Truth();
}

inline std::optional<Text> TextArgument(const Arguments& arguments, size_t place, std::string_view name) {
  const Value* value = Argument(arguments, place, name);
  if (value == nullptr || value->IsNone()) return std::nullopt;
  if (!value->IsText()) Fail(ErrorKind::kFormat, "'{}' must be text, found {}", name, value->TypeName());
  return value->text();
}

inline std::optional<std::string> BytesArgument(const Arguments& arguments, size_t place, std::string_view name) {
  const auto text = TextArgument(arguments, place, name);
  return text ? std::optional(text->bytes()) : std::nullopt;
}

inline Text NeedText(const Arguments& arguments, size_t place, std::string_view name) {
  auto text = TextArgument(arguments, place, name);
  if (!text) Fail(ErrorKind::kFormat, "an argument '{}' is wanted", name);
  return *text;
}

/// value.a.b for "a.b"; undefined where it is not there.
inline Value Member(const Value& value, std::string_view path) {
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

/// Errors: kUnsupported for a name that none of `rows` has.
template <class Rows>
[[noreturn]] void Unknown(std::string_view kind, const std::string& name, const Rows& rows) {
  std::string known;
  for (const auto& row : rows) known += (known.empty() ? "" : ", ") + std::string(row.name);
  Fail(ErrorKind::kUnsupported, "the {} '{}' is not supported; known are {}", kind, name, known);
}

}  // namespace hawser::jinja
