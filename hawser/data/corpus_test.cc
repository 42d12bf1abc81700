#include "hawser/data/corpus.h"

#include <gtest/gtest.h>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/parallel.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::ByteTokenizer;

class CorpusTest : public ::testing::Test {
 protected:
  void SetUp() override { folder_ = FreshFolder("corpus"); }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path Write(const std::string& name, std::string_view contents) {
    const fs::path path = folder_ / name;
    MakeDirectories(path.parent_path());
    WriteFileAtomically(path, contents);
    return path;
  }
  fs::path folder_;
};

template <class Body>
std::string ErrorOf(ErrorKind kind, Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST_F(CorpusTest, FoldersAreWalkedInLexicographicOrder) {
  for (const char* name : {"9.txt", "10.txt", "b/1.txt", "b/notes.md", "a.jsonl"}) Write(name, "x");
  const auto files = ListDataFiles({folder_});
  std::vector<std::string> names;
  for (const fs::path& file : files) names.push_back(fs::relative(file, folder_).string());
  EXPECT_EQ(names, (std::vector<std::string>{"10.txt", "9.txt", "a.jsonl", "b/1.txt"}));
  EXPECT_EQ(ListDataFiles({folder_ / "b/notes.md"}).size(), 1u) << "a file that is named is taken whatever its ending";
}

TEST_F(CorpusTest, TextFilesAreOneDocumentEach) {
  const auto documents = ReadDocuments({Write("wiki/a.txt", "\xef\xbb\xbfOne \xc3\xa9\n\nTwo\n")});
  ASSERT_EQ(documents.size(), 1u);
  EXPECT_EQ(documents[0].text, "One \xc3\xa9\n\nTwo\n") << "without the byte order mark, newlines kept";
  EXPECT_EQ(documents[0].source, "wiki");
}

TEST_F(CorpusTest, JsonLinesAreOneDocumentALine) {
  const auto documents = ReadDocuments({Write(
      "set/a.jsonl", "{\"text\":\"one\\nline\",\"source\":\"web\"}\n\n{\"text\":\"\"}\r\n{\"text\":\"three\"}")});
  ASSERT_EQ(documents.size(), 3u);
  EXPECT_EQ(documents[0].text, "one\nline");
  EXPECT_EQ(documents[0].source, "web");
  EXPECT_EQ(documents[2].text, "three");
  EXPECT_EQ(documents[2].source, "set");
}

TEST_F(CorpusTest, BadInputIsNamed) {
  using enum ErrorKind;
  EXPECT_NE(ErrorOf(kIo, [&] { ListDataFiles({folder_ / "none"}); }).find("none"), std::string::npos);
  ErrorOf(kFormat, [&] { ListDataFiles({folder_}); });
  ErrorOf(kFormat, [&] { ReadDocuments({}); });
  ErrorOf(kFormat, [&] { ReadDocuments({Write("a.txt", "")}); });
  ErrorOf(kFormat, [&] { ReadDocuments({Write("b.jsonl", "\n{\"text\":\"\"}\n")}); });
  ErrorOf(kIo, [&] { ReadDocuments({folder_}); });
  EXPECT_NE(ErrorOf(kFormat,
                    [&] {
                      ReadDocuments({Write("c.txt",
                                           "ab\xff"
                                           "c")});
                    })
                .find("byte 2 is 0xff"),
            std::string::npos);
  const auto line = [&](const char* contents) {
    return ErrorOf(kFormat, [&] { ReadDocuments({Write("d.jsonl", contents)}); });
  };
  EXPECT_NE(line("{\"text\":\"a\"}\n{\"text\":\n").find("line 2"), std::string::npos);
  EXPECT_NE(line("[]").find("line 1"), std::string::npos);
  EXPECT_NE(line("{\"text\":3}").find("text"), std::string::npos);
  EXPECT_NE(line("{\"text\":\"a\",\"source\":[]}").find("source"), std::string::npos);
  line("{\"text\":\"\\ud800\"}");
}

TEST_F(CorpusTest, TokenisedLinesAreCutAtTheirSources) {
  ByteTokenizer tokenizer;
  tokenizer.set_bos(1);
  tokenizer.set_prefix({1});
  const DocumentSet set =
      LoadDocuments({Write("set/a.jsonl",
                           "{\"input_ids\":[1,5,6,7,1,8,9],\"source\":[{\"source\":\"web\",\"start\":0,\"end\":4},"
                           "{\"source\":\"book\",\"end\":7}]}\n{\"text\":\"ab\"}\n{\"input_ids\":[3,1]}\n"
                           "{\"input_ids\":[1],\"source\":\"web\"}\n")},
                    tokenizer);
  ASSERT_EQ(set.size(), 5);
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(set.Get(0).tokens, (Ids{5, 6, 7})) << "a BOS that opens a document is the packer's";
  EXPECT_EQ(set.Get(1).tokens, (Ids{8, 9}));
  EXPECT_EQ(set.Get(2).tokens, (Ids{'a', 'b'}));
  EXPECT_EQ(set.Get(3).tokens, (Ids{3, 1}));
  EXPECT_TRUE(set.Get(4).tokens.empty()) << "a document that is only a BOS is counted, and the packer drops it";
  EXPECT_EQ(set.sources(), (std::vector<std::string>{"web", "book", "set"}));
  EXPECT_EQ(set.tokens(), 9);
  EXPECT_EQ(set.tokens_in_memory(), 9);
}

TEST_F(CorpusTest, ASourceForEveryDocumentIsNoBurden) {
  DocumentSet set;
  constexpr int32_t kCount = 200000;  // compared with one another, these would take minutes
  for (int32_t d = 0; d < kCount; ++d) set.Add(fmt::format("https://example.org/{:08}", d), {1});
  set.Add("https://example.org/00000007", {2});
  EXPECT_EQ(set.sources().size(), size_t{kCount});
  EXPECT_EQ(set.source(kCount), 7);
}

TEST_F(CorpusTest, BadTokenisedLinesAreNamed) {
  const auto error = [&](const std::string& line) {
    const fs::path path = Write("d.jsonl", "{\"text\":\"a\"}\n" + line);
    const std::string message = ErrorOf(ErrorKind::kFormat, [&] { LoadDocuments({path}, ByteTokenizer()); });
    EXPECT_NE(message.find("d.jsonl: line 2"), std::string::npos) << message;
    return message;
  };
  EXPECT_NE(error("{\"input_ids\":[1,256]}").find("256 is outside the vocabulary"), std::string::npos);
  EXPECT_NE(error("{\"input_ids\":[1,-2]}").find("[1] is -2"), std::string::npos);
  for (const char* ids : {"[1.5]", "7", "[[1]]", "[\"1\"]", "[4294967296]", "[true]"}) {
    error(std::string("{\"input_ids\":") + ids + "}");
  }
  error("{\"input_ids\":[1],\"text\":\"x\"}");
  const auto cut = [&](const char* source) {
    return error(std::string("{\"input_ids\":[1,2,3],\"source\":") + source + "}");
  };
  EXPECT_NE(cut("[{\"end\":2}]").find("tokens [2, 3) belong to no document"), std::string::npos);
  EXPECT_NE(cut("[{\"end\":2},{\"start\":1,\"end\":3}]").find("source[1] is [1, 3)"), std::string::npos);
  for (const char* source : {"[{\"end\":4}]", "[{}]", "[3]", "5", "[]", "[{\"end\":2},{\"end\":1}]"}) cut(source);
  const fs::path ids = Write("ids.jsonl", "{\"input_ids\":[1]}");
  EXPECT_NE(ErrorOf(ErrorKind::kFormat, [&] { ReadDocuments({ids}); }).find("text is wanted"), std::string::npos);
}

TEST_F(CorpusTest, TheHashSeesSourcesWhereTheyMatter) {
  DocumentSet a, b, renamed;
  for (DocumentSet* set : {&a, &b, &renamed}) set->Add(set == &renamed ? "site" : "web", {1, 2});
  a.Add("web", {3});
  b.Add("book", {3});
  renamed.Add("site", {3});
  EXPECT_EQ(a.Hash(), b.Hash());
  EXPECT_NE(a.Hash(true), b.Hash(true));
  EXPECT_EQ(a.Hash(true), renamed.Hash(true)) << "what sources are called draws nothing";
}

TEST_F(CorpusTest, TagsNeedSources) {
  DocumentSet set;
  set.Add("web", {1, 2});
  set.MakeTags(ByteTokenizer());
  EXPECT_EQ(set.Get(0).tag, (std::vector<int32_t>{'w', 'e', 'b', '\n'}));
  set.Add("", {3});
  EXPECT_NE(ErrorOf(ErrorKind::kUsage, [&] { set.MakeTags(ByteTokenizer()); }).find("document 1 has none"),
            std::string::npos);
}

TEST_F(CorpusTest, EveryTruncationOfJsonLinesReadsOrFails) {
  const std::string whole = "{\"text\":\"one \\u00e9\",\"source\":\"web\"}\n{\"text\":\"two\"}\n";
  for (size_t n = 1; n < whole.size(); ++n) {
    const fs::path path = Write("t.jsonl", whole.substr(0, n));
    try {
      EXPECT_GE(ReadDocuments({path}).size(), 1u);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kFormat);
    }
  }
}

