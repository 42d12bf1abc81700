// model/kv_shape.h - caches for a model.
#pragma once

#include <cstdint>
#include <vector>

#include "hawser/kv/cache.h"
#include "hawser/model/spec.h"

namespace hawser {

/// `activations`: their dtype. Errors: as QkvDType.
KvShape KvShapeOf(const ModelSpec& spec, DType activations);

/// A cache of KvShapeOf; the rest, and further errors, as the constructor of KvCache.
KvCache NewKvCache(Backend* backend, const ModelSpec& spec, const KvForm& form, std::vector<uint8_t> separators,
                   DType activations, int64_t max_length);

}  // namespace hawser
