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
#include "hawser/zoo/gguf_model.h"
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

/// Errors: kUnsupported for what readers of these files would compute otherwise.
void CheckSayable(const ModelSpec& spec) {
  const auto refuse = [](std::string_view what, std::string_view instead) {
    Fail(ErrorKind::kUnsupported, "GGUF cannot say {}{}", what, instead);
  };
  const RopeScaling& scaling = spec.rope.scaling;
  if (scaling.kind == RopeKind::kDynamic) {
    refuse(
        fmt::format("that positions are scaled by '{}', which depends on the length of the text", ToString(spec.rope)),
        "; a fixed scheme for the length that is wanted can be (ntk:factor=..)");
  }
  constexpr RopeKind kSaid[] = {RopeKind::kDefault, RopeKind::kLinear, RopeKind::kNtk, RopeKind::kYarn,
                                RopeKind::kLlama3};
  if (std::ranges::find(kSaid, scaling.kind) == std::end(kSaid)) {
    refuse(fmt::format("positions scaled by '{}'", ToString(spec.rope)), " here yet");
  }
  if (spec.rope.rotary_dim != spec.head_dim) refuse("that only a part of a head's channels is rotated", " here yet");
  const RopeScaling yarn;
  if (scaling.kind == RopeKind::kYarn &&
      (scaling.truncate != yarn.truncate || scaling.ramp != yarn.ramp || scaling.blend != yarn.blend)) {
    refuse(fmt::format("the ramp of '{}'", ToString(spec.rope)),
           "; its readers have truncate=1, ramp=index, blend=frequency");
  }
  if (spec.softmax != SoftmaxSpec{}) refuse(fmt::format("the softmax '{}'", ToString(spec.softmax)), "");
  if (spec.segments != SegmentSpec{}) refuse("bilevel positions", "");
  if (!spec.full_layers.empty()) refuse("which layers have the sliding window", "");
  // What no row of the architectures says: the rest of the spec is Llama's.
  BlockSpec known;
  known.qkv_bias = spec.block.qkv_bias, known.out_bias = spec.block.out_bias, known.mlp_bias = spec.block.mlp_bias;
  known.qk_norm = spec.block.qk_norm;
  known.pre_norms = spec.block.pre_norms, known.post_norms = spec.block.post_norms;
  const bool scaled = spec.embedding_scale != 1 || spec.logit_scale != 1 || spec.logit_cap != 0 || spec.attn_cap != 0 ||
                      spec.attn_scale != 0;
  if (spec.block != known || spec.places != Places::kRope || spec.local_rope || !spec.unplaced_layers.empty() ||
      spec.embedding_norm || scaled) {
    refuse(fmt::format("all of what this model of type '{}' computes, for its architecture", spec.family), "");
  }
  const bool biased = known.qkv_bias || known.out_bias || known.mlp_bias;
  if (biased && !GgufArchitectureOf(std::string_view(spec.family)).biases) {
    refuse(fmt::format("biases of a model of type '{}'", spec.family), "");
  }
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
        path_(ResolveModel(source.model)),
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
    CheckSayable(spec);
    PutTensors();
    PutGeneral(path);
    PutNetwork(spec);
    PutRope(spec);
    PutTokenizer(spec);
    if (!file_) ListLeftOut();
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
  std::string Key(std::string_view name) const { return fmt::format("{}.{}", architecture_.name, name); }

  template <class T>
  void Put(std::string key, T value) {
    fields_.push_back({std::move(key), std::move(value)});
  }

  void PutTensors() {
    ParamStore& params = model_.params;
    for (const ParamInfo& info : params.layout().params()) {
      const std::string name = GgufTensorName(info);
      const std::vector<int64_t> shape =
          info.vector ? std::vector<int64_t>{info.cols} : std::vector<int64_t>{info.rows, info.cols};
      const TensorView* original = copies_ ? file_->tensors.Find(name) : nullptr;
      const DType wanted = keeps_types_ ? original->dtype : GgufStoredType(params.spec(), info, type_);
      if (original != nullptr && original->dtype == wanted) {
        tensors_.push_back({name, *original, wanted});
        continue;
      }
      const Mat weight = params.At(info);
      if (architecture_.adjacent && (info.role == Role::kQuery || info.role == Role::kKey)) {
        HalfToAdjacent(RowsOf(info, weight), params.spec().head_dim);
      }
      const std::span bytes(static_cast<const std::byte*>(weight.data),
                            static_cast<size_t>(info.size()) * SizeOf(weight.dtype));
      tensors_.push_back({name, {weight.dtype, shape, bytes}, wanted});
    }
  }

  /// `general.*`: what another GGUF file said goes on.
  void PutGeneral(const fs::path& to) {
    Put("general.architecture", std::string(architecture_.name));
    Put("general.type", std::string("model"));
    const fs::path whole = fs::absolute(path_).lexically_normal();
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
    Put(Key("vocab_size"), U32(spec.vocab));
    Put(Key("context_length"), U32(spec.context));
    Put(Key("embedding_length"), U32(spec.width));
    Put(Key("block_count"), U32(spec.layers));
    Put(Key("feed_forward_length"), U32(spec.mlp_width));
    Put(Key("attention.head_count"), U32(spec.heads));
    Put(Key("attention.head_count_kv"), U32(spec.kv_heads));
    Put(Key("attention.key_length"), U32(spec.head_dim));
    Put(Key("attention.value_length"), U32(spec.head_dim));
    Put(Key("attention.layer_norm_rms_epsilon"), spec.norm_eps);
    if (spec.sliding_window > 0) {
      Put(Key("attention.sliding_window"), U32(spec.sliding_window));
      left_out_.emplace_back("the sliding window, to readers that know none for this architecture (llama.cpp)");
    }
  }

  void PutRope(const ModelSpec& spec) {
    const RopeSpec rope = BakeNtk(spec.rope);
    const RopeScaling& scaling = rope.scaling;
    Put(Key("rope.dimension_count"), U32(rope.rotary_dim));
    Put(Key("rope.freq_base"), static_cast<float>(rope.theta));
    const auto type = [&](const char* name) {
      Put(Key("rope.scaling.type"), std::string(name));
      Put(Key("rope.scaling.factor"), static_cast<float>(scaling.factor));
    };
    if (scaling.kind == RopeKind::kLinear) type("linear");
    if (scaling.kind == RopeKind::kYarn) {
      type("yarn");
      Put(Key("rope.scaling.original_context_length"), U32(OriginalContext(rope, spec.context)));
      const double derived = YarnMscale(scaling.factor, 1.0),
                   multiplier = ComputeFrequencies(rope, spec.context).multiplier;
      // Readers multiply by what they derive.
      if (multiplier != derived) {
        Put(Key("rope.scaling.attn_factor"), static_cast<float>(multiplier / derived));
      }
      const RopeScaling plain;
      if (scaling.beta_fast != plain.beta_fast || scaling.beta_slow != plain.beta_slow) {
        Put(Key("rope.scaling.yarn_beta_fast"), static_cast<float>(scaling.beta_fast));
        Put(Key("rope.scaling.yarn_beta_slow"), static_cast<float>(scaling.beta_slow));
      }
    }
    if (scaling.kind == RopeKind::kLlama3) {
      RopeSpec plain = rope;
      plain.scaling = {};
      const std::vector<double> base = ComputeFrequencies(plain, spec.context).inv_freq;
      const std::vector<double> scaled = ComputeFrequencies(rope, spec.context).inv_freq;
      for (size_t i = 0; i < base.size(); ++i) divisors_.push_back(static_cast<float>(base[i] / scaled[i]));
      const TensorView view{DType::kF32, {static_cast<int64_t>(divisors_.size())}, std::as_bytes(std::span(divisors_))};
      tensors_.push_back({std::string(kGgufRopeFactors), view, DType::kF32});
    }
    const bool whole = rope.theta == static_cast<float>(rope.theta) && rope.numerics == RopeNumerics{};
    if (spec.rope.scaling.kind != RopeKind::kDefault || !whole) {
      Put(std::string(kGgufRopeText), ToString(spec.rope));
    }
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
  std::vector<float> divisors_;
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
