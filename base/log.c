// Log lines to stderr, with journald's priorities where it reads them.
#include "base/log.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/base.h"

#define LINE_MAX_BYTES 2048

static enum log_level level_max = LOG_INFO;
static bool           prefixes;

void log_init(enum log_level max_level, bool journal_prefixes)
{
    level_max = max_level;
    prefixes = journal_prefixes;
}

static const char *level_word(enum log_level level)
{
    switch (level) {
    case LOG_ERROR:   return "error";
    case LOG_WARNING: return "warning";
    case LOG_NOTICE:  return "notice";
    case LOG_INFO:    return "info";
    case LOG_DEBUG:   return "debug";
    }
    return "?";
}

static int put_head(char *line, size_t size, enum log_level level)
{
    if (prefixes)
        return snprintf(line, size, "<%d>", level);
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    localtime_r(&ts.tv_sec, &tm);
    char when[32];
    strftime(when, sizeof(when), "%H:%M:%S", &tm);
    return snprintf(line, size, "%s.%03ld %-7s ", when, ts.tv_nsec / 1000000, level_word(level));
}

void log_print(enum log_level level, const char *fmt, ...)
{
    if (level > level_max)
        return;
    char line[LINE_MAX_BYTES + 1];
    int head = put_head(line, LINE_MAX_BYTES, level);
    va_list ap;
    va_start(ap, fmt);
    int body = vsnprintf(line + head, (size_t)(LINE_MAX_BYTES - head), fmt, ap);
    va_end(ap);
    size_t n = MIN((size_t)(head + MAX(body, 0)), (size_t)LINE_MAX_BYTES - 1);
    for (size_t i = (size_t)head; i < n; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    line[n++] = '\n';
    // One write per line keeps lines of different threads whole without a lock.
    ssize_t ignored = write(STDERR_FILENO, line, n);
    (void)ignored;
}
