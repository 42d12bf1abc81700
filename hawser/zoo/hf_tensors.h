// zoo/hf_tensors.h - the weights of a Hugging Face folder: every stored tensor is used, or refused by name.
#pragma once

#include <filesystem>
#include <vector>

#include "hawser/io/tensor_source.h"
#include "hawser/model/params.h"

namespace hawser {

bool HasHfTensors(const std::filesystem::path& folder);
/// model.safetensors, or the shards of model.safetensors.index.json. Errors: kIo where there is neither, and those of
/// io/safetensors.h.
TensorSource OpenHfTensors(const std::filesystem::path& folder);

/// Whether a head is stored that is not the embedding, value by value: then it is the model's head, whatever
/// tie_word_embeddings says. Errors: kFormat for a head of another shape than the embedding.
bool HasOwnHead(const TensorSource& source, const ModelSpec& spec);

/// The values of every parameter of `spec`, in the order of ParamLayout: the pieces of tensors (file_tensors.h) that
/// hold them, one after another. A tied model may store its one matrix under either name, or both. Tables of rotations
/// that older writers stored must hold the frequencies of spec.rope, scaled or not. Errors: kFormat (a missing tensor,
/// another shape, one that is no part of the model, a table that differs) and kUnsupported (dtype), naming the tensor.
std::vector<std::vector<TensorView>> MatchHfTensors(const TensorSource& source, const ModelSpec& spec);

}  // namespace hawser
