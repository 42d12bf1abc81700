#include "hawser/io/event_stream.h"

#include <gtest/gtest.h>

#include <vector>

namespace hawser {
namespace {

TEST(EventStream, GivesTheDataHoweverTheBytesCome) {
  const std::string bytes =
      "data: {\"a\": 1}\n\n: a comment\r\n\r\nevent: x\rdata:b\r\rdata\ndata:  c\nid: 3\n\nretry: 4\n\ndata: "
      "[DONE]\n\nda";
  const std::vector<std::string> wanted = {"{\"a\": 1}", "b", "\n c", "[DONE]"};
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    EventStream stream;
    std::vector<std::string> got;
    for (size_t at = 0; at < bytes.size(); at += piece) {
      stream.Push(std::string_view(bytes).substr(at, piece), [&](const std::string& data) { got.push_back(data); });
    }
    EXPECT_EQ(got, wanted) << piece;
  }
}

}  // namespace
}  // namespace hawser
