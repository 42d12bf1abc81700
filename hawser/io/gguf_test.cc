#include "hawser/io/gguf.h"

#include <cstring>

#include "hawser/io/convert.h"
#include "hawser/io/gguf_writer.h"
#include "hawser/quant/block.h"
#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

template <class T>
std::string Raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
std::string Text(std::string_view text) { return Raw<uint64_t>(text.size()) + std::string(text); }

/// A file from its parts, written without the code under test.
struct File {
  uint32_t version = 3;
  uint64_t tensors = 0, keys = 0;
  std::string fields, infos, data;

  File& Key(std::string_view key, uint32_t type, const std::string& value) {
    fields += Text(key) + Raw(type) + value;
    ++keys;
    return *this;
  }
  File& Tensor(std::string_view name, std::initializer_list<uint64_t> dims, uint32_t type, uint64_t offset) {
    infos += Text(name) + Raw(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) infos += Raw(dim);
    infos += Raw(type) + Raw(offset);
    ++tensors;
    return *this;
  }
  std::string Bytes() const {
    std::string bytes = "GGUF" + Raw(version) + Raw(tensors) + Raw(keys) + fields + infos;
    bytes.append((32 - bytes.size() % 32) % 32, '\0');
    return bytes + data;
  }
};

GgufFile Read(const fs::path& path, const File& file) {
  WriteBytes(path, file.Bytes());
  return ReadGguf(path);
}

TEST(GgufTest, ReadsAFileMadeByHand) {
  const fs::path path = FreshFolder("gguf_hand") / "x.gguf";
  File file;
  file.Key("general.architecture", 8, Text("llama"));
  file.Key("a.u8", 0, Raw<uint8_t>(200))
      .Key("a.i16", 3, Raw<int16_t>(-5))
      .Key("a.u64", 10, Raw<uint64_t>(1))
      .Key("a.seed", 10, Raw<uint64_t>(UINT64_MAX));
  file.Key("a.f32", 6, Raw(0.5f)).Key("a.f64", 12, Raw(-2.5)).Key("a.bool", 7, Raw<uint8_t>(1));
  file.Key("a.list", 9, Raw<uint32_t>(5) + Raw<uint64_t>(2) + Raw<int32_t>(-1) + Raw<int32_t>(7));
  file.Key("a.texts", 9, Raw<uint32_t>(8) + Raw<uint64_t>(2) + Text("") + Text("\xC3\xA9"));
  file.Tensor("w", {2, 3}, 0, 32).Tensor("q", {32}, 8, 64);
  file.data = std::string(32, '\0');
  for (int i = 0; i < 6; ++i) file.data += Raw(static_cast<float>(i));
  file.data += std::string(8, '\0') + Raw(F32ToF16(2.0f)) + std::string(31, '\1') + "\xFF";
  const GgufFile read = Read(path, file);
  EXPECT_EQ(read.Text("general.architecture"), "llama");
  EXPECT_EQ(read.Int("a.u8"), 200);
  EXPECT_EQ(read.Int("a.i16", -10), -5);
  EXPECT_EQ(read.Int("a.u64"), 1);
  EXPECT_EQ(read.Number("a.f32"), 0.5);
  EXPECT_EQ(read.Number("a.f64"), -2.5);
  EXPECT_EQ(read.Bool("a.bool"), true);
  EXPECT_EQ(std::vector<int64_t>(read.Ints("a.list").begin(), read.Ints("a.list").end()),
            (std::vector<int64_t>{-1, 7}));
  ASSERT_EQ(read.Texts("a.texts").size(), 2u);
  EXPECT_EQ(read.Texts("a.texts")[1], "\xC3\xA9");
  EXPECT_EQ(read.Int("absent"), std::nullopt);
  const TensorView& w = *read.tensors.Find("w");
  EXPECT_EQ(w.shape, (std::vector<int64_t>{3, 2}));
  float values[32];
  ConvertToF32(w.dtype, w.bytes.data(), w.size(), values);
  EXPECT_EQ(values[5], 5.0f);
  const TensorView& q = *read.tensors.Find("q");
  ConvertToF32(q.dtype, q.bytes.data(), q.size(), values);
  EXPECT_EQ(values[0], 2.0f);
  EXPECT_EQ(values[31], -2.0f);
  ExpectError(ErrorKind::kFormat, {"'a.u8'", "0 to 100", "200"}, [&] { read.Int("a.u8", 0, 100); });
  ExpectError(ErrorKind::kFormat, {"'a.seed'", "0 to 100"}, [&] { read.Int("a.seed", 0, 100); });
  ExpectError(ErrorKind::kFormat, {"'a.u8'", "a text"}, [&] { read.Text("a.u8"); });
}

