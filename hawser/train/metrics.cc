#include "hawser/train/metrics.h"

#include <string>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"

namespace hawser {
namespace {

/// What a line holds; null where a kill or a full disk cut it off.
nlohmann::json Line(std::string_view text) {
  try {
    return ParseJson(text);
  } catch (const Error&) {
    return {};
  }
}

/// visit(line) for the leading lines of `text` that are whole objects with a step, until it returns false. Returns the
/// text of the lines visited.
template <class Visit>
std::string_view VisitLines(std::string_view text, Visit&& visit) {
  size_t kept = 0;
  for (size_t end; (end = text.find('\n', kept)) != text.npos; kept = end + 1) {
    nlohmann::json line = Line(text.substr(kept, end - kept));
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) break;
    if (!visit(line)) break;
  }
  return text.substr(0, kept);
}

/// `path`, once the lines of later steps and a last line that was cut off are gone from it.
const std::filesystem::path& CutBehind(const std::filesystem::path& path, int64_t step) {
  if (!std::filesystem::exists(path)) return path;
  const std::string text = ReadFile(path);
  const auto up_to_step = [&](const nlohmann::json& line) { return line["step"].get<int64_t>() <= step; };
  const std::string_view kept = VisitLines(text, up_to_step);
  if (kept.size() != text.size()) WriteFileAtomically(path, kept);
  return path;
}

}  // namespace

std::vector<nlohmann::json> ReadMetrics(const std::filesystem::path& path) {
  std::vector<nlohmann::json> lines;
  if (!std::filesystem::exists(path)) return lines;
  VisitLines(ReadFile(path), [&](nlohmann::json& line) {
    lines.push_back(std::move(line));
    return true;
  });
  return lines;
}

std::map<int64_t, double> ReadValidationLosses(const std::filesystem::path& path) {
  std::map<int64_t, double> losses;
  for (const nlohmann::json& line : ReadMetrics(path)) {
    const auto loss = line.find("validation_loss");
    if (loss != line.end() && loss->is_number()) losses[line["step"]] = loss->get<double>();
  }
  return losses;
}

MetricsLog::MetricsLog(const std::filesystem::path& path, int64_t step) : file_(CutBehind(path, step)) {}

void MetricsLog::Append(const nlohmann::json& line) { file_.Append(JsonText(line) + "\n"); }

}  // namespace hawser
