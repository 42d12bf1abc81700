#include "hawser/infer/json_schema.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "hawser/base/error.h"
#include "hawser/infer/json_parts.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;
using Item = GrammarBuilder::Item;
using Sequence = GrammarBuilder::Sequence;
using Choices = GrammarBuilder::Choices;

/// What says nothing about what is valid.
const std::set<std::string, std::less<>> kNotes = {"title", "description", "default",      "examples", "$schema",
                                                   "$id",   "$comment",    "deprecated",   "readOnly", "writeOnly",
                                                   "$defs", "definitions", "discriminator"};
/// What says something of values of a type alone.
const std::map<std::string, std::vector<std::string>, std::less<>> kOfType = {
    {"object", {"properties", "required", "additionalProperties"}},
    {"array", {"items", "prefixItems", "minItems", "maxItems"}},
    {"string", {"minLength", "maxLength", "pattern", "format"}},
    {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}}};
const std::vector<std::string> kTypes = {"object", "array", "string", "number", "integer", "boolean", "null"};

const std::map<std::string, std::string, std::less<>>& Formats() {
  static const std::map<std::string, std::string, std::less<>> formats = [] {
    const std::string date =
        "[12][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
        "02-(?:0[1-9]|1[0-9]|2[0-8]))";
    const std::string time =
        "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
    const std::string label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
    const std::string host = label + "(?:\\." + label + "){0,3}";
    const std::string byte = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    const std::string hex = "[0-9a-fA-F]";
    const std::string clock =
        "T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S)";
    const std::string days = "(?:[0-9]{1,4}Y(?:[0-9]{1,4}M(?:[0-9]{1,4}D)?)?|[0-9]{1,4}M(?:[0-9]{1,4}D)?|[0-9]{1,4}D)";
    std::map<std::string, std::string, std::less<>> all = {
        {"date", date},
        {"time", time},
        {"date-time", date + "T" + time},
        {"duration", "P(?:" + days + "(?:" + clock + ")?|" + clock + "|[0-9]{1,4}W)"},
        {"email", "[A-Za-z0-9_+-]{1,16}(?:\\.[A-Za-z0-9_+-]{1,16}){0,3}@" + host},
        {"hostname", host},
        {"ipv4", byte + "(?:\\." + byte + "){3}"},
        {"ipv6", hex + "{1,4}(?::" + hex + "{1,4}){7}"},
        {"uuid", hex + "{8}-" + hex + "{4}-" + hex + "{4}-" + hex + "{4}-" + hex + "{12}"}};
    for (auto& [name, pattern] : all) pattern = "^(?:" + pattern + ")$";
    return all;
  }();
  return formats;
}

class SchemaReader {
 public:
  explicit SchemaReader(const Json& schema) : schema_(schema), parts_(&b_) {}

  Grammar Read() {
    const Item root = Reference("#", "#");
    while (!open_.empty()) {  // one by one, so that chains of references take no room on the stack
      const std::string pointer = std::move(open_.front());
      open_.pop_front();
      const Item value = Value(*Find(pointer, "#"), pointer);
      b_.Define("ref " + pointer, {{value}});
    }
    return b_.Build(root, "no value is valid under the schema: what it wants contradicts itself, or needs itself");
  }

 private:
  [[noreturn]] static void Unknown(const std::string& place, const std::string& what) {
    Fail(ErrorKind::kUnsupported, "the schema at {}: {} is not supported", place, what);
  }
  [[noreturn]] static void Wrong(const std::string& place, const std::string& what, const Json& found) {
    Fail(ErrorKind::kFormat, "the schema at {}: {}, found {}", place, what, ShownJson(nlohmann::json(found)));
  }
  static std::string Quoted(std::string_view text) { return fmt::format("\"{}\"", text); }

  const Json* Find(const std::string& pointer, const std::string& place) const {
    const Json* at = &schema_;
    for (size_t begin = 1; begin < pointer.size();) {
      const size_t end = std::min(pointer.find('/', begin + 1), pointer.size());
      std::string key;
      for (size_t i = begin + 1; i < end; ++i) {
        const bool escape = pointer[i] == '~' && i + 1 < end;
        key += !escape ? pointer[i] : pointer[++i] == '0' ? '~' : '/';
      }
      const bool number = !key.empty() && key.size() < 8 &&
                          std::ranges::all_of(key, [](unsigned char c) { return std::isdigit(c) != 0; });
      if (at->is_object() && at->contains(key)) {
        at = &(*at)[key];
      } else if (at->is_array() && number && std::stoul(key) < at->size()) {
        at = &(*at)[std::stoul(key)];
      } else {
        Fail(ErrorKind::kFormat, "the schema at {}: \"$ref\" \"{}\" leads nowhere", place, pointer);
      }
      begin = end;
    }
    return at;
  }
  Item Reference(const std::string& pointer, const std::string& place) {
    if (!pointer.starts_with('#') || (pointer.size() > 1 && pointer[1] != '/')) {
      Unknown(place, fmt::format("\"$ref\" \"{}\", which does not lead from # into this schema,", pointer));
    }
    if (known_.insert(pointer).second) {
      Find(pointer, place);
      open_.push_back(pointer);
    }
    return b_.Rule("ref " + pointer);
  }

