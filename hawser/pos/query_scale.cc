#include "hawser/pos/query_scale.h"

#include "hawser/base/error.h"
#include "hawser/base/form.h"

namespace hawser {

template <>
struct EnumNames<QueryScaleKind> {
  static constexpr std::array<std::string_view, 3> kNames = {"none", "logn", "floor_log"};
};

namespace {

template <class Visitor>
void VisitScale(QueryScale& scale, Visitor&& v) {
  v(scale.kind, {"q_temp", "how queries grow with their position"});
  v(scale.context, {"q_context", "tokens without growth", 0, 0x1p31});
  v(scale.first_layer, {"q_first", "first layer that scales", 0, 4096});
  v(scale.rate, {"q_rate", "of floor_log", 0, 1e3});
}

constexpr int32_t kLogFirstLayer = 2;  // attention of the first two is near uniform whatever the length

/// Of a kind without keys.
QueryScale Standard(QueryScaleKind kind) {
  return {.kind = kind, .first_layer = kind == QueryScaleKind::kLog ? kLogFirstLayer : 0};
}

}  // namespace

std::vector<std::string_view> QueryScaleKeys() {
  FormLister lister;
  QueryScale scale;
  VisitScale(scale, lister);
  return lister.keys();
}

void ReadQueryScale(FormReader& reader, QueryScale* scale) { VisitScale(*scale, reader); }

void CompleteQueryScale(const FormReader& reader, int64_t context, QueryScale* scale) {
  const auto has = [&](std::string_view key) { return reader.Given(key); };
  for (const std::string_view key : QueryScaleKeys()) {
    if (!*scale && key != "q_temp" && has(key)) {
      Fail(ErrorKind::kUsage, "{} needs q_temp=logn or q_temp=floor_log", key);
    }
  }
  if (!*scale) return;
  const bool log = scale->kind == QueryScaleKind::kLog;
  if (log && has("q_rate")) Fail(ErrorKind::kUsage, "q_rate is of q_temp=floor_log");
  if (!has("q_first")) scale->first_layer = Standard(scale->kind).first_layer;
  if (scale->context == 0) scale->context = context;
  if (scale->context < (log ? 2 : 1)) {
    Fail(ErrorKind::kUsage, "q_temp needs q_context=TOKENS, {} or more: found {}", log ? 2 : 1, scale->context);
  }
}

std::string QueryScaleFields(const QueryScale& scale) {
  if (!scale) return {};
  FormPrinter given, standard;
  QueryScale copy = scale, by_default = Standard(scale.kind);
  VisitScale(copy, given);
  VisitScale(by_default, standard);
  std::string text;
  for (size_t i = 0; i < given.items().size(); ++i) {
    const auto& [doc, item] = given.items()[i];
    if (doc.key == "q_temp" || item != standard.items()[i].second) text += fmt::format(",{}={}", doc.key, item);
  }
  return text;
}

}  // namespace hawser
