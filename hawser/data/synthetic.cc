#include "hawser/data/synthetic.h"

#include <array>
#include <numeric>
#include <string_view>

#include "hawser/base/rng.h"

namespace hawser {
namespace {

using Words = std::vector<std::string>;

// Names are syllable pairs, so that the list is regular and none is a word of the rest.
Words Names() {
  constexpr std::array<std::string_view, 14> kFirst = {"Ma", "Bo", "Ti", "Re", "Lu", "Ka", "So",
                                                       "Vi", "Da", "Ne", "Po", "Gi", "Fa", "Ju"};
  constexpr std::array<std::string_view, 10> kLast = {"rla", "ndo",  "ssa",  "lko", "mira",
                                                      "ven", "thra", "quin", "bel", "dor"};
  Words names;
  for (const std::string_view first : kFirst) {
    for (const std::string_view last : kLast) names.push_back(std::string(first) + std::string(last));
  }
  return names;
}

const Words kNames = Names();
const std::array<std::string, kSyntheticCargoes> kCargoList = {
    "copper", "barley", "timber", "cotton", "saffron", "marble",  "pepper", "indigo", "amber",  "wool",  "salt",
    "tea",    "rope",   "coal",   "silk",   "honey",   "iron",    "paper",  "sugar",  "cork",   "glass", "tin",
    "rice",   "wine",   "linen",  "coffee", "resin",   "leather", "pearls", "slate",  "ginger", "wax"};
const Words kCargo(kCargoList.begin(), kCargoList.end());
const Words kAdjectives = {"old",   "grey",   "quiet", "broken",  "narrow", "distant",
                           "heavy", "bright", "cold",  "patient", "wet",    "green"};
const Words kNouns = {"pilot", "gull", "pier",   "lantern", "harbour", "storm",  "captain", "sail",
                      "crane", "tide", "keeper", "anchor",  "window",  "market", "bridge",  "child"};
const Words kVerbs = {"watched", "followed", "crossed",    "carried", "found",
                      "left",    "painted",  "remembered", "met",     "feared"};
const Words kPlaces = {"dusk", "dawn", "noon", "night", "low", "high"};
const Words kOther = {"the", "a", "ship", "ask", ".", ",", "at", "then"};

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
  for (const Words* list : {&kOther, &kNames, &kCargo, &kAdjectives, &kNouns, &kVerbs, &kPlaces}) {
    for (const std::string& word : *list) pieces.push_back(" " + word);
  }
  return pieces;
}

SyntheticDocument MakeSyntheticDocument(uint64_t seed, uint64_t number, int32_t words) {
  Writer w(Rng{seed, number});
  std::vector<int32_t> unused(kNames.size());
  std::iota(unused.begin(), unused.end(), 0);
  struct Fact {
    std::string_view name, cargo;
    int32_t place;
  };
  std::vector<Fact> facts;
  while (w.document.words + kLongestSentence <= words) {
    const double kind = w.rng().Uniform();
    if ((kind < 0.2 || facts.empty()) && !unused.empty()) {
      const size_t drawn = w.rng().Below(unused.size());
      const Fact fact{kNames[unused[drawn]], w.Pick(kCargo), w.document.words + 2};
      unused.erase(unused.begin() + static_cast<std::ptrdiff_t>(drawn));
      w.AddAll("ship", fact.name, fact.cargo, ".");
      facts.push_back(fact);
    } else if (kind < 0.65 && !facts.empty()) {
      const Fact& fact = facts[w.rng().Below(facts.size())];
      w.document.queries.push_back({fact.place, w.document.words + 2});
      w.AddAll("ask", fact.name, fact.cargo, ".");
    } else {
      Filler(w);
    }
  }
  return std::move(w.document);
}

}  // namespace hawser