TEST(GgufTest, RefusesByName) {
  const fs::path path = FreshFolder("gguf_bad") / "x.gguf";
  const auto refuse = [&](ErrorKind kind, std::initializer_list<std::string_view> words, const File& file) {
    ExpectError(kind, words, [&] { Read(path, file); });
  };
  refuse(ErrorKind::kUnsupported, {"version 4"}, {.version = 4});
  refuse(ErrorKind::kUnsupported, {"byte order"}, {.version = 3u << 24});
  refuse(ErrorKind::kFormat, {"tensors", "at most"}, {.tensors = uint64_t{1} << 60});
  refuse(ErrorKind::kFormat, {"keys", "at most"}, {.keys = uint64_t{1} << 63});
  refuse(ErrorKind::kFormat, {"'k'", "twice"}, File().Key("k", 0, "1").Key("k", 0, "1"));
  refuse(ErrorKind::kFormat, {"'k'", "bool"}, File().Key("k", 7, "\2"));
  refuse(ErrorKind::kFormat, {"'k'", "type 13"}, File().Key("k", 13, "1"));
  refuse(ErrorKind::kFormat, {"'k'", "UTF-8"}, File().Key("k", 8, Text("\xFF")));
  refuse(ErrorKind::kUnsupported, {"'k'", "arrays in arrays"}, File().Key("k", 9, Raw<uint32_t>(9) + Raw<uint64_t>(0)));
  refuse(ErrorKind::kFormat, {"'k'", "elements wanted"},
         File().Key("k", 9, Raw<uint32_t>(0) + Raw<uint64_t>(uint64_t{1} << 62)));
  refuse(ErrorKind::kFormat, {"'k'", "elements wanted"},
         File().Key("k", 9, Raw<uint32_t>(8) + Raw<uint64_t>(uint64_t{1} << 40)));
  File two = File().Tensor("a", {8}, 0, 0).Tensor("b", {8}, 0, 0);
  two.data = std::string(64, '\0');
  refuse(ErrorKind::kFormat, {"'a'", "'b'", "overlap"}, two);
  File same = File().Tensor("a", {8}, 0, 0).Tensor("a", {8}, 0, 32);
  same.data = std::string(64, '\0');
  refuse(ErrorKind::kFormat, {"'a'", "twice"}, same);
  refuse(ErrorKind::kFormat, {"'a'", "alignment"}, File().Tensor("a", {8}, 0, 8));
  refuse(ErrorKind::kFormat, {"'a'", "truncated"}, File().Tensor("a", {8}, 0, 0));
  refuse(ErrorKind::kFormat, {"'a'", "truncated"}, File().Tensor("a", {8}, 0, UINT64_MAX - 31));
  refuse(ErrorKind::kFormat, {"'a'", "dimensions"}, File().Tensor("a", {1, 1, 1, 1, 1}, 0, 0));
  refuse(ErrorKind::kFormat, {"'a'", "too large"}, File().Tensor("a", {uint64_t{1} << 63}, 0, 0));
  refuse(ErrorKind::kFormat, {"'a'", "too large"},
         File().Tensor("a", {uint64_t{1} << 31, uint64_t{1} << 31, uint64_t{1} << 31}, 0, 0));
  refuse(ErrorKind::kFormat, {"'a'", "whole blocks"}, File().Tensor("a", {33}, 8, 0));
  refuse(ErrorKind::kUnsupported, {"'a'", "IQ4_XS", "q4_k"}, File().Tensor("a", {256}, 23, 0));
  refuse(ErrorKind::kUnsupported, {"'a'", "number 99"}, File().Tensor("a", {256}, 99, 0));
  refuse(ErrorKind::kFormat, {"general.alignment", "power of two"},
         File().Key("general.alignment", 4, Raw<uint32_t>(48)));
  WriteBytes(path, "GGU");
  ExpectError(ErrorKind::kFormat, {"not a GGUF file"}, [&] { ReadGguf(path); });
}

