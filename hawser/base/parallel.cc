#include "hawser/base/parallel.h"

#include "hawser/base/limits.h"

namespace hawser {

void SetThreads(int threads) { omp_set_num_threads(threads > 0 ? threads : DefaultThreads()); }
int NumThreads() { return omp_get_max_threads(); }

}  // namespace hawser
