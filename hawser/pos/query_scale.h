// pos/query_scale.h - scores that grow with the place of the query, so that attention over more keys stays as sharp: a
// query at position p (from 0) is multiplied by t(p). Keys are left alone, so a cache needs to know nothing of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

class FormReader;

/// kLog: t = max(1, ln(p + 1) / ln context), entropy-aware (arXiv:2401.07004); kFloorLog: t = 1 + rate ln(floor((p + 1)
/// / context) + 1), as Llama 4 and later Mistral models. Layers before `first_layer` have t = 1.
enum class QueryScaleKind : uint8_t { kNone, kLog, kFloorLog };

struct QueryScale {
  QueryScaleKind kind = QueryScaleKind::kNone;
  int64_t context = 0;
  int32_t first_layer = 0;
  double rate = 0.1;  // kFloorLog

  bool operator==(const QueryScale&) const = default;
  explicit operator bool() const { return kind != QueryScaleKind::kNone; }

  float At(int64_t position) const {
    const auto p = static_cast<double>(position) + 1, c = static_cast<double>(context);
    if (kind == QueryScaleKind::kLog) return static_cast<float>(std::max(1.0, std::log(p) / std::log(c)));
    if (kind == QueryScaleKind::kFloorLog) return static_cast<float>(1 + rate * std::log(std::floor(p / c) + 1));
    return 1.0f;
  }
};

/// q_temp=logn|floor_log, q_context, q_first, q_rate: keys that every rope text takes.
std::vector<std::string_view> QueryScaleKeys();
/// Takes them of a rope text. Errors: kUsage.
void ReadQueryScale(FormReader& reader, QueryScale* scale);
/// Fills in what the keys that `reader` was given left open: the context of the model before it was scaled, and of kLog
/// layer 2 as the first. Errors: kUsage for keys without a kind or of another, and a context that is too short.
void CompleteQueryScale(const FormReader& reader, int64_t context, QueryScale* scale);
/// ",q_temp=logn,q_context=4096": what a rope text has of it; empty for none.
std::string QueryScaleFields(const QueryScale& scale);

}  // namespace hawser
