// train/run_result.h - what a finished run leaves in its folder: what it trained, and the mark that says so.
#pragma once

#include <filesystem>
#include <optional>

#include "hawser/ops/backend.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/train/run.h"
#include "hawser/train/trainer.h"
#include "hawser/zoo/hf_export.h"

namespace hawser {

/// The summary of a run that is finished: it has all steps of `config`, and the model is there. A log line says what is
/// wrong with one that claims to be.
std::optional<RunSummary> FinishedSummary(const TrainConfig& config, const std::filesystem::path& out);

/// Writes both, the mark last. `tokenizer` and `source`: of the model that was continued. Errors: kIo.
void SaveResult(const TrainPlan& plan, Trainer& trainer, const Tokenizer* tokenizer, HfSource source,
                const RunSummary& summary, Backend* backend);

}  // namespace hawser
