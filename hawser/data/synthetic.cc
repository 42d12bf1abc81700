#include "hawser/data/synthetic.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>

#include "hawser/base/rng.h"

namespace hawser {
namespace {

using Words = std::vector<std::string>;

// The kinds of facts; no word of them stands in the filler.
const std::array<std::string, kSyntheticKinds> kKinds = {
    "captain", "cargo",  "berth",     "agent",  "cook",    "owner",   "surgeon", "carpenter",
    "steward", "mate",   "boatswain", "clerk",  "buyer",   "seller",  "judge",   "doctor",
    "rival",   "cousin", "passenger", "gunner", "painter", "fiddler", "baker",   "tailor"};

// Names are syllable pairs, so that the list is regular and none is a word of the rest. Each kind has its own.
Words Names() {
  constexpr std::array<std::string_view, 24> kFirst = {"Ma", "Bo", "Ti", "Re", "Lu", "Ka", "So", "Vi",
                                                       "Da", "Ne", "Po", "Gi", "Fa", "Ju", "Ze", "Hu",
                                                       "Wa", "Ce", "Ro", "Mi", "To", "Sa", "Be", "Do"};
  constexpr std::array<std::string_view, kSyntheticNames> kLast = {"rla",  "ndo",  "ssa", "lko", "mira", "ven",
                                                                   "thra", "quin", "bel", "dor", "zik",  "fyn"};
  Words names;
  for (const std::string_view first : kFirst) {
    for (const std::string_view last : kLast) names.push_back(std::string(first) + std::string(last));
  }
  return names;
}

const Words kNames = Names();
const Words kAdjectives = {"old",   "grey",   "quiet", "broken",  "narrow", "distant",
                           "heavy", "bright", "cold",  "patient", "wet",    "green"};
const Words kNouns = {"sailor", "gull", "pier",   "lantern", "harbour", "storm",  "cloud",  "sail",
                      "crane",  "tide", "keeper", "anchor",  "window",  "market", "bridge", "child"};
const Words kVerbs = {"watched", "followed", "crossed",    "carried", "found",
                      "left",    "painted",  "remembered", "met",     "feared"};
const Words kPlaces = {"dusk", "dawn", "noon", "night", "low", "high"};
const Words kOther = {"the", "a", "note", "ask", ".", ",", "at", "then"};

class Writer {
 public:
  explicit Writer(Rng rng) : rng_(rng) {}

  void Add(std::string_view word) {
    if (document.words > 0) document.text += ' ';
    document.text += word;
    ++document.words;
  }
  template <class... W>
  void AddAll(W... words) {
    (Add(words), ...);
  }
  std::string_view Pick(const Words& words) { return words[rng_.Below(words.size())]; }
  Rng& rng() { return rng_; }

  SyntheticDocument document;

 private:
  Rng rng_;
};

void Filler(Writer& w) {
  const auto noun_phrase = [&] {
    w.Add(w.rng().Below(2) == 0 ? "the" : "a");
    if (w.rng().Below(3) != 0) w.Add(w.Pick(kAdjectives));
    w.Add(w.Pick(kNouns));
  };
  noun_phrase();
  w.Add(w.Pick(kVerbs));
  noun_phrase();
  switch (w.rng().Below(4)) {
    case 0:
      w.AddAll("at", w.Pick(kPlaces));
      break;
    case 1:
      w.AddAll(",", "then", w.Pick(kVerbs));
      noun_phrase();
      break;
    default:
      break;
  }
  w.Add(".");
}

constexpr int32_t kLongestSentence = 16;

}  // namespace

std::vector<std::string> SyntheticWords() {
  Words pieces;
  const auto add = [&](const auto& words) {
    for (const std::string& word : words) pieces.push_back(" " + word);
  };
  add(kOther), add(kKinds), add(kNames), add(kAdjectives), add(kNouns), add(kVerbs), add(kPlaces);
  return pieces;
}

SyntheticDocument MakeSyntheticDocument(uint64_t seed, uint64_t number, int32_t words) {
  Writer w(Rng{seed, number});
  struct Fact {
    size_t kind, name;
    int32_t place;  // of its last mention
  };
  std::vector<Fact> facts;
  std::vector<size_t> unstated(kKinds.size());
  std::iota(unstated.begin(), unstated.end(), 0);
  // Long documents ask less often, so that their questions reach back over most of their length.
  const double asked = 0.3 + 0.35 * std::min(1.0, 768.0 / words);
  while (w.document.words + kLongestSentence <= words) {
    const double what = w.rng().Uniform();
    if (!unstated.empty() && (what < 0.3 || facts.empty())) {
      const size_t drawn = w.rng().Below(unstated.size());
      const Fact fact{unstated[drawn], w.rng().Below(kSyntheticNames), w.document.words + 2};
      unstated.erase(unstated.begin() + static_cast<std::ptrdiff_t>(drawn));
      w.AddAll("note", kKinds[fact.kind], kNames[fact.kind * kSyntheticNames + fact.name], ".");
      facts.push_back(fact);
    } else if (what < asked && !facts.empty()) {
      // The older of two draws: far questions are what this is for.
      Fact& one = facts[w.rng().Below(facts.size())];
      Fact& other = facts[w.rng().Below(facts.size())];
      Fact& fact = one.place < other.place ? one : other;
      w.document.queries.push_back({fact.place, w.document.words + 2});
      fact.place = w.document.words + 2;
      w.AddAll("ask", kKinds[fact.kind], kNames[fact.kind * kSyntheticNames + fact.name], ".");
    } else {
      Filler(w);
    }
  }
  return std::move(w.document);
}

SyntheticDocument MakeNeedleDocument(uint64_t seed, uint64_t number, int32_t words, double depth) {
  constexpr int32_t kSentence = 4;  // words of a fact or a question
  Writer w(Rng{seed, number});
  const size_t kind = w.rng().Below(kKinds.size());
  const std::string& name = kNames[kind * kSyntheticNames + w.rng().Below(kSyntheticNames)];
  const int32_t filler = words - 2 * kSentence;
  int32_t fact = -1;
  const auto state = [&] {
    fact = w.document.words + 2;
    w.AddAll("note", kKinds[kind], name, ".");
  };
  for (int32_t left = filler; left >= kLongestSentence;) {
    if (fact < 0 && filler - left >= depth * (filler - kLongestSentence)) state();
    const int32_t before = w.document.words;
    Filler(w);
    left -= w.document.words - before;
  }
  if (fact < 0) state();
  w.document.queries.push_back({fact, w.document.words + 2});
  w.AddAll("ask", kKinds[kind], name, ".");
  return std::move(w.document);
}

}  // namespace hawser
