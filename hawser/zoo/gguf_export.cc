#include "hawser/zoo/gguf_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/io/gguf_writer.h"
#include "hawser/io/json.h"
#include "hawser/quant/block.h"
#include "hawser/tok/gguf_vocab_writer.h"
#include "hawser/zoo/builtin.h"
#include "hawser/zoo/gguf_families.h"
#include "hawser/zoo/gguf_model.h"
#include "hawser/zoo/gguf_rope.h"
#include "hawser/zoo/hf_config.h"
#include "hawser/zoo/hf_keys.h"
#include "hawser/zoo/pairing.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

/// What a file may be asked for, and its `general.file_type`.
struct FileType {
  DType dtype;
  uint32_t number;
};
constexpr std::array<FileType, 8> kFileTypes = {{{DType::kF32, 0},
                                                 {DType::kF16, 1},
                                                 {DType::kBF16, 32},
                                                 {DType::kQ8_0, 7},
                                                 {DType::kQ4_0, 2},
                                                 {DType::kQ4_1, 3},
                                                 {DType::kQ4K, 15},
                                                 {DType::kQ6K, 18}}};

const FileType* FindFileType(DType dtype) {
  const auto found = std::ranges::find(kFileTypes, dtype, &FileType::dtype);
  return found == kFileTypes.end() ? nullptr : &*found;
}

