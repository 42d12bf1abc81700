// quant/fit.h - scales for the K types: those of many tried that cost least weighted squared error. For this room
// alone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hawser {

/// x ~ scale q - minimum, q in [0, levels], scale and minimum >= 0.
struct AffineFit {
  float scale = 0;
  float minimum = 0;
};
/// Errors are weighted by `weight` [n]. For each of 21 spacings around the range of x the levels are set and scale and
/// minimum solved by least squares; the best of all is returned.
AffineFit FitAffine(const float* x, const float* weight, int n, int levels);

/// A block of q4_k (levels 15) or q5_k (31): writes f16 d, f16 m and the twelve bytes of scales and minima (k_scales.h)
/// to `to`, and gives the q [256] of the values. Weights of large values are larger, as their errors matter more in
/// products.
void FitKBlock(const float* from, int levels, std::byte* to, uint8_t* q);

/// The scale of x ~ scale q, q in [-levels, levels - 1], that costs least error weighted by x^2; its sign is such that
/// the value of greatest magnitude may take -levels. 0 where x is all zeros.
float FitSymmetric(const float* x, int n, int levels);

}  // namespace hawser
