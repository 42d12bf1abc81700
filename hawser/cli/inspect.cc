// hawser inspect: what a pattern sees, drawn and counted.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "hawser/attn/picture.h"
#include "hawser/attn/schedule.h"
#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/cli/command.h"
#include "hawser/cli/inspect.h"
#include "hawser/data/packer.h"
#include "hawser/eval/picture_file.h"

namespace hawser {
namespace {

struct InspectOptions {
  std::vector<std::string> pattern;
  std::vector<int32_t> docs = {4, 6, 5};
  int32_t length = 0;
  std::vector<int32_t> separators;
  int32_t separator_every = 0;
  int32_t query_tile = 64;
  int32_t key_tile = 64;
  int32_t layer = 0;
  std::filesystem::path svg;
};

constexpr int32_t kMostTokens = 1 << 26;

// The anchors, then the documents; with --length the documents over and over until the tokens are full.
TokenLayout MakeInspectLayout(const InspectOptions& options, int32_t anchors) {
  std::vector<int32_t> docs = options.docs;
  if (options.length > 0) {
    anchors = std::min(anchors, options.length);
    docs.clear();
    for (int32_t left = options.length - anchors; left > 0; left -= docs.back()) {
      docs.push_back(std::min(left, options.docs[docs.size() % options.docs.size()]));
    }
  }
  int64_t tokens = anchors;
  for (int32_t length : docs) tokens += length;
  if (tokens > kMostTokens) Fail(ErrorKind::kUsage, "inspect: {} tokens; at most {} are laid out", tokens, kMostTokens);
  TokenLayout layout = MakeLayout(anchors, docs);
  if (!options.separators.empty() || options.separator_every > 0) layout.is_separator.assign(layout.size, 0);
  for (int32_t k : options.separators) {
    if (k < 0 || k >= layout.size) {
      Fail(ErrorKind::kUsage, "--separators: {} is no token of 0 to {}", k, layout.size - 1);
    }
    layout.is_separator[k] = 1;
  }
  for (int64_t k = options.separator_every; options.separator_every > 0 && k <= layout.size;
       k += options.separator_every) {
    layout.is_separator[k - 1] = 1;
  }
  return layout;
}

/// Those that the packer gives to documents of a layout whose first tokens are anchors.
std::vector<int64_t> Positions(const AttnVariant& variant, const TokenLayout& layout, int32_t anchors) {
  PackedSequence sequence;
  sequence.ids.resize(static_cast<size_t>(layout.size));
  for (int32_t begin = 0, end = 0; begin < layout.size; begin = end) {
    while (end < layout.size && layout.DocBegin(end) == begin) ++end;
    const bool anchor = begin < anchors;
    sequence.segments.push_back({.document = anchor ? Segment::kAnchor : begin,
                                 .begin = begin,
                                 .length = end - begin,
                                 .bos_tokens = variant.multi_bos && !anchor ? 1 : 0,
                                 .place = begin});
  }
  DeriveFromSegments({.length = layout.size, .variant = variant}, &sequence);
  return sequence.positions;
}

/// What one layer of the smallest model that the pattern fits sees.
AttnPattern LayerPattern(const LayeredPattern& pattern, int32_t layer) {
  auto layers = std::max(static_cast<int32_t>(pattern.layer_windows.size()), layer + 1);
  for (const int32_t full : pattern.full_layers) layers = std::max(layers, full < 0 ? -full : full + 1);
  return pattern.OfLayer(layer, layers);
}

int RunPattern(const InspectOptions& options, const CommonOptions& common) {
  AttnVariant variant = ParseVariant(fmt::format("{}", fmt::join(options.pattern, " ")));
  const bool layered = !variant.pattern.layer_windows.empty() || !variant.pattern.full_layers.empty();
  const AttnPattern pattern = LayerPattern(variant.pattern, options.layer);
  variant.pattern = pattern;
  const TokenLayout layout = MakeInspectLayout(options, pattern.anchors);
  AttnSchedule schedule;
  double seconds = 1e9;  // best of three: what a warm training loop sees
  for (int i = 0; i < 3; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    schedule = CompileSchedule(pattern, layout);
    seconds = std::min(seconds, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  const TileStats tiles = CountTiles(schedule, options.query_tile, options.key_tile);
  TokenLayout plain;
  plain.size = layout.size;
  const TileStats dense_tiles = CountTiles(CompileSchedule({}, plain), options.query_tile, options.key_tile);
  const int64_t visited = tiles.full + tiles.partial;
  const int64_t dense = dense_tiles.full + dense_tiles.partial;
  const std::string name = ToString(variant);
  const bool drawn = layout.size <= kMaxTextPicture;
  if (!options.svg.empty()) {
    const std::string title = fmt::format("{}: {} tokens, density {:.4g}", name, layout.size, schedule.Density());
    WritePicture(options.svg, DrawPatternSvg(schedule, layout, title));
  }
  std::vector<int64_t> positions;
  if ((variant.reset_positions || variant.multi_bos) && drawn) {
    positions = Positions(variant, layout, schedule.num_anchors);
  }

  if (common.json) {
    nlohmann::json json = {{"pattern", name},
                           {"tokens", layout.size},
                           {"visible_pairs", schedule.visible_pairs},
                           {"density", schedule.Density()},
                           {"tiles", {{"full", tiles.full}, {"partial", tiles.partial}, {"dense", dense}}},
                           {"compile_seconds", seconds},
                           {"schedule_bytes", schedule.Bytes()}};
    if (layered) json["layer"] = options.layer;
    if (!positions.empty()) json["positions"] = positions;
    PrintJson(json);
    return 0;
  }
  std::string text = fmt::format("pattern        {}\n", name);
  if (layered) text += fmt::format("layer          {}; --layer draws what another one sees\n", options.layer);
  text += fmt::format("tokens         {}\n", layout.size);
  if (drawn) text += '\n' + DrawPattern(schedule, layout) + '\n';
  if (!positions.empty()) text += fmt::format("positions      {}\n", fmt::join(positions, " "));
  text += fmt::format("visible pairs  {}\n", schedule.visible_pairs);
  text += fmt::format("density        {:.4g} of causal attention\n", schedule.Density());
  text += fmt::format("tiles {:>8} {} full + {} partial = {} of {} dense causal tiles\n",
                      fmt::format("{}x{}", options.query_tile, options.key_tile), tiles.full, tiles.partial, visited,
                      dense);
  text += fmt::format("compile        {:.3g} ms, {} bytes, {} gathered keys\n", seconds * 1e3, schedule.Bytes(),
                      schedule.compact.size() - schedule.num_anchors);
  if (!drawn)
    text += fmt::format("no picture above {} tokens; --svg draws up to {}\n", kMaxTextPicture, kMaxSvgPicture);
  PrintText(text);
  return 0;
}

}  // namespace

std::function<int()> SetupInspectPattern(Command pattern, CommonOptions& common) {
  auto options = std::make_shared<InspectOptions>();
  pattern
      .Add("TEXT", options->pattern,
           "full, window=W, intra, anchor, multi-bos (with -reset, -tag, -interleaved), or fields: "
           "scope=doc anchors=1 sinks=3 window=256 sep full-layers=0+31, every=5")
      .Required();
  pattern.Add("--docs", options->docs, "Lengths of the packed documents, in tokens; anchors come before them")
      .Delimiter(',')
      .OneArgument()
      .Range(1, kMostTokens);
  pattern.Add("--length", options->length, "Tokens in all; the documents are repeated to fill them")
      .Range(1, kMostTokens);
  pattern.Add("--separators", options->separators, "Numbers of the tokens that are separators, from 0")
      .Delimiter(',')
      .OneArgument();
  pattern.Add("--separator-every", options->separator_every, "Every Nth token is a separator").Range(1, kMostTokens);
  pattern.Add("--query-tile", options->query_tile, "Rows of a tile").Range(1, 1 << 16);
  pattern.Add("--key-tile", options->key_tile, "Columns of a tile").Range(1, 1 << 16);
  pattern.Add("--svg", options->svg, "Write the picture to this file: .svg, .png or .pdf").Writes();
  pattern.Add("--layer", options->layer, "Draw what this layer sees, where layers differ").Range(0, 4095);
  return [options, &common] { return RunPattern(*options, common); };
}

std::function<int()> SetupInspect(Command command, CommonOptions& common) {
  constexpr CommandRow kParts[] = {
      {"pattern", "Draw an attention pattern; print its density and schedule", SetupInspectPattern},
      {"data", "Document lengths, packing, every token dropped, and what the mask saves of attention",
       SetupInspectData},
      {"separators", "List the tokens that separate text for SepLLM, and their density", SetupInspectSeparators},
  };
  return SetupParts(command, kParts, common);
}

}  // namespace hawser