/// The first and the last eighth of the layers, and every third between.
bool KeepsMoreBits(int32_t layer, int32_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

/// The type itself where rows of `cols` values are whole blocks of it, else the nearest one where they are.
DType Fitting(DType type, int64_t cols) {
  constexpr std::pair<DType, DType> kNearest[] = {
      {DType::kQ4K, DType::kQ5_0}, {DType::kQ5K, DType::kQ5_1}, {DType::kQ6K, DType::kQ8_0}};
  for (const auto& [large, small] : kNearest) {
    if (type == large && !RowBytes(type, cols)) type = small;
  }
  return RowBytes(type, cols) ? type : DType::kF16;
}

uint32_t U32(int64_t value) {
  HAWSER_CHECK(value >= 0 && value <= UINT32_MAX);
  return static_cast<uint32_t>(value);
}

[[noreturn]] void Refuse(std::string_view what, std::string_view instead = "") {
  Fail(ErrorKind::kUnsupported, "GGUF cannot say {}{}", what, instead);
}

/// Errors: kUnsupported for what no key or tensor of these files says, or readers of the architecture do not know.
void CheckSayable(const ModelSpec& spec, const GgufArchitecture& architecture) {
  const RopeScaling& scaling = spec.rope.scaling;
  if (scaling.kind == RopeKind::kDynamic) {
    Refuse(
        fmt::format("that positions are scaled by '{}', which depends on the length of the text", ToString(spec.rope)),
        "; a fixed scheme for the length that is wanted can be (ntk:factor=..)");
  }
  if ((scaling.kind == RopeKind::kLlama3 && !architecture.divisors) ||
      (scaling.kind == RopeKind::kLong && !architecture.long_divisors)) {
    Refuse(fmt::format("positions scaled by '{}' of a model of type '{}'", ToString(spec.rope), spec.family));
  }
  if (spec.places == Places::kRope && spec.rope.rotary_dim != spec.head_dim && !architecture.partial) {
    Refuse(fmt::format("that only a part of a head's channels is rotated, in a model of type '{}'", spec.family));
  }
  const RopeScaling yarn;
  if (scaling.kind == RopeKind::kYarn &&
      (scaling.truncate != yarn.truncate || scaling.ramp != yarn.ramp || scaling.blend != yarn.blend)) {
    Refuse(fmt::format("the ramp of '{}'", ToString(spec.rope)),
           "; its readers have truncate=1, ramp=index, blend=frequency");
  }
  if (spec.softmax != SoftmaxSpec{}) Refuse(fmt::format("the softmax '{}'", ToString(spec.softmax)));
  if (spec.segments != SegmentSpec{}) Refuse("bilevel positions");
  if (spec.rope.query_scale) Refuse(fmt::format("queries that grow with their position ({})", ToString(spec.rope)));
  const BlockSpec& block = spec.block;
  if ((block.qkv_bias || block.out_bias || block.mlp_bias) && !architecture.biases) {
    Refuse(fmt::format("biases of a model of type '{}'", spec.family));
  }
  if (!spec.tie_embeddings && architecture.head == GgufHead::kNever) {
    Refuse(fmt::format("a head of its own in a model of type '{}'", spec.family));
  }
}

/// Errors: kUnsupported naming the first thing in which the network that readers see is not that of the model.
void CheckSaid(const ModelSpec& spec, const ModelSpec& seen) {
  const auto same = [&](bool equal, std::string_view what) {
    if (!equal) Refuse(fmt::format("{} of this model of type '{}'", what, spec.family));
  };
  same(spec.places == seen.places, spec.places == Places::kAlibi ? "the biases by distance (ALiBi)" : "the positions");
  if (spec.places == Places::kAlibi) {
    same(spec.alibi == seen.alibi, fmt::format("the biases by distance '{}'", ToString(spec.alibi)));
  }
  if (spec.places == Places::kRope) {
    same(spec.rope == seen.rope, fmt::format("the positions '{}'", ToString(spec.rope)));
    same(spec.local_rope == seen.local_rope, "the positions in layers with a window");
    same(spec.unplaced_layers == seen.unplaced_layers, "which layers have no positions (other than every fourth)");
  }
  same(spec.sliding_window == seen.sliding_window && spec.full_layers == seen.full_layers, "the sliding window");
  same(spec.attn_cap == seen.attn_cap, spec.attn_cap == 0 ? "that scores have no soft cap" : "the soft cap of scores");
  same(spec.logit_cap == seen.logit_cap,
       spec.logit_cap == 0 ? "that logits have no soft cap" : "the soft cap of logits");
  same(spec.attn_scale == seen.attn_scale, "the scale of scores");
  same(spec.logit_scale == seen.logit_scale, "the scale of logits");
  same(spec.embedding_scale == seen.embedding_scale, "the scale of embeddings");
  same(spec.block.act == seen.block.act, "the activation");
  ModelSpec rest = seen;
  rest.bos = spec.bos, rest.eos = spec.eos;
  if (spec.places != Places::kRope) rest.rope = spec.rope;
  same(spec == rest, "all of what is computed");
}

/// What the keys say and readers that go by the architecture alone do not take notice of.
std::vector<std::string> Unread(const ModelSpec& spec, const GgufArchitecture& architecture) {
  std::vector<std::string> parts;
  const auto note = [&](bool there, std::string_view what) {
    if (there) parts.emplace_back(what);
  };
  const BlockSpec& own = FindFamily(spec.family).block;
  const float scale = architecture.attn_scale != nullptr ? architecture.attn_scale(spec) : 0.0f;
  note(spec.sliding_window > 0 && !architecture.windows.read,
       "the sliding window, to readers that know none for this architecture (llama.cpp)");
  note(spec.attn_scale != scale, "the scale of scores, to readers that go by the size of heads (llama.cpp)");
  note(architecture.square_heads && spec.heads * spec.head_dim != spec.width,
       "heads that together are not as wide as the model, to readers that want them to be (llama.cpp)");
  note(spec.logit_scale != 1, "the scale of logits, to readers that know none for this architecture (llama.cpp)");
  const bool is_gelu = spec.block.act == Act::kGelu || spec.block.act == Act::kGeluTanh;
  const bool wants_gelu = own.act == Act::kGelu || own.act == Act::kGeluTanh;
  note(is_gelu && !wants_gelu, "GELU, to readers that go by the architecture (llama.cpp)");
  note(spec.block.act == Act::kGelu && wants_gelu,
       "GELU as it is defined, to readers that take its tanh form (llama.cpp)");
  note(own.qkv_bias && !spec.block.qkv_bias, "that there are no biases, to readers that want them (llama.cpp)");
  note(architecture.unread != nullptr && architecture.unread(spec),
       "which positions it has, to readers that go by the number of layers (llama.cpp)");
  return parts;
}

/// 135M, 1.1B
std::string SizeLabel(int64_t parameters) {
  double size = static_cast<double>(parameters);
  for (const char* unit : {"", "K", "M"}) {
    if (size < 999.5) return fmt::format("{:.{}f}{}", size, size < 9.95 && *unit != 0 ? 1 : 0, unit);
    size /= 1000;
  }
  return fmt::format("{:.{}f}B", size, size < 9.95 ? 1 : 0);
}

class Exporter {
 public:
  Exporter(LoadedModel model, const GgufSource& source, std::optional<DType> type)
      : model_(std::move(model)),
        path_(source.model.empty() ? source.model : ResolveModel(source.model)),
        own_tokenizer_(source.own_tokenizer),
        architecture_(GgufArchitectureOf(std::string_view(model_.spec.family))) {
    if (model_.format == "GGUF") file_ = ReadGguf(path_);
    keeps_types_ = !type && file_ && !source.changed;
    copies_ = file_.has_value() && !source.changed;
    const DType stored = model_.file_dtype;
    type_ = type ? *type : stored == DType::kF64 ? DType::kF32 : stored;
    if (!keeps_types_ && FindFileType(type_) == nullptr) {
      Fail(ErrorKind::kUsage, "{}: the file is in {}, which is not written; give another --type", path_.string(),
           Name(type_));
    }
  }

  GgufExport Write(const fs::path& path) {
    const ModelSpec& spec = model_.params.spec();
    CheckSayable(spec, architecture_);
    PutTensors();
    PutGeneral(path);
    PutNetwork(spec);
    left_out_ = Unread(spec, architecture_);
    PutTokenizer(spec);
    if (!file_ && !path_.empty()) ListLeftOut();
    GgufExport result{.type = keeps_types_ ? MainType() : type_, .kept = Kept(), .left_out = std::move(left_out_)};
    int64_t all = 0;
    for (const TensorToWrite& tensor : tensors_) all += StoredBytes(tensor);
    ProgressBar bar(fmt::format("writing {}", path.filename().string()), all);
    WriteGguf(path, fields_, tensors_, [&](int64_t done) { bar.Update(done); });
    bar.Finish();
    result.bytes = static_cast<int64_t>(fs::file_size(path));
    return result;
  }

 private:
  template <class T>
  void Put(std::string key, T value) {
    fields_.push_back({std::move(key), std::move(value)});
  }

  void PutTensors() {
    ParamStore& params = model_.params;
    const std::vector<ParamInfo>& infos = params.layout().params();
    const bool fused = file_ ? file_->tensors.Find("blk.0.attn_qkv.weight") != nullptr : FusedInGguf(architecture_);
    const bool plus_one = params.spec().block.norm_plus_one && !copies_;
    for (GgufTensor& tensor : GgufTensors(params.spec(), fused)) {
      const TensorView* original = copies_ ? file_->tensors.Find(tensor.name) : nullptr;
      const DType wanted = keeps_types_ && original != nullptr ? original->dtype : StoredType(tensor);
      if (original != nullptr && original->dtype == wanted) {
        tensors_.push_back({std::move(tensor.name), *original, wanted});
        continue;
      }
      int64_t size = 0;
      for (const size_t param : tensor.params) {
        const ParamInfo& info = infos[param];
        size += info.size();
        if (architecture_.adjacent && (info.role == Role::kQuery || info.role == Role::kKey)) {
          HalfToAdjacent(RowsOf(info, params.At(info)), params.spec().head_dim);
        }
        if (plus_one && IsNormWeight(info)) AddOne(params.At(info));
      }
      const Mat first = params.At(infos[tensor.params.front()]);  // the others follow without gaps
      const std::span bytes(static_cast<const std::byte*>(first.data), static_cast<size_t>(size) * SizeOf(first.dtype));
      tensors_.push_back({std::move(tensor.name), {first.dtype, std::move(tensor.shape), bytes}, wanted});
    }
  }

  /// Of a fused tensor that of the part which keeps the most bits.
  DType StoredType(const GgufTensor& tensor) const {
    const ParamLayout& layout = model_.params.layout();
    DType type = DType::kF32;
    int64_t most = 0;
    for (const size_t param : tensor.params) {
      const ParamInfo& info = layout.params()[param];
      const DType own = GgufStoredType(model_.params.spec(), info, type_);
      const int64_t bytes = *RowBytes(own, info.cols);
      if (bytes > most) type = own;
      most = std::max(most, bytes);
    }
    return type;
  }

  /// A norm w as 1 + w, and what that loses.
  void AddOne(Mat norm) {
    for (int64_t i = 0; i < norm.cols; ++i) {
      float& value = norm.Row<float>(0)[i];
      const float before = value;
      value = 1.0f + before;
      norm_rests_.push_back(static_cast<float>(double{before} - (double{value} - 1.0)));
    }
  }

  /// `general.*`: what another GGUF file said goes on.
  void PutGeneral(const fs::path& to) {
    Put("general.architecture", std::string(architecture_.name));
    Put("general.type", std::string("model"));
    const fs::path whole = path_.empty() ? path_ : fs::absolute(path_).lexically_normal();
    std::string name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
    if (name.empty()) name = to.stem().string();
    if (file_) name = file_->Text("general.name").value_or(name);
    Put("general.name", std::move(name));
    const FileType* row = FindFileType(type_);
    std::optional<int64_t> number;
    if (keeps_types_) {
      number = file_->Int("general.file_type");
    } else {
      number = row->number;
    }
    if (number) Put("general.file_type", U32(*number));
    const bool blocked = std::ranges::any_of(tensors_, [](const TensorToWrite& t) { return IsBlocked(t.dtype); });
    if (blocked) Put("general.quantization_version", uint32_t{2});
    Put("general.size_label", SizeLabel(NumParameters(model_.params.spec())));
    static const std::set<std::string_view> own = {
        "general.architecture",         "general.type",       "general.name",     "general.file_type",
        "general.quantization_version", "general.size_label", "general.alignment"};
    if (file_) CopyFields("general.", own);
  }

  void PutNetwork(const ModelSpec& spec) {
    GgufKeys keys(architecture_.name, &fields_);
    if (GgufFamilies(architecture_.name).front() != spec.family) Put(std::string(kGgufFamily), spec.family);
    keys.Put("vocab_size", U32(spec.vocab));
    ModelSpec copy = spec;
    GgufNetwork(architecture_, keys, copy);
    if (spec.places == Places::kRope) factors_ = WriteGgufRope(keys, spec.rope, spec.context);
    for (const auto& [name, values] : factors_) {
      const TensorView view{DType::kF32, {static_cast<int64_t>(values.size())}, std::as_bytes(std::span(values))};
      tensors_.push_back({name, view, DType::kF32});
    }
    if (spec.tie_embeddings && architecture_.head == GgufHead::kAlways) Put(std::string(kGgufTied), true);
    if (copies_) CopyFields(kGgufNormRests, {});
    const auto lost = [](float rest) { return rest != 0 || std::signbit(rest); };
    if (std::ranges::any_of(norm_rests_, lost)) Put(std::string(kGgufNormRests), std::move(norm_rests_));
    CheckSaid(spec, GgufSpec(AsRead(fields_, tensors_)));
  }

  void PutTokenizer(const ModelSpec& spec) {
    if (file_ && own_tokenizer_) return CopyFields("tokenizer.", {});
    std::vector<int32_t> ends = spec.eos;
    const Tokenizer* tokenizer = model_.tokenizer.get();
    if (tokenizer == nullptr) {
      Put("tokenizer.ggml.model", std::string("no_vocab"));
      if (spec.bos >= 0) Put("tokenizer.ggml.bos_token_id", U32(spec.bos));
      constexpr const char* kEnds[] = {"eos", "eot", "eom"};
      for (size_t i = 0; i < std::min(ends.size(), std::size(kEnds)); ++i) {
        Put(fmt::format("tokenizer.ggml.{}_token_id", kEnds[i]), U32(ends[i]));
      }
      return;
    }
    // The EOS of the tokenizer first, as it is one of the model's ends or those are not known.
    const auto own = std::ranges::find(ends, tokenizer->eos());
    if (own != ends.end()) std::rotate(ends.begin(), own, own + 1);
    if (ends.empty() && tokenizer->eos() >= 0) ends.push_back(tokenizer->eos());
    GgufVocab vocab = MakeGgufVocab(*tokenizer, spec.vocab, ends);
    for (GgufField& field : vocab.fields) fields_.push_back(std::move(field));
    for (std::string& what : vocab.unsaid) left_out_.push_back(std::move(what));
  }

  /// Keys of the file that begin so, but for some.
  void CopyFields(std::string_view prefix, const std::set<std::string_view>& but) {
    for (const auto& [key, value] : file_->metadata()) {
      if (!key.starts_with(prefix) || but.contains(key)) continue;
      std::visit([&, name = key](const auto& from) { CopyValue(name, from); }, value);
    }
  }
  void CopyValue(const std::string& key, int64_t value) {
    if (value >= 0 && value <= UINT32_MAX) {
      Put(key, static_cast<uint32_t>(value));
    } else {
      left_out_.push_back(key);
    }
  }
  void CopyValue(const std::string& key, double value) { Put(key, static_cast<float>(value)); }
  void CopyValue(const std::string& key, bool value) { Put(key, value); }
  void CopyValue(const std::string& key, std::string_view value) { Put(key, std::string(value)); }
  void CopyValue(const std::string& key, const std::vector<int64_t>& values) {
    Put(key, std::vector<int32_t>(values.begin(), values.end()));
  }
  void CopyValue(const std::string& key, const std::vector<double>& values) {
    Put(key, std::vector<float>(values.begin(), values.end()));
  }
  void CopyValue(const std::string& key, const std::vector<std::string_view>& values) {
    Put(key, std::vector<std::string>(values.begin(), values.end()));
  }

  /// Files of a folder and members of its config.json that GGUF has no place for.
  void ListLeftOut() {
    static const std::set<std::string, std::less<>> said = {"config.json", "tokenizer.json", "chat_template.jinja",
                                                            "hawser_spec.json"};
    for (const fs::path& entry : EntriesOf(path_)) {
      const std::string name = entry.filename().string();
      if (said.contains(name) || name.starts_with('.') || name.find(".safetensors") != name.npos) continue;
      left_out_.push_back(name);
    }
    std::error_code code;
    if (!fs::exists(path_ / "config.json", code)) return;
    std::string members;
    const std::vector<std::string> known = HfKeysOf(model_.params.spec());
    const auto config = nlohmann::ordered_json(ParseJson(ReadFile(path_ / "config.json")));
    for (const auto& [key, value] : config.items()) {
      if (IsCarriedHfKey(key, value, known)) members += (members.empty() ? "" : ", ") + key;
    }
    if (!members.empty()) left_out_.push_back(fmt::format("of config.json: {}", members));
  }

  DType MainType() const {
    std::map<DType, int64_t> bytes;
    for (const TensorToWrite& tensor : tensors_) bytes[tensor.dtype] += StoredBytes(tensor);
    return std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; })->first;
  }

  std::vector<std::string> Kept() const {
    std::map<std::pair<DType, int64_t>, int64_t> count;  // with the length of rows that do not fit, else 0
    for (const TensorToWrite& tensor : tensors_) {
      if (tensor.dtype == type_ || tensor.view.shape.size() < 2) continue;
      const int64_t cols = tensor.view.shape.back();
      ++count[{tensor.dtype, RowBytes(type_, cols) ? 0 : cols}];
    }
    std::vector<std::string> kept;
    for (const auto& [what, number] : count) {
      const std::string rows =
          what.second == 0 ? "" : fmt::format(" (rows of {} values are no whole blocks)", what.second);
      kept.push_back(fmt::format("{} in {}{}", Counted(number, "tensor"), Name(what.first), rows));
    }
    return kept;
  }

  LoadedModel model_;
  fs::path path_;
  std::optional<GgufFile> file_;
  bool own_tokenizer_;
  const GgufArchitecture& architecture_;
  bool copies_ = false, keeps_types_ = false;
  DType type_;
  std::vector<GgufField> fields_;
  std::vector<TensorToWrite> tensors_;
  GgufFactors factors_;
  std::vector<float> norm_rests_;
  std::vector<std::string> left_out_;
};

}  // namespace

DType GgufStoredType(const ModelSpec& spec, const ParamInfo& info, DType type) {
  if (info.vector) return DType::kF32;
  if (!IsBlocked(type)) return type;
  const bool head = info.role == Role::kHead || (info.role == Role::kEmbedding && spec.tie_embeddings);
  if (head) {
    if (!RowBytes(type, info.cols)) type = DType::kQ8_0;
    if (type != DType::kQ8_0) type = DType::kQ6K;
  } else if (type == DType::kQ4K && (info.role == Role::kValue || info.role == Role::kDown) &&
             KeepsMoreBits(info.layer, spec.layers)) {
    type = DType::kQ6K;
  }
  return Fitting(type, info.cols);
}

std::span<const DType> GgufTypes() {
  static const auto types = [] {
    std::array<DType, kFileTypes.size()> list;
    std::ranges::transform(kFileTypes, list.begin(), &FileType::dtype);
    return list;
  }();
  return types;
}

GgufExport ExportGguf(LoadedModel model, const GgufSource& source, std::optional<DType> type, const fs::path& path) {
  return Exporter(std::move(model), source, type).Write(path);
}

}  // namespace hawser
