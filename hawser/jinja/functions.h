// jinja/functions.h - filters, tests and methods. For this room alone.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "hawser/jinja/value.h"

namespace hawser::jinja {

/// What functions need of the one who renders: work and memory are counted there.
struct Host {
  std::function<void(size_t bytes)> charge;             // before text or lists of that size are made
  std::function<void(const Value& container)> changed;  // what was there before holds a new value: perhaps itself
};

/// value | name(arguments). Errors: kUnsupported for a filter that is not known; kFormat.
Value ApplyFilter(const std::string& name, const Value& value, const Arguments& arguments, const Host& host);

/// value is name(arguments).
bool ApplyTest(const std::string& name, const Value& value, const Arguments& arguments);

/// value.name as a method bound to the value; nothing where it has no such method.
std::optional<Value> FindMethod(const Value& value, const std::string& name, const Host& host);

/// Elements of a list, keys of a dict, characters of a text. Errors: kFormat for anything else.
List Iterate(const Value& value);

/// Pairs of key and value of a dict, by key without regard to case where `sorted`. Errors: kFormat for anything else.
Value Items(const Value& value, bool sorted);

/// a in b.
bool Contains(const Value& b, const Value& a);

/// Number of elements or characters. Errors: kFormat.
int64_t Length(const Value& value);

/// value[begin:end:step] as in Python; nothing: from and to the ends.
Value Slice(const Value& value, std::optional<int64_t> begin, std::optional<int64_t> end, int64_t step);

}  // namespace hawser::jinja
