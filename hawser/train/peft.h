// train/peft.h - low-rank adapters in the form of the PEFT library: adapter_config.json, adapter_model.safetensors.
#pragma once

#include <filesystem>
#include <string>

#include "hawser/model/params.h"
#include "hawser/ops/backend.h"
#include "hawser/train/lora.h"

namespace hawser {

/// Rank, scale and modules of the adapters in `folder`, or in `folder`/adapter (a run that trained some), for a model
/// with the parameters `all`. Modules are those that the file has tensors for, by their last name where all of that
/// name are adapted. `use_rslora` is taken into alpha. Errors: kIo, kFormat; kUnsupported for what computes something
/// else than W + s B A, naming the key (DoRA, biases, ranks that differ, ...); kUsage for tensors that are no adapters
/// of this model.
LoraSpec ReadPeftSpec(const std::filesystem::path& folder, const ParamLayout& all);

/// Their values, over LoraLayout, as F32. Errors: the same.
ParamStore ReadPeft(const std::filesystem::path& folder, const ModelSpec& model);

/// Adds s B A to each matrix of `params` (F32) that the adapters in `folder` adapt. Errors: the same.
void MergePeft(const std::filesystem::path& folder, Backend* backend, ParamStore* params);

/// adapter_model.safetensors (f32) and adapter_config.json as the PEFT library reads them. Errors: kIo.
void SavePeft(const ParamStore& adapters, const LoraSpec& lora, const std::string& base_model,
              const std::filesystem::path& folder);

}  // namespace hawser
