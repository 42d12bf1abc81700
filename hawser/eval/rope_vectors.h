// eval/rope_vectors.h - what each rounding of a rotary embedding costs on random vectors, against known figures.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hawser/pos/numerics.h"

namespace hawser {

struct RopeSelfTestOptions {
  int64_t pairs = 8000;  // eight times as many where positions are rounded: rare jumps make the figure there
  uint64_t seed = 0;
  std::vector<std::string> pipelines;  // names or fields (ParseRopeNumerics); empty: all that have names
};

/// Queries stand in [begin, end), keys fewer than 1000 positions before them.
struct RopeSelfTestRange {
  const char* label;
  int64_t begin, end;
};

struct RopeSelfTestCell {
  double shift = 0;       // rms of A(0) - A(16)
  double error = 0;       // rms of A(0) - the exact A
  double expected = 0;    // of shift; 0: no figure known, infinite: positions overflow
  double half_digit = 0;  // half a unit of the last digit of `expected`
  /// How far shift lies outside expected +- half_digit, over expected; 0 where there is nothing to compare with and
  /// where both overflow, infinite where one of them does.
  double deviation() const;
};

struct RopeSelfTestRow {
  std::string name;  // of the pipeline
  RopeNumerics numerics;
  std::array<RopeSelfTestCell, 4> cells;  // of the ranges
};

struct RopeSelfTestReport {
  int64_t pairs = 0;
  std::vector<RopeSelfTestRow> rows;
  double seconds = 0;
  double worst() const;  // largest |deviation|
};

/// q, k ~ N(0, 1) of 128 channels, rounded to bf16, base 10000:  A(s) = <rotate(q, m + s), rotate(k, n + s)> /
/// sqrt(128) for every pipeline. Exact arithmetic gives A(0) = A(16). The product is summed in f64.
RopeSelfTestReport RunRopeSelfTest(const RopeSelfTestOptions& options);

nlohmann::json ToJson(const RopeSelfTestReport& report);
std::string ToText(const RopeSelfTestReport& report);

}  // namespace hawser
