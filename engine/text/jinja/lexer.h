// Template text to tokens, on demand, by jinja2's rules with trim_blocks and lstrip_blocks: white
// space around tags is already gone from the data tokens.
#pragma once
#include "engine/text/jinja/value.h"

enum jtok {
    T_EOF, T_DATA, T_VAR_BEGIN, T_VAR_END, T_BLOCK_BEGIN, T_BLOCK_END,
    T_NAME, T_STRING, T_INT, T_FLOAT,
    T_ADD, T_SUB, T_MUL, T_DIV, T_FLOORDIV, T_MOD, T_POW, T_TILDE,
    T_EQ, T_NE, T_LT, T_LE, T_GT, T_GE, T_ASSIGN,
    T_DOT, T_COLON, T_PIPE, T_COMMA, T_SEMICOLON,
    T_LPAREN, T_RPAREN, T_LBRACKET, T_RBRACKET, T_LBRACE, T_RBRACE,
    JT_IN, JT_NOT_IN,           // the parser's, for comparisons
};

struct jtoken {
    enum jtok   type;
    unsigned    line;
    const char *p;  size_t n;   // the text of it
    struct jval val;            // of a string or a number
};

struct jlexer {
    struct jx  *x;
    const char *src;  size_t n; // newlines are \n, a last one is gone; owned by the arena
    size_t      at;
    unsigned    line;
    enum { LEX_ROOT, LEX_VAR, LEX_BLOCK, LEX_RAW } state;
    bool        line_start;     // the last tag ended with a newline
    char        open[256];      // brackets that wait for their end
    size_t      n_open;
};

struct jlexer jlex_start(struct jx *x, const char *src, size_t n);
// Fails with the line for what is no token.
struct jtoken jlex_next(struct jlexer *l);
// How messages name a token.
const char *jtok_name(enum jtok type);
