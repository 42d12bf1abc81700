// cpu/attention.h - exact attention on the CPU: one forward, one backward and one decode for every pattern.
//   S[t,h,s] = scale * <q[t,h], k[s,g]>,  g = h / (H/G);  P = softmax over visible s;  out = P v;  lse = log sum exp S
// What a row may see comes from AttnSchedule alone: the anchors and the pinned keys are gathered once per call into a
// dense region in front of the packed keys, so every row sees at most three contiguous column ranges.
// Dtypes   q, k, v share F32 or BF16; out, dout and the gradients are F32 or BF16 each; lse and every sum F32.
// Threads  the result does not depend on their number, nor on which other sequences are in the call.
// Errors   Error(kUsage) from Validate() before any work; nothing throws after, except for lack of memory.
// Papers   FlashAttention-2 arXiv:2307.08691; online softmax arXiv:1805.02867; SepLLM arXiv:2412.12094;
//          AnchorAttention arXiv:2411.13476.
#pragma once

#include <string>

#include "hawser/ops/backend.h"

namespace hawser {

void AttentionForward(const AttentionArgs& args);
void AttentionBackward(const AttentionBackwardArgs& args);
void AttentionDecode(const DecodeArgs& args);

/// Bytes of packed operands and partial sums that calls on such sequences hold, and keep for the next call; those of
/// each thread not counted. No data are read.
int64_t AttentionForwardScratch(const AttentionBackwardArgs& args);
int64_t AttentionBackwardScratch(const AttentionBackwardArgs& args);

/// The instruction set that attention uses: "scalar", "avx2", "avx512", "avx512_bf16" or "amx". The best one that the
/// machine has, unless the environment variable HAWSER_ISA names a lower one.
std::string AttentionIsa();

}  // namespace hawser
