// zoo/families.h - the architectures that a ModelSpec describes, one row each.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/model/params.h"
#include "hawser/model/spec.h"
#include "hawser/zoo/config_members.h"
#include "hawser/zoo/hf_rope.h"

namespace hawser {

/// How the rows of one tensor of a file become several parameters:
///   kThirds   queries, keys, values one after another
///   kGroups   for each key head its query heads, its keys, its values
///   kGateUp   gates, then ups
enum class Fuse : uint8_t { kNone, kThirds, kGroups, kGateUp };

/// For NameRow::when.
inline bool TwoNorms(const ModelSpec& spec) { return spec.block.residual == Residual::kParallelTwoNorms; }

/// What a parameter is called in files, where not as ParamInfo.name says: behind the family's prefix, before `.weight`
/// or `.bias`; {} is the layer. A fused row stands for keys and values (ups) too. Of two rows of a role, the first
/// whose `when` holds counts. "a|b": both are read, the first is written.
struct NameRow {
  Role role;
  std::string_view name;
  Fuse fuse = Fuse::kNone;
  bool (*when)(const ModelSpec&) = nullptr;
};

/// What the sizes are called in config.json; alternatives as in config_members.h. Empty: the family has no such member.
struct FamilyKeys {
  std::string_view width = "hidden_size", layers = "num_hidden_layers", heads = "num_attention_heads";
  std::string_view kv_heads = "num_key_value_heads", head_dim = "head_dim", mlp_width = "intermediate_size";
  std::string_view norm_eps = "rms_norm_eps", act = "hidden_act", context = "max_position_embeddings";
};

/// For members that a file leaves out, as the class that reads config.json elsewhere
/// (github.com/huggingface/transformers) has them.
struct FamilyDefaults {
  int32_t kv_heads = 0;  // 0: as many as heads; written as null it is that in every family
  int32_t head_dim = 0;  // 0: width / heads
  double norm_eps = 1e-6;
  int64_t context = 2048;
  bool tie = false;
  int32_t bos = 1, eos = 2;  // -1: none
  Act gelu = Act::kGelu;     // what the word "gelu" means
};

struct Family {
  std::string_view model_type, architecture;
  std::string_view prefix = "model.";  // of all names but the head's
  BlockSpec block = {};
  Places places = Places::kRope;
  FamilyKeys keys = {};
  FamilyDefaults defaults = {};
  HfRopeKeys rope = {};
  std::span<const NameRow> names = {};
  std::span<const std::string_view> ignored = {};  // globs of tensors that hold no parameters
  bool windows = false;                            // its files can say a window
  /// What the fields above cannot say, read and written, behind all else but the rope.
  void (*members)(ConfigMembers&, ModelSpec&) = nullptr;
};

std::span<const Family> Families();

/// Errors: kUnsupported naming the known ones.
const Family& FindFamily(std::string_view model_type);

}  // namespace hawser
