// Read before every source. nlohmann/json.hpp defines the literal ""_json as a plain inline function, so that each file
// that includes it instantiates a whole parser, used or not: a third of the time to build. As a template, which nobody
// calls, it costs nothing. Text becomes JSON through ParseJson (hawser/io/json.h).
#define JSON_USE_GLOBAL_UDLS 0
#define _json(...)        \
  _json(__VA_ARGS__);     \
  template <class = void> \
  nlohmann::json JsonOfLiteral(__VA_ARGS__)
