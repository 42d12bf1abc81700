// eval/context_lines.h - the files of LongBench and InfiniteBench: a long text, a question and its answers a line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace hawser {

struct ContextLine {
  std::string id, context, input;
  std::vector<std::string> answers, classes;
  int64_t length = -1;  // -1: the line does not say
};

/// Every line of a file of JSON lines, or every item where the file is one list; NaN and Infinity are null. `take` says
/// whether it wants more. Errors: kIo; kFormat with the number of the line, also those that `take` throws.
void ReadJsonItems(const std::filesystem::path& path, const std::function<bool(const nlohmann::json& item)>& take);

/// "context", "input", "answers" (LongBench) or "answer" (InfiniteBench), "all_classes", "length", "_id". The first
/// `most`; 0: all. Errors: as ReadJsonItems; kFormat where there is none.
std::vector<ContextLine> ReadContextLines(const std::filesystem::path& path, int64_t most = 0);

}  // namespace hawser
