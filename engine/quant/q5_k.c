#include "engine/quant/quant.h"
