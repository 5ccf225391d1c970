// What Python's str methods know about characters. Source: Python's unicodedata rules, through
// libutf8proc for the tables.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool u_space(uint32_t cp);          // str.isspace, also what strip() and split() remove
bool u_line_break(uint32_t cp);     // where splitlines() cuts
bool u_printable(uint32_t cp);      // what repr() leaves alone
bool u_alpha(uint32_t cp);
bool u_decimal(uint32_t cp);
bool u_digit(uint32_t cp);
bool u_numeric(uint32_t cp);
bool u_upper(uint32_t cp);
bool u_lower(uint32_t cp);
bool u_cased(uint32_t cp);

// Full case mapping: writes 1..3 characters to ret and returns how many.
size_t u_to_upper(uint32_t cp, uint32_t ret[3]);
size_t u_to_lower(uint32_t cp, uint32_t ret[3]);
size_t u_to_title(uint32_t cp, uint32_t ret[3]);