  Item Value(const Json& schema, const std::string& place) {
    if (schema.is_boolean() && schema.get<bool>()) return parts_.Value();
    if (!schema.is_object()) Wrong(place, "a schema is an object or true", schema);
    std::vector<std::string> said;  // what is neither a note nor of values of a type
    for (const auto& [key, value] : schema.items()) {
      const bool of_type = std::ranges::any_of(
          kOfType, [&key = key](const auto& row) { return std::ranges::find(row.second, key) != row.second.end(); });
      if (kNotes.contains(key) || key.starts_with("x-") || of_type || key == "type") continue;
      const bool known =
          key == "$ref" || key == "anyOf" || key == "oneOf" || key == "allOf" || key == "enum" || key == "const";
      if (!known) Unknown(place, Quoted(key));
      said.push_back(key);
    }
    const auto alone = [&](const std::string& key) {
      for (const auto& [other, value] : schema.items()) {
        if (other == key || kNotes.contains(other) || other.starts_with("x-")) continue;
        Unknown(place, fmt::format("\"{}\" beside \"{}\"", other, key));
      }
    };
    if (schema.contains("$ref")) {
      alone("$ref");
      if (!schema["$ref"].is_string()) Wrong(place, "\"$ref\" is text", schema["$ref"]);
      return Reference(schema["$ref"].get<std::string>(), place);
    }
    if (schema.contains("allOf")) {
      alone("allOf");
      if (!schema["allOf"].is_array() || schema["allOf"].size() != 1) {
        Unknown(place, "\"allOf\" of other than one schema (one schema can say what they say together)");
      }
      return Value(schema["allOf"][0], place + "/allOf/0");
    }
    for (const char* key : {"anyOf", "oneOf"}) {
      if (!schema.contains(key)) continue;
      alone(key);
      const Json& any = schema[key];
      if (!any.is_array() || any.empty()) Wrong(place, fmt::format("\"{}\" is a list of schemas", key), any);
      if (std::string_view(key) == "oneOf") CheckDisjoint(any, place);
      Choices choices;
      for (size_t i = 0; i < any.size(); ++i)
        choices.push_back({Value(any[i], fmt::format("{}/{}/{}", place, key, i))});
      return b_.OneOf(std::move(choices));
    }
    const std::vector<std::string> types = Types(schema, place);
    if (!said.empty()) return Listed(schema, types, place);
    if (types.empty()) return parts_.Value();
    Choices choices;
    for (const std::string& type : types) choices.push_back({OfType(schema, type, place)});
    return b_.OneOf(std::move(choices));
  }

