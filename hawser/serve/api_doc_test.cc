#include "hawser/serve/api_doc.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <regex>
#include <set>

#include "hawser/io/ordered_json.h"
#include "hawser/serve/openai.h"
#include "hawser/serve/service_impl.h"

namespace hawser {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int32_t kDocVocab = 100;

OrderedJson Document() { return ParseOrderedJson(ApiDocument({.logprobs = 7}, kDocVocab, /*indexed=*/true)); }

/// The member that a request is refused for; empty: it is not.
std::string RefusedFor(const OrderedJson& body, bool chat) {
  try {
    ParseCall(body, chat, {.logprobs = 7}, kDocVocab);
    return "";
  } catch (const ApiError& error) {
    return OrderedJson::parse(error.Body())["error"]["param"].get<std::string>();
  }
}

OrderedJson Least(bool chat) {
  return chat ? OrderedJson{{"messages", {{{"role", "user"}, {"content", "a"}}}}} : OrderedJson{{"prompt", "a"}};
}

TEST(ApiDocument, HasEveryRouteAndNoOther) {
  const OrderedJson api = Document();
  std::set<std::string> described, served;
  for (const auto& [path, methods] : api["paths"].items()) {
    for (const char* method : {"get", "post", "delete", "put", "patch"}) {
      if (methods.contains(method)) described.insert(std::string(method) + " " + path);
    }
  }
  for (const auto& row : Service::Impl::Routes()) {
    std::string method = row.method, path = row.path;
    for (char& c : method) c = static_cast<char>(std::tolower(c));
    if (const size_t at = path.find("{path}"); at != path.npos) path.replace(at, 6, "{id}");
    if (path != "/") served.insert(method + " " + path);  // the page
  }
  EXPECT_EQ(described, served);
}

TEST(ApiDocument, ReferencesLeadSomewhere) {
  const OrderedJson api = Document();
  int found = 0;
  const std::function<void(const OrderedJson&)> walk = [&](const OrderedJson& value) {
    if (value.is_object() && value.contains("$ref")) {
      ++found;
      EXPECT_TRUE(api.contains(OrderedJson::json_pointer(value["$ref"].get<std::string>().substr(1)))) << value;
    }
    if (!value.is_structured()) return;
    for (const OrderedJson& inner : value) walk(inner);
  };
  walk(api);
  EXPECT_GT(found, 30);
}

// What the description says of a member is what requests are held to.
TEST(ApiDocument, MembersAreCheckedAsDescribed) {
  for (const bool chat : {false, true}) {
    const OrderedJson members =
        Document()["components"]["schemas"][chat ? "ChatRequest" : "CompletionRequest"]["properties"];
    ASSERT_GT(members.size(), 25u);
    const std::function<void(const OrderedJson&, std::vector<std::string>)> check = [&](const OrderedJson& of,
                                                                                        std::vector<std::string> path) {
      for (const auto& [name, schema] : of.items()) {
        std::vector<std::string> here = path;
        here.push_back(name);
        std::string dotted, pointer;
        for (const std::string& part : here) {
          dotted += (dotted.empty() ? "" : ".") + part;
          pointer += "/" + part;
        }
        const auto refused = [&](const OrderedJson& value) {
          OrderedJson body = Least(chat);
          if (chat) body["logprobs"] = true;  // top_logprobs want it
          body[OrderedJson::json_pointer(pointer)] = value;
          return RefusedFor(body, chat);
        };
        const auto is = [&](const char* type) {
          const OrderedJson types = schema.value("type", OrderedJson::array());
          return types == type || (types.is_array() && std::ranges::find(types, type) != types.end());
        };
        const auto expect_refused = [&](const OrderedJson& value, bool wanted) {
          EXPECT_EQ(refused(value).starts_with(dotted), wanted) << dotted << " " << value;
        };
        if (!is("array")) expect_refused(OrderedJson::parse("[[[]]]"), true);
        expect_refused(nullptr, name == "prompt" || name == "messages");
        if (is("number") || is("integer")) {
          const auto low = schema["minimum"].get<double>(), high = schema["maximum"].get<double>();
          expect_refused(schema["minimum"], false);
          expect_refused(schema["maximum"], false);
          expect_refused(low - 4096, true);  // of 64 bits too
          expect_refused(high + 4096, true);
          expect_refused(1.5, is("integer") || high < 1.5);
        }
        if (schema.contains("type")) {
          expect_refused("text", !is("string"));
          expect_refused(true, !is("boolean"));
        }
        if (schema.contains("properties")) check(schema["properties"], here);
      }
    };
    check(members, {});
  }
}

TEST(ApiDocument, AMemberOfTwoTypesIsDescribedOnce) {
  const OrderedJson members = Document()["components"]["schemas"]["CompletionRequest"]["properties"];
  const OrderedJson keep = members["hawser"]["properties"]["keep"], logprobs = members["logprobs"];
  EXPECT_EQ(keep["type"], (OrderedJson{"number", "string", "null"}));
  EXPECT_EQ(keep["maximum"], 1);
  EXPECT_EQ(keep["format"], "keep-rule");
  EXPECT_EQ(logprobs["type"], (OrderedJson{"integer", "boolean", "null"}));
  EXPECT_EQ(logprobs["description"], "most probable tokens whose log-probabilities are told; true: 1");
  const auto kept = [](const OrderedJson& value) {
    return ParseCall({{"prompt", "a"}, {"hawser", {{"keep", value}}}}, false, {}, kDocVocab).keep;
  };
  EXPECT_EQ(kept(0.3), "0.3");
  EXPECT_EQ(kept("mass=0.9"), "mass=0.9");
  EXPECT_EQ(kept(1), "1");
  EXPECT_EQ(kept(nullptr), "");
}

TEST(ApiDocument, TellsTheLimitsOfItsServer) {
  const OrderedJson schemas = Document()["components"]["schemas"];
  EXPECT_EQ(schemas["TokenId"]["maximum"], kDocVocab - 1);
  EXPECT_EQ(schemas["ChatRequest"]["properties"]["top_logprobs"]["maximum"], 7);
  EXPECT_EQ(RefusedFor({{"prompt", "a"}, {"logprobs", 8}}, false), "logprobs");
  EXPECT_EQ(RefusedFor({{"prompt", "a"}, {"logprobs", 7.0}}, false), "");
}

TEST(ApiDocument, NamesOfTokensAreThoseOfTheVocabulary) {
  for (const int32_t vocab : {1, 2, 10, 11, 100, 102, 4096, 49152, 128256}) {
    const std::string document = ApiDocument({}, vocab, /*indexed=*/false);
    const OrderedJson schemas = ParseOrderedJson(document)["components"]["schemas"];
    const std::regex pattern(schemas["TokenName"]["pattern"].get<std::string>());
    const auto expect = [&](const std::string& name, bool wanted) {
      EXPECT_EQ(std::regex_match(name, pattern), wanted) << name << " of " << vocab;
      const OrderedJson body = {{"prompt", "a"}, {"logit_bias", {{name, 1}}}};
      if (wanted) {
        EXPECT_EQ(ParseCall(body, false, {}, vocab).sampler.bias.size(), 1u) << name << " of " << vocab;
      } else {
        EXPECT_THROW(ParseCall(body, false, {}, vocab), ApiError) << name << " of " << vocab;
      }
    };
    for (int32_t id = 0; id < vocab + 200; id += id < 200 || id > vocab - 200 ? 1 : 97) {
      expect(std::to_string(id), id < vocab);
    }
    for (const char* name : {"", "-1", "00", "01", "0x1", " 1", "1 ", "+1", "1.0", "12345678901"}) expect(name, false);
  }
}

}  // namespace
}  // namespace hawser
