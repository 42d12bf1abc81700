// eval/perplexity.h - how well a model predicts text, by position in its context, under every protocol in use.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/data/corpus.h"
#include "hawser/kv/cache.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// t[0..N) is a document without BOS, L the context in tokens (BOS included), S the stride. BOS is the tokenizer's; EOS
/// where it has none (GPT-NeoX); where it has neither, the first token of a window is read and not predicted.
///   windowed      windows of BOS and L - 1 tokens that predict L, end to end; a last one of fewer than 16 is left out
///   rolling       the first window is BOS and predicts L; each later one predicts the L after the last and sees one
///                 token before them; only the last, partial one sees more (lm-evaluation-harness)
///   sliding       BOS and L - 1 tokens, begun every S tokens; each predicts what none before it did (PI, YaRN, PoSE)
///   truncate      BOS and the first L - 1 tokens of each document (YaRN, PoSE)
///   chunk-half    BOS and text cut in chunks of L, the first token of each replaced by BOS; only predictions at
///                 positions L/2 ... L-2 count; documents of 2 L tokens or more (llama.cpp)
///   chunk-stride  chunks of L begun every S tokens of BOS and text, the last S predictions count (llama.cpp)
///   full          one pass over each document
///   streaming     one BOS, then all documents through one cache under a policy (StreamingLLM, SepLLM)
///   lines         as streaming, but every line is a text of its own: BOS where the tokenizer adds one unasked, and its
///                 tokens without the newline; its last token never enters the cache, and without BOS its first one is
///                 never predicted: what the reference of SepLLM measures on PG-19 (arXiv:2412.12094)
enum class PplProtocol : uint8_t {
  kWindowed,
  kRolling,
  kSliding,
  kTruncate,
  kChunkHalf,
  kChunkStride,
  kFull,
  kStreaming,
  kLines
};
/// Errors: kUsage with the known names.
PplProtocol ParsePplProtocol(std::string_view name);
std::string_view Name(PplProtocol protocol);
inline bool IsStreaming(PplProtocol p) { return p == PplProtocol::kStreaming || p == PplProtocol::kLines; }

struct PplOptions {
  PplProtocol protocol = PplProtocol::kWindowed;
  int64_t context = 0;          // L; 0: the model's own. Of a stream: its declared length; 0: what is seen
  int64_t stride = 0;           // S; 0: L/2. Given with `windowed` it makes it `sliding`
  int64_t max_tokens = 0;       // predicted at most (windowed protocols: read at most); 0: all
  int64_t batch_tokens = 8192;  // rows of one pass over windows; a longer window goes alone
  LayeredPattern pattern;       // of windows
  std::string kv = "full";      // of streams
  // The stream goes on behind these tokens, of a cache that was declared for `context` (0: not): there is no BOS then,
  // and the first token is read and not predicted. Null: it begins.
  std::shared_ptr<SqueezedReader> prefix = {};
  BosRule bos = BosRule::kAuto;  // auto: the convention of the protocol, said above
  int64_t stretch = 0;           // tokens of each PplStretch; 0: at most 128 of them
  /// Called with the number of every predicted token and its nats, in order, if given.
  std::function<void(int64_t, float)> on_token;
};

/// One pass: reads [BOS] t[begin, end - 1), predicts t[score_begin, end).
struct PplWindow {
  int32_t document = 0;
  int64_t begin = 0, end = 0;
  int64_t score_begin = 0;
  bool prefix = true;

  bool operator==(const PplWindow&) const = default;
};

/// The windows of a protocol that is not streaming. `lengths`: tokens of the documents. Errors: kUsage (L < 2, S
/// outside [1, L - 1]).
std::vector<PplWindow> PlanWindows(const PplOptions& options, std::span<const int64_t> lengths, bool has_prefix);

/// Positions [begin, end): rows of the window, or tokens fed to the stream, before the one that predicts.
struct PplBucket {
  int64_t begin = 0, end = 0;
  int64_t tokens = 0;
  double nll = 0;  // nats, summed

  double ppl() const;
};

/// Buckets of half octaves with the edges 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: powers of two and what lies midway.
int64_t PplBucketOf(int64_t position);
int64_t PplBucketBegin(int64_t bucket);

/// A stretch of a stream, so that flatness in time and memory can be seen.
struct PplStretch {
  PplBucket range;
  double seconds = 0;
  int64_t kv_slots = 0, kv_bytes = 0, rss_bytes = 0;  // at its end; slots of the layer that holds most
};

struct PplDocument {
  std::string name;
  int64_t tokens = 0;
  double nll = 0;
};

struct PplReport {
  PplProtocol protocol;
  int64_t context = 0, stride = 0, windows = 0;  // 0 where they do not apply
  int32_t bos = -1;                              // the id put first, -1: none
  std::string bos_token;                         // as written in the vocabulary
  std::string bos_rule;                          // why, for people
  std::string kv_policy;                         // streams
  LayeredPattern pattern;                        // windows
  int64_t tokens = 0;                            // predicted
  double nll = 0;                                // nats, summed
  double nll_squares = 0;                        // sum of squares
  double window_means = 0;                       // sum over windows of their mean nats a token
  int64_t bytes = 0;                             // of the text predicted
  int64_t words = 0;                             // between blanks; 0 where parts of the text were not predicted
  std::vector<PplBucket> buckets;
  std::vector<PplStretch> stretches;   // streams
  std::vector<PplDocument> documents;  // windowed protocols
  KvUsage kv;                          // windows: visible keys a row, `final` unused
  nlohmann::json kv_report;            // streams: KvReportJson and KvReportText of their cache
  std::string kv_text;
  double seconds = 0;
  int64_t peak_rss_bytes = 0;

  double ppl() const;
  double bits_per_byte() const;
  /// sqrt(variance / (n - 1)) * ppl, the variance over tokens (llama.cpp).
  double ppl_stderr() const;
  /// exp of the mean over windows of the window means: what YaRN's script reports.
  double ppl_window_mean() const;
};

/// Schemes whose frequencies depend on the length follow the tokens that are seen: of each window, or of the stream,
/// unless the context declares its length. Errors: kUsage (options, ids outside the vocabulary, nothing
/// to predict).
PplReport MeasurePerplexity(Backend* backend, const Weights& params, const Tokenizer& tokenizer,
                            const std::vector<TextDocument>& documents, const PplOptions& options);

nlohmann::json ToJson(const PplReport& report);
/// For people: buckets (and stretches of a stream), then totals.
std::string ToText(const PplReport& report);

}  // namespace hawser