  /// What a schema refers to, or itself.
  const Json& Resolved(const Json& schema, const std::string& place) const {
    const Json* at = &schema;
    for (int steps = 0; at->is_object() && at->contains("$ref") && (*at)["$ref"].is_string(); ++steps) {
      const auto pointer = (*at)["$ref"].get<std::string>();
      if (steps > 64 || !pointer.starts_with('#')) break;
      at = Find(pointer, place);
    }
    return *at;
  }
  /// The values that a schema lists; null: it lists none.
  static Json ListOf(const Json& schema) {
    if (!schema.is_object()) return {};
    if (schema.contains("const")) return Json::array({schema["const"]});
    return schema.value("enum", Json());
  }
  static bool ListsDiffer(const Json& a, const Json& b) {
    const Json one = ListOf(a), other = ListOf(b);
    if (!one.is_array() || !other.is_array()) return false;
    return std::ranges::none_of(one, [&](const Json& v) { return std::ranges::find(other, v) != other.end(); });
  }
  /// Surely no value is valid under both: of other types, from lists of others, or with a required member of others.
  bool Disjoint(const Json& a, const Json& b, const std::string& place) const {
    if (!a.is_object() || !b.is_object()) return false;
    if (ListsDiffer(a, b)) return true;
    const auto wide = [](const std::string& type) { return type == "integer" ? std::string("number") : type; };
    const auto types = a.contains("type") && b.contains("type") ? Types(a, place) : std::vector<std::string>();
    const auto others = types.empty() ? types : Types(b, place);
    const auto shared = [&](const std::string& type) {
      return std::ranges::find(others, wide(type), wide) != others.end();
    };
    if (!types.empty() && std::ranges::none_of(types, shared)) return true;
    const Json is_object = "object";
    if (a.value("type", Json()) != is_object || b.value("type", Json()) != is_object) return false;
    const auto requires_it = [](const Json& schema, const std::string& name) {
      const Json required = schema.value("required", Json::array());
      return required.is_array() && std::ranges::find(required, Json(name)) != required.end();
    };
    const Json members = a.value("properties", Json::object()), more = b.value("properties", Json::object());
    if (!members.is_object() || !more.is_object()) return false;
    for (const auto& [name, schema] : members.items()) {
      if (!more.contains(name) || !requires_it(a, name) || !requires_it(b, name)) continue;
      if (ListsDiffer(Resolved(schema, place), Resolved(more[name], place))) return true;
    }
    return false;
  }
  void CheckDisjoint(const Json& choices, const std::string& place) const {
    for (size_t i = 0; i < choices.size(); ++i) {
      for (size_t k = 0; k < i; ++k) {
        if (Disjoint(Resolved(choices[k], place), Resolved(choices[i], place), place)) continue;
        Unknown(place,
                fmt::format("\"oneOf\", of which a value may fit both {} and {} (\"anyOf\" allows that),", k, i));
      }
    }
  }

  /// None: any.
  static std::vector<std::string> Types(const Json& schema, const std::string& place) {
    std::vector<std::string> types;
    if (schema.contains("type")) {
      const Json& given = schema["type"];
      const Json list = given.is_array() ? given : Json::array({given});
      for (const Json& type : list) {
        const bool known = type.is_string() && std::ranges::find(kTypes, type.get<std::string>()) != kTypes.end();
        if (!known) Wrong(place, fmt::format("\"type\" is of {}", fmt::join(kTypes, ", ")), type);
        types.push_back(type.get<std::string>());
      }
      if (types.empty()) Wrong(place, "\"type\" names no type", given);
      return types;
    }
    if (schema.contains("enum") || schema.contains("const")) return {};
    for (const auto& [type, keys] : kOfType) {
      if (std::ranges::any_of(keys, [&](const std::string& key) { return schema.contains(key); }))
        types.push_back(type);
    }
    return types;
  }

  /// Of `enum` and `const`.
  Item Listed(const Json& schema, const std::vector<std::string>& types, const std::string& place) {
    for (const auto& [key, value] : schema.items()) {
      if (key == "enum" || key == "const" || key == "type" || kNotes.contains(key) || key.starts_with("x-")) continue;
      Unknown(place, fmt::format("\"{}\" beside \"enum\" or \"const\"", key));
    }
    Json values = schema.contains("enum") ? schema["enum"] : Json::array({schema["const"]});
    if (!values.is_array() || values.empty()) Wrong(place, "\"enum\" is a list of values", values);
    Choices choices;
    for (const Json& value : values) {
      if (schema.contains("const") && value != schema["const"]) continue;
      const bool fits = types.empty() || std::ranges::any_of(types, [&](const auto& type) { return Is(value, type); });
      if (fits) choices.push_back(b_.Text(value.dump()));
    }
    if (choices.empty()) Wrong(place, "no value of \"enum\" is of the type", values);
    return b_.OneOf(std::move(choices));
  }
  static bool Is(const Json& value, const std::string& type) {
    if (type == "integer") {
      return value.is_number_integer() || (value.is_number() && std::floor(value.get<double>()) == value.get<double>());
    }
    return type == (value.is_number() ? "number" : std::string_view(value.type_name()));
  }

  Item OfType(const Json& schema, const std::string& type, const std::string& place) {
    if (type == "null") return b_.OneOf({b_.Text("null")});
    if (type == "boolean") return b_.OneOf({b_.Text("true"), b_.Text("false")});
    if (type == "string") return Text(schema, place);
    if (type == "array") return List(schema, place);
    if (type == "object") return Object(schema, place);
    return Number(schema, type == "integer", place);
  }

