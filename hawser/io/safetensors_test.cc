#include "hawser/io/safetensors.h"

#include <cstring>

#include "hawser/base/rng.h"
#include "hawser/io/convert.h"
#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

/// A file from its parts, written without the code under test.
std::string File(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return bytes + header + data;
}

template <class T>
std::span<const std::byte> Bytes(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::vector<float> Values(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.size()));
  ConvertToF32(view.dtype, view.bytes.data(), view.size(), values.data());
  return values;
}

TEST(SafetensorsTest, ReadsAFileMadeByHand) {
  const fs::path path = FreshFolder("st_hand") / "x.safetensors";
  // A header of odd length leaves the data unaligned; b lies before a.
  const std::string header =
      R"({"__metadata__":{"format":"pt","note":"n"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[3,11]},)"
      R"("b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"e":{"dtype":"F16","shape":[0,5],"data_offsets":[11,11]},)"
      R"("s":{"dtype":"BF16","shape":[],"data_offsets":[11,13]}}   )";
  using namespace std::string_literals;
  WriteBytes(path, File(header, "\x01\x02\xff\x00\x00\x80\x3f\x00\x00\x20\xc0\x40\x40"s));
  const TensorSource source = ReadSafetensors(path);
  ASSERT_EQ(source.tensors().size(), 4u);
  EXPECT_EQ(source.metadata.at("note"), "n");
  EXPECT_EQ(Values(*source.Find("a")), (std::vector<float>{1.0f, -2.5f}));
  EXPECT_EQ(source.Find("a")->shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(Values(*source.Find("b")), (std::vector<float>{1, 2, 255}));
  EXPECT_EQ(Values(*source.Find("s")), (std::vector<float>{3.0f}));
  EXPECT_EQ(source.Find("e")->size(), 0);
  EXPECT_EQ(source.Find("missing"), nullptr);
}

TEST(SafetensorsTest, WritesWhatItReads) {
  const fs::path path = FreshFolder("st_round") / "x.safetensors";
  const std::vector<float> f = {1.0f, -0.0f, 3.14159f, 1e-40f, 65504.0f, NAN};
  const std::vector<int32_t> i = {-5, 7};
  const std::vector<int64_t> l = {int64_t{1} << 40};
  const std::vector<uint8_t> u = {9, 8, 7};
  const std::vector<double> d = {0.1};
  const std::vector<TensorToWrite> tensors = {
      {"u", {DType::kU8, {3}, Bytes(u)}, DType::kU8},   {"f", {DType::kF32, {3, 2}, Bytes(f)}, DType::kF32},
      {"h", {DType::kF32, {6}, Bytes(f)}, DType::kF16}, {"b", {DType::kF32, {2, 3}, Bytes(f)}, DType::kBF16},
      {"i", {DType::kI32, {2}, Bytes(i)}, DType::kI32}, {"l", {DType::kI64, {1, 1}, Bytes(l)}, DType::kI64},
      {"d", {DType::kF64, {}, Bytes(d)}, DType::kF64},  {"w", {DType::kF32, {6}, Bytes(f)}, DType::kF64},
      {"z", {DType::kF32, {0, 4}, {}}, DType::kBF16},
  };
  WriteSafetensors(path, tensors, {{"step", "12"}});
  const std::string bytes = ReadFile(path);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ((8 + header) % 64, 0u);

  const TensorSource source = ReadSafetensors(path);
  EXPECT_EQ(source.metadata.at("format"), "pt");
  EXPECT_EQ(source.metadata.at("step"), "12");
  ASSERT_EQ(source.tensors().size(), tensors.size());
  for (const TensorToWrite& tensor : tensors) {
    const TensorView* view = source.Find(tensor.name);
    ASSERT_NE(view, nullptr) << tensor.name;
    EXPECT_EQ(view->dtype, tensor.dtype) << tensor.name;
    EXPECT_EQ(view->shape, tensor.view.shape) << tensor.name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->bytes.data()) % SizeOf(view->dtype), 0u) << tensor.name;
    if (tensor.dtype == tensor.view.dtype && !view->bytes.empty()) {
      EXPECT_EQ(std::memcmp(view->bytes.data(), tensor.view.bytes.data(), view->bytes.size()), 0) << tensor.name;
    }
  }
  const std::vector<float> b = Values(*source.Find("b")), h = Values(*source.Find("h"));
  for (size_t k = 0; k + 1 < f.size(); ++k) {
    EXPECT_EQ(b[k], ToF32(ToBF16(f[k])));
    EXPECT_EQ(h[k], F16ToF32(F32ToF16(f[k])));
  }
  EXPECT_TRUE(std::isnan(b[5]) && std::isnan(h[5]));

  // The order of the arguments does not matter.
  WriteSafetensors(path, {tensors.rbegin(), tensors.rend()}, {{"step", "12"}});
  EXPECT_EQ(ReadFile(path), bytes);
}

