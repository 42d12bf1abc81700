// zoo/gguf_families.h - the architectures of GGUF files, one row each: keys, names of tensors, and what their readers
// know.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/model/params.h"
#include "hawser/zoo/families.h"
#include "hawser/zoo/gguf_keys.h"

namespace hawser {

/// Whether files hold a head: where it is not the embedding, always (then twice the same matrix), or never.
enum class GgufHead : uint8_t { kOptional, kAlways, kNever };

/// Where no key says it: the window, and the period p of layers that see everything, p - 1, 2p - 1, ...; 0: none does.
/// `read`: other readers honour windows here.
struct GgufWindows {
  int32_t window = 0, period = 0;
  bool read = false;
};

/// A value of `general.architecture`, and a family that is written so; the first row of a name is read.
struct GgufArchitecture {
  std::string_view name, family;  // ModelSpec::family
  bool adjacent = false;          // query and key rows pair adjacent channels
  bool biases = false;            // its readers know biases of linear layers
  bool partial = false;           // ... and rotations of a part of the channels
  bool divisors = false;          // ... and rope_freqs.weight (llama3)
  bool long_divisors = false;     // ... and the two lists of LongRoPE
  GgufHead head = GgufHead::kOptional;
  std::span<const NameRow> names = {};  // behind "blk.N.", where not as elsewhere
  GgufWindows windows = {};
  float attn_cap = 0, logit_cap = 0;                // where no key says them
  float (*attn_scale)(const ModelSpec&) = nullptr;  // likewise; null: 0, by the size of heads
  bool (*unread)(const ModelSpec&) = nullptr;       // whether its readers take the positions for others
  bool square_heads = false;                        // readers want the heads to be as wide together as the model
  /// What the fields above cannot say, read and written.
  void (*members)(GgufKeys&, ModelSpec&) = nullptr;
};

/// Errors: kUnsupported with the known ones.
const GgufArchitecture& GgufArchitectureOf(std::string_view family);
/// Errors: as above; kFormat where the file names none.
const GgufArchitecture& GgufArchitectureOf(const GgufFile& file);

/// The families that are written under the name of an architecture.
std::vector<std::string_view> GgufFamilies(std::string_view architecture);

/// A tensor of a file, and the parameters whose rows it holds one after another (in ParamLayout::params()).
struct GgufTensor {
  std::string name;            // "blk.0.attn_q.weight"
  std::vector<int64_t> shape;  // norms and biases are [C]
  std::vector<size_t> params;
};

/// The tensors of a model, each parameter in one of them; the embedding of a tied model also as the head where files
/// always hold one. `fused`: queries, keys and values are one tensor.
std::vector<GgufTensor> GgufTensors(const ModelSpec& spec, bool fused);
/// Whether files of the architecture have them so.
bool FusedInGguf(const GgufArchitecture& architecture);

/// The weight of a norm, of which files hold 1 + w where the model multiplies by that.
bool IsNormWeight(const ParamInfo& info);

/// The family, of those that share the architecture one that is not the first.
inline constexpr std::string_view kGgufFamily = "hawser.family";
/// Of a model whose head is stored although it is the embedding.
inline constexpr std::string_view kGgufTied = "hawser.tied";

/// The keys "ARCHITECTURE.*" but those of the rope: a spec from a file, or fields from a spec.
void GgufNetwork(const GgufArchitecture& architecture, GgufKeys& keys, ModelSpec& spec);

}  // namespace hawser
