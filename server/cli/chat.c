// A conversation on the terminal. Ctrl-C stops the answer, Ctrl-D leaves.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "server/cli/cli.h"
#include "server/json.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static void add_message(struct str *messages, const char *role, const char *p, size_t n)
{
    // messages is "[", then members; the closing bracket is added for each turn.
    str_puts(messages, messages->n > 1 ? "," : "");
    str_printf(messages, "{\"role\":\"%s\",\"content\":", role);
    json_put_string(messages, p, n);
    str_putc(messages, '}');
}

// Reads a line into *line. Returns its length, or -1 at the end of the input.
static ssize_t read_line(char **line, size_t *cap)
{
    for (;;) {
        interrupted = 0;
        if (isatty(STDIN_FILENO))
            fputs("> ", stderr);
        errno = 0;
        ssize_t n = getline(line, cap, stdin);
        if (n < 0 && errno == EINTR) {
            clearerr(stdin);
            fputc('\n', stderr);
            continue;
        }
        while (n > 0 && ((*line)[n - 1] == '\n' || (*line)[n - 1] == '\r'))
            n--;
        if (n != 0)
            return n;
    }
}

static int take_turn(struct cli *c, struct engine *e, struct str *messages, struct err *err)
{
    struct str all = {0};
    struct tokens prompt = {0};
    struct answer a = {0};
    str_add(&all, messages->p, messages->n);
    str_putc(&all, ']');
    all.failed |= messages->failed;
    int r = chat_prompt(e, &all, &prompt, err);
    if (r == 0)
        r = generate(c, e, &prompt, true, &interrupted, &a, err);
    if (r == 0)
        r = write_out("\n", 1, err);
    if (r == 0)
        add_message(messages, "assistant", a.text.n ? a.text.p : "", a.text.n);
    answer_free(&a);
    tokens_free(&prompt);
    str_free(&all);
    return r;
}

int chat(struct cli *c, struct engine *e, struct err *err)
{
    struct sigaction act = {.sa_handler = on_interrupt}, old;     // no SA_RESTART: wakes getline
    struct str messages = {0};
    char *line = NULL;
    size_t cap = 0;
    int r = 0;
    if (!engine_info(e)->has_template)
        return err_set(err, -ENOTSUP, "the model has no chat template: use --raw -p TEXT");
    sigaction(SIGINT, &act, &old);
    str_putc(&messages, '[');
    for (ssize_t n; r == 0 && (n = read_line(&line, &cap)) >= 0;) {
        add_message(&messages, "user", line, (size_t)n);
        r = take_turn(c, e, &messages, err);
    }
    if (isatty(STDIN_FILENO))
        fputc('\n', stderr);
    sigaction(SIGINT, &old, NULL);
    str_free(&messages);
    free(line);
    return r;
}