  static int64_t Count(const Json& schema, const char* key, int64_t fallback, const std::string& place) {
    if (!schema.contains(key)) return fallback;
    const Json& value = schema[key];
    const bool good = value.is_number() && value >= 0 && std::floor(value.get<double>()) == value.get<double>();
    if (!good) Wrong(place, fmt::format("\"{}\" is a count", key), value);
    return value > int64_t{1} << 40 ? int64_t{1} << 40 : static_cast<int64_t>(value.get<double>());
  }

  Item Text(const Json& schema, const std::string& place) {
    const int64_t least = Count(schema, "minLength", 0, place), most = Count(schema, "maxLength", -1, place);
    const bool counted = least > 0 || most >= 0, like = schema.contains("pattern"), form = schema.contains("format");
    if (counted + like + form > 1) Unknown(place, "more than one of \"pattern\", \"format\" and a length");
    for (const char* key : {"pattern", "format"}) {
      if (schema.contains(key) && !schema[key].is_string())
        Wrong(place, fmt::format("\"{}\" is text", key), schema[key]);
    }
    if (like)
      return WithFrame("the schema at " + place,
                       [&] { return parts_.StringLike(schema["pattern"].get<std::string>()); });
    if (form) {
      const auto found = Formats().find(schema["format"].get<std::string>());
      if (found == Formats().end())
        Unknown(place, fmt::format("\"format\" \"{}\"", schema["format"].get<std::string>()));
      return parts_.StringLike(found->second);
    }
    if (most >= 0 && most < least) Wrong(place, "\"maxLength\" is not below \"minLength\"", schema["maxLength"]);
    return counted ? parts_.StringOf(least, most) : parts_.String();
  }

  Item Number(const Json& schema, bool whole, const std::string& place) {
    NumberBounds bounds;
    if (whole) bounds.fraction = 0;
    const auto number = [&](const char* key) -> std::optional<double> {
      if (!schema.contains(key)) return std::nullopt;
      if (!schema[key].is_number()) Wrong(place, fmt::format("\"{}\" is a number", key), schema[key]);
      return schema[key].get<double>();
    };
    bounds.low = Tighter(number("minimum"), number("exclusiveMinimum"), 1);
    bounds.high = Tighter(number("maximum"), number("exclusiveMaximum"), -1);
    if (const auto step = number("multipleOf")) {
      const double tenths = -std::log10(*step);
      if (*step >= 1 && std::floor(*step) == *step && *step < 1e15) {
        bounds.fraction = 0;
        bounds.multiple_of = static_cast<int64_t>(*step);
      } else if (tenths > 0 && tenths < 16 && std::abs(tenths - std::round(tenths)) < 1e-9) {
        bounds.fraction = whole ? 0 : static_cast<int>(std::round(tenths));
      } else {
        Unknown(place, fmt::format("\"multipleOf\" {}, neither whole nor 0.1, 0.01, ...,", *step));
      }
    }
    return WithFrame("the schema at " + place, [&] { return parts_.Number(bounds); });
  }
  static std::optional<NumberBounds::Bound> Tighter(std::optional<double> closed, std::optional<double> open,
                                                    int sign) {
    if (!closed && !open) return std::nullopt;
    const bool is_open = open && (!closed || *open * sign >= *closed * sign);
    return NumberBounds::Bound{.value = is_open ? *open : *closed, .open = is_open};
  }

  Item List(const Json& schema, const std::string& place) {
    const int64_t least = Count(schema, "minItems", 0, place), most = Count(schema, "maxItems", -1, place);
    if (most >= 0 && most < least) Wrong(place, "\"maxItems\" is not below \"minItems\"", schema["maxItems"]);
    const Item blank = parts_.Blank();
    std::vector<Item> first;
    if (schema.contains("prefixItems")) {
      const Json& given = schema["prefixItems"];
      if (!given.is_array()) Wrong(place, "\"prefixItems\" is a list of schemas", given);
      for (size_t i = 0; i < given.size(); ++i) {
        first.push_back(Value(given[i], fmt::format("{}/prefixItems/{}", place, i)));
      }
    }
    const Json items = schema.value("items", Json(true));
    std::optional<Item> more;
    if (items != Json(false)) more = Value(items, place + "/items");
    if (first.empty() && more && most != 0) first.push_back(*more);
    if (most >= 0 && static_cast<int64_t>(first.size()) > most) first.resize(static_cast<size_t>(most));
    const auto behind = static_cast<int64_t>(first.size());
    if (!more && least > behind) Wrong(place, "\"minItems\" is not more than there can be", schema["minItems"]);
    const auto comma = [&](Item item) {
      Sequence sequence = b_.Text(",");
      sequence.push_back(blank);
      sequence.push_back(item);
      return sequence;
    };
    Sequence rest;
    if (more && (most < 0 || most > behind)) {
      rest = b_.Repeat(b_.OneOf({comma(*more)}), std::max<int64_t>(0, least - behind), most < 0 ? -1 : most - behind);
    }
    for (int64_t i = behind; i-- > 0;) {
      const Item item = first[static_cast<size_t>(i)];
      Sequence from = i > 0 ? comma(item) : Sequence{item};
      from.insert(from.end(), rest.begin(), rest.end());
      rest = i >= least ? Sequence{b_.OneOf({std::move(from), {}})} : Sequence{b_.OneOf({std::move(from)})};
    }
    return Closed("[", rest, "]");
  }
  Item Closed(std::string_view open, const Sequence& inside, std::string_view close) {
    Sequence all = b_.Text(open);
    all.push_back(parts_.Blank());
    all.insert(all.end(), inside.begin(), inside.end());
    all.push_back(parts_.Blank());
    all.push_back(b_.Text(close)[0]);
    return b_.OneOf({std::move(all)});
  }

