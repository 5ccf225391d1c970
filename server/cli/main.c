// godwit: one model file on the command line. Finds the command, runs it, and gives its result the
// form that scripts rely on: output only on success, else one line on stderr and status 1 or 2.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "server/cli/cli.h"

#define ERROR_LINE_MAX 2000                 // bytes on stderr
#define STATUS_FAILED 1
#define STATUS_USAGE 2

#define POSITIONAL(id) \
    ((id) == COMMAND_devices ? 0 : (id) == COMMAND_perplexity || (id) == COMMAND_store ? 2 : 1)

const struct command commands[] = {
#define COMMAND(id, args, text) \
    [COMMAND_##id] = {#id, args, text, POSITIONAL(COMMAND_##id), cmd_##id},
#include "server/cli/commands.def"
#undef COMMAND
};
const unsigned n_commands = sizeof(commands) / sizeof(commands[0]);

static const struct command *find_command(const char *name)
{
    for (unsigned i = 0; i < n_commands; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

// One line, whatever the message holds.
static void complain(const char *command, const char *msg)
{
    char line[ERROR_LINE_MAX];
    int n = snprintf(line, sizeof(line), "godwit%s%s: %s", command ? " " : "",
                     command ? command : "", msg);
    n = n < (int)sizeof(line) ? n : (int)sizeof(line) - 1;
    for (int i = 0; i < n; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    fprintf(stderr, "%.*s\n", n, line);
}

static int usage_error(const char *command, const char *msg)
{
    complain(command, msg);
    fprintf(stderr, "Try: godwit %s%s--help\n", command ? command : "", command ? " " : "");
    return STATUS_USAGE;
}

static int print_out(const struct str *out, struct err *err)
{
    if (!str_ok(out))
        return err_set(err, -ENOMEM, "out of memory");
    return out->n ? write_out(out->p, out->n, err) : 0;
}

static int run_command(struct cli *c)
{
    struct err err = {0};
    int r = c->command->run(c, &err);
    if (r == CLI_USAGE)
        return usage_error(c->command->name, err.msg);
    if (r == 0)
        r = print_out(&c->out, &err);
    if (r == 0)
        return 0;
    complain(c->command->name, err.msg[0] ? err.msg : strerror(-r));
    return STATUS_FAILED;
}

static int help(const struct command *command)
{
    struct str text = {0};
    struct err err = {0};
    options_help(command, &text);
    int r = print_out(&text, &err);
    str_free(&text);
    return r ? STATUS_FAILED : 0;
}

int main(int argc, char **argv)
{
    struct err err = {0};
    struct cli c = {0};
    if (argc < 2)
        return usage_error(NULL, "no command given");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return help(NULL);
    c.command = find_command(argv[1]);
    if (!c.command) {
        err_set(&err, -EINVAL, "unknown command \"%.80s\"", argv[1]);
        return usage_error(NULL, err.msg);
    }
    if (options_read(&c, argc - 2, argv + 2, &err))
        return usage_error(c.command->name, err.msg);
    int status = c.help ? help(c.command) : run_command(&c);
    str_free(&c.out);
    return status;
}
