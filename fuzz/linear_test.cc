// Readers take time in proportion to their files: for each shape of a long input, eight times the bytes may take thirty
// times as long, where quadratic work takes sixty-four. The time is that of this thread on a processor, which waiting
// does not lengthen.
#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "fuzz/target.h"
#include "hawser/base/error.h"
#include "hawser/base/progress.h"

namespace hawser::fuzz {
namespace {

struct Shape {
  const char* target;
  const char* what;
  std::string head;
  std::function<std::string(size_t)> piece;  // by number
  std::string between;
  std::string tail;

  /// As many pieces as go into `bytes`.
  std::string Make(size_t bytes) const {
    std::string text = head;
    for (size_t i = 0; text.size() + tail.size() < bytes; ++i) text += (i == 0 ? "" : between) + piece(i);
    return text + tail;
  }
};

std::function<std::string(size_t)> Same(std::string text) {
  return [text](size_t) { return text; };
}
std::function<std::string(size_t)> Numbered(std::string before, std::string after) {
  return [before, after](size_t i) { return before + std::to_string(i) + after; };
}

std::string SafetensorsHeader(const std::string& header) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header;
}

const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {"json", "objects in a list", "[", Same("{}"), ",", "]"},
      {"json", "lists in a list", "[", Same("[]"), ",", "]"},
      {"json", "members", "{", Numbered("\"k", "\":[]"), ",", "}"},
      {"json", "a list in each member", "{\"a\":{\"b\":[", Same("[{}]"), ",", "]}}"},
      {"json", "a long text", "\"", Same("\\n\\u00e9x"), "", "\""},
      {"config", "objects nobody asks for", "{\"model_type\":\"llama\",\"x\":[", Same("{}"), ",", "]}"},
      {"config", "ids", "{\"model_type\":\"llama\",\"vocab_size\":67108864,\"eos_token_id\":[", Numbered("", ""), ",",
       "],\"hidden_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_size\":48}"},
      {"generation_config", "ids", "{\"eos_token_id\":[", [](size_t i) { return std::to_string(i % 64); }, ",", "]}"},
      {"hawser_spec", "separators",
       "{\"context\":128,\"rope\":\"yarn:factor=4,ramp=rotations\",\"segment_places\":3,"
       "\"segment_separators\":[",
       Numbered("", ""), ",", "]}"},
      {"manifest", "members", "{", Numbered("\"k", "\":1"), ",", "}"},
      {"metrics", "lines", "", Numbered("{\"step\":", ",\"loss\":2}"), "\n", "\n"},
      {"metrics", "a long line", "{\"step\":1,\"x\":[", Same("{}"), ",", "]}\n"},
      {"documents", "lines", "", Same("{\"text\":\"a\"}"), "\n", "\n"},
      {"documents", "sources", "", Numbered("{\"text\":\"a\",\"source\":\"", "\"}"), "\n", "\n"},
      {"documents", "a long line", "{\"text\":\"a\",\"x\":[", Same("{}"), ",", "]}\n"},
      {"documents", "a long text", "{\"text\":\"", Same("word \\n"), "", "\"}\n"},
      {"documents", "blank lines", "{\"text\":\"a\"}\n", Same(" \n"), "", ""},
      {"documents", "cuts", "{\"input_ids\":[],\"source\":[", Same("{\"end\":0,\"source\":\"x\"}"), ",", "]}\n"},
      {"plot", "points", "{\"series\":[{\"y\":[],\"x\":[", Numbered("", ""), ",", "]}]}"},
      {"plot", "series", "{\"series\":[", Numbered("{\"x\":[", "],\"y\":[1],\"name\":\"a\"}"), ",", "]}"},
      {"plot", "marks", "{\"series\":[{\"x\":[1],\"y\":[1]}],\"marks\":[", Numbered("{\"x\":", "}"), ",", "]}"},
      {"text_state", "ids", "{\"pending\":[],\"seen\":[", Same("1"), ",", "]}"},
      {"index", "tensors", "{\"weight_map\":{", Numbered("\"t", "\":\"one.safetensors\""), ",", "}}"},
      {"recipe", "texts", "data = [", Same("'a'"), ", ", "]\n"},
      {"recipe", "a long text", "data = '''", Same("a.b [\n"), "", "'''\n"},
      {"recipe", "numbers of lists", "anchor = [", Numbered("", ""), ", ", "]\n"},
      {"recipe", "unknown keys", "", Numbered("k", " = 1"), "\n", "\n"},
      {"recipe", "comments", "", Same("# a.b.c"), "\n", "\n"},
      {"pattern", "windows", "window=", Numbered("1", ""), "+", ""},
      {"pattern", "layers", "full-layers=", [](size_t i) { return std::to_string(i % 4000); }, "+", ""},
      {"pattern", "blanks", "full", Same(" "), "", ""},
      {"kv", "windows", "window:", Numbered("1", ""), "+", ""},
      {"kv", "options", "window:4", Same(",x"), "", ""},
      {"rope", "options", "linear:factor=8", Same(","), "", ""},
      {"numerics", "fields", "", Same("qk=f32"), "+", ""},
      {"softmax", "options", "self-adjust:", Same("nb=1"), ",", ""},
      {"separators", "ids", "", [](size_t i) { return std::to_string(i % 256); }, "+", ""},
      {"setting", "a list", "anchor=[", Same("1"), ",", "]"},
  };
  return shapes;
}

double Seconds(const Target& target, const std::string& input) {
  double least = 1e9;
  for (int i = 0; i < 3; ++i) {
    const auto now = [] {
      timespec time{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
      return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    };
    const double begin = now();
    RunOne(target, input);
    least = std::min(least, now() - begin);
  }
  return least;
}

void ExpectLinear(const Target& target, const std::string& what, const std::function<std::string(size_t)>& make) {
  constexpr size_t kBytes = 16 << 10, kTimes = 8;
  const double once = Seconds(target, make(kBytes)), more = Seconds(target, make(kTimes * kBytes));
  EXPECT_LT(more, 30 * once + 2e-3) << target.name << ", " << what << ": " << once << " s and " << more << " s";
}

TEST(Linear, EveryReaderAndForm) {
  SetQuiet(true);
  for (const Shape& shape : Shapes()) {
    const auto target = std::ranges::find(Targets(), shape.target, &Target::name);
    ASSERT_NE(target, Targets().end()) << shape.target;
    ExpectLinear(*target, shape.what, [&](size_t bytes) { return shape.Make(bytes); });
  }
  // Headers of tensors stand behind their length.
  const auto safetensors = std::ranges::find(Targets(), "safetensors", &Target::name);
  for (const Shape& shape :
       {Shape{"safetensors", "tensors", "{",
              Numbered("\"t", "\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}"), ",", "}"},
        Shape{"safetensors", "metadata", "{\"__metadata__\":{", Numbered("\"k", "\":\"v\""), ",", "}}"},
        Shape{"safetensors", "objects in a list", "{\"a\":[", Same("{}"), ",", "]}"}}) {
    ExpectLinear(*safetensors, shape.what, [&](size_t bytes) { return SafetensorsHeader(shape.Make(bytes)); });
  }
  SetQuiet(false);
}

}  // namespace
}  // namespace hawser::fuzz
