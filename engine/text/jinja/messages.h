// The messages of a request in the shape that templates expect (see template.h).
#pragma once
#include "engine/text/jinja/value.h"
#include "engine/text/template.h"

struct jval jmessages_read(struct jx *x, const struct template_vars *v);
