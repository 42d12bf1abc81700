#include "hawser/zoo/file_tensors.h"

#include <algorithm>
#include <map>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/zoo/families.h"

namespace hawser {
namespace {

/// The role whose row names the tensor that this one may be fused into.
Role Anchor(Role role) {
  if (role == Role::kKey || role == Role::kValue) return Role::kQuery;
  return role == Role::kUp ? Role::kGate : role;
}

const NameRow* FindRow(const Family& family, const ModelSpec& spec, Role role) {
  const auto matches = [&](Role wanted, bool fused) {
    const auto row = std::ranges::find_if(family.names, [&](const NameRow& r) {
      return r.role == wanted && (r.when == nullptr || r.when(spec)) && (!fused || r.fuse != Fuse::kNone);
    });
    return row != family.names.end() ? &*row : nullptr;
  };
  const NameRow* own = matches(role, false);
  return own != nullptr ? own : matches(Anchor(role), true);
}

std::string Filled(std::string_view name, int32_t layer) {
  const size_t hole = name.find("{}");
  if (hole == name.npos) return std::string(name);
  return fmt::format("{}{}{}", name.substr(0, hole), layer, name.substr(hole + 2));
}

/// Names without prefix, with `.weight` or `.bias`.
std::vector<std::string> NamesOf(const NameRow* row, const ParamInfo& info) {
  constexpr std::string_view kCanonical = "model.";
  if (row == nullptr) {
    const bool prefixed = info.name.starts_with(kCanonical);
    return {prefixed ? info.name.substr(kCanonical.size()) : info.name};
  }
  std::vector<std::string> names;
  for (const std::string_view name : SplitWords(row->name, "|")) {
    names.push_back(Filled(name, info.layer) + (info.part == Part::kBias ? ".bias" : ".weight"));
  }
  return names;
}

/// Where a parameter lies in its fused tensor: `runs` runs of `size` rows, the first at `begin`, `step` apart.
struct Rows {
  int64_t begin = 0, size = 0, step = 0, runs = 1;
};

Rows RowsIn(Fuse fuse, const ModelSpec& spec, Role role, int64_t rows) {
  const int64_t dim = spec.head_dim, queries = int64_t{spec.heads} * dim, keys = int64_t{spec.kv_heads} * dim;
  const int64_t of_group = queries / spec.kv_heads;
  switch (fuse) {
    case Fuse::kThirds:
      return {role == Role::kQuery ? 0 : role == Role::kKey ? queries : queries + keys, rows};
    case Fuse::kGroups:
      if (role == Role::kQuery) return {0, of_group, of_group + 2 * dim, spec.kv_heads};
      return {role == Role::kKey ? of_group : of_group + dim, dim, of_group + 2 * dim, spec.kv_heads};
    case Fuse::kGateUp:
      return {role == Role::kGate ? 0 : int64_t{spec.mlp_width}, rows};
    case Fuse::kNone:
      break;
  }
  return {0, rows};
}

}  // namespace

std::vector<FileTensor> FileTensors(const ModelSpec& spec, bool bare) {
  const Family& family = FindFamily(spec.family);
  const ParamLayout layout(spec);
  std::vector<FileTensor> tensors;
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < layout.params().size(); ++i) {
    const ParamInfo& info = layout.params()[i];
    const NameRow* row = FindRow(family, spec, info.role);
    std::vector<std::string> names = NamesOf(row, info);
    const auto prefix = [&](std::string& name, Role role) {
      if (!bare && role != Role::kHead) name.insert(0, family.prefix);
    };
    for (std::string& name : names) prefix(name, info.role);
    if (info.role == Role::kEmbedding && spec.tie_embeddings) {
      const ParamInfo head{.name = "lm_head.weight", .role = Role::kHead};
      for (std::string& name : NamesOf(FindRow(family, spec, Role::kHead), head)) names.push_back(std::move(name));
    }
    const auto [at, is_new] = index.try_emplace(names.front(), tensors.size());
    if (is_new) tensors.push_back({.names = names});
    FileTensor& tensor = tensors[at->second];
    // Vectors are columns here: one value a row.
    const int64_t height = info.vector ? info.cols : info.rows, width = info.vector ? 1 : info.cols;
    const Rows rows = RowsIn(row != nullptr ? row->fuse : Fuse::kNone, spec, info.role, height);
    for (int64_t run = 0; run < rows.runs; ++run) {
      tensor.pieces.push_back({.param = i,
                               .param_begin = run * rows.size * width,
                               .file_begin = (rows.begin + run * rows.step) * width,
                               .size = rows.size * width});
    }
    if (is_new) {
      tensor.shape = info.vector ? std::vector<int64_t>{height} : std::vector<int64_t>{height, width};
    } else {
      tensor.shape[0] += height;
    }
  }
  for (FileTensor& tensor : tensors) std::ranges::sort(tensor.pieces, {}, &TensorPiece::file_begin);
  return tensors;
}

}  // namespace hawser