TEST(SafetensorsTest, ConvertsLargeTensorsPieceByPiece) {
  const fs::path path = FreshFolder("st_large") / "x.safetensors";
  std::vector<float> values((1 << 20) + 4097);  // more than a piece, and not a multiple
  Rng rng{3};
  for (float& x : values) x = static_cast<float>(rng.Uniform() - 0.5);
  WriteSafetensors(path, {{"x", {DType::kF32, {static_cast<int64_t>(values.size())}, Bytes(values)}, DType::kBF16}});
  const TensorSource source = ReadSafetensors(path);
  const std::vector<float> read = Values(*source.Find("x"));
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(read[i], ToF32(ToBF16(values[i]))) << i;
}

TEST(SafetensorsTest, RefusesHeadersThatLie) {
  const fs::path path = FreshFolder("st_lies") / "x.safetensors";
  struct Case {
    std::string header;
    size_t data;
    ErrorKind kind;
    std::initializer_list<std::string_view> words;
  };
  const auto kFormat = ErrorKind::kFormat;
  const std::string f4 = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const Case cases[] = {
      {R"({"a":)" + f4 + "}", 5, kFormat, {"4", "5"}},
      {R"({"a":)" + f4 + "}", 3, kFormat, {"truncated"}},
      {R"({"a":)" + f4 + R"(,"b":)" + f4 + "}", 4, kFormat, {"'b'", "inside"}},
      {R"({"a":)" + f4 + R"(,"a":)" + f4 + "}", 4, kFormat, {"\"a\"", "twice"}},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, kFormat, {"'a'", "gap"}},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, kFormat, {"'a'", "[2]", "8 bytes"}},
      {R"({"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,4]}})", 4, kFormat, {"'a'", "bf16"}},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, kFormat, {"'a'", "[4, 0]"}},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 8, kFormat, {"'a'", "data_offsets"}},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 8, kFormat, {"'a'", "data_offsets"}},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, kFormat, {"'a'", "shape"}},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, kFormat, {"'a'", "shape"}},
      {R"({"a":{"dtype":"F32","shape":"1","data_offsets":[0,4]}})", 4, kFormat, {"'a'", "shape"}},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4, kFormat, {"'a'", "8"}},
      // 2^62 elements of 4 bytes, and products that come back to 4 modulo 2^64.
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0, kFormat, {"'a'", "too many"}},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, kFormat, {"'a'", "too many"}},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551616]}})",
       4,
       kFormat,
       {"'a'", "data_offsets"}},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, kFormat, {"'a'", "data_offsets"}},
      {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, kFormat, {"'a'", "dtype"}},
      {R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})",
       4,
       ErrorKind::kUnsupported,
       {"'a'", "F8_E4M3", "BF16"}},
      {R"({"a":7})", 4, kFormat, {"'a'", "7"}},
      {R"({"__metadata__":{"n":1}})", 0, kFormat, {"__metadata__", "'n'"}},
      {R"([1])", 0, kFormat, {"{"}},
      {R"( {})", 0, kFormat, {"{"}},
      {R"({"a":)" + f4, 4, kFormat, {"JSON"}},
      {R"({"a":{"dtype":{"x":{"y":[1]}},"shape":[1],"data_offsets":[0,4]}})", 4, kFormat, {"deeper"}},
      {R"({")" + std::string(2000, 'n') + R"(":)" + f4 + "}", 4, kFormat, {"1024"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.header.substr(0, 120));
    WriteBytes(path, File(c.header, std::string(c.data, '\0')));
    ExpectError(c.kind, c.words, [&] { ReadSafetensors(path); });
    ExpectError(c.kind, {path.string()}, [&] { ReadSafetensors(path); });
  }
  for (const uint64_t length :
       {uint64_t{3}, uint64_t{100'000'001}, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    WriteBytes(path, bytes + "{}");
    ExpectError(kFormat, {path.string(), "header"}, [&] { ReadSafetensors(path); });
  }
  ExpectError(ErrorKind::kIo, {"nowhere"}, [&] { ReadSafetensors(path.parent_path() / "nowhere"); });
  ExpectError(ErrorKind::kIo, {"regular"}, [&] { ReadSafetensors(path.parent_path()); });
}

