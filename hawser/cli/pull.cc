// hawser pull: a model from a Hub, or a data set, into the cache folder.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/eval/data_pull.h"
#include "hawser/eval/report.h"
#include "hawser/zoo/hub.h"

namespace hawser {
namespace {

constexpr std::string_view kData = "data:";

struct PullOptions {
  std::string model, file, revision;
};

int PullSet(const PullOptions& options, const CommonOptions& common) {
  if (!options.file.empty() || !options.revision.empty()) {
    Fail(ErrorKind::kUsage, "--file and --revision are of models; a data set is pulled as a whole");
  }
  const DataPull pull = PullData(std::string_view(options.model).substr(kData.size()));
  int64_t bytes = 0, fetched = 0;
  nlohmann::json files = nlohmann::json::array();
  for (const DataPull::File& file : pull.files) {
    bytes += file.bytes;
    fetched += file.fetched ? file.bytes : 0;
    files.push_back({{"name", file.path}, {"bytes", file.bytes}, {"fetched", file.fetched}});
  }
  if (common.json) {
    PrintJson({{"data", options.model},
               {"path", pull.folder.string()},
               {"bytes", bytes},
               {"fetched_bytes", fetched},
               {"files", files}});
  } else {
    PrintText(fmt::format("{}\n{}, {}, {} of it fetched now\n", pull.folder.string(),
                          Counted(static_cast<int64_t>(files.size()), "file"), HumanBytes(bytes), HumanBytes(fetched)));
  }
  return 0;
}

int Pull(const PullOptions& options, const CommonOptions& common) {
  if (options.model.starts_with(kData)) return PullSet(options, common);
  HubModel model = ParseHubModel(options.model);
  if (!options.file.empty() && !model.file.empty()) {
    Fail(ErrorKind::kUsage, "a file is named twice: {} and --file {}", model.file, options.file);
  }
  if (!options.file.empty()) model.file = options.file;
  if (!options.revision.empty()) model.revision = options.revision;
  const HubPull pull = PullModel(model);
  int64_t bytes = 0, fetched = 0;
  nlohmann::json files = nlohmann::json::array();
  for (const HubFile& file : pull.files) {
    bytes += file.bytes;
    fetched += file.fetched ? file.bytes : 0;
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"fetched", file.fetched}});
  }
  const bool single = pull.files.size() == 1;
  const std::string path = (single ? pull.folder / pull.files.front().name : pull.folder).string();
  if (common.json) {
    PrintJson({{"model", model.name},
               {"commit", pull.commit},
               {"path", path},
               {"bytes", bytes},
               {"fetched_bytes", fetched},
               {"files", files}});
  } else {
    PrintText(fmt::format("{}\n{}, {}, {} of it fetched now\n", path,
                          Counted(static_cast<int64_t>(files.size()), "file"), HumanBytes(bytes), HumanBytes(fetched)));
  }
  return 0;
}

}  // namespace

std::function<int()> SetupPull(Command command, CommonOptions& common) {
  auto options = std::make_shared<PullOptions>();
  command
      .Add("ORG/NAME", options->model,
           "Model of the Hub (HF_ENDPOINT, else huggingface.co), also as hf:ORG/NAME; or data:NAME, a data set of eval")
      .Required();
  command.Add("--file", options->file,
              "Only files that match, as *Q4_K_M.gguf (default: what hawser loads of a model)");
  command.Add("--revision", options->revision, "Branch, tag or commit (default: main)");
  return [options, &common] { return Pull(*options, common); };
}

}  // namespace hawser
