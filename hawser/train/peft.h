// train/peft.h - low-rank adapters in the form of the PEFT library: adapter_config.json, adapter_model.safetensors.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "hawser/model/params.h"
#include "hawser/ops/backend.h"
#include "hawser/train/lora.h"

namespace hawser {

/// Files call modules as the family of the model does (zoo/file_tensors.h). Adapters of matrices that a family fuses
/// are one adapter of the fused module: of the sum of their ranks, with B on a diagonal of blocks. One that has no such
/// blocks adapts each matrix by the same A.

/// Rank, scale and modules of the adapters in `folder`, or in `folder`/adapter (a run that trained some), for this
/// model. Modules are those that the file has tensors for, under the names of ParamInfo, by the last one where all of
/// that name are adapted. The rank is the largest. `use_rslora` is taken into alpha. Errors: kIo, kFormat; kUnsupported
/// for what computes something else than W + s B A, naming the key (DoRA, biases, ...); kUsage for tensors that are no
/// adapters of this model.
LoraSpec ReadPeftSpec(const std::filesystem::path& folder, const ModelSpec& model);

/// Their values, over LoraLayout, as F32; smaller ranks are filled with zeros, other scales taken into B. Errors: the
/// same.
ParamStore ReadPeft(const std::filesystem::path& folder, const ModelSpec& model);

/// Adds s B A to each matrix of `params` (F32) that the adapters in `folder` adapt. Errors: the same.
void MergePeft(const std::filesystem::path& folder, Backend* backend, ParamStore* params);

/// Gives `spec`, of the model that they adapt, the places, context and softmax under which a run of hawser trained the
/// adapters in `folder`, where it is such a run or lies in one; a line of the log says so where they differ. Errors:
/// those of LoadSpec.
void TakeTrainedPlaces(const std::filesystem::path& folder, ModelSpec* spec);

/// Refuses to add adapters twice: those in `folder` where `model` is a finished run that trained these very values, so
/// that its weights hold them already. Errors: kUsage, and kIo where `folder` holds no adapters.
void CheckNotMerged(const std::filesystem::path& folder, const std::filesystem::path& model);

/// Targets as LoraLayout knows them: what names a module of the family's files ("query_key_value") becomes the matrices
/// in it, all else stays.
std::vector<std::string> TargetsInModel(const ModelSpec& model, const std::vector<std::string>& targets);

/// adapter_model.safetensors (f32) and adapter_config.json as the PEFT library reads them. Errors: kIo.
void SavePeft(const ParamStore& adapters, const LoraSpec& lora, const std::string& base_model,
              const std::filesystem::path& folder);

}  // namespace hawser