TEST(Utf8Test, FirstBadByteIsFound) {
  EXPECT_EQ(InvalidUtf8At("plain"), -1);
  EXPECT_EQ(InvalidUtf8At("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), -1);
  EXPECT_EQ(InvalidUtf8At("a\xc3"), 1);             // cut off
  EXPECT_EQ(InvalidUtf8At("ab\x80"), 2);            // lone continuation
  EXPECT_EQ(InvalidUtf8At("a\xc0\xaf"), 1);         // overlong
  EXPECT_EQ(InvalidUtf8At("abc\xed\xa0\x80"), 3);   // surrogate
  EXPECT_EQ(InvalidUtf8At("\xf4\x90\x80\x80"), 0);  // above U+10FFFF
  EXPECT_EQ(InvalidUtf8At("\xc3\xa9\xc3\x28"
                          "x"),
            2);  // second byte wrong
}

TEST(HoldOutTest, LastFilesInLexicographicOrder) {
  const FileSplit split = HoldOutFiles({"d/9", "d/10", "d/5", "d/50"}, 2);
  EXPECT_EQ(split.train, (std::vector<fs::path>{"d/10", "d/5"}));
  EXPECT_EQ(split.validation, (std::vector<fs::path>{"d/50", "d/9"}));
  EXPECT_TRUE(HoldOutFiles({"a"}, 0).validation.empty());
  EXPECT_THROW(HoldOutFiles({"a"}, 1), Error);
  EXPECT_THROW(HoldOutFiles({"a"}, -1), Error);
}

TEST(TokenizeTest, InOrderForAnyNumberOfThreads) {
  std::vector<TextDocument> texts;
  for (int i = 0; i < 100; ++i) texts.push_back({.text = std::to_string(i * i)});
  for (const int threads : {1, 4}) {
    SetThreads(threads);
    const auto documents = TokenizeDocuments(texts, ByteTokenizer());
    ASSERT_EQ(documents.size(), 100u);
    EXPECT_EQ(documents[12].id, 12);
    EXPECT_EQ(documents[12].tokens, (std::vector<int32_t>{'1', '4', '4'}));
  }
  SetThreads(0);
  texts[40] = {.path = "here", .text = "bad"};
  EXPECT_NE(ErrorOf(ErrorKind::kFormat, [&] { TokenizeDocuments(texts, ByteTokenizer()); }).find("here"),
            std::string::npos);
}

TEST_F(CorpusTest, CompletionsAreTrainedOnAndPromptsAreNot) {
  const ByteTokenizer tokenizer;
  const fs::path path = Write("t.jsonl",
                              "{\"prompt\": \"2 + 2 = \", \"completion\": \"4\", \"source\": \"sums\"}\n"
                              "{\"completion\": \"all of it\"}\n{\"text\": \"ab\"}\n"
                              "{\"input_ids\": [70, 71, 72], \"weights\": [0, 0.5, 1]}\n"
                              "{\"input_ids\": [70, 71, 72, 73], \"weights\": [0, 1, 2, 3], \"source\": "
                              "[{\"end\": 1}, {\"end\": 4}]}\n");
  const DocumentSet set = LoadDocuments({path}, tokenizer);
  ASSERT_EQ(set.size(), 6);
  EXPECT_EQ(tokenizer.Decode(set.Get(0).tokens), "2 + 2 = 4");
  EXPECT_EQ(set.sources()[set.source(0)], "sums");
  std::vector<float> wanted(9, 0.0f);
  wanted.back() = 1;
  EXPECT_EQ(set.Get(0).weights, wanted);
  EXPECT_TRUE(set.Get(1).weights.empty());
  EXPECT_TRUE(set.Get(2).weights.empty());
  EXPECT_EQ(set.Get(3).weights, (std::vector<float>{0, 0.5f, 1}));
  EXPECT_EQ(set.Get(4).weights, (std::vector<float>{0}));
  EXPECT_EQ(set.Get(5).weights, (std::vector<float>{1, 2, 3}));
  // The same ids with other weights are other data.
  const auto hash = [&](const char* weights) {
    return LoadDocuments({Write("h.jsonl", std::string("{\"input_ids\": [70, 71], \"weights\": ") + weights + "}")},
                         tokenizer)
        .Hash();
  };
  EXPECT_NE(hash("[0, 1]"), hash("[1, 0]"));

  for (const char* bad :
       {"{\"text\": \"a\", \"completion\": \"b\"}", "{\"prompt\": \"a\"}", "{\"prompt\": 1, \"completion\": \"b\"}",
        "{\"text\": \"a\", \"weights\": [1]}", "{\"input_ids\": [70], \"weights\": [1, 1]}",
        "{\"input_ids\": [70], \"weights\": [-1]}", "{\"input_ids\": [70], \"weights\": [1e300]}",
        "{\"input_ids\": [70], \"weights\": \"1\"}", "{\"input_ids\": [70], \"weights\": [true]}",
        "{\"input_ids\": [70], \"completion\": \"b\"}"}) {
    const std::string error = ErrorOf(ErrorKind::kFormat, [&] { LoadDocuments({Write("b.jsonl", bad)}, tokenizer); });
    EXPECT_NE(error.find("line 1"), std::string::npos) << bad << ": " << error;
  }
}

}  // namespace
}  // namespace hawser
