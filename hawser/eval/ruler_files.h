// eval/ruler_files.h - RULER's samples and what models answered to them, in files as the original lays them out.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hawser/eval/ruler.h"

namespace hawser {

/// Lines of JSON, a sample each, as the original's validation.jsonl but with a running "index".
std::string RulerDataLines(const std::vector<RulerSample>& samples);

/// FOLDER/TASK.jsonl, or FOLDER/TASK/validation.jsonl as the original prepares it; nothing where neither is there.
std::optional<std::filesystem::path> FindRulerData(const std::filesystem::path& folder, const RulerTask& task);

/// What RulerDataLines or the original wrote, the first `limit` samples (0: all). A line without "answer_prefix" has it
/// at the end of its "input", one without "index" counts on from 0. `length` is that of the file, 0 where it has none.
/// Errors: kIo; kFormat with the number of the line.
std::vector<RulerSample> ReadRulerData(const std::filesystem::path& file, int64_t limit);

/// One line of a file of predictions, with a line end.
std::string RulerPredictionLine(const RulerSample& sample, const std::string& answer);

}  // namespace hawser
