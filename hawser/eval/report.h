// eval/report.h - tables and numbers for people.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// A table in plain text: a header, a rule, rows; numbers to the right. Columns are as wide as their widest cell.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) : rows_{std::move(header)} {}
  /// Missing cells are blank; cells are shown as PrintableLine gives them.
  void Row(std::vector<std::string> cells);
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// A field of CSV, quoted where it has to be.
std::string CsvField(std::string_view text);

std::string HumanCount(int64_t n);         // 1,234,567
std::string HumanBytes(int64_t bytes);     // 12.3 MiB
std::string HumanSeconds(double seconds);  // 340 ms, 12.3 s, 4:05 min
std::string HumanNumber(double value);     // four significant digits, no exponent between 1e-3 and 1e6

}  // namespace hawser
