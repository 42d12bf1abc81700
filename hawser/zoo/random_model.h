// zoo/random_model.h - models of a given shape with random weights, to measure speed and memory with.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "hawser/zoo/load.h"

namespace hawser {

/// A Llama of a known size ("1.1b"), of sizes ("layers=2,width=64"), or both ("1.1b,layers=4"). Sizes left out: heads
/// of 64 channels, as many key heads, an mlp of 8/3 of the width, 32,000 ids, 2,048 tokens of context. Errors: kUsage
/// naming the part that is wrong, with the known ones.
ModelSpec ParseShape(std::string_view shape);

/// What a shape may be, for people.
std::string ShapeHelp();

/// The model with weights of InitializeParams. The file type is BF16. The vocabulary is that of `tokenizer`, where one
/// is given and the shape says none. Errors: ParseShape; kFormat where the tokenizer has more ids than the shape.
LoadedModel RandomModel(std::string_view shape, uint64_t seed, const std::filesystem::path& tokenizer);

}  // namespace hawser
