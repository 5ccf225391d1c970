// The command line tool: options, commands, and what they share.
//
// A command returns 0, a negative errno with err set (exit status 1, err as one line on stderr), or
// CLI_USAGE (exit status 2). What it adds to cli->out goes to standard output only if it succeeds.
#pragma once
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/str.h"
#include "engine/engine.h"

#define CLI_USAGE (-EBADRQC)           // exit status 2; nothing below returns it
#define CLI_LIST_MAX 16

struct number_list { uint32_t item[CLI_LIST_MAX], n; };

struct cli {
    const struct command *command;
    const char *model, *file;               // positional: the first, the second
    const char *prompt, *tokens, *out_path;
    const char *device, *kv, *attention, *fill, *kv_store;
    bool        raw, json, no_bos, no_special, exact, profile, no_warmup, repair, help;
    uint32_t    n_predict;                  // UINT32_MAX: until the model ends
    uint32_t    gpu_layers;                 // LAYERS_MAX: all
    uint32_t    threads, ctx_tokens;        // 0: the engine's defaults
    uint32_t    budget_tokens, window_tokens;   // 0: the selector's defaults
    bool        kv_limited;                     // by kv_device_bytes
    uint64_t    kv_device_bytes;
    uint64_t    kv_memory_bytes, kv_store_bytes;    // 0: the engine's defaults
    uint32_t    decode_tokens, repeat;
    struct number_list prefill, depth, streams;
    double      temperature;
    uint64_t    seed, bytes;
    bool        has_seed;
    struct str  out;
};

struct command {
    const char *name, *arguments, *help;
    unsigned    positional;                 // how many besides options
    int       (*run)(struct cli *c, struct err *err);
};
extern const struct command commands[];
extern const unsigned n_commands;

#define COMMAND(name, arguments, help) int cmd_##name(struct cli *c, struct err *err);
#include "server/cli/commands.def"
#undef COMMAND

enum command_id {
#define COMMAND(name, arguments, help) COMMAND_##name,
#include "server/cli/commands.def"
#undef COMMAND
};

// ---- options.c ---------------------------------------------------------------------------------

// Reads argv after the command's name. Returns 0 or CLI_USAGE with one line in err.
int  options_read(struct cli *c, int argc, char **argv, struct err *err);
void options_help(const struct command *command, struct str *out);  // NULL: of the program

// ---- common.c ----------------------------------------------------------------------------------

// Everything on standard input, or of a file. Returns 0 or a negative errno.
int read_stdin(struct str *out, struct err *err);
int read_path(const char *path, struct str *out, struct err *err);
// Ids separated by white space. Returns 0, -EINVAL (err has the place), -ENOMEM.
int parse_ids(const struct str *text, struct tokens *ret, struct err *err);

// The engine by the options, with a progress bar on a terminal. p may preset other fields.
int load_engine(struct cli *c, struct engine_params *p, struct engine **ret, struct err *err);
// Attention by the options. Returns 0 or -EINVAL.
int attention_policy(const struct cli *c, struct attn_policy *ret, struct err *err);

// A bar on stderr if that is a terminal; `done` == `total` erases it.
void progress_show(const char *what, uint64_t done, uint64_t total);

// Writes to standard output at once. Returns 0 or a negative errno.
int write_out(const void *p, size_t n, struct err *err);

const char *finish_name(enum finish_reason r);
double      rate_per_s(uint64_t n, uint64_t ns);    // 0 where no time passed

// ---- generate.c --------------------------------------------------------------------------------

struct answer {
    struct str         text;
    struct tokens      tokens;
    enum finish_reason reason;
    struct usage       usage;
};
void answer_free(struct answer *a);
// Runs a prompt to its end. With `show`, text goes to standard output as it comes. *stop set by a
// signal ends the answer early; stop may be NULL. Returns 0 or what the engine failed with.
int generate(struct cli *c, struct engine *e, const struct tokens *prompt, bool show,
             const volatile sig_atomic_t *stop, struct answer *ret, struct err *err);
// The messages (a JSON array of n bytes) as a prompt.
int chat_prompt(struct engine *e, const struct str *messages, struct tokens *ret, struct err *err);

// ---- chat.c ------------------------------------------------------------------------------------

// Turns until the end of standard input.
int chat(struct cli *c, struct engine *e, struct err *err);