/// Some of every value and tensor type that is written.
void WriteSample(const fs::path& path) {
  std::vector<float> x;
  for (int i = 0; i < 512; ++i) x.push_back(static_cast<float>(i % 17) - 8.0f);
  const std::span<const std::byte> bytes = std::as_bytes(std::span(x));
  std::vector<TensorToWrite> tensors = {{"f32", {DType::kF32, {2, 256}, bytes}, DType::kF32},
                                        {"f16", {DType::kF32, {512}, bytes}, DType::kF16},
                                        {"odd", {DType::kF32, {3}, bytes.first(12)}, DType::kBF16}};
  for (const BlockType* type : BlockTypes()) {
    if (type->encode == nullptr) continue;
    tensors.push_back({std::string(type->name), {DType::kF32, {2, 256}, bytes}, type->dtype});
  }
  WriteGguf(path,
            {{"a", uint32_t{7}},
             {"b", 0.25f},
             {"c", true},
             {"d", std::string("text")},
             {"e", std::vector<int32_t>{1, -2}},
             {"f", std::vector<float>{0.5f}},
             {"g", std::vector<std::string>{"x", ""}},
             {"none", std::vector<float>{}}},
            tensors);
}

TEST(GgufTest, ReadsWhatItWrites) {
  const fs::path path = FreshFolder("gguf_round") / "x.gguf";
  WriteSample(path);
  const GgufFile read = ReadGguf(path);
  EXPECT_EQ(read.Int("a"), 7);
  EXPECT_EQ(read.Number("b"), 0.25);
  EXPECT_EQ(read.Bool("c"), true);
  EXPECT_EQ(read.Text("d"), "text");
  EXPECT_EQ(read.Ints("e")[1], -2);
  EXPECT_EQ(read.Numbers("f")[0], 0.5);
  EXPECT_EQ(read.Texts("g")[1], "");
  EXPECT_FALSE(read.Has("none"));
  EXPECT_EQ(fs::file_size(path) % 32, 0u);
  for (const auto& [name, view] : read.tensors.tensors()) {
    std::vector<float> values(static_cast<size_t>(view.size()));
    ConvertToF32(view.dtype, view.bytes.data(), view.size(), values.data());
    // Four bits over [-8, 8] have steps of 1; the end that has one level less is a whole step off.
    const double error = name == "f32" || name == "f16" || name == "odd" ? 0 : 1.01;
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(values[i], static_cast<float>(i % 17) - 8.0f, error) << name << " value " << i;
    }
  }
}

TEST(GgufTest, NoCutAndNoFlippedBitDoesHarm) {
  const fs::path path = FreshFolder("gguf_hostile") / "x.gguf";
  File file;
  file.Key("general.architecture", 8, Text("llama")).Key("n", 4, Raw<uint32_t>(3));
  file.Key("l", 9, Raw<uint32_t>(8) + Raw<uint64_t>(2) + Text("ab") + Text("c"));
  file.Tensor("w", {4}, 0, 0).Tensor("q", {32}, 2, 32);
  file.data = std::string(32 + 18, '\3');
  const std::string bytes = file.Bytes();
  const auto read = [&] { ReadGguf(path); };
  ExpectTruncationsFail(path, bytes, read);
  WriteBytes(path, bytes);
  EXPECT_TRUE(EndsWell(read));
  EXPECT_GT(FlipBits(path, bytes, bytes.size() - file.data.size(), read), 100);
}

TEST(GgufTest, ReadsPartsByTheFirst) {
  const fs::path folder = FreshFolder("gguf_parts");
  const auto part = [&](int number, const std::string& tensor) {
    File file;
    file.Key("split.no", 2, Raw<uint16_t>(static_cast<uint16_t>(number)));
    file.Key("split.count", 2, Raw<uint16_t>(2)).Tensor(tensor, {1}, 0, 0);
    file.data = std::string(32, '\0');
    WriteBytes(folder / fmt::format("m-{:05}-of-00002.gguf", number + 1), file.Bytes());
  };
  part(0, "a");
  ExpectError(ErrorKind::kIo, {"m-00002-of-00002.gguf"}, [&] { ReadGguf(folder / "m-00001-of-00002.gguf"); });
  part(1, "b");
  EXPECT_EQ(ReadGguf(folder / "m-00001-of-00002.gguf").tensors.tensors().size(), 2u);
  ExpectError(ErrorKind::kUsage, {"the first"}, [&] { ReadGguf(folder / "m-00002-of-00002.gguf"); });
  part(1, "a");
  ExpectError(ErrorKind::kFormat, {"'a'", "twice"}, [&] { ReadGguf(folder / "m-00001-of-00002.gguf"); });
}

}  // namespace
}  // namespace hawser
