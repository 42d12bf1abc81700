#include "fuzz/mutate.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

namespace hawser::fuzz {
namespace {

using nlohmann::json;

constexpr size_t kMostNodes = 4096;
constexpr size_t kMostBytes = 1 << 16;  // of what a mutator gives

const std::vector<std::string>& OddTexts() {
  using namespace std::string_literals;
  static const std::vector<std::string> texts = {"",
                                                 " ",
                                                 "\n",
                                                 "a\0b"s,
                                                 "\x1b[31m",
                                                 "\u202e",
                                                 "\U0001F642",
                                                 "\u0301",
                                                 "\u2581",
                                                 "../x",
                                                 "/",
                                                 "x/y",
                                                 "nan",
                                                 "inf",
                                                 "-1",
                                                 "0x10",
                                                 "1e999",
                                                 "\\",
                                                 "<0x0A>",
                                                 "</s>",
                                                 "[a-z]+",
                                                 "(((((((())))))))",
                                                 "(a+)+$",
                                                 "\\p{L}+",
                                                 "(?<!x)y",
                                                 "%s%n",
                                                 std::string(300, 'a'),
                                                 std::string(5000, '(')};
  return texts;
}

double EdgeReal(Rng& rng) {
  static const std::vector<double> reals = {0.0, -0.0, 0.5, 1.0, 1e-300, 1e-45, 1e30, 1e300, -1e300, 5e-324, 1.0000001};
  return Choose(reals, rng);
}

json AnyValue(Rng& rng, const std::vector<std::string>& words) {
  switch (rng.Below(8)) {
    case 0:
      return EdgeNumber(rng);
    case 1:
      return EdgeReal(rng);
    case 2:
      return Choose(OddTexts(), rng);
    case 3:
      return words.empty() ? std::string() : Choose(words, rng);
    case 4:
      return nullptr;
    case 5:
      return rng.Below(2) == 0;
    case 6:
      return json::array();
    default:
      return rng.Below(2) == 0 ? json::object() : json(std::numeric_limits<uint64_t>::max());
  }
}

void Collect(json& value, std::vector<json*>* nodes) {
  if (nodes->size() >= kMostNodes) return;
  nodes->push_back(&value);
  if (value.is_structured()) {
    for (json& child : value) Collect(child, nodes);
  }
}

std::string Changed(std::string text, Rng& rng) {
  if (rng.Below(3) == 0) return Choose(OddTexts(), rng);
  const size_t at = rng.Below(text.size() + 1);
  switch (rng.Below(4)) {
    case 0:
      return text.insert(at, Choose(OddTexts(), rng));
    case 1:
      return text.substr(0, at);
    case 2:
      return text.size() < 1000 ? text + text : text;
    default:
      return text.substr(at) + text.substr(0, at);
  }
}

void ChangeChildren(json& node, const std::vector<std::string>& words, Rng& rng) {
  if (node.empty()) {
    if (node.is_array()) node.push_back(AnyValue(rng, words));
    if (node.is_object()) node[words.empty() ? "x" : Choose(words, rng)] = AnyValue(rng, words);
    return;
  }
  const auto at = std::next(node.begin(), static_cast<int64_t>(rng.Below(node.size())));
  const json child = *at;
  switch (rng.Below(4)) {
    case 0:
      node.erase(at);
      return;
    case 1:
      if (node.is_object()) {  // under another name
        if (rng.Below(2) == 0) node.erase(at);
        node[words.empty() ? "x" : Choose(words, rng)] = child;
      } else {
        const size_t times = size_t{1} << rng.Below(8);
        for (size_t i = 0; i < times; ++i) node.push_back(child);
      }
      return;
    case 2:
      *at = AnyValue(rng, words);
      return;
    default:
      if (node.is_array()) {
        std::swap(*at, node[rng.Below(node.size())]);
      } else {
        node[Choose(OddTexts(), rng)] = child;
      }
  }
}

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace

int64_t EdgeNumber(Rng& rng) {
  if (rng.Below(2) == 0) return static_cast<int64_t>(rng.Below(40)) - 4;
  const int64_t edge = rng.Below(8) == 0 ? std::numeric_limits<int64_t>::max() : int64_t{1} << rng.Below(63);
  const int64_t number = edge - 1 + static_cast<int64_t>(rng.Below(2));
  return rng.Below(4) == 0 ? -number : number;
}

void MutateJson(json& value, const std::vector<std::string>& words, Rng& rng) {
  for (uint64_t times = 1 + rng.Below(4); times > 0; --times) {
    std::vector<json*> nodes;
    Collect(value, &nodes);
    json& node = *Choose(nodes, rng);
    switch (rng.Below(10)) {
      case 0:
        node = AnyValue(rng, words);
        break;
      case 1:  // inside others
        for (uint64_t deep = rng.Below(8) == 0 ? 70 : 1; deep > 0; --deep) node = json::array({node});
        break;
      case 2: {  // as elsewhere; a copy first, as either may hold the other
        const json copy = *Choose(nodes, rng);
        node = copy;
        break;
      }
      default:
        if (node.is_structured()) {
          ChangeChildren(node, words, rng);
        } else if (node.is_string()) {
          node = Changed(node.get<std::string>(), rng);
        } else if (node.is_number_integer() && rng.Below(2) == 0) {
          node = static_cast<int64_t>(node.get<uint64_t>() + rng.Below(5) - 2);
        } else {
          node = rng.Below(2) == 0 ? json(EdgeNumber(rng)) : json(EdgeReal(rng));
        }
    }
  }
}

std::string MutateBytes(std::string_view input, Rng& rng) {
  std::string out(input);
  for (uint64_t times = 1 + rng.Below(4); times > 0; --times) {
    const size_t at = rng.Below(out.size() + 1), left = out.size() - at;
    const size_t some = std::min<size_t>(left, 1 + rng.Below(rng.Below(4) == 0 ? 64 : 4));
    switch (rng.Below(5)) {
      case 0:
        out.erase(at, some);
        break;
      case 1:
        out.insert(at, out.substr(at, some));
        break;
      case 2:
        out.insert(at, 1, static_cast<char>(rng.Below(256)));
        break;
      case 3:
        if (left > 0) out[at] = static_cast<char>(out[at] ^ (1 << rng.Below(8)));
        break;
      default:
        if (left > 0) out[at] = static_cast<char>(rng.Below(2) == 0 ? rng.Below(256) : 255 * rng.Below(2));
    }
  }
  return out.substr(0, kMostBytes);
}

json ToMutate(std::string_view text) {
  constexpr int kMost = 1000;
  int depth = 0;
  for (const char c : text) {
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (depth > kMost) return json(json::value_t::discarded);
  }
  return json::parse(text, nullptr, /*allow_exceptions=*/false);
}

Mutator JsonMutator(std::vector<std::string> words) {
  return [words = std::move(words)](std::string_view input, Rng& rng) {
    json value = ToMutate(input);
    if (value.is_discarded() || rng.Below(16) == 0) return MutateBytes(input, rng);
    MutateJson(value, words, rng);
    return Dump(value).substr(0, kMostBytes);
  };
}

namespace {

std::vector<std::string> Lines(std::string_view text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

/// Items dropped, doubled, moved; `change` makes others of one.
template <class Change>
void MutateList(std::vector<std::string>* items, Rng& rng, Change&& change) {
  if (items->empty()) items->push_back("");
  const size_t at = rng.Below(items->size());
  const auto place = items->begin() + static_cast<int64_t>(at);
  switch (rng.Below(8)) {
    case 0:
      items->erase(place);
      return;
    case 1:
      items->insert(place, Choose(*items, rng) + "");
      return;
    case 2:
      std::swap(*place, (*items)[rng.Below(items->size())]);
      return;
    default:
      *place = change(*place);
  }
}

}  // namespace

Mutator JsonLinesMutator(std::vector<std::string> words) {
  return [one = JsonMutator(std::move(words))](std::string_view input, Rng& rng) {
    std::vector<std::string> lines = Lines(input);
    MutateList(&lines, rng, [&](const std::string& line) { return one(line, rng); });
    std::string out;
    for (const std::string& line : lines) out += line + (rng.Below(64) == 0 ? "\r\n" : "\n");
    if (rng.Below(8) == 0) out.resize(rng.Below(out.size() + 1));
    return out.substr(0, kMostBytes);
  };
}

Mutator WordMutator(std::vector<std::string> words, std::string separators) {
  return [words = std::move(words), separators = std::move(separators)](std::string_view input, Rng& rng) {
    std::vector<std::string> items;  // words and single separators in turn as they come
    for (const char c : input) {
      const bool separates = separators.find(c) != separators.npos;
      if (items.empty() || separates || separators.find(items.back().back()) != separators.npos) {
        items.emplace_back(1, c);
      } else {
        items.back() += c;
      }
    }
    for (uint64_t times = 1 + rng.Below(3); times > 0; --times) {
      MutateList(&items, rng, [&](const std::string& item) -> std::string {
        if (item.size() == 1 && separators.find(item[0]) != separators.npos && rng.Below(4) != 0) {
          return std::string(1, separators[rng.Below(separators.size())]);
        }
        switch (rng.Below(6)) {
          case 0:
            return std::to_string(EdgeNumber(rng));
          case 1:
            return Changed(item, rng);
          case 2:
            return item + separators[rng.Below(separators.size())] + Choose(words, rng);
          case 3:
            return MutateBytes(item, rng);
          default:
            return Choose(words, rng);
        }
      });
      std::erase(items, "");
    }
    std::string out;
    for (const std::string& item : items) out += item;
    return out.substr(0, kMostBytes);
  };
}

}  // namespace hawser::fuzz
