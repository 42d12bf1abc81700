#include "hawser/serve/tool_calls.h"

#include <gtest/gtest.h>

namespace hawser {
namespace {

std::string Names(const ToolCalls& found) {
  std::string text;
  for (const auto& call : found.calls) {
    text += call["function"]["name"].get<std::string>() + call["function"]["arguments"].get<std::string>() + ";";
  }
  return text + "|" + found.content;
}

TEST(ToolCalls, FormsOfTheFamilies) {
  EXPECT_EQ(Names(FindToolCalls("Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": 2}}\n"
                                "</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>")),
            "f{\"b\":1,\"a\":2};g{};|Let me see.");
  EXPECT_EQ(Names(FindToolCalls("<tool_call>{\"name\":\"g\",\"arguments\":{}}")), "g{};|");  // its end was a stop
  EXPECT_EQ(Names(FindToolCalls(" {\"name\": \"f\", \"parameters\": {\"x\": \"y\"}}\n")), "f{\"x\":\"y\"};|");
  EXPECT_EQ(Names(FindToolCalls("[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"x\": 1}}]")), "f{\"x\":1};|");
  EXPECT_EQ(Names(FindToolCalls("<tool_call>{\"name\":\"g\",\"arguments\":\"{\\\"a\\\": 1}\"}</tool_call>")),
            "g{\"a\": 1};|");
}

TEST(ToolCalls, EverythingElseIsText) {
  for (const std::string text :
       {"", "no call", "{\"name\": \"f\"}", "{\"a\": 1}", "<tool_call>", "<tool_call>{}</tool_call>",
        "<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>", "[TOOL_CALLS]", "[TOOL_CALLS][]",
        "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, 3]", "</tool_call>", "<tool_call>[1, 2",
        "{\"name\": ", "a <tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call> b"}) {
    EXPECT_EQ(Names(FindToolCalls(text)), "|" + text);
  }
  const ToolCalls two = FindToolCalls(
      "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call><tool_call>{\"name\":\"f\",\"arguments\":{}}</"
      "tool_call>");
  EXPECT_NE(two.calls[0]["id"], two.calls[1]["id"]);
}

}  // namespace
}  // namespace hawser
