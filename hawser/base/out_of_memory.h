// base/out_of_memory.h - the error of what does not fit in memory: a server outlives it.
#pragma once

#include "hawser/base/error.h"

namespace hawser {

class OutOfMemory : public Error {
 public:
  using Error::Error;
};

}  // namespace hawser
