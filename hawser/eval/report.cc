#include "hawser/eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hawser/base/printable.h"

#include "hawser/base/limits.h"

namespace hawser {
namespace {

constexpr size_t kMostCell = 100;  // characters

/// Bytes that begin a character, so that UTF-8 cells line up.
size_t Width(const std::string& cell) {
  return std::count_if(cell.begin(), cell.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

bool IsNumber(const std::string& cell) {
  return cell.empty() || cell == "-" || (cell.find_first_of("0123456789") <= 1 && !std::isalpha(cell.front()));
}

}  // namespace

void TextTable::Row(std::vector<std::string> cells) {
  for (std::string& cell : cells) cell = PrintableLine(cell, kMostCell);
  rows_.push_back(std::move(cells));
}

std::string TextTable::ToString() const {
  size_t columns = 0;
  for (const auto& row : rows_) columns = std::max(columns, row.size());
  std::vector<size_t> widths(columns, 0);
  std::vector<bool> right(columns, true);
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t c = 0; c < rows_[r].size(); ++c) {
      widths[c] = std::max(widths[c], Width(rows_[r][c]));
      if (r > 0 && !IsNumber(rows_[r][c])) right[c] = false;
    }
  }
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < columns; ++c) {
      const std::string cell = c < rows_[r].size() ? rows_[r][c] : "";
      const std::string blanks(widths[c] - Width(cell), ' ');
      line += (c > 0 ? "  " : "") + (right[c] ? blanks + cell : cell + blanks);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (r == 0) {
      for (size_t c = 0; c < columns; ++c) out += (c > 0 ? "  " : "") + std::string(widths[c], '-');
      out += "\n";
    }
  }
  return out;
}

std::string CsvField(std::string_view text) {
  if (text.find_first_of(",\"\n\r") == text.npos) return std::string(text);
  std::string out = "\"";
  for (const char c : text) out.append(c == '"' ? 2 : 1, c);
  return out + "\"";
}

std::string HumanCount(int64_t n) {
  std::string digits = fmt::format("{}", n);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > (n < 0 ? 1 : 0); at -= 3) digits.insert(at, 1, ',');
  return digits;
}

std::string HumanBytes(int64_t bytes) { return BytesText(bytes); }

std::string HumanSeconds(double seconds) {
  if (seconds < 1) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 120) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{}:{:02} min", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02} h", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string HumanNumber(double value) {
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (!std::isfinite(value) || size >= 1e6 || size < 1e-3) return fmt::format("{:.3e}", value);
  return fmt::format("{:.{}f}", value, std::max(0, 3 - static_cast<int>(std::floor(std::log10(size)))));
}

}  // namespace hawser
