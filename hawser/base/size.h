// base/size.h - whole numbers as people write sizes: 4096, 4k, 16K, 1M, 2G, 2e6; and counted nouns.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "hawser/base/text.h"

namespace hawser {

/// k, M, G and T (either case, Ki, Mi, .. too) are powers of 1024; 2e6 and 1.5k are whole numbers as well. Nothing for
/// any other text, for fractions, and beyond int64.
inline std::optional<int64_t> ParseSize(std::string_view text) {
  if (const auto whole = ParseNumber<int64_t>(text)) return whole;
  std::string_view digits = text;
  double unit = 1;
  if (digits.size() > 1 && (digits.back() == 'i' || digits.back() == 'I')) digits.remove_suffix(1);
  const bool binary = digits.size() != text.size();
  constexpr std::string_view kUnits = "kmgt";
  const size_t which = digits.empty() ? kUnits.npos : kUnits.find(static_cast<char>(digits.back() | 0x20));
  if (which != kUnits.npos) {
    unit = std::exp2(10.0 * static_cast<double>(which + 1));
    digits.remove_suffix(1);
  } else if (binary) {
    return std::nullopt;
  }
  if (digits.find_first_not_of("0123456789.eE+-") != digits.npos) return std::nullopt;  // inf, nan
  const auto number = ParseNumber<double>(digits);
  if (!number) return std::nullopt;
  const double value = *number * unit;
  if (value != std::floor(value) || std::abs(value) >= 0x1p63) return std::nullopt;
  return static_cast<int64_t>(value);
}

/// "1 token", "2 tokens".
inline std::string Counted(int64_t n, std::string_view noun) {
  return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s");
}

}  // namespace hawser
