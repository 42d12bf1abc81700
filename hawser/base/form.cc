#include "hawser/base/form.h"

#include <algorithm>
#include <cmath>

namespace hawser {
namespace {

bool Contains(const std::vector<std::string_view>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

/// The key of `part`, or nothing where it is a value alone.
std::optional<std::string_view> KeyOf(std::string_view part) {
  const size_t equals = part.find('=');
  if (equals == part.npos) return std::nullopt;
  return part.substr(0, equals);
}

/// "from 1 to 8", "from 1 on", "up to 8", or nothing.
std::string RangeText(const FieldDoc& doc) {
  constexpr double kNone = std::numeric_limits<double>::max();
  if (doc.least == -kNone && doc.most == kNone) return "";
  if (doc.most == kNone) return fmt::format(" from {} on", doc.least);
  if (doc.least == -kNone) return fmt::format(" up to {}", doc.most);
  return fmt::format(" from {} to {}", doc.least, doc.most);
}

}  // namespace

namespace form {

void Item::Refuse(std::string_view wanted) const {
  Fail(ErrorKind::kUsage, "{} '{}': {}='{}'; wanted {}", what_, text_, doc_.key, item_, wanted);
}

void Item::Read(double* value) const {
  const std::optional<double> number = ParseNumber<double>(item_);
  if (!number || !std::isfinite(*number) || *number < doc_.least || *number > doc_.most) {
    Refuse("a number" + RangeText(doc_));
  }
  *value = *number;
}

int64_t Item::Whole(int64_t least, int64_t most) const {
  const std::optional<int64_t> number = ParseSize(item_);
  const bool fits = number && *number >= least && *number <= most && static_cast<double>(*number) >= doc_.least &&
                    static_cast<double>(*number) <= doc_.most;
  if (!fits) Refuse("a whole number" + RangeText(doc_));
  return *number;
}

void Item::Read(int64_t* value) const { *value = Whole(INT64_MIN, INT64_MAX); }
void Item::Read(int32_t* value) const { *value = static_cast<int32_t>(Whole(INT32_MIN, INT32_MAX)); }

void Item::Read(bool* value) const {
  const std::array<std::string_view, 2> names = {doc_.no, doc_.yes};
  *value = Choose(names) == 1;
}

void Item::Read(std::string* value) const {
  if (item_.empty()) Refuse("a text");
  *value = item_;
}

size_t Item::Choose(std::span<const std::string_view> names) const {
  const auto found = std::ranges::find(names, item_);
  if (found == names.end()) {
    Fail(ErrorKind::kUsage, "{} '{}': {}='{}'{}", what_, text_, doc_.key, item_, SuggestName(item_, names));
  }
  return static_cast<size_t>(found - names.begin());
}

std::string Print(double value, const FieldDoc&) { return fmt::format("{}", value); }
std::string Print(float value, const FieldDoc&) { return fmt::format("{}", value); }
std::string Print(bool value, const FieldDoc& doc) { return std::string(value ? doc.yes : doc.no); }

std::string Join(std::string_view name, const FormPrinter& value, const FormPrinter& standard) {
  std::string text(name);
  const char* separator = ":";
  bool keyed = false;  // behind a field with its key none stands without
  for (size_t i = 0; i < value.items().size(); ++i) {
    const auto& [doc, item] = value.items()[i];
    if (!doc.required && i < standard.items().size() && item == standard.items()[i].second) {
      keyed = keyed || doc.positional;
      continue;
    }
    keyed = keyed || !doc.positional;
    text.append(std::exchange(separator, ",")).append(keyed ? fmt::format("{}=", doc.key) : "").append(item);
  }
  return text;
}

std::vector<std::string> Items(const FormPrinter& value, const FormPrinter& standard) {
  std::vector<std::string> items;
  for (size_t i = 0; i < value.items().size(); ++i) {
    const auto& [doc, item] = value.items()[i];
    if (doc.required || item != standard.items()[i].second) items.push_back(fmt::format("{}={}", doc.key, item));
  }
  return items;
}

void RefuseName(std::string_view what, std::string_view text, std::string_view name,
                std::span<const std::string_view> known) {
  Fail(ErrorKind::kUsage, "{} '{}': unknown '{}'{}", what, text, name, SuggestName(name, known));
}

}  // namespace form

FormReader::FormReader(std::string_view what, std::string_view text) : what_(what), text_(text) {
  const size_t colon = std::min(text.find(':'), text.size());
  name_ = text.substr(0, colon);
  if (colon == text.size()) return;
  for (const std::string_view part : SplitAt(text.substr(colon + 1), ',')) {
    const std::vector<std::string_view> words = SplitWords(part);
    if (words.empty()) parts_.push_back(part.substr(0, 0));
    parts_.insert(parts_.end(), words.begin(), words.end());
  }
}

std::optional<std::string_view> FormReader::Take(const FieldDoc& doc) {
  std::optional<std::string_view> item;
  for (auto part = parts_.begin(); part != parts_.end();) {
    if (KeyOf(*part) != doc.key) {
      ++part;
      continue;
    }
    if (item) Fail(ErrorKind::kUsage, "{} '{}': '{}' is given twice", what_, text_, doc.key);
    item = part->substr(doc.key.size() + 1);
    part = parts_.erase(part);
  }
  if (!item && doc.positional) {
    const auto bare = std::ranges::find_if(parts_, [](std::string_view part) { return !KeyOf(part); });
    if (bare != parts_.end()) {
      item = *bare;
      parts_.erase(bare);
    }
  }
  if (item) given_.push_back(doc.key);
  if (!item && doc.required) {
    Fail(ErrorKind::kUsage, "{} '{}': {} is missing{}{}", what_, text_, doc.key, doc.help.empty() ? "" : ": ",
         doc.help);
  }
  return item;
}

bool FormReader::Given(std::string_view key) const { return Contains(given_, key); }

void FormReader::Finish() const {
  if (parts_.empty()) return;
  const std::string_view key = KeyOf(parts_.front()).value_or(parts_.front());
  if (Contains(given_, key)) Fail(ErrorKind::kUsage, "{} '{}': '{}' is given twice", what_, text_, key);
  if (keys_.empty()) Fail(ErrorKind::kUsage, "{} '{}': {} takes no options", what_, text_, name_);
  if (parts_.front() == key && Contains(keys_, key)) {
    Fail(ErrorKind::kUsage, "{} '{}': {} needs a value, as in {}=VALUE", what_, text_, key, key);
  }
  const std::string has = name_.empty() ? "unknown" : fmt::format("{} has no", name_);
  Fail(ErrorKind::kUsage, "{} '{}': {} '{}'{}", what_, text_, has, key, SuggestName(key, keys_));
}

void FormLister::Add(const FieldDoc& doc, const std::string& values, const std::string& standard) {
  keys_.push_back(doc.key);
  text_ += fmt::format("      {}{}{}{}\n", doc.key, values.empty() ? "" : "=" + values,
                       doc.help.empty() ? "" : fmt::format("  {}", doc.help),
                       standard.empty() || doc.required ? "" : fmt::format(" ({})", standard));
}

}  // namespace hawser
