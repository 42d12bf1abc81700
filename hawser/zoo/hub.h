// zoo/hub.h - models of a Hub (huggingface.co and servers that speak as it does), in the cache folder that other
// programs keep them in (github.com/huggingface/huggingface_hub):
//   HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else HOME/.cache/huggingface/hub
//     models--ORG--NAME/blobs/ETAG, refs/REVISION (a commit), snapshots/COMMIT/FILE (links to blobs)
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

struct HubModel {
  std::string name;  // "ORG/NAME"
  std::string revision = "main";
  std::string file = {};  // one in it, or a pattern (base/text.h); empty: what a model needs
};

/// "hf:ORG/NAME", "hf:ORG/NAME@REVISION", "hf:ORG/NAME/FILE", also without "hf:". Errors: kUsage.
HubModel ParseHubModel(std::string_view text);
inline bool IsHubName(std::string_view text) { return text.starts_with("hf:"); }

struct HubFile {
  std::string name;
  int64_t bytes = 0;
  bool fetched = false;  // it was not in the cache
};
struct HubPull {
  std::string commit;
  std::filesystem::path folder;  // the snapshot
  std::vector<HubFile> files;
};

/// Brings files of a model into the cache, from HF_ENDPOINT or huggingface.co, with the token of HF_TOKEN or of
/// HF_TOKEN_PATH or HF_HOME/token: those that match `file`; without one those that LoadModel reads, with licences and
/// card, or the only GGUF file of a model that has no others. What was cut goes on where it was (Range). Sizes are
/// checked, and contents against the SHA-256 or git hash that the server names. Connections that fail, 429 and 5xx are
/// tried again, after what Retry-After says or longer and longer waits. Errors: kIo (no such model, no access, no
/// connection in the end, offline by HF_HUB_OFFLINE); kFormat (other sizes or hashes, names that leave the folder);
/// kUsage (a pattern that no file matches, several GGUF files to choose from).
HubPull PullModel(const HubModel& model);

/// The folder or GGUF file that a name "hf:..." means: in the cache where it is whole, else pulled. Errors: as above.
std::filesystem::path ResolveHubModel(std::string_view text);

}  // namespace hawser