TEST(SafetensorsTest, SurvivesTruncationAndFlippedBits) {
  const fs::path path = FreshFolder("st_flips") / "x.safetensors";
  const std::vector<float> f = {1, 2, 3};
  WriteSafetensors(
      path, {{"a", {DType::kF32, {3}, Bytes(f)}, DType::kF32}, {"b", {DType::kF32, {1, 3}, Bytes(f)}, DType::kBF16}});
  const std::string bytes = ReadFile(path);
  const auto read = [&] {
    const TensorSource source = ReadSafetensors(path);
    for (const auto& [name, view] : source.tensors()) Values(view);  // every byte is there
  };
  ExpectTruncationsFail(path, bytes, read);
  EXPECT_GT(FlipBits(path, bytes, bytes.size(), read), 500);
}

TEST(SafetensorsTest, FailedWriteLeavesWhatWasThere) {
  const fs::path folder = FreshFolder("st_full");
  const fs::path path = folder / "x.safetensors";
  const std::vector<float> values(50000, 1.0f);
  const std::vector<TensorToWrite> tensors = {{"x", {DType::kF32, {50000}, Bytes(values)}, DType::kBF16}};
  for (const char* before : {"", "old"}) {
    if (*before) WriteBytes(path, before);
    WithFileLimit(4096, [&] {
      ExpectError(ErrorKind::kIo, {path.string(), "write"}, [&] { WriteSafetensors(path, tensors); });
    });
    EXPECT_EQ(fs::exists(path), *before != '\0');
    if (*before) {
      EXPECT_EQ(ReadFile(path), before);
    }
    EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), *before ? 1 : 0);
  }
}

class ShardedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("st_shards");
    Shard("one.safetensors", {"a", "b"});
    Shard("two.safetensors", {"c"});
  }
  void Shard(const std::string& file, const std::vector<std::string>& names) {
    std::vector<TensorToWrite> tensors;
    for (const std::string& name : names) tensors.push_back({name, {DType::kF32, {2}, Bytes(values_)}, DType::kF32});
    WriteSafetensors(folder_ / file, tensors);
  }
  TensorSource Read(const std::string& map) {
    const fs::path index = folder_ / "model.safetensors.index.json";
    WriteBytes(index, R"({"metadata": {"total_size": 24}, "weight_map": )" + map + "}");
    return ReadShardedSafetensors(index);
  }

  fs::path folder_;
  std::vector<float> values_ = {1.5f, -2.0f};
};

TEST_F(ShardedTest, ComposesShards) {
  const TensorSource source = Read(R"({"c": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors"})");
  ASSERT_EQ(source.tensors().size(), 3u);
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(Values(*source.Find(name)), values_) << name;
}

TEST_F(ShardedTest, TakesWhatTheIndexDoesNotList) {
  const TensorSource source = Read(R"({"a": "one.safetensors"})");
  EXPECT_EQ(source.tensors().size(), 2u);
}

TEST_F(ShardedTest, RefusesIndexesThatLie) {
  const auto kFormat = ErrorKind::kFormat;
  ExpectError(kFormat, {"'z'", "two.safetensors"}, [&] { Read(R"({"c":"two.safetensors","z":"two.safetensors"})"); });
  ExpectError(kFormat, {"'b'", "two.safetensors"}, [&] { Read(R"({"a":"one.safetensors","b":"two.safetensors"})"); });
  ExpectError(ErrorKind::kIo, {"three.safetensors"}, [&] { Read(R"({"a":"three.safetensors"})"); });
  ExpectError(kFormat, {"weight_map"}, [&] { Read("[]"); });
  ExpectError(kFormat, {"weight_map", "'a'"}, [&] { Read(R"({"a":1})"); });
  Shard("two.safetensors", {"c", "a"});
  ExpectError(kFormat, {"'a'"},
              [&] { Read(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})"); });
}

TEST_F(ShardedTest, NeverLeavesItsFolder) {
  fs::create_directories(folder_ / "sub");
  fs::copy(folder_ / "one.safetensors", folder_ / "sub" / "one.safetensors");
  const std::string absolute = (folder_ / "one.safetensors").string();
  for (const std::string& shard :
       {std::string("../hawser_st_shards/one.safetensors"), std::string("sub/one.safetensors"),
        std::string("./one.safetensors"), absolute, std::string("one.safetensors\\u0000"),
        std::string("..\\\\a.safetensors"), std::string("one.bin"), std::string("")}) {
    ExpectError(ErrorKind::kFormat, {"shard"}, [&] { Read(R"({"a": ")" + shard + R"("})"); });
  }
}

}  // namespace
}  // namespace hawser
