#include "hawser/eval/task.h"

#include <algorithm>
#include <cmath>

#include "hawser/base/error.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"

namespace hawser {

TaskOptions::TaskOptions(std::string_view text) : task_(text.substr(0, text.find(':'))) {
  if (task_.size() == text.size()) return;
  for (const std::string_view item : SplitAt(text.substr(task_.size() + 1), ',')) {
    const size_t equal = item.find('=');
    if (equal == item.npos || equal == 0) {
      Fail(ErrorKind::kUsage, "task '{}': wanted key=value, found '{}'", text, item);
    }
    if (!given_.emplace(item.substr(0, equal), item.substr(equal + 1)).second) {
      Fail(ErrorKind::kUsage, "task '{}': '{}' is given twice", text, item.substr(0, equal));
    }
  }
}

std::string TaskOptions::Text(const std::string& key, const std::string& fallback) const {
  const auto found = given_.find(key);
  return used_[key] = found == given_.end() ? fallback : found->second;
}

int64_t TaskOptions::Int(const std::string& key, int64_t fallback, int64_t low, int64_t high) const {
  const std::vector<int64_t> values = Ints(key, std::to_string(fallback), low, high);
  if (values.size() > 1) Fail(ErrorKind::kUsage, "{} is a list, wanted one number", key);
  return values.front();
}

double TaskOptions::Real(const std::string& key, double fallback, double low, double high) const {
  const std::string text = Text(key, fmt::format("{}", fallback));
  const auto value = ParseNumber<double>(text);
  if (value && *value >= low && *value <= high) return *value;
  const bool bounded = std::isfinite(low) || std::isfinite(high);
  Fail(ErrorKind::kUsage, "{} is '{}', wanted a number{}", key, text,
       bounded ? fmt::format(" from {} to {}", low, high) : "");
}

std::vector<std::string> TaskOptions::List(const std::string& key, const std::string& fallback) const {
  const std::string text = Text(key, fallback);
  if (text.empty()) return {};
  const std::vector<std::string_view> items = SplitAt(text, '+');
  if (std::ranges::find(items, "") != items.end()) {
    Fail(ErrorKind::kUsage, "{} is '{}', wanted a list joined by +, without gaps", key, text);
  }
  CheckNoneTwice<std::string_view>(key, items);
  return {items.begin(), items.end()};
}

std::vector<int64_t> TaskOptions::Ints(const std::string& key, const std::string& fallback, int64_t low,
                                       int64_t high) const {
  std::vector<int64_t> values;
  for (const std::string& item : List(key, fallback)) {
    const auto value = ParseSize(item);
    if (!value || *value < low || *value > high) {
      Fail(ErrorKind::kUsage, "{} is '{}', wanted a whole number from {} to {}", key, item, low, high);
    }
    values.push_back(*value);
  }
  if (values.empty()) Fail(ErrorKind::kUsage, "{} is empty, wanted a number", key);
  CheckNoneTwice<int64_t>(key, values);  // 1k and 1024
  return values;
}

std::string TaskOptions::OneOf(const std::string& key, const std::string& fallback,
                               std::span<const std::string_view> known) const {
  std::string text = Text(key, fallback);
  if (std::ranges::find(known, text) != known.end()) return text;
  Fail(ErrorKind::kUsage, "unknown {} '{}'{}", key, text, SuggestName(text, known));
}

void TaskOptions::CheckAllUsed() const {
  std::vector<std::string_view> known;
  for (const auto& [key, value] : used_) known.push_back(key);
  for (const auto& [key, value] : given_) {
    if (used_.contains(key)) continue;
    if (known.empty()) Fail(ErrorKind::kUsage, "task {} takes no options, found '{}'", task_, key);
    Fail(ErrorKind::kUsage, "task {} has no option '{}' here{}", task_, key, SuggestName(key, known));
  }
}

}  // namespace hawser
