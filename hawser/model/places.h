// model/places.h - where the tokens of a model stand, whichever kind of places it has: the forms of --rope.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "hawser/model/spec.h"

namespace hawser {

/// The rope of the layers that see everything (`yarn:factor=4,original=128`), the biases (`alibi:ntk,factor=4`), or
/// `none`.
std::string PlacesText(const ModelSpec& spec);

/// Sets them from a text: a rope form (pos/scheme.h) for rotary models, an alibi form (pos/alibi.h) for biased ones.
/// `context`, `wanted`: as there. A rope of layers with a window stays. Errors: kUsage, also for the forms of the other
/// kind.
void ApplyPlaces(std::string_view text, int64_t context, int64_t wanted, ModelSpec* spec);

/// A text that reaches `wanted` tokens: the model's own scaling with a larger factor, or NTK-aware scaling where it has
/// none. `context`: that of the model.
std::string GrownPlaces(const ModelSpec& spec, int64_t context, int64_t wanted);

bool HasScaling(const ModelSpec& spec);
double ScalingFactor(const ModelSpec& spec);  // 1 without one

/// The context before scaling, and the longest that the places are meant for.
int64_t OriginalContext(const ModelSpec& spec, int64_t context);
int64_t MaxContext(const ModelSpec& spec, int64_t context);

}  // namespace hawser
