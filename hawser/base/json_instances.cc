#define HAWSER_JSON_TEMPLATE template class
#include "cmake/precompiled.h"