  Item Object(const Json& schema, const std::string& place) {
    const Json properties = schema.value("properties", Json::object());
    if (!properties.is_object()) Wrong(place, "\"properties\" is an object of schemas", properties);
    std::set<std::string> required;
    const Json wanted = schema.value("required", Json::array());
    if (!wanted.is_array()) Wrong(place, "\"required\" is a list of names", wanted);
    for (const Json& name : wanted) {
      if (!name.is_string()) Wrong(place, "\"required\" is a list of names", wanted);
      required.insert(name.get<std::string>());
    }
    const bool says = schema.contains("additionalProperties");
    const Json others = says ? schema["additionalProperties"] : Json(!schema.contains("properties"));
    std::vector<std::pair<std::string, const Json*>> members;  // null: of the kind of the others
    std::set<std::string, std::less<>> known;
    for (const auto& [name, value] : properties.items()) {
      members.emplace_back(name, &value);
      known.insert(name);
    }
    std::optional<Item> other;
    if (others != Json(false)) other = Value(others, place + "/additionalProperties");
    for (const std::string& name : required) {
      if (!known.insert(name).second) continue;
      if (!other) Wrong(place, "\"required\" names what \"properties\" has", Json(name));
      members.emplace_back(name, nullptr);
    }
    const Item blank = parts_.Blank();
    const auto member = [&](Sequence key, Item value, bool behind) {
      Sequence all;
      if (behind) all = {b_.Text(",")[0], blank};
      all.insert(all.end(), key.begin(), key.end());
      all.push_back(b_.Text(":")[0]);
      all.push_back(blank);
      all.push_back(value);
      return all;
    };
    // From the end: what may follow where nothing stands before, and where something does.
    Sequence rest[2];
    if (other) {
      const Sequence key = {members.empty() ? parts_.String() : parts_.StringExcept({known.begin(), known.end()})};
      rest[1] = b_.Repeat(b_.OneOf({member(key, *other, true)}), 0, -1);
      Sequence begun = member(key, *other, false);
      begun.insert(begun.end(), rest[1].begin(), rest[1].end());
      rest[0] = {b_.OneOf({std::move(begun), {}})};
    }
    for (size_t i = members.size(); i-- > 0;) {
      const auto& [name, schema_of] = members[i];
      const Item value =
          schema_of != nullptr ? Value(*schema_of, fmt::format("{}/properties/{}", place, name)) : *other;
      Sequence next[2];
      for (const bool behind : {false, true}) {
        Sequence with = member(b_.Text(Json(name).dump()), value, behind);
        with.insert(with.end(), rest[1].begin(), rest[1].end());
        Choices choices = {std::move(with)};
        if (!required.contains(name)) choices.push_back(rest[behind ? 1 : 0]);
        next[behind ? 1 : 0] = {b_.OneOf(std::move(choices))};
      }
      rest[0] = std::move(next[0]);
      rest[1] = std::move(next[1]);
    }
    return Closed("{", rest[0], "}");
  }

  const Json& schema_;
  GrammarBuilder b_;
  JsonParts parts_;
  std::set<std::string> known_;   // references that were met
  std::deque<std::string> open_;  // and not read yet
};

}  // namespace

Grammar JsonObjectGrammar() {
  GrammarBuilder builder;
  JsonParts parts(&builder);
  return builder.Build(parts.Object());
}

Grammar SchemaGrammar(const Json& schema) { return SchemaReader(schema).Read(); }

}  // namespace hawser
