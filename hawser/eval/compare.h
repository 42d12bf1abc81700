// eval/compare.h - the same texts under several methods: caches, attention patterns, position schemes. What each costs
// in perplexity, as pairs on the same tokens, beside how many keys it keeps.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/eval/longppl.h"
#include "hawser/eval/perplexity.h"
#include "hawser/eval/read_text.h"

namespace hawser {

struct Method {
  std::string name;  // as it was written
  Sight sight;
  std::string rope = {};  // text form; empty: the model's own
};

/// Methods between semicolons: a cache policy (kv/form.h), an attention pattern (attn/pattern.h) or an indexed prefix
/// (kv/prefix_index.h) with a rule (kv/keep_rule.h), and behind @ a position scheme:
/// `full; sink:4,796; window=256; index:X.idx,keep=0.1; sepllm @ yarn:factor=2; @ ntk:factor=4`. Errors: kUsage naming
/// the method that is none, and one that is there twice.
std::vector<Method> ParseMethods(std::string_view text);

/// A text as all methods read it.
struct CompareText {
  std::string name;
  std::vector<int32_t> ids;
  std::vector<uint8_t> key = {};  // [ids]: hangs on far text; empty: nobody judged
};

/// Tokens that stand together: what a bootstrap draws, as neighbours are alike.
struct CompareStretch {
  NatsSum all, key;
};

/// What one method read.
struct MethodRun {
  std::string name;
  std::string index;                  // PrefixName of the one it reads; empty: none
  double kept = 0;                    // keys, mean over all tokens and layers
  std::optional<double> bytes;        // of keys and values, likewise; none without a cache
  std::optional<double> prefix_read;  // of an indexed prefix, the part of its keys that a query reads
  double seconds = 0;
  std::vector<CompareStretch> stretches;  // of all texts, in order
  std::vector<PplBucket> buckets;         // by position

  NatsSum all() const;
  NatsSum key() const;
};

/// Reads each text from its beginning; stretches of `stretch` tokens, none across texts. Tokens before `first` do not
/// count: it is the greatest TextReader::FirstPredicted() of the methods, so that all count the same ones.
MethodRun RunMethod(TextReader* reader, const std::string& name, std::span<const CompareText> texts, int64_t stretch,
                    int64_t first);

nlohmann::json ToJson(const MethodRun& run);
/// Errors: kFormat naming the member.
MethodRun ParseMethodRun(const nlohmann::json& json);

/// Perplexity of a method over that of another on the same tokens, with the interval that 95 of 100 draws fall in.
struct PairedRatio {
  double ratio = 1, low = 1, high = 1;  // NaN where there are no tokens
};

/// Draws as many stretches as there are, with replacement and the same ones of both, `draws` times. `key`: of key
/// tokens alone. Deterministic in `seed`. REQUIRES: both read the same texts with the same stretches.
PairedRatio ComparePair(const MethodRun& base, const MethodRun& other, bool key, int64_t draws, uint64_t seed);

/// Two methods that keep as many keys, within five in a hundred of the larger: which of them is better?
struct EqualMemory {
  size_t first = 0, second = 0;
  PairedRatio all, key;  // of second over first
};

struct Comparison {
  std::string model, identity;     // of the key tokens; empty: nobody judged
  std::vector<CompareText> texts;  // names alone where it was read from a file
  int64_t tokens = 0, key_tokens = 0, stretch = 0, draws = 0;
  std::vector<MethodRun> methods;
  std::vector<PairedRatio> all, key;  // [methods], over the first
  std::vector<EqualMemory> equal;

  bool judged() const { return !identity.empty(); }
};

/// Fills in all that follows from `methods`.
void CompareMethods(Comparison* comparison, uint64_t seed);

}  // namespace hawser
