#include "hawser/eval/lengths.h"

#include <algorithm>
#include <map>

#include "hawser/base/error.h"
#include "hawser/base/text.h"

namespace hawser {

std::vector<int64_t> TaskLengths(const TaskInput& input, const std::string& key, const std::string& fallback) {
  const std::vector<int64_t> lengths = input.options.Ints(key, fallback, 1, int64_t{1} << 30);
  for (const int64_t length : lengths) {
    if (length <= input.max_length) continue;
    Fail(ErrorKind::kUsage, "{} tokens are beyond the longest input of {}; set --context {}", length, input.max_length,
         length);
  }
  return lengths;
}

int64_t TaskRoom(const TaskInput& input, int64_t length) {
  constexpr int64_t kChatReserve = 64;
  const auto prefix = static_cast<int64_t>(input.tokenizer->prefix().size());
  return std::min(length, input.max_length - prefix - (input.chat ? kChatReserve : 0));
}

std::vector<double> TaskDepths(const TaskInput& input, const std::string& fallback) {
  std::vector<double> depths;
  const std::vector<std::string> items = input.options.List("depths", fallback);
  for (const std::string& item : items) {
    const auto depth = ParseNumber<double>(item);
    const bool count =
        items.size() == 1 && depth && *depth >= 2 && *depth <= 1000 && *depth == static_cast<int>(*depth);
    if (count) {
      for (int i = 0; i < *depth; ++i) depths.push_back(i / (*depth - 1));
    } else if (depth && *depth >= 0 && *depth <= 1) {
      depths.push_back(*depth);
    } else {
      Fail(ErrorKind::kUsage, "depths is '{}', wanted places from 0 to 1, or how many there are", item);
    }
  }
  if (depths.empty()) Fail(ErrorKind::kUsage, "no depths");
  CheckNoneTwice<double>("depths", depths);
  return depths;
}

void LimitRows(int64_t limit, std::vector<Sample>* samples) {
  if (limit == 0) return;
  std::map<std::string, int64_t> seen;
  std::erase_if(*samples, [&](const Sample& sample) { return seen[sample.row]++ >= limit; });
  for (Sample& sample : *samples) sample.of = seen[sample.row];
}

}  // namespace hawser
