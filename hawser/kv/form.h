// kv/form.h - the text form of a cache policy as a value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "hawser/base/dtype.h"

namespace hawser {

/// kRank: a key stands at its slot number; kAbsolute: at its place in the stream; kCacheLength: at the number of keys
/// held when it came, never moved (bug-compatible with the reference's "no shift" rows).
enum class KvPositions : uint8_t { kAbsolute, kRank, kCacheLength };
/// When a stream is compressed: kOverflow after a token was attended that makes more than c, kFull before a token is
/// attended that would make c.
enum class KvTrigger : uint8_t { kOverflow, kFull };
/// Whether the tokens of a prompt see what the policy lets them see, or all that came before them.
enum class KvPrefill : uint8_t { kSparse, kDense };

/// Tokens: one number for all layers, or one a layer. A share of all tokens seen is negative, in hundredths of a per
/// cent: -2500 is 25 %.
using KvNumbers = std::vector<int64_t>;

/// What the text of a form calls a number, and what it may be.
struct KvNumberDoc {
  std::string_view name;
  int64_t least = 0;
  bool may_be_all = false;
  bool may_be_share = false;
};

/// The kinds of forms. Each tells its numbers to a visitor, in the order of the text: visit(numbers, KvNumberDoc).
struct KvFull {
  static constexpr std::string_view kName = "full", kHelp = "every token stays";
  static constexpr KvPositions kPositions = KvPositions::kAbsolute;  // where keys stand if nothing is said
  static constexpr bool kSeparators = false;                         // separators count
  bool operator==(const KvFull&) const = default;
  template <class Self, class V>
  static void Numbers(Self&, V&&) {}
};
struct KvWindow {
  static constexpr std::string_view kName = "window", kHelp = "the last W - 1 and the token itself";
  static constexpr KvPositions kPositions = KvPositions::kAbsolute;
  static constexpr bool kSeparators = false;
  KvNumbers window;
  bool operator==(const KvWindow&) const = default;
  template <class Self, class V>
  static void Numbers(Self& self, V&& visit) {
    visit(self.window, KvNumberDoc{"W", 1, true});
  }
};
struct KvSink {
  static constexpr std::string_view kName = "sink", kHelp = "StreamingLLM: the first a and the last c";
  static constexpr KvPositions kPositions = KvPositions::kRank;
  static constexpr bool kSeparators = false;
  KvNumbers initial, recent;
  bool operator==(const KvSink&) const = default;
  template <class Self, class V>
  static void Numbers(Self& self, V&& visit) {
    visit(self.initial, KvNumberDoc{"a", 0});
    visit(self.recent, KvNumberDoc{"c", 1, true});
  }
};
struct KvSep {
  static constexpr std::string_view kName = "sep", kHelp = "SepLLM: the first a, all separators, a window of n";
  static constexpr KvPositions kPositions = KvPositions::kAbsolute;
  static constexpr bool kSeparators = true;
  KvNumbers initial, window;
  bool operator==(const KvSep&) const = default;
  template <class Self, class V>
  static void Numbers(Self& self, V&& visit) {
    visit(self.initial, KvNumberDoc{"a", 0});
    visit(self.window, KvNumberDoc{"n", 1, true});
  }
};
struct KvFix {
  static constexpr std::string_view kName = "fix", kHelp = "FixLLM: the first a, each d-th token, a window of n";
  static constexpr KvPositions kPositions = KvPositions::kAbsolute;
  static constexpr bool kSeparators = false;
  KvNumbers initial, window, every;
  bool operator==(const KvFix&) const = default;
  template <class Self, class V>
  static void Numbers(Self& self, V&& visit) {
    visit(self.initial, KvNumberDoc{"a", 0});
    visit(self.window, KvNumberDoc{"n", 1, true});
    visit(self.every, KvNumberDoc{"d", 1});
  }
};
struct KvSepStream {
  static constexpr std::string_view kName = "sep-stream",
                                    kHelp =
                                        "SepLLM as a stream: the first a, s separators, w of the last, never more "
                                        "than c";
  static constexpr KvPositions kPositions = KvPositions::kRank;
  static constexpr bool kSeparators = true;
  KvNumbers initial, separators, local, capacity;
  KvTrigger trigger = KvTrigger::kOverflow;
  bool accumulate = true;
  bool bounded = true;
  bool operator==(const KvSepStream&) const = default;
  template <class Self, class V>
  static void Numbers(Self& self, V&& visit) {
    visit(self.initial, KvNumberDoc{"a", 0});
    visit(self.separators, KvNumberDoc{"s", 1});
    visit(self.local, KvNumberDoc{"w", 1});
    visit(self.capacity, KvNumberDoc{"c", 1});
  }
};
/// Kinds whose queries choose the keys that stay (kv/chooser.h), each layer its own and some each head of keys: prompts
/// are dense and trimmed at their end; kEveryStep: streams too, after each token.
struct KvSnap {
  static constexpr std::string_view kName = "snapkv",
                                    kHelp = "SnapKV: of a prompt the c tokens that its last queries attend to";
  static constexpr KvPositions kPositions = KvPositions::kAbsolute;
  static constexpr bool kSeparators = false;
  static constexpr bool kEveryStep = false;
  KvNumbers capacity;
  int64_t window = 64;  // queries that are asked; their tokens stay
  int64_t kernel = 5;   // neighbours that weights are averaged over, odd
  bool operator==(const KvSnap&) const = default;
  template <class Self, class V>
  static void Numbers(Self& self, V&& visit) {
    visit(self.capacity, KvNumberDoc{"c", 1, false, true});
  }
};
struct KvTova {
  static constexpr std::string_view kName = "tova", kHelp = "TOVA: the c tokens that the newest query attends to";
  static constexpr KvPositions kPositions = KvPositions::kAbsolute;
  static constexpr bool kSeparators = false;
  static constexpr bool kEveryStep = true;
  KvNumbers capacity;
  bool operator==(const KvTova&) const = default;
  template <class Self, class V>
  static void Numbers(Self& self, V&& visit) {
    visit(self.capacity, KvNumberDoc{"c", 1, false, true});
  }
};
struct KvExpected {
  static constexpr std::string_view kName = "expected",
                                    kHelp =
                                        "Expected Attention: of a prompt the c tokens that queries to come will read";
  static constexpr KvPositions kPositions = KvPositions::kAbsolute;
  static constexpr bool kSeparators = false;
  static constexpr bool kEveryStep = false;
  KvNumbers capacity;
  int64_t sinks = 4;     // first tokens, which stay
  int64_t future = 512;  // places that queries are expected at
  bool covariance = true;
  bool norms = true;  // weights count by the lengths of their values
  bool operator==(const KvExpected&) const = default;
  template <class Self, class V>
  static void Numbers(Self& self, V&& visit) {
    visit(self.capacity, KvNumberDoc{"c", 1, false, true});
  }
};
template <class Kind>
concept KvChosen = requires {
  Kind::kEveryStep;
};
using KvKind = std::variant<KvFull, KvWindow, KvSink, KvSep, KvFix, KvSepStream, KvSnap, KvTova, KvExpected>;

/// Text forms, numbers in tokens:
///   full                     window:W               sink:a,c (StreamingLLM: the first a and the last c)
///   sep:a,n                  SepLLM: the first a, the separators, a window of n
///   fix:a,n,d                FixLLM: each d-th token instead of the separators
///   sep-stream:a,s,w,c       SepLLM streaming: the first a, s separators, w of the last, c at most
///   sepcache:NAME=VALUE,...  the same by the names of transformers' SepCache: init_cache_size (4),
///                            sep_cache_size (64), local_size (256), cache_size (512), SEP_ACCUMULATION (true),
///                            USE_MAX_SEP_CACHE (false), APPLY_PE_SHIFT (false), separator_token_ids (13+11)
///   snapkv:c,window=64,kernel=5   tova:c   expected:c,sinks=4,future=512,covariance=on|off,norms=on|off
///                            what queries attend to, c tokens or a share of all that were seen (25%)
/// and presets, with the options of what they stand for (`sepllm,dtype=q8_0`):
///   streaming                sink:4,796, StreamingLLM
///   sepllm                   sep-stream:4,64,256,800
///   bounded:N                sink:4,N-4, at most N tokens
/// A number may also be given by its letter (`sep:a=3,n=256`), and as one for each layer (`sep:3,256+64+all`).
/// Options where they apply: `positions=rank|absolute|cachelen`, `policy=overflow|full`, `prefill=sparse|dense`,
/// `full-layers=0+31` (layers that keep everything; negative: from the last), `sep=FORM` (which tokens separate,
/// tok/separators.h), `accumulate=on|off` (off: separators that an earlier compression kept are dropped by the next),
/// `bounded=on|off` (off: all separators are kept, and c counts beyond them).
/// `dtype=f32|bf16|q8_0` (of stored keys and values; default: that of activations. `full` has this option only:
/// full:dtype=q8_0).
struct KvForm {
  static constexpr int64_t kAll = int64_t{1} << 30;  // `all`, where a window may be it

  KvKind kind = KvFull{};
  KvPositions positions = KvPositions::kAbsolute;
  KvPrefill prefill = KvPrefill::kSparse;
  std::vector<int32_t> full_layers = {};
  std::string separator_set = {};  // empty: the text rule
  std::optional<DType> dtype = {};

  /// Nothing is ever dropped, in any layer.
  bool keeps_all() const { return std::holds_alternative<KvFull>(kind); }
  /// Queries choose which keys stay.
  bool chosen() const {
    return std::visit([]<class Kind>(const Kind&) { return KvChosen<Kind>; }, kind);
  }
  bool layered() const;
  /// The form of one layer of a model with `layers`. Errors: kUsage if it is meant for another number of layers.
  KvForm OfLayer(int32_t layer, int32_t layers) const;

  bool operator==(const KvForm&) const = default;
};

/// Errors: kUsage naming the field (a + s + w >= c, n = 0, unknown policy or option).
KvForm ParseKvForm(std::string_view text);
/// Parses back to the same value.
std::string ToString(const KvForm& form);

/// One line for --help, and what a page says: every form and preset with its numbers and options.
std::string KvFormList();
std::string KvFormHelp();

}  // namespace hawser
