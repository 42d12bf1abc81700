#include "hawser/io/gguf_writer.h"

#include <set>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/io/gguf.h"
#include "hawser/io/gguf_types.h"

namespace hawser {
namespace {

constexpr size_t kMaxWrittenName = 64;
constexpr size_t kMaxWrittenRank = 4;

class Bytes {
 public:
  template <class T>
  void Put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void PutText(std::string_view text) {
    Put<uint64_t>(text.size());
    text_.append(text);
  }
  void Pad(size_t alignment) { text_.append((alignment - text_.size() % alignment) % alignment, '\0'); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void PutValue(Bytes& to, uint32_t value) {
  to.Put<uint32_t>(kGgufU32);
  to.Put(value);
}
void PutValue(Bytes& to, float value) {
  to.Put<uint32_t>(kGgufF32);
  to.Put(value);
}
void PutValue(Bytes& to, bool value) {
  to.Put<uint32_t>(kGgufBool);
  to.Put<uint8_t>(value ? 1 : 0);
}
void PutValue(Bytes& to, const std::string& value) {
  to.Put<uint32_t>(kGgufText);
  to.PutText(value);
}
template <class T, class PutOne>
void PutList(Bytes& to, GgufValueType type, const std::vector<T>& values, PutOne put) {
  to.Put<uint32_t>(kGgufArray);
  to.Put<uint32_t>(type);
  to.Put<uint64_t>(values.size());
  for (const T& value : values) put(value);
}
void PutValue(Bytes& to, const std::vector<int32_t>& values) {
  PutList(to, kGgufI32, values, [&](int32_t value) { to.Put(value); });
}
void PutValue(Bytes& to, const std::vector<float>& values) {
  PutList(to, kGgufF32, values, [&](float value) { to.Put(value); });
}
void PutValue(Bytes& to, const std::vector<std::string>& values) {
  PutList(to, kGgufText, values, [&](const std::string& value) { to.PutText(value); });
}

template <class T>
bool IsEmptyList(const T&) {
  return false;
}
template <class T>
bool IsEmptyList(const std::vector<T>& list) {
  return list.empty();
}

}  // namespace

namespace {

GgufValue Read(uint32_t value) { return static_cast<int64_t>(value); }
GgufValue Read(float value) { return static_cast<double>(value); }
GgufValue Read(bool value) { return value; }
GgufValue Read(const std::string& value) { return std::string_view(value); }
GgufValue Read(const std::vector<int32_t>& values) { return std::vector<int64_t>(values.begin(), values.end()); }
GgufValue Read(const std::vector<float>& values) { return std::vector<double>(values.begin(), values.end()); }
GgufValue Read(const std::vector<std::string>& values) {
  return std::vector<std::string_view>(values.begin(), values.end());
}

}  // namespace

GgufFile AsRead(const std::vector<GgufField>& fields, const std::vector<TensorToWrite>& tensors) {
  GgufFile::Metadata metadata;
  for (const GgufField& field : fields) {
    metadata.emplace(field.key, std::visit([](const auto& value) { return Read(value); }, field.value));
  }
  TensorSource source;
  for (const TensorToWrite& tensor : tensors) source.Add(tensor.name, tensor.view);
  return {std::move(metadata), std::move(source)};
}

void WriteGguf(const std::filesystem::path& path, const std::vector<GgufField>& fields,
               const std::vector<TensorToWrite>& tensors, const std::function<void(int64_t bytes)>& on_bytes) {
  Bytes header;
  std::set<std::string_view> seen;
  uint64_t count = 0;
  Bytes values;
  for (const GgufField& field : fields) {
    HAWSER_CHECK(seen.insert(field.key).second);
    std::visit(
        [&](const auto& value) {
          if (IsEmptyList(value)) return;
          values.PutText(field.key);
          PutValue(values, value);
          ++count;
        },
        field.value);
  }
  header.Put<uint32_t>(0x46554747);  // "GGUF"
  header.Put<uint32_t>(3);
  header.Put<uint64_t>(tensors.size());
  header.Put<uint64_t>(count);
  seen.clear();
  Bytes infos;
  const auto padded = [](int64_t bytes) {
    return static_cast<uint64_t>((bytes + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment);
  };
  uint64_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    HAWSER_CHECK(seen.insert(tensor.name).second && tensor.name.size() < kMaxWrittenName);
    const std::vector<int64_t>& shape = tensor.view.shape;
    HAWSER_CHECK(!shape.empty() && shape.size() <= kMaxWrittenRank);
    infos.PutText(tensor.name);
    infos.Put<uint32_t>(static_cast<uint32_t>(shape.size()));
    for (auto size = shape.rbegin(); size != shape.rend(); ++size) infos.Put<uint64_t>(static_cast<uint64_t>(*size));
    infos.Put<uint32_t>(GgufType(tensor.dtype));
    infos.Put<uint64_t>(at);
    at += padded(StoredBytes(tensor));
  }
  const size_t before = header.text().size() + values.text().size() + infos.text().size();
  WriteFileAtomically(path, [&](FileWriter& writer) {
    writer.Append(header.text());
    writer.Append(values.text());
    writer.Append(infos.text());
    const std::string zeros(kGgufAlignment, '\0');
    const auto pad = [&](uint64_t written) {
      writer.Append(std::string_view(zeros).substr(0, (kGgufAlignment - written % kGgufAlignment) % kGgufAlignment));
    };
    pad(before);
    int64_t written = 0;
    for (const TensorToWrite& tensor : tensors) {
      AppendTensor(writer, tensor);
      pad(static_cast<uint64_t>(StoredBytes(tensor)));
      written += StoredBytes(tensor);
      if (on_bytes) on_bytes(written);
    }
  });
}

}  // namespace hawser
